"""One-shot directional pruning of the dense network, against what is cheaper."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dirprune.directional import DirectionalPath, FlatProjector
from dirprune.files import write_tensors
from dirprune.landscape import Objective, Point
from dirprune.landscape.paths import over_all
from dirprune.landscape.policy import Statistics
from dirprune.survey.config import SurveyConfig
from dirprune.survey.controls import shrunk
from dirprune.survey.curvature import hessian_at, sharp_directions
from dirprune.survey.display import Display
from dirprune.survey.networks import Subject
from dirprune.survey.record import Record

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
"""At which every method prunes, besides that of the sparse network."""
SAMPLE = 4000
"""Coordinates of which score and magnitude are kept for drawing."""


@dataclass(frozen=True)
class Pruned:
    """A one-shot pruned network.

    Attributes:
        method: directional, magnitude, soft_threshold or obd.
        w: Its weights.
        k: Protected directions, of directional pruning.
        lam: Lambda, of directional pruning.
        clipped: How much of the step lambda P0 sign(w) clipping at zero takes away, as a share of
            its norm; of directional pruning.
    """

    method: str
    w: Tensor
    k: int | None = None
    lam: float | None = None
    clipped: float | None = None


def survey_directional(
    subject: Subject, config: SurveyConfig, record: Record, display: Display
) -> None:
    """Prune the dense network directionally, with its sharp directions protected."""
    op = hessian_at(subject, subject.dense.point)
    vectors = sharp_directions(subject, op, config, record, display)["vectors"]
    w = subject.dense.point.w
    record.piece(
        *("directional", "sharp"),
        call=lambda: _scores(DirectionalPath(w, FlatProjector(vectors)), w, config.seed),
    )
    file = record.out / "diagonal.safetensors"

    def diagonal() -> dict[str, Any]:
        objective = Objective(subject.model, subject.loss, subject.data["train"])
        objective.load(subject.dense.point)
        progress = display.piece("the Gauss-Newton matrix's diagonal")
        found = gauss_newton_diagonal(objective, config.steps, config.seed, progress)
        write_tensors(file, {"diagonal": found.to(w)})
        return {"probes": config.steps}

    record.piece("directional", "diagonal", call=diagonal)
    importance = load_file(file)["diagonal"].to(w) * w.square() / 2
    measure = _Measure(subject)
    ranks = sorted({1, max(1, len(vectors) // 3), len(vectors)})
    own = subject.sparse.zeros
    for sparsity in sorted({*SPARSITIES, *([own] if own > 0 else [])}):

        def rows(sparsity: float = sparsity) -> list[dict[str, Any]]:
            progress = display.piece(f"one-shot pruning to {sparsity:.1%}")
            found = list(one_shot(w, vectors, ranks, sparsity, importance))
            magnitude = next(p.w for p in found if p.method == "magnitude")
            table = []
            for done, pruned in enumerate(found, 1):
                table.append(_row(pruned, w, magnitude, vectors) | measure(pruned.w))
                progress(done, len(found))
            return table

        record.piece("directional", "table", f"{sparsity:.4f}", call=rows)


def one_shot(
    w: Tensor, vectors: Tensor, ranks: list[int], sparsity: float, importance: Tensor
) -> Iterator[Pruned]:
    """Prune in every way.

    Args:
        w: Weights with shape (d,).
        vectors: The sharp directions, sharpest first, as orthonormal rows with shape (k, d).
        ranks: How many of them directional pruning protects.
        sparsity: Share of zeros.
        importance: What the diagonal of the curvature says a weight is worth, with shape (d,).

    Yields:
        What is left; directional pruning only where it can be so sparse.
    """
    plain = shrunk(w, sparsity)
    yield Pruned("magnitude", plain["magnitude"])
    yield Pruned("soft_threshold", plain["soft_threshold"])
    count = int((plain["magnitude"] == 0).sum())
    zero = importance.argsort()[:count]
    yield Pruned("obd", w.index_fill(0, zero, 0.0))
    for k in ranks:
        way = DirectionalPath(w, FlatProjector(vectors[:k]))
        if sparsity <= way.largest_sparsity:
            lam = way.lam_for(sparsity)
            pruned = way.weights(lam)
            step = lam * way.scores * w.sign()
            clipped = float((w - step - pruned).norm() / step.norm())
            yield Pruned("directional", pruned, k, lam, clipped)


def gauss_newton_diagonal(
    objective: Objective, probes: int, seed: int, progress: Callable[[int, int], None]
) -> Tensor:
    r"""Estimate the diagonal of the Gauss-Newton matrix of the mean cross-entropy.

    With labels drawn from the network's own answers, :math:`\hat y \sim p`, gradients of different
    samples are independent with mean zero, so that over batches of sums

    .. math:: \operatorname{diag} G
        = \frac1N\,\mathbb E \sum_b \Big(\sum_{i \in b} \nabla \ell(f(x_i), \hat y_i)\Big)^2

    No estimate is negative, unlike those from products with the Hessian.

    Args:
        objective: At whose private copy's weights.
        probes: How many times labels are drawn.
        seed: Of the draws.
        progress: Is told after every one.

    Returns:
        With shape (d,).

    References:
        New Insights and Perspectives on the Natural Gradient Method (Martens, 2020), section 9;
        Optimal Brain Damage (LeCun, Denker and Solla, 1989)
    """
    model = objective.model
    own = dict(model.named_parameters())
    parameters = [own[name] for name in objective.layout.shapes]
    total = torch.zeros(objective.layout.size, dtype=torch.float64, device=parameters[0].device)
    generator = torch.Generator(parameters[0].device).manual_seed(seed)
    for done in range(1, probes + 1):
        for inputs, _ in objective.batches():
            outputs = model(inputs)
            answers = outputs.detach().softmax(1)
            labels = answers.multinomial(1, generator=generator).squeeze(1)
            loss = F.cross_entropy(outputs, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters)
            total += torch.cat([g.reshape(-1) for g in gradients]).double().square()
        progress(done, probes)
    return total.div_(probes * objective.data.samples)


class _Measure:
    """Loss and error of the dense network with other weights."""

    def __init__(self, subject: Subject) -> None:
        data = {name: subject.data[name] for name in ("train", "test")}
        self._objectives = over_all(subject.model, subject.loss, data)
        self._rest = subject.dense.point.rest
        self._refresh: Statistics | None = None
        if subject.has_batchnorm:
            base: Objective = self._objectives["train"]
            self._refresh = Statistics(base, "refresh", [subject.dense.point])

    def __call__(self, w: Tensor) -> dict[str, Any]:
        base = self._objectives["train"]
        base.load(Point(w, self._rest))
        found: dict[str, Any] = {n: f.measure() for n, f in self._objectives.items()}
        found["refreshed"] = None
        if self._refresh is not None:
            self._refresh.load(w, [1.0])
            found["refreshed"] = {n: f.measure() for n, f in self._objectives.items()}
        return found


def _row(pruned: Pruned, w: Tensor, magnitude: Tensor, vectors: Tensor) -> dict[str, Any]:
    step = (pruned.w - w).to(vectors)
    zeros = pruned.w == 0
    both = int((zeros & (magnitude == 0)).sum())
    return {
        "method": pruned.method,
        "k": pruned.k,
        "lam": pruned.lam,
        "sparsity": int(zeros.sum()) / len(w),
        "overlap": both / max(1, int(zeros.sum())),
        "clipped": pruned.clipped,
        "off_flat": float((vectors @ step).norm() / step.norm()),
    }


def _scores(way: DirectionalPath, w: Tensor, seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    shown = torch.randperm(len(w), generator=generator)[:SAMPLE].to(w.device)
    ordered = way.scores.sort().values
    shares = (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)
    return {
        "scores": {
            "negative": float((way.scores < 0).double().mean()),
            "mean": float(way.scores.double().mean()),
            "quantiles": [[q, float(ordered[round(q * (len(w) - 1))])] for q in shares],
        },
        "sample": {"w": w[shown].abs(), "s": way.scores[shown]},
        "largest_sparsity": way.largest_sparsity,
    }
