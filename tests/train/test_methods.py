"""Every method, compared with a slow reference of its definition."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from dirprune._support.checkpoint import pack, unpack
from dirprune.cubic_path import cubic_sparsity
from dirprune.quantile import magnitudes, mark_smallest
from dirprune.train.baselines.masked import MaskedSGD, gradual_plan, one_shot_plan, random_scores
from dirprune.train.baselines.prox_sgd import ProxSGD
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Interrupted
from dirprune.train.loop import train
from dirprune.train.methods import METHODS, build_optimizer
from stop_at import StopAt

Array = np.ndarray[Any, np.dtype[np.float64]]

STEPS = 50
CONFIG = TrainConfig(lr=0.05, c=0.3, mu=0.6, momentum=0.8, weight_decay=0.01, sparsity=0.75)
MASKED = ("gmp", "gmp_momentum", "hard", "rigl", "acdc", "magnitude_finetune", "random")
GRADUAL = ("gmp", "gmp_momentum", "magnitude_finetune", "random")


def config_of(method: str, base: TrainConfig = CONFIG, **changes: Any) -> TrainConfig:
    """The config without options that do not apply to the method."""
    heavy = method.endswith("_momentum") or method in ("hard", "rigl", "acdc")
    momentum = base.momentum if heavy else 0.0
    sparsity = base.sparsity if method in MASKED else None
    if method == "rigl":  # leaves vectors dense
        sparsity = 0.5
    return replace(base, **{"momentum": momentum, "sparsity": sparsity, **changes}, method=method)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)).double()


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def rate(step: int) -> float:
    return CONFIG.lr * (1 - step / (2 * STEPS))


def run(
    method: str, steps: int = STEPS, watch: Callable[[nn.Module, int], None] | None = None
) -> nn.Module:
    """Train on gradients that do not depend on the weights."""
    model = network()
    optimizer = build_optimizer(config_of(method), model, STEPS)
    take(optimizer, model, range(steps), watch)
    return model


def take(
    optimizer: Optimizer,
    model: nn.Module,
    steps: range,
    watch: Callable[[nn.Module, int], None] | None = None,
) -> None:
    for step in steps:
        gradients(model, step)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        if watch:
            watch(model, step + 1)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def flat_gradient(step: int) -> Array:
    model = network()
    gradients(model, step)
    grads: Array = torch.cat([p.grad.flatten() for p in model.parameters()]).numpy()  # type: ignore[union-attr]
    return grads


def shrunk(v: Array, g: float) -> Array:
    result: Array = np.sign(v) * np.maximum(np.abs(v) - g, 0)
    return result


def cubic(step: int, begin: int, end: int, final: float) -> float:
    return final + (0 - final) * (1 - (min(step, end) - begin) / (end - begin)) ** 3


def prox_sgd_by_hand() -> Array:
    w: Array = flat(network()).numpy()
    for step in range(STEPS):
        d = flat_gradient(step) + CONFIG.weight_decay * w
        w = shrunk(w - rate(step) * d, rate(step) * CONFIG.c)
    return w


def rda_by_hand() -> Array:
    v: Array = flat(network()).numpy()
    w, g = v, 0.0
    for step in range(STEPS):
        v = v - rate(step) * (flat_gradient(step) + CONFIG.weight_decay * w)
        g += CONFIG.c * rate(step) ** 1.5
        w = shrunk(v, g)
    return w


def masked_by_hand(method: str) -> Array:
    """Keep a list of nonzero weights and sort it at every change."""
    w: Array = flat(network()).numpy()
    buffer, alive = np.zeros_like(w), np.ones(len(w), bool)
    beta = CONFIG.momentum if method == "gmp_momentum" else 0.0
    refreshes = [40] if method == "magnitude_finetune" else range(5, 41)
    for step in range(1, STEPS + 1):
        buffer = beta * buffer + flat_gradient(step - 1) + CONFIG.weight_decay * w
        w = w - rate(step - 1) * buffer
        if step in refreshes:
            share = CONFIG.sparsity
            if method != "magnitude_finetune":
                share = cubic(step, 5, 40, CONFIG.sparsity)
            wanted = round(share * len(w))
            order = sorted(np.flatnonzero(alive), key=lambda i: abs(w[i]))
            alive[order[: wanted - int((~alive).sum())]] = False
        w, buffer = w * alive, buffer * alive
    return w


@pytest.mark.parametrize("method", ["sgd", "sgd_momentum"])
def test_sgd_equals_torchs(method: str) -> None:
    model = network()
    momentum = CONFIG.momentum if method == "sgd_momentum" else 0.0
    optimizer = SGD(model.parameters(), lr=1.0, momentum=momentum, weight_decay=0.01)
    take(optimizer, model, range(STEPS))
    assert torch.equal(flat(run(method)), flat(model))


@pytest.mark.parametrize(
    ("method", "by_hand"),
    [
        ("prox_sgd", prox_sgd_by_hand),
        ("rda", rda_by_hand),
        *[(m, lambda m=m: masked_by_hand(m)) for m in GRADUAL if m != "random"],
    ],
)
def test_methods_match_their_definitions(method: str, by_hand: Callable[[], Array]) -> None:
    found, expected = flat(run(method)).numpy(), by_hand()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert np.array_equal(found == 0, expected == 0)
    assert 0 < (found == 0).mean() < 1


def test_the_proximal_step_minimises() -> None:
    """Search w = argmin lambda |x| + |x - (w - lr d)|^2 / (2 lr) on a grid."""
    lr, c = 0.5, 0.8
    w0, d = torch.linspace(-2, 2, 31).double(), torch.linspace(1, -1, 31).double()
    w = nn.Parameter(w0.clone())
    optimizer = ProxSGD([w], lr=lr, c=c)
    w.grad = d
    optimizer.step()
    x = torch.linspace(-3, 3, 60001, dtype=torch.float64)
    objective = c * x.abs() + (x - (w0 - lr * d)[:, None]) ** 2 / (2 * lr)
    torch.testing.assert_close(w.detach(), x[objective.argmin(dim=1)], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("done", "share"),
    [
        (0.0, 0.0),
        (0.1, 0.9 * (1 - 0.9**3)),
        (0.25, 0.9 * 0.578125),
        (0.5, 0.9 * 0.875),
        (1.0, 0.9),
    ],
)
def test_the_cubic_schedule(done: float, share: float) -> None:
    assert cubic_sparsity(0.9, done) == pytest.approx(share, abs=1e-15)


@pytest.mark.parametrize("total", [1, 2, 7, 30, 999, 5000])
def test_plans_increase_and_end_exactly(total: int) -> None:
    plan = gradual_plan(total, 0.913, 1234)
    steps, numbers = list(plan), list(plan.values())
    assert steps == sorted(steps)
    assert numbers == sorted(numbers)
    assert numbers[-1] == 1127  # 0.913 * 1234 = 1126.6
    assert steps[-1] == max(1, round(0.8 * total))
    assert one_shot_plan(total, 0.913, 1234) == {steps[-1]: 1127}
    if total >= 999:
        assert steps[0] == round(0.1 * total)
        assert max(b - a for a, b in pairwise(steps)) <= 100
        assert len(steps) > 20


@pytest.mark.parametrize("method", GRADUAL)
def test_zeros_only_increase(method: str) -> None:
    total = flat(network()).numel()
    dead = torch.zeros(total, dtype=torch.bool)
    counts = []

    def watch(model: nn.Module, step: int) -> None:
        now = flat(model) == 0
        if step > 1:  # LayerNorm and its bias begin at 1 and 0
            assert bool((now | ~dead).all())
        dead.copy_(now)
        counts.append(int(now.sum()))
        assert not bool(torch.signbit(flat(model)[now]).any())

    run(method, watch=watch)
    assert counts[-1] == round(0.75 * total)
    plan = (one_shot_plan if method == "magnitude_finetune" else gradual_plan)(STEPS, 0.75, total)
    assert {step: counts[step - 1] for step in plan} == plan


def test_momentum_is_zero_where_the_weight_is() -> None:
    model = network()
    optimizer = build_optimizer(config_of("gmp_momentum"), model, STEPS)
    take(optimizer, model, range(STEPS))
    for p in model.parameters():
        buffer = optimizer.state[p]["momentum_buffer"]
        assert torch.equal(buffer == 0, p == 0)


def test_random_scores_do_not_depend_on_weights() -> None:
    shapes = [(40, 50), (50,), (50, 10)]
    one = [torch.randn(shape) for shape in shapes]
    other = [torch.randn(shape) * 100 for shape in shapes]
    masks = mark_smallest(random_scores(1)(one), 1000)
    assert all(map(torch.equal, masks, mark_smallest(random_scores(1)(other), 1000)))
    assert not all(map(torch.equal, masks, mark_smallest(random_scores(2)(one), 1000)))
    # They also differ from the random numbers of the initial weights.
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(random_scores(1)(one)[0], torch.rand(shapes[0], generator=generator))
    for mask in masks:  # every layer gets its share: 4 standard deviations
        share, n = float(mask.double().mean()), mask.numel()
        assert abs(share - 1000 / 2550) < 4 * (0.24 / n) ** 0.5


@pytest.mark.parametrize("number", [0, 1, 5, 9, 12])
def test_mark_smallest_is_exact_with_ties(number: int) -> None:
    scores = [torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), torch.tensor([1.0, 0.0, 3.0] * 2)]
    flat_scores = torch.cat([s.flatten() for s in scores])
    chosen = torch.cat([m.flatten() for m in mark_smallest(scores, number)])
    order = sorted(range(12), key=lambda i: (float(flat_scores[i]), i))
    assert chosen.nonzero().flatten().tolist() == sorted(order[:number])


@pytest.mark.parametrize("method", ["prox_sgd", "rda", *MASKED])
def test_weights_only_leaves_other_parameters_dense(method: str) -> None:
    model = network()
    sparsity = 0.5 if method in MASKED else None
    config = config_of(method, prune="weights", sparsity=sparsity)
    optimizer = build_optimizer(config, model, STEPS)
    take(optimizer, model, range(STEPS))
    zeros = {name: int((p == 0).sum()) for name, p in model.named_parameters()}
    vectors = [name for name, p in model.named_parameters() if p.dim() == 1]
    assert all(zeros[name] == 0 for name in vectors)
    if method in MASKED:  # a share of all parameters all the same
        assert sum(zeros.values()) == round(0.5 * flat(model).numel())
    else:
        assert sum(zeros.values()) > 0


def test_frozen_parameters_are_not_changed() -> None:
    model = network()
    first = next(model.parameters()).requires_grad_(False)
    before = first.clone()
    optimizer = build_optimizer(config_of("gmp", sparsity=0.9), model, 4)
    for _ in range(4):
        for p in model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()
    assert torch.equal(first, before)
    trained = torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])
    assert int((trained == 0).sum()) == round(0.9 * len(trained))


def test_too_much_to_prune_is_refused() -> None:
    config = config_of("gmp", prune="weights", sparsity=0.9)
    with pytest.raises(ValueError, match=r"needs 50 zeros, but only 36 weights") as caught:
        build_optimizer(config, network(), STEPS)
    assert "\n" not in str(caught.value)


def test_a_closure_is_called() -> None:
    for make in (
        lambda w: MaskedSGD([w], 0.1, {1: 1}, magnitudes),
        lambda w: ProxSGD([w], 0.1, 0.01),
    ):
        w = nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer: Any = make(w)

        def closure(w: nn.Parameter = w) -> float:
            loss = (w**2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        assert optimizer.step(closure) == 5.0
        assert w[1] != 2.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [3, 20, 45])
def test_state_dicts_hold_everything(method: str, at: int) -> None:
    config = config_of(method)
    model = network()
    optimizer = build_optimizer(config, model, STEPS)
    take(optimizer, model, range(at))
    packed, tensors = pack(optimizer.state_dict(), "optimizer")
    twin = network()
    restored = build_optimizer(config, twin, STEPS)
    twin.load_state_dict(model.state_dict())
    restored.load_state_dict(unpack(packed, {name: t.clone() for name, t in tensors.items()}))
    take(optimizer, model, range(at, STEPS))
    take(restored, twin, range(at, STEPS))
    assert torch.equal(flat(model), flat(twin))
    states = zip(model.parameters(), twin.parameters(), strict=True)
    for p, q in states:
        ours, theirs = optimizer.state[p], restored.state[q]
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            same = torch.equal(value, theirs[key]) if isinstance(value, Tensor) else None
            assert same if same is not None else value == theirs[key]
            assert getattr(value, "dtype", None) == getattr(theirs[key], "dtype", None)


@pytest.mark.parametrize("method", ["prox_sgd", "rda", *MASKED])
def test_interrupted_runs_are_bit_identical(tmp_path: Path, method: str) -> None:
    base = TrainConfig(model="mlp", epochs=3, batch_size=100, momentum=0.5, c=0.01, sparsity=0.8)
    config = config_of(method, base)
    uninterrupted = train(config, tmp_path / "uninterrupted", display=Displays())
    stops = [2, 21, 40]  # before the first mask, between masks, after the last
    for i, stop in enumerate(stops):
        with pytest.raises(Interrupted):
            train(config, tmp_path / "cut", resume=i > 0, display=StopAt(stop))
    train(config, tmp_path / "cut", resume=True, display=Displays())
    ours, theirs = (tmp_path / name / "model.safetensors" for name in ("cut", "uninterrupted"))
    assert ours.read_bytes() == theirs.read_bytes()
    if method in MASKED:
        zeros = sum(int((t == 0).sum()) for t in load_file(ours).values())
        wanted = round((config.sparsity or 0) * uninterrupted["total"])
        assert zeros == uninterrupted["zeros"]
        # The connections that RigL grew last may still be 0.
        assert zeros == wanted or (method == "rigl" and zeros < 1.01 * wanted)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("grda", {"momentum": 0.9}, "grda has no momentum, got 0.9: use method grda_momentum"),
        ("rda", {"momentum": 0.9}, "rda has no momentum, got 0.9: leave it at 0"),
        ("gmp", {"nesterov": True}, "nesterov needs momentum, and gmp has none"),
        ("sgd_momentum", {}, "sgd_momentum needs momentum above 0"),
        ("grda", {"sparsity": 0.8}, "grda would ignore it: remove it; use target_sparsity"),
        ("sgd", {"sparsity": 0.8}, "sgd would ignore it: remove it$"),
    ],
)
def test_options_that_a_method_would_ignore_are_refused(
    method: str, options: dict[str, float], message: str
) -> None:
    config = TrainConfig(method=method, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        build_optimizer(config, network(), STEPS)
