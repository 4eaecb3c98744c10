"""ONNX files of every operator and family, run by ONNX Runtime."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy.drawn_graphs import ACTIVATIONS, Sketch
from deploy.networks import NETWORKS, inputs, sparsify
from deploy.test_composed import CASES as COMPOSED
from deploy.test_coverage import CASES
from dirprune.deploy import capture, export_onnx, shrink
from dirprune.deploy.graph.graph import Graph
from dirprune.deploy.graph.module import GraphNet

onnx = pytest.importorskip("onnx", reason="pip install dirprune[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install dirprune[onnx]")


def run(graph: Graph, x: torch.Tensor, opset: int = 20) -> np.ndarray:
    from dirprune.deploy.onnx_writer import onnx_graph

    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(onnx_graph(graph), opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def grid() -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    cases: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        (op, (5, 6), attrs) for op, attrs in ACTIVATIONS.items()
    ]
    cases += [("gelu", (7,), {"tanh": 1}), ("softmax", (4, 5), {"dim": 1})]
    cases += [(op, (3,), {"scalar": 2.5}) for op in ("add", "sub", "mul", "div")]
    cases += [(op, (3,), {"scalar": 2.5, "reversed": 1}) for op in ("sub", "div")]
    cases += [("slice", (9, 2), {"dim": 1, "start": 1, "end": 8, "step": 3})]
    cases += [("mean", (3, 4, 5), {"dims": (2, 3), "keepdim": k}) for k in (0, 1)]
    cases += [("reshape", (6, 2), {"size": (-1, 3, 4)}), ("dropout", (3,), {"p": 0.5})]
    cases += [("permute", (6, 2, 3), {"dims": (0, 3, 1, 2)})]
    cases += [("pad", (2, 4, 3), {"padding": (1, 0, 2, 3), "value": 0.5})]
    for size in ((8, 12), (7, 5), (1, 1)):
        cases += [("upsample_nearest", (2, 4, 5), {"output": size})]
        cases += [
            ("upsample_bilinear", (2, 4, 5), {"output": size, "align_corners": c}) for c in (0, 1)
        ]
    for op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        cases += [(op, (2, 6, 8), {"output": size}) for size in ((1, 1), (3, 4), (4, 3), (7, 9))]
    for kernel, stride, padding, ceil in ((2, 2, 0, 1), (3, 2, 1, 1), (3, 2, 1, 0), (3, 4, 0, 1),
                                          (2, 3, 1, 1)):  # fmt: skip
        window = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 2,
                  "ceil_mode": ceil}  # fmt: skip
        for shape in ((2, 7, 8), (2, 9, 6)):
            cases += [("max_pool2d", shape, window | {"dilation": (d, 1)}) for d in (1, 2)]
            cases += [("avg_pool2d", shape, window | {"count_include_pad": c}) for c in (0, 1)]
    return cases


@pytest.mark.parametrize(("op", "shape", "attrs"), grid(), ids=str)
def test_every_operator(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    s = Sketch(*shape)
    s.add(op, 0, **attrs)
    for batch in (1, 3):
        x = torch.randn(batch, *shape)
        expected = GraphNet(s.graph())(x).numpy()
        np.testing.assert_allclose(run(s.graph(), x), expected, rtol=1e-4, atol=1e-5)


def test_layers_with_and_without_their_optional_tensors() -> None:
    s = Sketch(4, 7, 9)
    x = s.add("conv2d", 0, tensors={"weight": s.normal(6, 2, 3, 2), "bias": s.normal(6)},
              stride=(2, 1), padding=(1, 2, 0, 3), dilation=(1, 2), groups=2)  # fmt: skip
    statistics = {"running_mean": s.normal(6), "running_var": np.full(6, 2.0)}
    x = s.add("batch_norm", s.norm(x), tensors=statistics, eps=1e-3)
    x = s.add("sub", s.constant(s.normal(6, 1, 1)), s.add("mul", x, x))
    x = s.add("permute", s.add("cat", x, x, dim=1), dims=(0, 2, 3, 1))
    x = s.add("layer_norm", x, dims=1, eps=1e-5)
    own = {"weight": s.normal(10, 12), "bias": s.normal(10, 12)}
    x = s.add("layer_norm", x, tensors=own, dims=2, eps=1e-5)
    x = s.linear(s.linear(x, 5, bias=s.normal(5)), 3)
    x = s.linear(s.linear(s.flatten(x), 5, bias=s.normal(5)), 3)
    s.add("dropout", x, p=0.1)
    x = torch.randn(3, 4, 7, 9)
    with torch.no_grad():
        expected = GraphNet(s.graph())(x).numpy()
    np.testing.assert_allclose(run(s.graph(), x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet", "mobilenet_v3", "shufflenet", "densenet", "convnext"])
def test_families(name: str, tmp_path: Path) -> None:
    model = sparsify(NETWORKS[name][0](), 0.8)
    path = tmp_path / "new" / "model.onnx"
    written = export_onnx(model, path, inputs(name, 2))
    assert written.difference is not None
    assert written.difference < 1e-5
    assert written.size == path.stat().st_size
    assert "opset 20" in str(written)
    assert list(path.parent.iterdir()) == [path]
    stored = onnx.load(path)
    small = shrink(model, inputs(name, 2))
    assert set(small.state_dict()) <= {tensor.name for tensor in stored.graph.initializer}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = inputs(name, 5)
    with torch.no_grad():
        expected = model.eval()(x).numpy()
    found = session.run(["output"], {"input": x.numpy()})[0]
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_difference_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    monkeypatch.setattr("dirprune.deploy.onnx.TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="bug"):
        export_onnx(nn.Linear(3, 2), path, torch.ones(2, 3))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_where_there_is_no_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install dirprune\[onnx\]"):
        export_onnx(nn.Linear(3, 2), tmp_path / "model.onnx", torch.ones(2, 3))


def test_where_there_is_no_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    written = export_onnx(nn.Linear(3, 2), tmp_path / "model.onnx", torch.ones(2, 3))
    assert written.difference is None
    assert "pip install onnxruntime" in str(written)


@pytest.mark.parametrize("name", [*CASES, *COMPOSED])
@torch.no_grad()
def test_networks_as_people_write_them(name: str) -> None:
    torch.manual_seed(0)
    make, shape = (CASES | COMPOSED)[name]
    model = make().eval()
    graph = capture(model, torch.randn(2, *shape))
    for batch in (1, 5):
        x = torch.randn(batch, *shape)
        expected = model(x).numpy()
        largest = np.abs(expected).max()
        np.testing.assert_allclose(run(graph, x), expected, rtol=0, atol=1e-5 * largest)


class Names(nn.Module):
    """Tensors with the names of inputs, outputs and helper constants."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("one", "input", "output", "mask", "integers"):
            setattr(self, name, nn.Parameter(torch.rand(4)))
        self.Cast = nn.Sequential(*(nn.Tanh() for _ in range(3)))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = self.Cast((x > 0).float() + x.expm1() * self.one) + self.input * x * self.mask
        return y * self.output if mask is None else y * mask


