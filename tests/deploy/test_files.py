"""Files give the same bits back, are small, and are refused in one line when they are damaged."""

import io
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
from dirprune.deploy.file.packing import (
    Packing,
    Parts,
    decompress,
    part_sizes,
    put_together,
    take_apart,
)
from dirprune.deploy.file.values import reduce, restore

SMALL = ["mobilenet_v3", "efficientnet", "densenet", "regnet", "convnext", "our convnet",
         "our resnet20"]  # fmt: skip
"""Up to some 100,000 weights each: compressing for size takes its time."""


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def without_negative_zeros(tensor: Tensor) -> Tensor:
    """The same values with every -0.0, also in a real or imaginary part, as 0.0."""
    if tensor.is_complex():
        return torch.view_as_complex(without_negative_zeros(torch.view_as_real(tensor)))
    return torch.where(tensor == 0, torch.zeros((), dtype=tensor.dtype), tensor)


@settings(max_examples=200)
@given(
    arrays.arrays(
        st.sampled_from(["f2", "f4", "f8", "i1", "i8", "u2", "c8", "c16", ">f4"]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
        fill=st.sampled_from([0, -0.0, 1]),
    )
)
def test_packing_keeps_every_bit_except_signs_of_zeros(array: np.ndarray[Any, Any]) -> None:
    for floating in {False, array.dtype.kind == "f"}:
        apart = take_apart(array, floating)
        sizes = part_sizes(apart.layout, apart.nonzeros, array.itemsize, array.size)
        assert sizes == tuple(map(len, apart.parts))
        again = put_together(apart, array.dtype, array.size, floating)
        expected = np.where(array == 0, 0, array).astype(array.dtype) if floating else array
        assert again.tobytes() == expected.tobytes()


def test_nans_and_denormals_are_kept_and_negative_zeros_are_not() -> None:
    array = np.zeros(64, np.float32)
    array[:4] = np.array([0x80000000, 0x7FC00001, 0xFFC12345, 1], np.uint32).view(np.float32)
    apart = take_apart(array, floating=True)
    assert (apart.nonzeros, apart.layout) == (3, Packing.MASKED)
    array[0] = 0.0
    assert put_together(apart, array.dtype, 64, floating=True).tobytes() == array.tobytes()


def test_the_signs_of_zeros_in_files_of_version_01_are_kept() -> None:
    array = np.array([0.0, -0.0, 3.0, -0.0], np.float32)
    mask, signs = np.array([0b0100], np.uint8), np.array([0b110], np.uint8)
    planes = take_apart(array[2:3], floating=True).parts
    apart = Parts(Packing.SIGNED, 1, (mask, signs, *planes))
    assert put_together(apart, array.dtype, 4, floating=True).tobytes() == array.tobytes()


def test_a_masked_network_is_as_small_as_one_with_positive_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    masked, plain = nn.Linear(256, 256), nn.Linear(256, 256)
    with torch.no_grad():
        masked.weight.mul_(torch.rand(256, 256) < 0.1)
        masked.bias.zero_().neg_()
        plain.weight.copy_(without_negative_zeros(masked.weight))
        plain.bias.zero_()
    assert masked.weight.signbit().sum() > 10_000
    for inputs_ in (None, torch.ones(2, 256)):
        sizes = [save(net, tmp_path / "m.dpz", inputs_).bytes for net in (plain, masked)]
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64", "complex128",
                                   "float8_e4m3fn", "float8_e5m2"])  # fmt: skip
def test_no_type_keeps_negative_zeros(dtype: str, tmp_path: Path) -> None:
    values = torch.tensor([-0.0, 1.5, 0.0, -2.0])
    if dtype.startswith("complex"):
        values = torch.complex(values, values.flip(0))
    save({"x": values.to(getattr(torch, dtype))}, tmp_path / "x.dpz")
    found = load(tmp_path / "x.dpz")["x"]
    assert found.dtype == getattr(torch, dtype)
    parts = torch.view_as_real(found) if found.is_complex() else found.float()
    expected = torch.view_as_real(values) if values.is_complex() else values
    assert bits(parts.float()) == bits(without_negative_zeros(expected))


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
    assert all(bits(without_negative_zeros(before[key])) == bits(after[key]) for key in before)
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
        expected = without_negative_zeros(tensor) if name == "scalar" else tensor
        assert bits(expected) == bits(after[name])
    transformer().load_state_dict(after)


