"""Files give the same bits back, are small, and are refused in one line when they are damaged."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

from deploy.networks import NETWORKS, captured, difference, inputs, sparsify
from dirprune.deploy import GraphNet, load, save
from dirprune.deploy.file.container import DTYPES
from dirprune.deploy.file.packing import Layout, decompress, part_sizes, put_together, take_apart
from dirprune.deploy.file.values import reduce, restore

SMALL = ["mobilenet_v3", "efficientnet", "densenet", "regnet", "convnext", "our convnet",
         "our resnet20"]  # fmt: skip
"""Up to some 100,000 weights each: compressing for size takes its time."""


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


@settings(max_examples=200, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "c8", "c16", ">f4"]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
        fill=st.sampled_from([0, -0.0, 1]),
    )
)
def test_packing_keeps_every_bit(array: np.ndarray[Any, Any]) -> None:
    for floating in {False, array.dtype.kind == "f"}:
        apart = take_apart(array, floating)
        sizes = part_sizes(apart.layout, apart.nonzeros, array.itemsize, array.size)
        assert sizes == tuple(map(len, apart.parts))
        again = put_together(apart, array.dtype, array.size, floating)
        assert again.tobytes() == array.tobytes()


def test_negative_zeros_and_nans_with_a_message_are_kept() -> None:
    array = np.zeros(64, np.float32)
    array[:4] = np.array([0x80000000, 0x7FC00001, 0xFFC12345, 1], np.uint32).view(np.float32)
    apart = take_apart(array, floating=True)
    assert (apart.nonzeros, apart.layout) == (3, Layout.SIGNED)
    assert put_together(apart, array.dtype, 64, floating=True).tobytes() == array.tobytes()


@pytest.mark.parametrize("name", SMALL)
def test_a_network_comes_back_bit_by_bit_and_smaller_than_by_zstandard(
    name: str, tmp_path: Path
) -> None:
    model = GraphNet(captured(name)[1])
    saved = save(model, tmp_path / "model.dpz", inputs(name, 2))
    again = load(tmp_path / "model.dpz")
    assert isinstance(again, GraphNet)
    assert not again.training
    assert saved.change == 0.0
    assert saved.runs
    assert again.graph.nodes == model.graph.nodes
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(bits(before[key]) == bits(after[key]) for key in before)
    assert dict(again.named_parameters()).keys() == dict(model.named_parameters()).keys()
    dense = b"".join(bits(tensor) for tensor in before.values())
    assert saved.bytes == (tmp_path / "model.dpz").stat().st_size
    assert saved.dense_bytes == len(dense)
    assert saved.bytes < len(zstandard.ZstdCompressor(level=19).compress(dense))


def transformer() -> nn.Module:
    """Nothing that can be captured: attention, integers, half precisions, an empty tensor."""
    model = nn.TransformerEncoderLayer(16, 2, 32)
    model.register_buffer("positions", torch.arange(7))
    model.register_buffer("mask", torch.rand(5, 5) > 0.5)
    model.register_buffer("empty", torch.empty(0, 3))
    model.register_buffer("scalar", torch.tensor(-0.0))
    for name in DTYPES:
        dtype = getattr(torch, name)
        model.register_buffer(f"of_{name}", torch.tensor([[0, 1, 0], [1, 0, 1]]).to(dtype).mT)
    return model


def test_the_weights_of_any_module_come_back(tmp_path: Path) -> None:
    before = transformer().state_dict()
    saved = save(transformer(), tmp_path / "w.dpz")
    assert (saved.runs, saved.change) == (False, None)
    model = transformer()
    save(model, tmp_path / "w.dpz")
    after = load(tmp_path / "w.dpz")
    assert list(before) == list(after)
    for name, tensor in model.state_dict().items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape)
        assert bits(tensor) == bits(after[name])
    transformer().load_state_dict(after)


@pytest.mark.parametrize(("values", "most"), [("float16", 2e-3), ("int8", 5e-2)])
def test_reduced_values(values: Any, most: float, tmp_path: Path) -> None:
    model, _ = captured("our resnet20")
    x = inputs("our resnet20", 8)
    saved = save(model, tmp_path / "small.dpz", x, values=values)
    again = load(tmp_path / "small.dpz")
    with torch.no_grad():
        change = difference(model(x), again(x))
    assert saved.change is not None
    assert 0 < change < most
    assert change == pytest.approx(saved.change, rel=1e-3)
    exact = save(model, tmp_path / "exact.dpz", x)
    assert saved.bytes < exact.bytes * {"float16": 0.7, "int8": 0.55}[values]
    for name, tensor in again.state_dict().items():
        before = model.state_dict()[name]
        assert torch.equal(tensor == 0, (before == 0) | (tensor == 0))
        assert tensor.dtype == torch.float32
        if tensor.dim() < 2:
            assert torch.equal(tensor, before)
    assert f"outputs change by {saved.change:.1e}" in str(saved)


@settings(deadline=None)
@example(np.full((3, 7), 6.18e-43, "f4"))  # a scale below the normal numbers
@given(arrays.arrays("f4", (3, 7), elements=st.floats(width=32, allow_nan=False)))
def test_reduced_values_are_the_nearest(array: np.ndarray[Any, Any]) -> None:
    eight = reduce(array, "int8")
    if np.abs(array).max() < 1e38:
        assert eight.values == "int8"
        step = np.abs(array.astype(np.float64)).max(axis=1, keepdims=True) / 127
        error = np.abs(restore(eight).astype(np.float64) - array)
        assert (error <= 0.501 * step + 1e-43).all()
        assert np.isfinite(restore(eight)).all()
    assert (restore(eight)[array == 0] == 0).all()
    half = reduce(array, "float16")
    if np.abs(array).max() <= 65504:
        assert np.array_equal(restore(half), array.astype("f2").astype("f4"))
    else:
        assert restore(half).tobytes() == array.tobytes()


def test_a_state_goes_back_into_its_module(tmp_path: Path) -> None:
    model, _ = captured("our resnet20")
    x = inputs("our resnet20", 2)
    save(model, tmp_path / "model.dpz", x)
    other = sparsify(NETWORKS["our resnet20"][0]()).eval()
    other.load_state_dict(load(tmp_path / "model.dpz").state_dict())
    assert torch.equal(other(x), model(x))


def test_an_older_file_survives_what_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.dpz"
    save(nn.Linear(2, 2), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="exp"):
        save(nn.Sequential(Exp()), path, torch.ones(2, 2))
    with pytest.raises(ValueError, match="_extra_state in the state dict is a dict"):
        save(WithState(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Exp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


class WithState(nn.Module):
    def get_extra_state(self) -> dict[str, int]:
        return {"a": 1}


def broken(change: Callable[[bytearray], object]) -> Callable[[Path], object]:
    def make(path: Path) -> object:
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return load(path)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken(lambda d: d.clear()), "not a file that dirprune.deploy.save wrote"),
        (broken(lambda d: d.__setitem__(slice(0, 2), b"PK")), "not a file that"),
        (broken(lambda d: d.__delitem__(slice(20, None))), "its first bytes"),
        (broken(lambda d: d.__setitem__(8, 2)), "of version 2, this dirprune reads 1"),
        (broken(lambda d: d.pop()), "should have"),
        (broken(lambda d: d.append(0)), "should have"),
        (broken(lambda d: d.__setitem__(-1, d[-1] ^ 1)), "checksum"),
        (broken(lambda d: d.__setitem__(40, d[40] ^ 1)), "checksum"),
        (lambda path: load(path, max_bytes=100), "need 544 bytes .* max_bytes"),
        (lambda path: save(nn.Linear(2, 2), path, values="int4"), "float32, float16, int8"),
        (lambda path: save(nn.Linear(2, 2, device="meta"), path), "meta"),
    ],
)
def test_mistakes(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.dpz"
    save(nn.Linear(16, 8), path, torch.ones(2, 16))
    with pytest.raises(ValueError, match=message) as error:
        make(path)
    assert "\n" not in str(error.value)


def test_streams_are_what_their_size_says() -> None:
    good = zstandard.ZstdCompressor().compress(bytes(1000))
    assert decompress(good, 1000) == bytes(1000)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    for data, size in [(good, 999), (good, 1 << 50), (good + b"x", 1000), (good[:-1], 1000),
                       (unsized, 1000), (b"", 5), (good + good, 1000)]:  # fmt: skip
        with pytest.raises(ValueError, match="a stream"):
            decompress(data, size)


def test_masks_are_what_they_say() -> None:
    apart = take_apart(np.eye(8, dtype=np.float32), floating=True)
    marks = np.packbits(np.arange(64) < 9)
    with pytest.raises(ValueError, match="does not mark"):
        put_together(
            replace(apart, parts=(marks, *apart.parts[1:])), np.dtype("f4"), 64, floating=True
        )
    apart = take_apart(np.eye(3, dtype=np.int8), floating=False)
    with pytest.raises(ValueError, match="behind its end"):
        put_together(
            replace(apart, parts=(np.full(2, 255, np.uint8), *apart.parts[1:])),
            np.dtype("i1"), 9, floating=False,
        )  # fmt: skip


def test_a_server_reads_and_lowers_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "model.dpz"
    save(nn.Sequential(nn.Linear(16, 8), nn.ReLU()), path, torch.ones(2, 16))
    code = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "safetensors", "scipy", "sklearn"))
from dirprune.deploy import Engine
from dirprune.deploy.file.container import read_file
from dirprune.deploy.graph.fold import fold
print(*[node.op for node in fold(read_file({str(path)!r}).graph).nodes])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["linear"]
