"""Fitting curves: the gradient, known solutions, and bit-identical resuming."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset

from dirprune.landscape import (
    Curve,
    Objective,
    ParameterLayout,
    Point,
    fit_bezier,
    path,
    straight_line,
)
from dirprune.landscape.connectivity.bezier import bend_gradient
from dirprune.landscape.connectivity.curve import bernstein

Pairs = list[tuple[Tensor, Tensor]]


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3)
    )


def loader(count: int = 40) -> DataLoader[tuple[Tensor, ...]]:
    data = TensorDataset(torch.randn(count, 4), torch.randint(3, (count,)))
    return DataLoader(data, batch_size=16, shuffle=True)


@pytest.mark.parametrize("bends", [1, 2, 3])
@pytest.mark.parametrize("t", [0.0, 0.31, 0.5, 1.0])
def test_the_gradient_is_that_through_the_curve(bends: int, t: float) -> None:
    model = network().double()
    layout = ParameterLayout(model)
    a, b = (layout.point(network().state_dict()) for _ in range(2))
    control = torch.randn(bends, layout.size, dtype=torch.float64, requires_grad=True)
    batch = torch.randn(9, 4, dtype=torch.float64), torch.randint(3, (9,))

    first, *inner, last = bernstein(bends + 1, t)
    w = first * a.w + sum(x * p for x, p in zip(inner, control)) + last * b.w
    torch.manual_seed(3)
    outputs = functional_call(model, layout.tensors(w), batch[:1])
    expected = F.cross_entropy(outputs, batch[1])
    expected.backward()

    torch.manual_seed(3)
    curve = Curve(a, b, control.detach())
    value, gradient = bend_gradient(model, layout, F.cross_entropy, batch, curve, t)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradient, control.grad, atol=1e-14, rtol=1e-10)


class Ring(nn.Module):
    """A model with the loss (|w|^2 - 1)^2, which is zero on a circle."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.w.square().sum() - 1).expand(len(x))


def test_two_ends_of_a_ring_are_joined_along_it() -> None:
    ends = [{"w": torch.tensor([x, 0.2])} for x in (-(0.96**0.5), 0.96**0.5)]
    data: Pairs = [(torch.zeros(1, 1), torch.zeros(1))] * 100
    layout = ParameterLayout(Ring())
    line = straight_line(*(layout.point(end) for end in ends))
    for bends in (1, 2):
        fit = fit_bezier(ends[0], ends[1], Ring(), F.mse_loss, data, epochs=6, lr=0.2, bends=bends)
        before, after = (
            path(curve, Ring(), F.mse_loss, {"train": data[:1]}).loss["train"].barrier
            for curve in (line, fit.curve)
        )
        assert before == pytest.approx(0.96**2, rel=1e-3)
        assert after < 0.1
        assert fit.curve.at(0.5)[1] > 0.8
        assert fit.losses[-1] < 0.2 * fit.losses[0]
        assert torch.equal(fit.curve.at(0.0), ends[0]["w"])
        assert torch.equal(fit.curve.at(1.0), ends[1]["w"])


