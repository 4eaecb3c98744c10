"""The mean over batches equals the mean over one batch of all data, for every weighted mean."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.landscape import GaussNewton, Hessian, Objective
from dirprune.landscape.curvature.diagonal import gauss_newton_diagonal
from dirprune.landscape.objectives.weights import LossInputs, batch_weights

D = torch.float64
CLASS_WEIGHTS = torch.tensor([0.2, 3.0, 0.7], dtype=D)


def masked(outputs: Tensor, targets: Tensor) -> Tensor:
    """A hand-written mean over tokens."""
    keep = (targets > 0).to(outputs)
    return (F.cross_entropy(outputs, targets, reduction="none") * keep).sum() / keep.sum()


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    log_p = outputs.log_softmax(1).gather(1, targets[:, None])
    return ((1 - log_p.exp()) ** 2 * -log_p).mean()


def labels(count: int, *sizes: int) -> Tensor:
    """Classes with ignored entries: more in later samples, all in the second batch."""
    y = torch.randint(3, (count, *sizes))
    y.view(-1)[::4] = -100
    y[4:8] = -100
    return y


CE = nn.CrossEntropyLoss
LOSSES: dict[str, Any] = {
    "ignored": F.cross_entropy,
    "weighted": CE(weight=CLASS_WEIGHTS),
    "smoothed": CE(weight=CLASS_WEIGHTS, label_smoothing=0.2),
    "another index": partial(F.cross_entropy, ignore_index=1, weight=CLASS_WEIGHTS),
    "nll": lambda z, y: F.nll_loss(z.log_softmax(1), y, CLASS_WEIGHTS),
    "scaled": lambda z, y: 3 * F.cross_entropy(z, y, weight=CLASS_WEIGHTS),
    "mixed": lambda z, y: F.cross_entropy(z, y) + 0.1 * F.cross_entropy(2 * z, y),
    "by hand": masked,
}


def split(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(4), y.split(4)))


@pytest.mark.parametrize("sizes", [(), (5,), (2, 3), (2, 2, 2)])
@pytest.mark.parametrize("name", list(LOSSES))
def test_classes_that_are_ignored_or_weighted(name: str, sizes: tuple[int, ...]) -> None:
    loss, model = LOSSES[name], nn.Sequential(nn.Linear(2, 3, dtype=D), nn.Tanh())

    class ChannelsSecond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x).movedim(-1, 1)

    x, y = torch.randn(13, *sizes, 2, dtype=D), labels(13, *sizes)
    if name == "another index":
        y = y.clamp(min=0)
    expected = Objective(ChannelsSecond(), loss, [(x, y)]).measure()
    parts = Objective(ChannelsSecond(), loss, split(x, y)).measure()
    assert parts.loss == pytest.approx(expected.loss, rel=1e-12)
    assert parts.error == expected.error
    answered = (y >= 0) & (y != (1 if name == "another index" else -1))
    wrong = ChannelsSecond()(x).argmax(1) != y
    assert parts.error == float(wrong[answered].double().mean())
    v = torch.randn(9, dtype=D)
    weights = list(model.parameters())
    slope = torch.autograd.grad(loss(ChannelsSecond()(x), y), weights, create_graph=True)
    along = sum((g * t.view_as(g)).sum() for g, t in zip(slope, v.split([6, 3])))
    expected = torch.cat([h.flatten() for h in torch.autograd.grad(along, weights)])
    found = Hessian(ChannelsSecond(), loss, split(x, y))(v)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


SMOOTH: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Any]] = {
    "mse": (F.mse_loss, torch.randn),
    "huber": (nn.HuberLoss(), torch.randn),
    "l1, by the old argument": (nn.L1Loss(reduction="mean"), torch.randn),
    "probabilities": (CE(weight=CLASS_WEIGHTS), lambda *s: torch.rand(*s).softmax(1)),
    "bce": (nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS), lambda *s: torch.rand(*s).round()),
    "kl": (
        lambda z, y: F.kl_div(z.log_softmax(1), y, reduction="batchmean"),
        lambda *s: torch.rand(*s).softmax(1),
    ),
    "by hand": (lambda z, y: ((z - y) ** 2).sum(1).mean(), torch.randn),
    "focal": (lambda z, y: focal(z, y.argmax(1)), torch.randn),
}


@pytest.mark.parametrize("name", list(SMOOTH))
def test_means_over_samples_weigh_a_batch_by_its_samples(name: str) -> None:
    loss, draw = SMOOTH[name]
    x, y = torch.randn(13, 2, dtype=D), draw(13, 3).to(D)
    objective = Objective(nn.Linear(2, 3, dtype=D), loss, split(x, y))
    assert objective.weights() == [4, 4, 4, 1]
    expected = Objective(objective.model, loss, (x, y)).measure()
    assert objective.measure().loss == pytest.approx(expected.loss, rel=1e-13)


def test_batches_of_other_lengths() -> None:
    """Sentences padded to the longest sentence of their batch."""
    data = [(torch.randn(3, 2, n), torch.randint(3, (3, n))) for n in (4, 9)]
    model = nn.Conv1d(2, 3, 1)
    tokens = [int((y > 0).sum()) for _, y in data]
    for loss in (masked, partial(F.cross_entropy, ignore_index=0)):
        weights = Objective(model, loss, data).weights()
        assert weights[1] / weights[0] == pytest.approx(tokens[1] / tokens[0], rel=1e-12)
    with pytest.raises(ValueError, match="batch 1 and the first batch differ in shape"):
        Objective(model, lambda z, y: 3 * masked(z, y), data).weights()


def test_losses_that_are_not_weighted_means_are_refused() -> None:
    x, y = torch.randn(9, 2), torch.randn(9, 1)
    two = list(zip(x.split(5), y.split(5)))
    for loss in (
        lambda z, y: F.mse_loss(z, y).sqrt(),
        lambda z, y: F.mse_loss(z - z.mean(), y),
    ):
        with pytest.raises(ValueError, match="not a weighted mean"):
            Objective(nn.Linear(2, 1), loss, two).measure()
        assert Objective(nn.Linear(2, 1), loss, (x, y)).measure().loss > 0  # one batch needs none
    none = [(x[:, :2], torch.full((9,), -100))] * 2
    with pytest.raises(ValueError, match="gives no target a weight"):
        Objective(nn.Linear(2, 3), F.cross_entropy, none).measure()


def test_the_diagonal_of_gauss_newton_weighs_classes_and_ignores_targets() -> None:
    x, y = torch.randn(12, 2, dtype=D), torch.randint(3, (12,))
    y[3:8] = -100
    loss = partial(F.cross_entropy, weight=CLASS_WEIGHTS, label_smoothing=0.1)
    model = nn.Linear(2, 3, bias=False, dtype=D)
    matrix = GaussNewton(model, loss, (x, y))
    exact = torch.stack([matrix(e) for e in torch.eye(6, dtype=D)]).diag()
    objective = Objective(model, loss, split(x, y))
    found = gauss_newton_diagonal(objective, 1500, 0, lambda done, total: None)
    torch.testing.assert_close(found, exact, rtol=0.15, atol=0.0)
    other = Objective(model, F.mse_loss, (x, torch.randn(12, 3, dtype=D)))
    with pytest.raises(ValueError, match="needs a cross-entropy"):
        gauss_newton_diagonal(other, 1, 0, lambda done, total: None)


MULTIPLES: dict[str, tuple[Any, bool]] = {  # loss, and whether targets are probabilities
    "smoothed, with class weights": (CE(weight=CLASS_WEIGHTS, label_smoothing=0.6), False),
    "probabilities, with class weights": (CE(weight=CLASS_WEIGHTS), True),
    "three times": (lambda z, y: 3 * F.cross_entropy(z, y), False),
    "divided by hand": (lambda z, y: F.cross_entropy(z, y, reduction="sum") / len(y), False),
}


@pytest.mark.parametrize("name", list(MULTIPLES))
def test_the_diagonal_of_gauss_newton_has_the_divisor_of_the_loss(name: str) -> None:
    (loss, soft), x = MULTIPLES[name], torch.randn(8, 2, dtype=D)
    y = torch.rand(8, 3, dtype=D).softmax(1) if soft else torch.tensor([0, 0, 0, 2] * 2)
    model = nn.Linear(2, 3, bias=False, dtype=D)
    hessian = torch.autograd.functional.hessian(  # the network is linear
        lambda w: loss(F.linear(x, w), y), model.weight.detach()
    )
    objective = Objective(model, loss, split(x, y))
    found = gauss_newton_diagonal(objective, 200, 0, lambda done, total: None)
    # Other divisors are off by a factor of 1.9 or more; the deviation of 200 draws is 0.1.
    torch.testing.assert_close(found, hessian.reshape(6, 6).diag(), rtol=0.4, atol=0.0)


def test_the_diagonal_of_gauss_newton_of_a_sum_of_losses_is_refused() -> None:
    objective = Objective(
        nn.Linear(2, 3),
        lambda z, y: F.cross_entropy(z, y) + z.square().mean(),
        (torch.randn(4, 2), torch.zeros(4).long()),
    )
    with pytest.raises(ValueError, match="or a multiple of it"):
        gauss_newton_diagonal(objective, 1, 0, lambda done, total: None)


def test_the_diagonal_of_gauss_newton_is_zero_for_an_unused_parameter() -> None:
    class Partly(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 3)
            self.unused = nn.Parameter(torch.ones(2))

    objective = Objective(Partly(), F.cross_entropy, (torch.randn(4, 2), torch.zeros(4).long()))
    found = gauss_newton_diagonal(objective, 2, 0, lambda done, total: None)
    unused = objective.layout.slices["unused"]
    assert not found[unused].any()
    assert found.count_nonzero() == 9


def test_a_model_that_computes_its_own_loss() -> None:
    """Like those of the transformers library, with the labels among the inputs."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3, dtype=D)

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            z = self.head(x).movedim(-1, 1)
            return {"loss": F.cross_entropy(z, labels), "logits": z}

    x, y = torch.randn(13, 5, 2, dtype=D), labels(13, 5)
    data = [({"x": a, "labels": b}, b) for a, b in split(x, y)]
    model = Own()
    assert F.cross_entropy(model.head(x).movedim(-1, 1), y).item() == pytest.approx(
        Objective(model, lambda outputs, targets: outputs["loss"], data).measure().loss, rel=1e-12
    )
    w = model.head.weight.detach()
    bias = model.head.bias.detach()
    expected = torch.autograd.functional.hessian(
        lambda w: F.cross_entropy(F.linear(x, w, bias).movedim(-1, 1), y), w
    ).reshape(6, 6)
    hessian = Hessian(
        model, lambda outputs, targets: outputs["loss"], data, parameters=["head.weight"]
    )
    found = torch.stack([hessian(e) for e in torch.eye(6, dtype=D)])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="needs a newer torch")
def test_ignored_targets_do_not_count_in_the_fused_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 4, generator=generator)
    batches = [
        LossInputs(torch.randn(4, 4, generator=generator), torch.tensor(y))
        for y in ([0, 1, 2, 0], [1, 1, 2, 0], [0, -100, -100, -100])
    ]
    found = batch_weights(lambda h, y: F.linear_cross_entropy(h, weight, y), batches)
    assert found == pytest.approx([4, 4, 1], rel=1e-6)
