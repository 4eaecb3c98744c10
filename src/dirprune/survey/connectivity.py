"""Lines, curves and planes between the networks of a survey."""

from functools import partial
from typing import Any

import torch

from dirprune._support.tensors import write_tensors
from dirprune.directional import DirectionalPath, FlatProjector
from dirprune.landscape import (
    Curve,
    Frame,
    Objective,
    ParameterLayout,
    PathFigures,
    Point,
    filter_normalised,
    fit_bezier,
    path,
    plane,
    plane_along,
    straight_line,
)
from dirprune.landscape.connectivity.paths import over_all
from dirprune.landscape.objectives.policy import BatchNormStatistics
from dirprune.survey.context import SurveyContext
from dirprune.survey.networks import Network, Subject, describe
from dirprune.survey.record import Record
from dirprune.train.weights import read_weights

LAMBDAS = 41
"""Number of points on the line of directional pruning."""


def survey_networks(survey: SurveyContext) -> None:
    """Describe each network, and evaluate it with its stored statistics and by the policy."""

    def measure() -> list[dict[str, Any]]:
        progress = survey.display.start("networks")
        objectives = over_all(survey.subject.model, survey.subject.loss, survey.subject.data)
        found = []
        for done, network in enumerate(survey.networks, 1):
            base: Objective = objectives["train"]
            stored = {n: f(network.point, network.name) for n, f in objectives.items()}
            statistics = BatchNormStatistics(base, survey.config.policy, [network.point])
            shift = statistics.shift(0)
            statistics.load(network.point.w, [1.0])
            measured = {n: f.measure() for n, f in objectives.items()}
            figures = {"stored": stored, "measured": measured, "shift": shift}
            found.append(describe(network, survey.networks[0]) | figures)
            progress(done, len(survey.networks))
        return found

    survey.record.get_or_compute("networks", call=measure)


def survey_curve(survey: SurveyContext) -> None:
    """Connect every network to the dense one by a line and by a fitted curve."""
    dense, others = survey.networks[0], survey.networks[1:]
    measured = partial(_path, survey)
    for other in others:
        name = other.name
        line = straight_line(other.point, dense.point)
        survey.record.get_or_compute(
            "curve", name, "line", call=partial(measured, line, f"line to {name}")
        )

        def fit(other: Network = other) -> dict[str, Any]:
            found = fit_bezier(
                survey.subject.layout.state(other.point),
                survey.subject.layout.state(dense.point),
                survey.subject.model,
                survey.subject.loss,
                survey.subject.training,
                epochs=survey.config.curve_epochs,
                bends=survey.config.bends,
                lr=survey.config.curve_lr,
                momentum=survey.config.curve_momentum,
                seed=survey.config.seed,
                save=survey.record.work / f"fit-{other.name}.safetensors",
                progress=survey.display.start(f"fitting the curve to {other.name}"),
            )
            write_tensors(_bends(survey.record, other), {"bends": found.curve.bends})
            return {"epochs": survey.config.curve_epochs, "losses": found.losses}

        survey.record.get_or_compute("curve", name, "fit", call=fit)
        curve = fitted(survey.record, survey.subject.layout, other, dense)
        survey.record.get_or_compute(
            "curve", name, "bezier", call=partial(measured, curve, f"curve to {name}")
        )


def fitted(record: Record, layout: ParameterLayout, other: Network, dense: Network) -> Curve:
    """Load a fitted curve."""
    bends = read_weights(_bends(record, other))["bends"]
    return Curve(other.point, dense.point, bends.to(layout.device, layout.dtype))


