"""Paths: closed forms on quadratics, policies for BatchNorm, and no repeated measurements."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dirprune import refresh_batchnorm
from dirprune.landscape import ParameterLayout, PathFigures, Point, path, straight_line
from dirprune.landscape.connectivity.paths import CurveProfile

DATA = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(3, (50,), generator=torch.Generator().manual_seed(2))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)
    )


def trained(seed: int) -> tuple[nn.Module, Point]:
    """A network with random running statistics."""
    torch.manual_seed(seed)
    model = network()
    for _ in range(3):
        model(torch.randn(20, 4) + seed)
    return model, ParameterLayout(model).point(model.state_dict())


def test_a_quadratic_along_a_line() -> None:
    model = nn.Linear(3, 1).double()
    x, y = torch.randn(17, 3, dtype=torch.float64), torch.randn(17, 1, dtype=torch.float64)
    layout = ParameterLayout(model)
    a, b = torch.randn(2, 4, dtype=torch.float64).unbind()
    ends = [Point(w, {}) for w in (a, b)]
    found = path(straight_line(*ends), model, F.mse_loss, {"train": (x, y)}, points=11)
    design = torch.cat([x, torch.ones(17, 1)], dim=1).numpy()
    for t, value in zip(found.t, found.loss["train"].values):
        w = ((1 - t) * a + t * b).numpy()
        assert value == pytest.approx(np.mean((design @ w - y.numpy()[:, 0]) ** 2), rel=1e-12)
    assert found.t == pytest.approx(np.linspace(0, 1, 11))
    assert found.loss["train"].barrier < 1e-12  # convex
    assert found.length == pytest.approx(float((a - b).norm()))
    assert found.error == {}
    assert layout.size == 4


def test_profiles() -> None:
    hill = CurveProfile([1.0, 5.0, 2.0, 3.0])
    assert hill.largest == (1 / 3, 5.0)
    assert hill.barrier == pytest.approx(5 - (1 + 2 / 3))
    assert hill.rise == 2
    assert hill.mean == pytest.approx((0.5 + 5 + 2 + 1.5) / 3)
    valley = CurveProfile([1.0, 0.0, 3.0])
    assert (valley.barrier, valley.rise) == (0.0, 0.0)
    broken = CurveProfile([1.0, math.nan, 2.0, math.inf, 0.0])
    assert broken.largest == (0.25, math.inf)
    assert (broken.barrier, broken.rise, broken.mean) == (math.inf, math.inf, math.inf)


@pytest.mark.parametrize("policy", ["refresh", "interpolate", "eval"])
def test_the_policy_for_batchnorm(policy: str) -> None:
    (model, a), (_, b) = trained(1), trained(2)
    batches = list(zip(DATA.split(25), LABELS.split(25)))
    line = straight_line(a, b)
    found = path(line, model, F.cross_entropy, {"train": batches}, points=5, policy=policy)
    layout = ParameterLayout(model)

    def expected(t: float) -> float:
        twin = network()
        rest = dict((a if t <= 0.5 else b).rest)
        if policy == "interpolate":
            for name in ("1.running_mean", "1.running_var"):
                rest[name] = (1 - t) * a.rest[name] + t * b.rest[name]
        twin.load_state_dict(layout.state(Point((1 - t) * a.w + t * b.w, rest)))
        if policy == "refresh":
            refresh_batchnorm(twin, (x for x, _ in batches))
        with torch.no_grad():
            return F.cross_entropy(twin.eval()(DATA), LABELS).item()

    for t, value in zip(found.t, found.loss["train"].values):
        assert value == pytest.approx(expected(t), rel=1e-5)
    ends = found.loss["train"].values[0], found.loss["train"].values[-1]
    stored = tuple(s["train"].loss for s in found.stored)
    if policy == "refresh":
        assert ends != stored
        assert all(shift and min(shift.values()) > 0.01 for shift in found.shifts)
    else:
        assert ends == stored
        assert found.shifts == ({"running_mean": 0.0, "running_var": 0.0},) * 2


def test_statistics_that_are_fresh_do_not_shift() -> None:
    model, _ = trained(1)
    refresh_batchnorm(model, [DATA])
    a, (_, b) = ParameterLayout(model).point(model.state_dict()), trained(2)
    found = path(straight_line(a, b), model, F.cross_entropy, {"d": (DATA, LABELS)}, points=3)
    assert found.shifts[0] == {"running_mean": 0.0, "running_var": 0.0}
    assert found.stored[0]["d"].loss == found.loss["d"].values[0]


def test_off_face_measures_weights_that_were_zero() -> None:
    a, b = Point(torch.tensor([3.0, 0.0, 4.0, 0.0]), {}), Point(torch.tensor([3.0, 2, 4, 0]), {})
    model = nn.Linear(4, 1, bias=False)
    data = {"train": (torch.randn(5, 4), torch.randn(5, 1))}
    found = path(straight_line(a, b), model, F.mse_loss, data, points=3)
    assert found.zeros == [0.5, 0.25, 0.25]
    assert found.off_face == pytest.approx([0, 1 / 26**0.5, 2 / 29**0.5])
    c = Point(torch.ones(4), {})
    assert path(straight_line(c, Point(-c.w, {})), model, F.mse_loss, data).off_face is None


def counting(calls: list[int]) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        assert total == 9
        calls.append(done)
        if done == 4 and len(calls) == 4:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_measurement_resumes_bit_identically(tmp_path: Path) -> None:
    (model, a), (_, b) = trained(1), trained(2)
    data = {"train": (DATA, LABELS), "test": (DATA[:9] + 1, LABELS[:9])}
    save, calls = tmp_path / "path", []

    def measure(save: Path | None) -> PathFigures:
        progress = counting(calls) if save else None
        line = straight_line(a, b)
        return path(line, model, F.cross_entropy, data, points=9, save=save, progress=progress)

    uninterrupted = measure(None)
    with pytest.raises(KeyboardInterrupt):
        measure(save)
    continued = measure(save)
    assert calls == list(range(1, 10))
    assert continued == uninterrupted
    assert measure(save) == uninterrupted
    assert calls == list(range(1, 10))
    with pytest.raises(ValueError, match="belongs to other networks, data or options"):
        path(straight_line(b, a), model, F.cross_entropy, data, points=9, save=save)
    data["test"] = (DATA[:9] + 2, LABELS[:9])
    with pytest.raises(ValueError, match="belongs to other networks, data or options"):
        measure(save)


@pytest.mark.slow
def test_two_processes_measure_the_same_as_one(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "path_of_two.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=300)
    one, *two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("alone", "0", "1"))
    assert (len(one["loss"]), one["points"]) == (7, 7)
    assert two == [one | {"points": 4}, one | {"points": 3}]


def test_unsuitable_paths_are_refused() -> None:
    (model, a), (_, b) = trained(1), trained(2)
    data = {"train": (DATA, LABELS)}
    line = straight_line(a, b)
    with pytest.raises(ValueError, match=r"at least 3 points, .*, got 2"):
        path(line, model, F.cross_entropy, data, points=2)
    with pytest.raises(ValueError, match="unknown BatchNorm policy 'train': use one of refresh"):
        path(line, model, F.cross_entropy, data, policy="train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the start and the end are the same point"):
        path(straight_line(a, a), model, F.cross_entropy, data)
    with pytest.raises(TypeError, match="must be a dict"):
        path(line, model, F.cross_entropy, data["train"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one data set"):
        path(line, model, F.cross_entropy, {})
    huge = Point(torch.full_like(b.w, 1e30), b.rest)
    with pytest.raises(ValueError, match=r"loss at the end is (nan|inf)"):
        path(straight_line(a, huge), model, F.cross_entropy, data)


def test_the_model_stays_as_it_was() -> None:
    (model, a), (_, b) = trained(1), trained(2)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    kept = [Point(p.w.clone(), {n: t.clone() for n, t in p.rest.items()}) for p in (a, b)]
    path(straight_line(a, b), model, F.cross_entropy, {"train": (DATA, LABELS)}, points=3)
    assert model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    for point, copy in zip((a, b), kept):
        assert torch.equal(point.w, copy.w)
        assert all(torch.equal(point.rest[n], t) for n, t in copy.rest.items())