@torch.no_grad()
def test_names_of_a_network_may_be_those_of_the_file(tmp_path: Path) -> None:
    model, x, mask = Names(), torch.randn(3, 4), torch.rand(3, 4)
    for inputs_ in ((x,), (x, mask)):
        export_onnx(model, tmp_path / "m.onnx", inputs_)
        session = onnxruntime.InferenceSession(
            tmp_path / "m.onnx", providers=["CPUExecutionProvider"]
        )
        names = [tensor.name for tensor in session.get_inputs()]
        assert names == (["input"] if len(inputs_) == 1 else ["x", "mask"])
        found = session.run(None, {n: t.numpy() for n, t in zip(names, inputs_)})[0]
        np.testing.assert_allclose(found, model(*inputs_), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_batch_of_one_may_lose_its_dimension(tmp_path: Path) -> None:
    class Squeezed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp().squeeze()

    written = export_onnx(Squeezed(), tmp_path / "m.onnx", torch.randn(2, 3, 4))
    assert written.difference is not None
    assert written.difference < 1e-5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
@torch.no_grad()
def test_short_integers_are_given_as_long_ones(tmp_path: Path, dtype: torch.dtype) -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x / 8)

    x = torch.arange(8, dtype=dtype).reshape(2, 4)
    assert export_onnx(Pixels(), tmp_path / "m.onnx", x).difference < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_a_lower_precision_may_differ_by_it(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Linear(30, 4)).to(dtype)
    found = export_onnx(model, tmp_path / "m.onnx", torch.randn(8, 20, dtype=dtype)).difference
    assert 1e-4 < found < 0.05