def survey_plane(survey: SurveyContext) -> None:
    """Measure the plane through the dense network, the sparse one and the bend between them."""
    dense, sparse = survey.networks[:2]
    third, corner = _third(survey.subject, survey.networks, survey.record)
    layout = survey.subject.layout

    def measure() -> dict[str, Any]:
        found = plane(
            layout.state(dense.point),
            layout.state(sparse.point),
            layout.state(corner),
            survey.subject.model,
            survey.subject.loss,
            {name: survey.subject.data[name] for name in ("train", "test")},
            points=survey.config.grid,
            margin=survey.config.margin,
            policy=survey.config.policy,
            save=survey.record.work / "plane.safetensors",
            progress=survey.display.start("plane"),
        )
        return {"third": third, "figures": found}

    survey.record.get_or_compute("plane", "measured", call=measure)
    frame = Frame.through(dense.point, sparse.point, corner)
    on_it = {n.name: frame.project(n.point.w) for n in survey.networks}
    survey.record.get_or_compute("plane", "networks", call=lambda: on_it)
    line = straight_line(sparse.point, dense.point)
    curves = {"line": line}
    if survey.record.has("curve", sparse.name, "fit"):
        curves["curve"] = fitted(survey.record, layout, sparse, dense)

    def along(curve: Curve) -> dict[str, Any]:
        ts = [k / (survey.config.points - 1) for k in range(survey.config.points)]
        return {"t": ts, "at": [frame.project(curve.at(t)) for t in ts]}

    def trajectory(network: Network) -> dict[str, Any]:
        moments = survey.subject.moments(network)
        return {
            "step": [m.step for m in moments],
            "epoch": [m.epoch for m in moments],
            "at": [frame.project(survey.subject.point_of(m).w) for m in moments],
        }

    for name, curve in curves.items():
        survey.record.get_or_compute("plane", name, call=partial(along, curve))
    for network in survey.subject.networks:
        call = partial(trajectory, network)
        survey.record.get_or_compute("plane", "trajectories", network.name, call=call)
    if survey.record.has("hessian", "top"):
        survey.record.get_or_compute(
            "plane", "directional", call=partial(_directional, survey.record, dense, frame)
        )


def survey_along(survey: SurveyContext) -> None:
    """Measure the plane through the dense network along two random directions."""
    layout, w = survey.subject.layout, survey.subject.dense.point.w
    u, v = (filter_normalised(layout, w, 2 * survey.config.seed + k) for k in (1, 2))

    def measure() -> Any:
        return plane_along(
            layout.state(survey.subject.dense.point),
            u,
            v,
            survey.subject.model,
            survey.subject.loss,
            {name: survey.subject.data[name] for name in ("train", "test")},
            points=survey.config.grid,
            policy=survey.config.policy,
            save=survey.record.work / "along.safetensors",
            progress=survey.display.start("two random directions"),
        )

    survey.record.get_or_compute("along", "measured", call=measure)


def _path(survey: SurveyContext, curve: Curve, title: str) -> PathFigures:
    return path(
        curve,
        survey.subject.model,
        survey.subject.loss,
        survey.subject.data,
        points=survey.config.points,
        policy=survey.config.policy,
        save=survey.record.work / f"{title.replace(' ', '-')}.safetensors",
        progress=survey.display.start(title),
    )


def _bends(record: Record, network: Network) -> Any:
    return record.out / f"curve-{network.name}.safetensors"


def _third(subject: Subject, networks: list[Network], record: Record) -> tuple[str, Point]:
    """Return name and position of the third point that spans the plane."""
    dense, sparse, *others = networks
    if record.has("curve", sparse.name, "fit"):
        bends = fitted(record, subject.layout, sparse, dense).bends
        return "bend", Point(bends[len(bends) // 2], dense.point.rest)
    return others[0].name, others[0].point


def _directional(record: Record, dense: Network, frame: Frame) -> dict[str, Any]:
    """Project the path of directional pruning of the dense network onto the plane."""
    vectors = read_weights(record.out / "eigenvectors.safetensors")["vectors"].to(dense.point.w)
    way = DirectionalPath(dense.point.w, FlatProjector(vectors))
    most = way.lam_for(min(0.99, way.largest_sparsity))
    lams = torch.linspace(0, most, LAMBDAS, dtype=torch.float64).tolist()
    return {
        "lam": lams,
        "sparsity": [way.sparsity(lam) for lam in lams],
        "at": [frame.project(way.weights(lam)) for lam in lams],
    }
