"""One-shot directional pruning of the dense network, compared with cheaper methods."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dirprune._support.tensors import write_tensors
from dirprune.directional import DirectionalPath, FlatProjector
from dirprune.landscape import Objective, Point, PrunedWeights, gauss_newton_diagonal, prune_once
from dirprune.landscape.connectivity.paths import over_all
from dirprune.landscape.objectives.policy import BatchNormStatistics
from dirprune.survey.context import SurveyContext
from dirprune.survey.curvature import hessian_at, sharp_directions
from dirprune.survey.networks import Subject
from dirprune.train.weights import read_weights

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
"""Sparsities at which every method prunes, besides that of the sparse network."""
SAMPLE = 4000
"""Number of coordinates whose score and magnitude are stored for the figure."""


def survey_directional(survey: SurveyContext) -> None:
    """Prune the dense network directionally, with its sharp directions protected."""
    op = hessian_at(survey.subject, survey.subject.dense.point)
    sharp = sharp_directions(survey, op)
    values, vectors = sharp["values"], sharp["vectors"]
    w = survey.subject.dense.point.w
    survey.record.get_or_compute(
        *("directional", "sharp"),
        call=lambda: _scores(DirectionalPath(w, FlatProjector(vectors)), w, survey.config.seed),
    )
    file = survey.record.out / "diagonal.safetensors"

    def diagonal() -> dict[str, Any]:
        objective = Objective(
            survey.subject.model, survey.subject.loss, survey.subject.data["train"]
        )
        objective.load(survey.subject.dense.point)
        progress = survey.display.start("the Gauss-Newton matrix's diagonal")
        found = gauss_newton_diagonal(objective, survey.config.steps, survey.config.seed, progress)
        write_tensors(file, {"diagonal": found.to(w)})
        return {"probes": survey.config.steps}

    survey.record.get_or_compute("directional", "diagonal", call=diagonal)
    cost = read_weights(file)["diagonal"].to(w)
    measure = _Measure(survey.subject)
    ranks = sorted({1, max(1, len(vectors) // 3), len(vectors)})

    def rows(sparsity: float) -> list[dict[str, Any]]:
        progress = survey.display.start(f"one-shot pruning to {sparsity:.1%}")
        shots = prune_once(w, sparsity, values.to(w), vectors, cost, ranks)
        table = []
        for done, shot in enumerate(shots, 1):
            table.append(_row(shot, w, vectors) | measure(shot.weights))
            progress(done, len(shots))
        return table

    own = survey.subject.sparse.zeros
    sparsities = sorted({*SPARSITIES, *([own] if own > 0 else [])})
    for sparsity in sparsities:
        survey.record.get_or_compute(
            "directional", "table", f"{sparsity:.4f}", call=partial(rows, sparsity)
        )


class _Measure:
    """Loss and error of the dense network with other weights."""

    def __init__(self, subject: Subject) -> None:
        data = {name: subject.data[name] for name in ("train", "test")}
        self._objectives = over_all(subject.model, subject.loss, data)
        self._rest = subject.dense.point.rest
        self._refresh: BatchNormStatistics | None = None
        if subject.has_batchnorm:
            base: Objective = self._objectives["train"]
            self._refresh = BatchNormStatistics(base, "refresh", [subject.dense.point])

    def __call__(self, w: Tensor) -> dict[str, Any]:
        base = self._objectives["train"]
        base.load(Point(w, self._rest))
        found: dict[str, Any] = {n: f.measure() for n, f in self._objectives.items()}
        found["refreshed"] = None
        if self._refresh is not None:
            self._refresh.load(w, [1.0])
            found["refreshed"] = {n: f.measure() for n, f in self._objectives.items()}
        return found


def _row(shot: PrunedWeights, w: Tensor, vectors: Tensor) -> dict[str, Any]:
    step = shot.weights - w
    return {
        "method": shot.rule,
        "k": shot.rank,
        "lam": shot.lam,
        "sparsity": shot.sparsity,
        "overlap": shot.overlap,
        "clipped": shot.clipped,
        "off_flat": float((vectors @ step).norm() / step.norm()),
        "curvature": shot.curvature,
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
