"""Planes: quadratics on them are quadratics, and coordinates are distances."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune import DirectionalPath, FlatProjector, refresh_batchnorm
from dirprune.landscape import (
    Frame,
    ParameterLayout,
    PlaneFigures,
    Point,
    filter_normalised,
    fit_bezier,
    plane,
    plane_along,
)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def networks(count: int) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    states = []
    for k in range(count):
        model = network()
        model(torch.randn(20, 4) * (k + 1))
        states.append({n: t.clone() for n, t in model.state_dict().items()})
    return network(), states


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, generator=random), torch.randint(3, (count,), generator=random)


DATA = {"train": examples(40, 1), "test": examples(10, 2)}


def test_a_quadratic_on_a_plane() -> None:
    model = nn.Linear(3, 2, bias=False).double()
    x, y = torch.randn(15, 3, dtype=torch.float64), torch.randn(15, 2, dtype=torch.float64)
    states = [{"weight": torch.randn(2, 3, dtype=torch.float64)} for _ in range(3)]
    found = plane(*states, model, F.mse_loss, {"train": (x, y)}, points=5)  # type: ignore[call-arg]
    xs, ys = np.meshgrid(found.x, found.y)
    got = np.array(found.loss["train"])
    # Six coefficients, from the Hessian and gradient of least squares.
    w0, (u, v) = found.frame.origin.view(2, 3), found.frame.axes.view(2, 2, 3)
    hessian = 2 * x.T @ x / y.numel()
    gradient = 2 * ((x @ w0.T - y).T @ x) / y.numel()
    level = float((x @ w0.T - y).square().mean())
    curvature = [[float((p @ hessian * q).sum()) for q in (u, v)] for p in (u, v)]
    slope = [float((gradient * p).sum()) for p in (u, v)]
    expected = (
        level
        + slope[0] * xs
        + slope[1] * ys
        + (curvature[0][0] * xs**2 + curvature[1][1] * ys**2) / 2
        + curvature[0][1] * xs * ys
    )
    np.testing.assert_allclose(got, expected, rtol=1e-11)
    assert found.error == {}


def test_coordinates_are_distances() -> None:
    _, states = networks(3)
    found = plane(*states, network(), F.cross_entropy, DATA, points=3, margin=0.5)  # type: ignore[call-arg]
    layout = ParameterLayout(network())
    a, b, c = (layout.point(s).w.double() for s in states)
    (ax, ay, _), (bx, by, _), (cx, cy, _) = found.known
    assert (ax, ay) == (0, 0)
    assert abs(by) < 1e-9
    assert bx == pytest.approx(float((b - a).norm()))
    assert math.hypot(cx, cy) == pytest.approx(float((c - a).norm()))
    assert math.hypot(cx - bx, cy) == pytest.approx(float((c - b).norm()))
    assert all(k.distance < 1e-9 for k in found.known)
    gram = found.frame.axes @ found.frame.axes.T
    torch.testing.assert_close(gram, torch.eye(2).double(), atol=1e-14, rtol=0)
    assert found.y == pytest.approx([-cy / 2, cy / 2, cy * 1.5])
    left, right = min(0, cx), max(bx, cx)
    assert (found.x[0], found.x[2]) == pytest.approx(
        (left - (right - left) / 2, right + (right - left) / 2)
    )


def test_other_points_are_projected() -> None:
    frame = Frame.through(*(Point(w, {}) for w in torch.randn(3, 9)))
    away = torch.randn(9)
    away -= (frame.axes.mT @ (frame.axes @ away.double())).float()
    x, y, distance = frame.project(frame.at(1.5, -2.0) + away)
    assert (x, y) == pytest.approx((1.5, -2.0), rel=1e-5)
    assert distance == pytest.approx(float(away.norm()), rel=1e-5)
    skewed = Frame(torch.randn(9), torch.randn(2, 9))
    assert skewed.project(skewed.at(0.3, 0.7))[:2] == pytest.approx((0.3, 0.7), rel=1e-5)


def test_directional_pruning_is_a_line_until_a_weight_is_zero() -> None:
    w = torch.rand(12, dtype=torch.float64) + 1
    flat = FlatProjector(torch.linalg.qr(torch.randn(12, 2, dtype=torch.float64)).Q.T)
    way = DirectionalPath(w, flat)
    first = float(way.breakpoints.min())
    frame = Frame(w, torch.stack([way.weights(first / 2) - w, torch.randn(12).double()]))
    for share in (0.0, 0.3, 1.0):
        x, y, distance = frame.project(way.weights(share * first))
        assert (x, y, distance) == pytest.approx((2 * share, 0, 0), abs=1e-9)
    assert frame.project(way.weights(3 * first)).distance > 1e-3


@pytest.mark.parametrize("policy", ["refresh", "interpolate", "eval"])
def test_the_policy_for_batchnorm(policy: str) -> None:
    model, states = networks(3)
    found = plane(*states, model, F.cross_entropy, DATA, points=2, margin=0.0, policy=policy)  # type: ignore[call-arg]
    layout = ParameterLayout(model)
    points = [layout.point(s) for s in states]
    inside = [(found.x[0], found.y[0], 0), (found.x[1], found.y[0], 1)]
    if found.known[2].x <= 0:
        inside = [(found.x[1], found.y[0], 1)]
    elif found.known[2].x >= found.known[1].x:
        inside = inside[:1]
    for k in range(3):
        twin = network()
        twin.load_state_dict(states[k])
        if policy == "refresh":
            refresh_batchnorm(twin, [DATA["train"][0]])
        with torch.no_grad():
            x, y = DATA["test"]
            expected = F.cross_entropy(twin.eval()(x), y).item()
        assert found.measured[k]["test"].loss == pytest.approx(expected, rel=1e-5)
        if policy != "refresh":
            assert found.measured[k] == found.stored[k]
            assert found.shifts[k] == {"running_mean": 0.0, "running_var": 0.0}
        else:
            assert found.shifts[k]["running_var"] > 0.01
    for x, y, k in inside:
        torch.testing.assert_close(found.frame.at(x, y), points[k].w, atol=1e-6, rtol=1e-6)
        row, column = found.y.index(y), found.x.index(x)
        value = found.loss["test"][row][column]
        assert value == pytest.approx(found.measured[k]["test"].loss, rel=1e-4)


def test_an_interrupted_measurement_resumes_bit_identically(tmp_path: Path) -> None:
    model, states = networks(3)
    calls: list[int] = []

    def progress(done: int, total: int) -> None:
        assert total == 3 + 9
        calls.append(done)
        if len(calls) == 7:
            raise KeyboardInterrupt

    def measure(save: Path | None) -> PlaneFigures:
        report = progress if save else None
        return plane(*states, model, F.cross_entropy, DATA, points=3, save=save, progress=report)  # type: ignore[call-arg]

    uninterrupted = measure(None)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "plane")
    continued = measure(tmp_path / "plane")
    assert calls == list(range(1, 13))
    assert (continued.loss, continued.error) == (uninterrupted.loss, uninterrupted.error)
    assert (continued.measured, continued.stored) == (uninterrupted.measured, uninterrupted.stored)


def test_along_two_directions() -> None:
    model, (state,) = networks(1)
    layout = ParameterLayout(model)
    w = layout.point(state).w
    u, v = (filter_normalised(layout, w, seed) for seed in (1, 2))
    found = plane_along(state, u, v, model, F.cross_entropy, DATA, points=3, span=0.5)
    assert found.x == found.y == [-0.5, 0, 0.5]
    assert found.loss["train"][1][1] == found.measured[0]["train"].loss
    twin = network()
    twin.load_state_dict(layout.state(Point(w + 0.5 * u - 0.5 * v, layout.point(state).rest)))
    refresh_batchnorm(twin, [DATA["train"][0]])
    with torch.no_grad():
        expected = F.cross_entropy(twin.eval()(DATA["test"][0]), DATA["test"][1]).item()
    assert found.loss["test"][0][2] == pytest.approx(expected, rel=1e-5)


def test_filter_normalised_directions() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    layout = ParameterLayout(model)
    w = layout.point(model.state_dict()).w
    cut = layout.tensors(filter_normalised(layout, w, 1))
    norms = cut["0.weight"].flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, model[0].weight.detach().flatten(1).norm(dim=1))
    assert all(not cut[name].any() for name in ("0.bias", "1.weight", "1.bias"))
    assert not torch.equal(filter_normalised(layout, w, 2), filter_normalised(layout, w, 1))


def test_points_on_one_line_are_refused() -> None:
    model, (a, b, c) = networks(3)
    middle = {n: (t + b[n]) / 2 if t.is_floating_point() else t for n, t in a.items()}
    for third, message in ((a, "a and c are the same point"), (middle, "lie on one line")):
        with pytest.raises(ValueError, match=message):
            plane(a, b, third, model, F.cross_entropy, DATA)
    other = nn.Linear(4, 3).state_dict()
    with pytest.raises(ValueError, match="c belongs to another model"):
        plane(a, b, other, model, F.cross_entropy, DATA)
    for options in ({"points": 1}, {"margin": -0.1}):
        with pytest.raises(ValueError, match="at least"):
            plane(a, b, c, model, F.cross_entropy, DATA, **options)
    u = torch.randn(ParameterLayout(model).size)
    for v, message in ((2 * u, "parallel"), (0 * u, "is zero"), (u[:5], r"shape \(5,\)")):
        with pytest.raises(ValueError, match=message):
            plane_along(a, u, v, model, F.cross_entropy, DATA)
    with pytest.raises(ValueError, match="span must be positive"):
        plane_along(a, u, u.flip(0), model, F.cross_entropy, DATA, span=0)


def test_a_last_batch_of_one_sample_with_batchnorm() -> None:
    torch.manual_seed(1)
    build = lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))  # noqa: E731
    states = [build().state_dict() for _ in range(3)]
    x, y = torch.randn(9, 4), torch.randint(3, (9,))
    data = list(zip(x.split(4), y.split(4)))
    found = plane(*states, build(), nn.functional.cross_entropy, {"train": data}, points=2)
    model = build()
    model.load_state_dict(states[0])
    # Only batches with more than one sample contribute to the statistics.
    hidden = [model[0](part).detach() for part in x.split(4)[:2]]
    model[1].running_mean.copy_(torch.stack([h.mean(0) for h in hidden]).mean(0))
    model[1].running_var.copy_(torch.stack([h.var(0) for h in hidden]).mean(0))
    expected = nn.functional.cross_entropy(model.eval()(x), y).item()
    assert found.measured[0]["train"].loss == pytest.approx(expected, rel=1e-5)
    fit = fit_bezier(
        *(states[0], states[1], build(), nn.functional.cross_entropy, data), epochs=2, lr=0.1
    )
    shorter = fit_bezier(
        *(states[0], states[1], build(), nn.functional.cross_entropy, data[:2]), epochs=2, lr=0.1
    )
    assert all(0 < loss < 3 for loss in fit.losses)
    assert fit.losses[0] == pytest.approx(shorter.losses[0], rel=0.2)  # other places of the curve
