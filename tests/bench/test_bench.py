"""Benchmarks: compared outputs, errors and tables. No test depends on measured times."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dirprune._support import native
from dirprune.bench import latency as bench
from dirprune.bench.break_even import BreakEven, break_even, crossing, masked
from dirprune.bench.latency import Benchmark, benchmark, sparsity
from dirprune.bench.runtimes import Array, is_installed
from dirprune.deploy import capture, save
from dirprune.deploy.graph.module import GraphNet


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)
    ).eval()


X = torch.randn(2, 3, 6, 6)


@pytest.fixture
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the engine, so that the tests run without the C++ extension."""

    def engine(path: Path, threads: int) -> Callable[[Array], Array]:
        from dirprune.deploy import load

        net = load(path)
        assert isinstance(net, GraphNet)
        return lambda x: net(torch.from_numpy(x)).detach().numpy()

    monkeypatch.setattr(bench, "_engine", engine)
    monkeypatch.setattr(native, "required_extension", lambda: None)


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SETTLING", 0.001)


def check(figures: Benchmark, peers: int) -> None:
    assert len(figures.rows) == (1 + peers) * 4
    assert {(row.batch, row.threads) for row in figures.rows} == {
        (batch, count) for batch in (1, 3) for count in (1, 2)
    }
    for row in figures.rows:
        low, middle, high = row.quartiles
        assert 0 < low <= middle <= high
        assert row.spread == (high - low) / middle
        assert row.difference <= bench.TOLERANCES[row.precision]
        assert (row.speedup == 1) == (row.runtime == "dirprune")
    assert json.loads(figures.json())["rows"][0]["quartiles"] == list(figures.rows[0].quartiles)
    for said in ("dirprune f32", figures.machine["cpu"], "torch 2."):
        assert said in str(figures)


@pytest.mark.usefixtures("_engine")
def test_rows_of_a_module_and_of_its_file(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    model = network()
    check(benchmark(model, X, against=["torch"], batches=(1, 3), rounds=3), 1)
    save(model, tmp_path / "model.dpz", X)
    figures = benchmark(tmp_path / "model.dpz", against=["torch"], batches=(1, 3), rounds=1)
    check(figures, 1)
    assert figures.bytes == {"file": (tmp_path / "model.dpz").stat().st_size}
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_peers(name: str) -> None:
    if not is_installed(name):
        pytest.skip("pip install dirprune[bench]")
    figures = benchmark(network(), X, against=[name], batches=(3,), threads=(2,), rounds=2)
    assert {row.runtime for row in figures.rows} == {"dirprune", name}
    assert figures.bytes["onnx"] > 0
    precisions = [row.precision for row in figures.rows if row.runtime == name]
    assert "f32" in precisions
    assert len(precisions) == len(set(precisions))


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_peers_in_eight_bits(name: str) -> None:
    against = f"{name}-int8"
    if not is_installed(against):
        pytest.skip("pip install dirprune[bench]")
    figures = benchmark(network(), X, against=[against], batches=(3,), threads=(1,), rounds=2)
    [row] = [row for row in figures.rows if row.runtime == name]
    assert row.precision == "i8"
    assert 1e-5 < row.difference < 0.1  # computed in 8 bits, and of the same network
    assert "onnx" in figures.bytes


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("refused", [{None}, {None, "f32"}])
def test_precisions_that_openvino_refuses(
    monkeypatch: pytest.MonkeyPatch, refused: set[str | None]
) -> None:
    if not is_installed("openvino"):
        pytest.skip("pip install dirprune[bench]")
    import openvino

    class Core(openvino.Core):  # type: ignore[misc]
        def compile_model(self, model: object, device: str, config: dict[str, str]) -> object:
            if config.get("INFERENCE_PRECISION_HINT") in refused:
                raise RuntimeError("No suitable\nimplementations")
            return super().compile_model(model, device, config)

    monkeypatch.setattr(openvino, "Core", Core)

    def measured() -> Benchmark:
        return benchmark(network(), X, against=["openvino"], batches=[1], threads=[1], rounds=1)

    if "f32" in refused:
        with pytest.raises(ValueError, match=r"leave it out \(No suitable implementations"):
            measured()
    else:
        assert [row.precision for row in measured().rows] == ["f32", "f32"]


@pytest.mark.usefixtures("_engine")
def test_a_peer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dirprune.bench.runtimes.find_spec",
        lambda name: None if name == "openvino" else find_spec(name),
    )
    against = ["openvino", "torch"]
    figures = benchmark(network(), X, against=against, batches=[1], threads=[1], rounds=1)
    assert [row.runtime for row in figures.rows] == ["dirprune", "torch"]
    assert "not installed: openvino" in str(figures)


