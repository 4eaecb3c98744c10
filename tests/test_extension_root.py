"""The extension at power 2: bit-identical to PyTorch, and it detects outside changes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dirprune import GRDA, AdamGRDA, SparsityPlan
from dirprune.changes import LINE, SPARSE
from dirprune.prox import power_threshold

_cpp = pytest.importorskip("dirprune._cpp", reason="the C++ extension is not built here")


@pytest.fixture(params=_cpp.available())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DIRPRUNE_ISA", request.param)
    return request.param


def call(w: np.ndarray, v: np.ndarray, g: float, root: bool) -> None:
    _cpp.grda_step(
        [w.ctypes.data], [v.ctypes.data], [], [], [len(v)], lr=0.0, g=g, momentum=0.0, decay=0.0,
        nesterov=False, maximize=False, root=root, threads=1,
    )  # fmt: skip


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("g", [0.0, 0.05, 1e-39, 3e38])
def test_the_threshold_has_the_bits_of_torch(root: bool, g: float) -> None:
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, 1e-45, -1e-39, 0.05, -0.05, np.inf, -np.inf, np.nan, 3.4e38]
    v = np.concatenate([rng.normal(size=1003) * 0.1, special]).astype(np.float32)
    w = np.full_like(v, 7.0)
    call(w, v, g, root)
    expected = power_threshold(torch.from_numpy(v), g, 2.0 if root else 1.0).numpy()
    same = (w.view(np.int32) == expected.view(np.int32)) | (np.isnan(w) & np.isnan(expected))
    assert same.all()
    assert not np.signbit(w[w == 0]).any()


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1, "maximize": True}],
    ids=str,
)
@pytest.mark.parametrize("planned", [False, True])
def test_a_run_has_the_bits_of_torch(options: dict, planned: bool) -> None:
    runs = []
    for fused in (True, False):
        shapes = [(70_001,), (0,), (3,), (40, 50), (16, 8, 3, 3)]
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(s) * 0.05) for s in shapes]
        plan = SparsityPlan(0.8, steps=8) if planned else None
        optimizer = GRDA(weights, lr=0.1, c=0.1, plan=plan, power=2.0, fused=fused, **options)
        for _ in range(10):
            for w in weights:
                w.grad = torch.randn_like(w) * 0.1
            optimizer.step()
        runs.append((weights, optimizer))
    for p, q in zip(runs[0][0], runs[1][0]):
        assert torch.equal(p, q)
        assert torch.equal(runs[0][1].state[p]["v"], runs[1][1].state[q]["v"])
    assert (runs[0][0][0] == 0).any()


def test_adam_thresholds_in_the_extension_with_the_same_bits() -> None:
    weights = []
    for fused in (None, False):
        w = nn.Parameter(torch.linspace(-1, 1, 5001))
        optimizer = AdamGRDA([w], lr=0.01, plan=SparsityPlan(0.8, steps=8), fused=fused)
        for n in range(9):
            w.grad = torch.sin(torch.arange(5001.0) * (n + 1))
            optimizer.step()
        weights.append(w.detach())
    assert torch.equal(*weights)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("length", [1, 15, 4096, 4097, 100_003])
def test_changes_are_found(root: bool, length: int) -> None:
    rng = np.random.default_rng(1)
    v = rng.normal(size=length).astype(np.float32)
    w = np.empty_like(v)
    call(w, v, 0.5, root)
    rows = [w.ctypes.data, w.ctypes.data], [v.ctypes.data, v.ctypes.data], [length, 0]

    def found(phase: int) -> list[int]:
        return _cpp.grda_changed(*rows, g=0.5, root=root, sample=_cpp.Sample(phase), threads=2)

    assert not any(found(phase) for phase in range(SPARSE))
    position = length // 2
    w[position] = -0.0 if w[position] == 0 else w[position]
    assert not any(found(phase) for phase in range(SPARSE))
    w[position] = np.nextafter(w[position], np.float32(math.inf))
    seen = [phase for phase in range(SPARSE) if found(phase) == [0]]
    if length <= 4096:
        assert len(seen) == SPARSE
    else:
        lines, line = length // LINE, position // LINE
        cycle = min(SPARSE, lines)  # a row of few lines is looked at in every phase
        expected = [phase for phase in range(SPARSE) if phase % cycle == line % SPARSE]
        assert seen == (expected if line < lines else [])