def test_a_state_dict_is_saved_like_its_module(tmp_path: Path) -> None:
    model = nn.Linear(16, 8)
    save(model, tmp_path / "module.dpz")
    saved = save(model.state_dict(), tmp_path / "state.dpz")
    assert (saved.runs, saved.change) == (False, None)
    assert (tmp_path / "state.dpz").read_bytes() == (tmp_path / "module.dpz").read_bytes()
    with pytest.raises(ValueError, match="give the module itself"):
        save(model.state_dict(), tmp_path / "state.dpz", torch.ones(2, 16))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel,
                                  lambda net: torch.compile(net, backend="eager")])  # fmt: skip
def test_names_are_those_of_the_module_inside(wrap: Any, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    save(wrap(net), tmp_path / "w.dpz")
    assert list(load(tmp_path / "w.dpz")) == ["0.weight", "0.bias"]


def test_tied_weights_are_stored_once_and_loaded_separately(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self, tie: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inputs, self.outputs = nn.Embedding(200, 64), nn.Linear(64, 200, bias=False)
            if tie:
                self.outputs.weight = self.inputs.weight

    apart, tied = (save(Tied(tie), tmp_path / f"{tie}.dpz").bytes for tie in (False, True))
    assert tied < 0.55 * apart
    state = load(tmp_path / "True.dpz")
    assert torch.equal(state["inputs.weight"], Tied(True).inputs.weight)
    assert torch.equal(state["inputs.weight"], state["outputs.weight"])
    state["inputs.weight"].zero_()
    assert state["outputs.weight"].any()
    # Values alone decide, so that a loaded state is saved as small as before.
    assert save(load(tmp_path / "True.dpz"), tmp_path / "again.dpz").bytes == tied


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "file"])
def test_a_file_is_read_from_anywhere(kind: str, tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    save(net, tmp_path / "w.dpz", torch.ones(2, 3))
    data = (tmp_path / "w.dpz").read_bytes()
    source: Any = {"path": tmp_path / "w.dpz", "str": str(tmp_path / "w.dpz"), "bytes": data,
                   "bytearray": bytearray(data), "file": io.BytesIO(data)}[kind]  # fmt: skip
    assert torch.equal(load(source).state_dict()["weight"], net.weight)


def test_other_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected a path, bytes or a file .* got int"):
        load(3)  # type: ignore[arg-type]
    (tmp_path / "w.dpz").write_text("text")
    with (tmp_path / "w.dpz").open() as file, pytest.raises(TypeError, match="mode 'rb'"):
        load(file)  # type: ignore[arg-type]


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
    assert saved.bytes < exact.bytes * {"float16": 0.7, "int8": 0.6}[values]
    for name, tensor in again.state_dict().items():
        before = model.state_dict()[name]
        assert torch.equal(tensor == 0, (before == 0) | (tensor == 0))
        assert tensor.dtype == torch.float32
        if tensor.dim() < 2:
            assert torch.equal(tensor, before)
    assert f"outputs change by {saved.change:.1e}" in str(saved)


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


def test_an_older_file_survives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "model.dpz"
    save(nn.Linear(2, 2), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="i0"):
        save(nn.Sequential(Bessel()), path, torch.ones(2, 2))
    with pytest.raises(ValueError, match="_extra_state in the state dict is a dict"):
        save(WithState(), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dirprune.deploy.file.io._change", refuse)
        with pytest.raises(ValueError, match="no such output"):
            save(nn.Linear(2, 2), path, torch.ones(2, 2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def refuse(*_: object) -> None:
    raise ValueError("no such output")


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x)


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
        (broken(lambda d: d.__setitem__(8, 3)), "of version 3, this dirprune reads 1 and 2"),
        (broken(lambda d: d.pop()), "should have"),
        (broken(lambda d: d.append(0)), "should have"),
        (broken(lambda d: d.__setitem__(-1, d[-1] ^ 1)), "checksum"),
        (broken(lambda d: d.__setitem__(40, d[40] ^ 1)), "checksum"),
        (lambda path: load(path, max_bytes=100), r"needs up to \d+ bytes .* max_bytes"),
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


def test_masks_match_their_definitions() -> None:
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
from dirprune.deploy.file.read import read_file
from dirprune.deploy.graph.fold import fold
print(*[node.op for node in fold(read_file({str(path)!r}).graph).nodes])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["linear"]


def test_a_network_that_also_returns_a_number_has_a_change(tmp_path: Path) -> None:
    class Numbered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)

        def forward(self, x: torch.Tensor) -> dict[str, object]:
            return {"y": self.layer(x), "version": 3}

    net = Numbered()
    with torch.no_grad():
        net.layer.weight.fill_(1 + 2**-12)  # float16 rounds it to 1
    saved = save(net, tmp_path / "model.dpz", torch.ones(2, 1), values="float16")
    assert saved.change == pytest.approx(2**-12 / (1 + 2**-12))
