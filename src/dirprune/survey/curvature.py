"""The Hessian's spectrum, and where in it the differences between networks lie."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dirprune._support.tensors import write_tensors
from dirprune.landscape import (
    DirectionalDensity,
    Hessian,
    Point,
    SpectralDensity,
    directional_density,
    spectral_density,
    top_eigenpairs,
)
from dirprune.landscape.curvature.search import Eigenpairs, LanczosProgress
from dirprune.survey.context import SurveyContext
from dirprune.survey.controls import controls
from dirprune.survey.networks import Moment, Network, Subject
from dirprune.train.weights import read_weights

TOP_ELSEWHERE = 5
"""Number of eigenvalues computed at each of the other networks."""
TOLERANCE = 1e-3
"""Relative residual at which an eigenpair is accepted; finer than a figure shows."""


def projection_ratios(vectors: Tensor, direction: Tensor) -> Tensor:
    r"""Compute the share of a direction in the span of the first i orthonormal directions.

    .. math:: \lVert P_i d \rVert / \lVert d \rVert, \qquad i = 1 \dots k

    Args:
        vectors: Orthonormal rows, with shape (k, d).
        direction: With shape (d,), not zero.

    Returns:
        float64 with shape (k,), ascending.

    Example:
        >>> projection_ratios(torch.eye(3)[:2], torch.tensor([3.0, 4.0, 12.0]))
        tensor([0.2308, 0.3846], dtype=torch.float64)
    """
    d = direction.double()
    # Row by row: all of them in float64 may not fit into memory.
    parts = torch.stack([row.double() @ d for row in vectors])
    return parts.square().cumsum(0).sqrt().div_(d.norm())


def survey_hessian(survey: SurveyContext) -> None:
    """Measure the spectrum at the dense network, and the other networks' shares in it."""
    dense, others = survey.networks[0], survey.networks[1:]
    op = hessian_at(survey.subject, dense.point)
    pairs = sharp_directions(survey, op)
    vectors = pairs["vectors"]
    k, d = vectors.shape

    def density() -> dict[str, Any]:
        progress = survey.display.start("spectrum's density")
        found = spectral_density(
            op,
            probes=survey.config.probes,
            steps=survey.config.steps,
            seed=survey.config.seed,
            progress=progress,
        )
        trace, spread = found.mean(lambda nodes: nodes)
        return {"trace": [d * trace, d * spread], **_drawn(found)}

    survey.record.get_or_compute("hessian", "density", call=density)
    survey.record.get_or_compute(
        "hessian", "chance", call=lambda: [((i + 1) / d) ** 0.5 for i in range(k)]
    )
    top = float(pairs["values"][0])

    def difference(other: Network) -> dict[str, Any]:
        way, progress = (
            other.point.w - dense.point.w,
            survey.display.start(f"density of {other.name}"),
        )
        found = directional_density(op, way, survey.config.steps, progress=progress)
        return {"ratios": projection_ratios(vectors, way)} | _bounds(found, top)

    def elsewhere(other: Network) -> Tensor:
        there, title = hessian_at(survey.subject, other.point), f"eigenvalues at {other.name}"
        return _eigenpairs(survey, there, min(TOP_ELSEWHERE, k), title).values

    for other in others:
        survey.record.get_or_compute("hessian", "of", other.name, call=partial(difference, other))
    for network in survey.networks:
        ratios = partial(projection_ratios, vectors, network.point.w)
        survey.record.get_or_compute("hessian", "weights_ratios", network.name, call=ratios)
    for other in others:
        if other.role != "control":
            survey.record.get_or_compute(
                "hessian", "top_of", other.name, call=partial(elsewhere, other)
            )


def hessian_at(subject: Subject, point: Point) -> Hessian:
    """Return the Hessian on the training images at a point, with its stored statistics."""
    return Hessian(subject.model_at(point), subject.loss, subject.data["train"])