def test_a_network_and_its_permuted_twin_are_joined() -> None:
    x = torch.randn(120, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    a = {n: t.clone() for n, t in model.state_dict().items()}
    order = torch.randperm(16)
    b = a | {"0.weight": a["0.weight"][order], "0.bias": a["0.bias"][order]}
    b["2.weight"] = a["2.weight"][:, order]
    data = DataLoader(TensorDataset(x, y), batch_size=30, shuffle=True)
    fit = fit_bezier(a, b, model, F.cross_entropy, data, epochs=40, lr=0.2, momentum=0.9)
    line = straight_line(fit.curve.a, fit.curve.b)
    bent, straight = (
        path(c, model, F.cross_entropy, {"train": (x, y)}, points=21) for c in (fit.curve, line)
    )
    assert straight.loss["train"].barrier > 0.2
    assert bent.loss["train"].barrier < 0.25 * straight.loss["train"].barrier
    assert bent.length > straight.length == pytest.approx(straight.distance)
    assert straight.loss["train"].values[0] == pytest.approx(
        straight.loss["train"].values[-1], rel=1e-4
    )


class Stop(Exception):
    pass


@pytest.mark.parametrize("stops", [(1,), (3,), (2, 7)])
def test_an_interrupted_fit_resumes_bit_identically(
    stops: tuple[int, ...], tmp_path: Path
) -> None:
    a, b, model, data = network().state_dict(), network().state_dict(), network(), loader()

    def fit(save: Path | None, stop: int | None) -> tuple[Tensor, list[float]]:
        def progress(done: int, total: int) -> None:
            assert total == 9
            if done == stop:
                raise Stop

        options = {"epochs": 3, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
        found = fit_bezier(
            a, b, model, F.cross_entropy, data, bends=2, save=save, progress=progress, **options
        )
        return found.curve.bends, found.losses

    uninterrupted = fit(None, None)
    for stop in stops:
        with pytest.raises(Stop):
            fit(tmp_path / "fit", stop)
    torch.rand(5)  # what else uses random numbers does not matter
    continued = fit(tmp_path / "fit", None)
    assert torch.equal(uninterrupted[0], continued[0])
    assert uninterrupted[1] == continued[1]
    assert torch.equal(fit(tmp_path / "fit", None)[0], uninterrupted[0])
    with pytest.raises(ValueError, match="belongs to other networks, data or options"):
        fit_bezier(a, b, model, F.cross_entropy, data, epochs=4, save=tmp_path / "fit")


def test_an_interrupted_step_is_not_saved(tmp_path: Path) -> None:
    a, b, model, data = network().state_dict(), network().state_dict(), network(), loader()
    calls = 0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, targets)

    uninterrupted = fit_bezier(a, b, model, F.cross_entropy, data, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        fit_bezier(a, b, model, loss, data, epochs=2, save=tmp_path / "fit")
    assert not (tmp_path / "fit").exists()
    again = fit_bezier(a, b, model, loss, data, epochs=2, save=tmp_path / "fit")
    assert torch.equal(uninterrupted.curve.bends, again.curve.bends)


def test_model_ends_and_random_numbers_stay_as_they_were() -> None:
    a, b, model = network().state_dict(), network().state_dict(), network()
    before = [{n: t.clone() for n, t in s.items()} for s in (a, b, model.state_dict())]
    model[1].eval()
    data, random = loader(), torch.get_rng_state()
    fit = fit_bezier(a, b, model, F.cross_entropy, data, epochs=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    for state, kept in zip((a, b, model.state_dict()), before):
        assert all(torch.equal(state[n], t) for n, t in kept.items())
    assert not fit.curve.bends.requires_grad
    layout = ParameterLayout(model)
    middle = layout.state(Point(fit.curve.at(0.5), fit.curve.a.rest))
    network().load_state_dict(middle)
    assert Objective(model, F.cross_entropy, (torch.randn(5, 4), torch.zeros(5).long()))


def test_the_seed_decides_the_curve() -> None:
    a, b, model, data = network().state_dict(), network().state_dict(), network(), loader()
    one, two, other = (
        fit_bezier(a, b, model, F.cross_entropy, data, epochs=1, seed=seed).curve.bends
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"bends": 0}, "at least 1 bend"),
        ({"lr": float("nan")}, "lr must be positive and finite"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"lr": 1e30, "epochs": 9}, "the loss on the curve is .*: take a smaller lr"),
    ],
)
def test_bad_options_give_clear_messages(options: dict[str, float], message: str) -> None:
    a, b = network().state_dict(), network().state_dict()
    with pytest.raises(ValueError, match=message):
        fit_bezier(a, b, network(), F.cross_entropy, loader(), **({"epochs": 1} | options))