@pytest.mark.usefixtures("_engine")
def test_break_even_masks_and_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = bench.benchmark

    def watched(model: GraphNet, **kwargs: object) -> Benchmark:
        seen.append(sparsity(model.graph))
        return real(model, **kwargs)

    monkeypatch.setattr(bench, "benchmark", watched)
    found = break_even(network(), X, against=["torch"], sparsities=(0.5, 0.9), rounds=1)
    assert seen == pytest.approx([0.5, 0.9], abs=0.01)
    assert found.sparsity == crossing(found.sparsities, found.ratios)
    assert "50%" in str(found)
    assert found.measured == pytest.approx(sparsity(capture(network(), X)))


def test_a_break_even_states_what_to_do() -> None:
    text = str(BreakEven((0.5, 0.9), (0.5, 1.5), 0.7, 0.3))
    assert "from 70% zeros on" in text
    assert (
        "this network has 30%: train it with a larger c, or with SparsityPlan(sparsity=0.75"
        in text
    )
    assert "train" not in str(BreakEven((0.5, 0.9), (0.5, 1.5), 0.7, 0.8))
    assert "never faster" in str(BreakEven((0.5, 0.9), (0.5, 0.8), None, 0.8))


def test_without_the_extension_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "extension", lambda: None)
    for error in (ImportError, RuntimeError):
        with pytest.raises(error, match="install a C\\+\\+20 compiler"):
            benchmark(network(), X, against=[])


def test_masking_zeroes_the_smallest_weights_of_every_layer() -> None:
    graph = capture(network(), X)
    half = masked(graph, 0.5)
    for name in ("0.weight", "3.weight"):
        old, new = graph.tensors[name], half.tensors[name]
        assert np.count_nonzero(new) == old.size // 2
        assert np.abs(old[new == 0]).max() <= np.abs(new[new != 0]).min()
    assert (half.tensors["0.bias"] == graph.tensors["0.bias"]).all()


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [([0.5, 1.5, 2.0], 0.6), ([0.5, 0.9, 0.99], None), ([1.0, 2.0, 3.0], 0.5),
     ([1.2, 0.8, 1.2], 0.8)],
)  # fmt: skip
def test_break_even_interpolates_between_ratios(
    ratios: list[float], expected: float | None
) -> None:
    assert crossing([0.5, 0.7, 0.9], ratios) == pytest.approx(expected)


@pytest.mark.usefixtures("_engine")
def test_outputs_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_engine", lambda path, threads: lambda x: np.ones((len(x), 5)))
    with pytest.raises(RuntimeError, match=r"dirprune in f32 differs .* nothing was timed"):
        benchmark(network(), X, against=[])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"against": ["tvm"]}, "unknown runtime 'tvm': choose from torch"),
        ({"batches": []}, "at least 1"),
        ({"threads": (0,)}, "at least 1"),
        ({"example_inputs": None}, "example_inputs"),
    ],
)
def test_mistakes(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        benchmark(network(), **{"example_inputs": X, **kwargs})


def test_a_file_without_a_graph(tmp_path: Path) -> None:
    save(network(), tmp_path / "weights.dpz")
    with pytest.raises(ValueError, match="only weights"):
        benchmark(tmp_path / "weights.dpz")
