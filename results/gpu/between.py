"""The landscape between the ends of VGG16 runs: lines, a curve, a plane and projections.

The control is a second SGD run from the same start with its batches in another order.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from visit import Visit

from dirprune.landscape import (
    Hessian,
    ParameterLayout,
    fit_bezier,
    path,
    plane,
    straight_line,
    top_eigenpairs,
)
from dirprune.models import build
from dirprune.survey.curvature import projection_ratios

Batches = list[tuple[Tensor, Tensor]]
TOP = 10


def measure_between(visit: Visit, folder: str, ends: dict[str, dict[str, Tensor]]) -> None:
    """Measure in float32, in order of importance, as far as the time goes.

    Args:
        visit: The data, the clock and the files.
        folder: The name of the folder for the files.
        ends: State dicts: "sgd", "grda" and the control.
    """
    if not all(t.isfinite().all() for end in ends.values() for t in end.values()):
        visit.say("an end is not finite: no landscape")
        return
    model = build("vgg16", num_classes=10, width=0.03 if visit.dry else 1.0).to(visit.device)
    control = next(method for method in ends if method not in ("sgd", "grda"))
    images = _images(visit, 64 if visit.dry else 5000)
    few = _images(visit, 32 if visit.dry else 2000)
    for name, end in (("line", "grda"), ("line to the control", control)):
        layout = ParameterLayout(model)
        line = straight_line(layout.point(ends["sgd"]), layout.point(ends[end]))
        _write_path(
            visit, folder, name, path(line, model, F.cross_entropy, images, points=_points(visit))
        )
    if visit.left() > 70 or visit.dry:
        _project(visit, folder, model, ends, control, few["train"])
    if visit.left() > 45 or visit.dry:
        _write_plane(visit, folder, model, [ends["sgd"], ends["grda"], ends[control]], few)
    if visit.left() > 25 or visit.dry:
        batches = _split(*map(torch.cat, zip(*images["train"])), 128)
        fit = fit_bezier(
            ends["sgd"], ends["grda"], model, F.cross_entropy, batches,
            epochs=1 if visit.dry else 30, lr=0.05, momentum=0.9,
        )  # fmt: skip
        visit.say(f"curve: loss {fit.losses[0]:.4f} to {fit.losses[-1]:.4f}")
        curve = path(fit.curve, model, F.cross_entropy, images, points=_points(visit))
        _write_path(visit, folder, "curve", curve)


def _points(visit: Visit) -> int:
    return 5 if visit.dry else 31


def _split(x: Tensor, y: Tensor, size: int) -> Batches:
    return list(zip(x.split(size), y.split(size)))


def _images(visit: Visit, count: int) -> dict[str, Batches]:
    """Images without augmentation, the same in every visit."""
    found = {}
    for name, data in (("train", visit.train), ("test", visit.test)):
        every = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
        places = every[: min(count, len(data))].to(visit.device)
        middle = torch.full_like(places, 4)
        x = data.batch(places, middle, middle, middle < 0)
        found[name] = _split(x, data.labels[places], 1000)
    return found


def _write_path(visit: Visit, folder: str, kind: str, figures: Any) -> None:
    for i, t in enumerate(figures.t):
        row = {"path": kind, "t": t, "zeros": figures.zeros[i]}
        for name in ("train", "test"):
            row[f"{name} loss"] = figures.loss[name].values[i]
            row[f"{name} error"] = figures.error[name].values[i]
        visit.append(f"{folder}/landscape.csv", row)
    worst = max(v for v in figures.loss["train"].values if math.isfinite(v))
    visit.say(f"{kind}: largest training loss {worst:.4f}")


def _write_plane(
    visit: Visit,
    folder: str,
    model: torch.nn.Module,
    corners: Sequence[dict[str, Tensor]],
    data: dict[str, Batches],
) -> None:
    """The plane through SGD's end, gRDA's and the control's."""
    points = 3 if visit.dry else 15
    figures = plane(*corners, model, F.cross_entropy, data, points=points)
    for name, known in zip(("sgd", "grda", "control"), figures.known):
        visit.append(f"{folder}/plane_corners.csv", {"end": name, "x": known.x, "y": known.y})
    for i, y in enumerate(figures.y):
        for j, x in enumerate(figures.x):
            row = {"x": x, "y": y}
            for name in data:
                row[f"{name} loss"] = figures.loss[name][i][j]
                row[f"{name} error"] = figures.error[name][i][j]
            visit.append(f"{folder}/plane.csv", row)
    visit.say(f"plane of {points} x {points} points")


def _project(
    visit: Visit,
    folder: str,
    model: torch.nn.Module,
    ends: dict[str, dict[str, Tensor]],
    control: str,
    data: Batches,
) -> None:
    """Shares of the ways' lengths in the top eigenspaces of the Hessian at SGD's end."""
    layout = ParameterLayout(model)
    start = layout.point(ends["sgd"]).w
    model.load_state_dict(ends["sgd"])
    hessian = Hessian(model, F.cross_entropy, data)
    top = 2 if visit.dry else TOP
    pairs = top_eigenpairs(hessian, top, tol=1e-2, max_products=150)
    for name in ("grda", control):
        way = (layout.point(ends[name]).w - start).to(pairs.vectors)
        for k, ratio in enumerate(projection_ratios(pairs.vectors, way).tolist(), 1):
            row = {
                "way": name,
                "k": k,
                "eigenvalue": float(pairs.values[k - 1]),
                "residual": float(pairs.residuals[k - 1]),
                "ratio": ratio,
                "random": math.sqrt(k / layout.size),
                "length": float(way.norm()),
            }
            visit.append(f"{folder}/projections.csv", row)
    visit.say(
        f"projections: eigenvalues {float(pairs.values[0]):.3g} to {float(pairs.values[-1]):.3g}, "
        f"{pairs.products} products, converged: {pairs.converged}"
    )