def test_unsuitable_ends_and_data_are_refused() -> None:
    model, a, b = network(), network().state_dict(), network().state_dict()
    other = nn.Linear(4, 3).state_dict()
    with pytest.raises(ValueError, match="b belongs to another model"):
        fit_bezier(a, other, model, F.cross_entropy, loader(), epochs=1)
    with pytest.raises(ValueError, match="a and b are the same point"):
        fit_bezier(a, a, model, F.cross_entropy, loader(), epochs=1)
    with pytest.raises(TypeError, match="a length"):
        fit_bezier(a, b, model, F.cross_entropy, iter(loader()), epochs=1)
    with pytest.raises(TypeError, match="a length"):
        fit_bezier(a, b, model, F.cross_entropy, [], epochs=1)


def test_wrapped_models_and_their_states() -> None:
    model, other = network(), network()
    a, b = model.state_dict(), other.state_dict()
    data = list(DataLoader(TensorDataset(torch.randn(20, 4), torch.randint(3, (20,))), 10))
    expected = fit_bezier(a, b, model, F.cross_entropy, data, epochs=1)
    prefixed = [{f"module.{name}": t for name, t in state.items()} for state in (a, b)]
    for wrapped in (model, nn.DataParallel(model)):
        found = fit_bezier(*prefixed, wrapped, F.cross_entropy, data, epochs=1)
        assert torch.equal(found.curve.bends, expected.curve.bends)


def test_batches_that_are_left_out_do_not_change_the_mean_loss() -> None:
    a, b = network().state_dict(), network().state_dict()
    x, y = torch.randn(9, 4), torch.randint(3, (9,))
    ignored = torch.full((4,), -100)
    data = [(x[:1], y[:1]), (x[1:5], ignored), (x[5:], y[5:])]
    times = [float(np.random.default_rng((0, step)).random()) for step in (2, 5, 8)]
    model = network().train()
    model[3].p = 0.0
    fit = fit_bezier(a, b, model, F.cross_entropy, data, epochs=3, lr=1e-12)
    layout = ParameterLayout(model)
    for t, loss in zip(times, fit.losses):
        w = (1 - t) * layout.point(a).w + t * layout.point(b).w
        outputs = functional_call(model, layout.tensors(w), (x[5:],))
        assert loss == pytest.approx(F.cross_entropy(outputs, y[5:]).item(), rel=1e-4)
    for useless in (data[:1] * 2, data[1:2] * 2):
        with pytest.raises(ValueError, match="give larger batches"):
            fit_bezier(a, b, network(), F.cross_entropy, useless, epochs=1)


def test_data_in_another_dtype_and_losses_without_a_mean() -> None:
    a, b = network().state_dict(), network().state_dict()
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    half = network().bfloat16()
    assert fit_bezier(a, b, half, F.cross_entropy, data, epochs=1).curve.bends.dtype == (
        torch.float32  # steps of the fit would be lost in bfloat16
    )
    fit_bezier(a, b, network().double(), F.cross_entropy, data, epochs=1)
    with pytest.raises(TypeError, match="one number"):
        fit_bezier(a, b, network(), nn.CrossEntropyLoss(reduction="none"), data, epochs=1)
    with pytest.raises(TypeError, match="pair"):
        fit_bezier(a, b, network(), F.cross_entropy, data[0], epochs=1)
    for option, message in (
        ({"epochs": 1.5}, "epochs must be an integer"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_bezier(a, b, network(), F.cross_entropy, data, **{"epochs": 1, **option})  # type: ignore[arg-type]


def test_a_fit_with_another_loss_is_not_resumed(tmp_path: Path) -> None:
    a, b = network().state_dict(), network().state_dict()
    data = [(torch.randn(8, 4), torch.randint(3, (8,)))]
    save = tmp_path / "fit"
    fit_bezier(a, b, network(), F.cross_entropy, data, epochs=1, save=save)
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    with pytest.raises(ValueError, match="another loss"):
        fit_bezier(a, b, network(), smoothed, data, epochs=1, save=save)