def sharp_directions(survey: SurveyContext, op: Hessian) -> dict[str, Tensor]:
    """Return the top eigenpairs of the dense network's Hessian, from the cache if present.

    Returns:
        ``values`` with shape (k,) and ``vectors`` with shape (k, d).
    """
    file = survey.record.out / "eigenvectors.safetensors"

    def find() -> dict[str, Any]:
        k = min(survey.config.eigenvectors, op.dimension)
        pairs = _eigenpairs(survey, op, k, "sharp directions")
        write_tensors(file, {"values": pairs.values, "vectors": pairs.vectors})
        return {
            "samples": survey.subject.data["train"].samples,
            "k": len(pairs.values),
            "values": pairs.values,
            "residuals": pairs.residuals,
            "noise": pairs.noise,
            "products": pairs.products,
            "converged": pairs.converged,
        }

    survey.record.get_or_compute("hessian", "top", call=find)
    found = read_weights(file)
    return {"values": found["values"], "vectors": found["vectors"].to(op.device)}


def survey_training(survey: SurveyContext) -> None:
    """Measure the projection ratios at the checkpoints that the dense and the sparse run share."""
    subject = survey.subject
    dense = {m.step: m for m in subject.moments(subject.dense)}
    others = {n.name: {m.step: m for m in subject.moments(n)} for n in subject.networks[1:]}
    steps = sorted(dense.keys() & others[subject.sparse.name].keys())
    if not steps:
        raise ValueError(
            f"{subject.dense.path} and {subject.sparse.path} share no checkpoint: train both with "
            "--keep-checkpoints 1000 and a seed, or leave training out of --what"
        )
    for step in steps:
        here = {name: moments[step] for name, moments in others.items() if step in moments}
        call = partial(_moment, survey, dense[step], here)
        survey.record.get_or_compute("training", str(step), call=call)


def _moment(survey: SurveyContext, dense: Moment, others: dict[str, Moment]) -> dict[str, Any]:
    here = survey.subject.point_of(dense)
    op = hessian_at(survey.subject, here)
    k = min(survey.config.eigenvectors, op.dimension)
    pairs = _eigenpairs(survey, op, k, f"sharp directions after step {dense.step}")
    at = {name: survey.subject.point_of(moment) for name, moment in others.items()}
    start = Network("dense", "dense", here)
    goal = Network("sparse", "sparse", at[survey.subject.sparse.name])
    at |= {n.name: n.point for n in controls(start, goal, survey.config.seed)}
    ways = {name: point.w - here.w for name, point in at.items()}
    return {
        "epoch": dense.epoch,
        "values": pairs.values,
        "ratios": {
            name: float(projection_ratios(pairs.vectors, way)[-1])
            for name, way in ways.items()
            if bool(way.any())
        },
    }


def _eigenpairs(survey: SurveyContext, op: Hessian, k: int, title: str) -> Eigenpairs:
    progress = survey.display.start(title)

    def report_progress(now: LanczosProgress) -> None:
        progress(now.converged, now.wanted)

    with warnings.catch_warnings():
        # The record holds residuals and noise, and whether all pairs have converged.
        warnings.simplefilter("ignore", UserWarning)
        state = survey.record.work / f"{title.replace(' ', '-')}.safetensors"
        return top_eigenpairs(op, k, tol=TOLERANCE, state=state, progress=report_progress)


def _bounds(density: DirectionalDensity, top: float) -> dict[str, Any]:
    decades = [top * 10 ** (power / 4) for power in range(-24, 1)]
    thresholds = [*(-t for t in reversed(decades[8::4])), 0.0, *decades]
    return {
        "rayleigh": density.rayleigh,
        "noise": density.noise,
        "nodes": density.nodes,
        "weights": density.weights,
        "t": thresholds,
        "below": [density.cumulative(t) for t in thresholds],
    }


def _drawn(density: SpectralDensity) -> dict[str, Any]:
    """Nodes and weights, and the smoothed density on a grid that is fine around 0."""
    low, high = float(density.nodes.min()), float(density.nodes.max())
    fine = max(high, -low) / 1e4
    ends = torch.tensor([low, high], dtype=torch.float64).div(fine).asinh()
    grid = torch.linspace(float(ends[0]), float(ends[1]), 201, dtype=torch.float64).sinh() * fine
    phi = density.smooth(grid, max(high - low, 1e-12) / 200)
    return {"nodes": density.nodes, "weights": density.weights, "t": grid, "phi": phi}
