import json
import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from dirprune import GRDA
from dirprune._support.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    pack,
    remove_old_checkpoints,
    save_checkpoint,
    unpack,
)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Limit the size of files, to simulate a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "step-00000007.safetensors"
    save_checkpoint(path, {"a": torch.arange(20.0), "b": torch.ones(3)}, {"step": 7, "lr": 0.1})
    return path


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    weights = torch.randn(2, 3, 4, 5)
    tensors = {
        "bf16": torch.randn(7).bfloat16(),
        "double": torch.tensor([math.nan, -0.0, math.inf, 5e-324], dtype=torch.float64),
        "bool": torch.tensor([True, False]),
        "int": torch.tensor([2**62, -1]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "channels last": weights.to(memory_format=torch.channels_last),
        "shared": weights,
        "shared too": weights,
        "part of it": weights[1:],
        "transposed": weights.transpose(0, 3),
    }
    save_checkpoint(tmp_path / "c", tensors, {})
    loaded, _ = load_checkpoint(tmp_path / "c")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(loaded[name]) == bits(tensor), name


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    for name in "12":
        save_checkpoint(tmp_path / name, tensors, {"x": 1, "y": 2})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
nests: Any = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.integers(), st.text()), inner),
    ),
    max_leaves=8,
)


@given(nests)
def test_packed_nests_survive_json(nest: Any) -> None:
    packed, tensors = pack(nest, "x")
    assert tensors == {}
    assert repr(unpack(json.loads(json.dumps(packed)), {})) == repr(nest)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
        lambda p: AdamW(p, lr=0.01),
        lambda p: GRDA(p, lr=0.1, c=0.02, mu=0.51),
        lambda p: GRDA(p, lr=0.1, c=0.02, mu=0.51, momentum=0.9, nesterov=True),
        lambda p: GRDA([{"params": p[:1]}, {"params": p[1:], "c": 0.0}], lr=0.1),
    ],
    ids=["sgd", "adamw", "grda", "grda momentum", "grda groups"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_continues_bit_identically(
    tmp_path: Path, make: Callable[[Any], Optimizer], dtype: torch.dtype
) -> None:
    def steps(model: nn.Module, optimizer: Optimizer, first: int) -> None:
        for step in range(first, first + 5):
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step)).to(p)
            optimizer.step()

    model = nn.Linear(6, 4).to(dtype)
    optimizer = make(list(model.parameters()))
    steps(model, optimizer, 0)
    packed, tensors = pack(optimizer.state_dict(), "optimizer")
    save_checkpoint(tmp_path / "c", tensors, {"optimizer": packed})
    loaded, meta = load_checkpoint(tmp_path / "c")

    twin = nn.Linear(6, 4).to(dtype)
    twin.load_state_dict(model.state_dict())
    twin_optimizer = make(list(twin.parameters()))
    twin_optimizer.load_state_dict(unpack(meta["optimizer"], loaded))
    steps(model, optimizer, 5)
    steps(twin, twin_optimizer, 5)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert bits(p.detach()) == bits(q.detach())


def test_unsupported_tensors_are_named() -> None:
    with pytest.raises(TypeError, match=r"optimizer\.state\.0\.hook, a set"):
        pack({"state": {0: {"hook": set()}}}, "optimizer")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_cut_off_file_is_refused(saved: Path, share: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * share)])
    refused(saved)


def test_a_change_of_any_byte_is_detected(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    for position in range(0, len(data), 3):
        changed = bytearray(data)
        changed[position] ^= 1
        saved.write_bytes(changed)
        try:
            tensors, meta = load_checkpoint(saved)
        except ValueError:
            refused(saved)
        else:  # a byte of the header's padding or spelling, that means the same
            assert meta == {"step": 7, "lr": 0.1}
            assert tensors["a"].tolist() == list(range(20))
            assert tensors["b"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("key", ["format", "version"])
def test_foreign_files_are_refused(saved: Path, key: str) -> None:
    save_file({"a": torch.ones(2)}, saved)
    refused(saved)
    header = {"format": "dirprune-checkpoint", "version": 1} | {key: "other"}
    save_file({"a": torch.ones(2)}, saved, {"dirprune": json.dumps(header)})
    refused(saved)
    saved.write_text("not a checkpoint at all")
    refused(saved)


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nothing")


def refused(path: Path) -> None:
    with pytest.raises(ValueError, match=path.name) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_file_as_it_was(saved: Path) -> None:
    before = saved.read_bytes()
    with files_end_at(1000), pytest.raises(OSError, match=saved.name) as caught:
        save_checkpoint(saved, {"a": torch.zeros(10_000)}, {})
    assert "\n" not in str(caught.value)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_checkpoints_have_the_usual_file_mode(saved: Path) -> None:
    twin = saved.parent / "plain"
    twin.touch()
    assert saved.stat().st_mode == twin.stat().st_mode


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [40]), (2, None, [30, 40]), (1, 20, [20, 40]), (2, 40, [30, 40]), (9, 5, [])],
)
def test_the_latest_and_the_best_are_kept(
    tmp_path: Path, keep: int, best: int | None, left: list[int]
) -> None:
    steps = [10, 20, 30, 40]
    for step in steps:
        checkpoint_path(tmp_path, step).touch()
    foreign = tmp_path / "notes.txt"
    foreign.touch()
    remove_old_checkpoints(tmp_path, keep, best)
    assert list_checkpoints(tmp_path) == [checkpoint_path(tmp_path, s) for s in left or steps]
    assert foreign.exists()


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (123456789, 9, 99999999):
        checkpoint_path(tmp_path, step).touch()
    expected = [checkpoint_path(tmp_path, step) for step in (9, 99999999, 123456789)]
    assert list_checkpoints(tmp_path) == expected
    assert list_checkpoints(tmp_path / "nothing") == []
