"""The figures of a landscape in their order, each with what one sees in it."""

from collections.abc import Mapping, Sequence

from dirprune.report.landscape import paths, planes, pruning, spectra
from dirprune.report.landscape.published import of_dimension
from dirprune.report.landscape.read import Along, Landscape, Moment, Plane
from dirprune.report.landscape.styles import Mark
from dirprune.report.landscape.words import (
    band_standing,
    brief,
    curve_barrier,
    line_barrier,
    ratio,
    standing,
    threshold,
)
from dirprune.report.runs.read import Number
from dirprune.report.runs.words import percent
from dirprune.report.shared.frame import Panel


def panels(found: Landscape, marks: Mapping[str, Mark]) -> list[Panel]:
    """Every figure that has something to show.

    Args:
        found: As far as it has been measured.
        marks: By network.

    Returns:
        In the order of the page.
    """
    if not found.networks:
        return []
    return [
        *_plane(found, marks),
        *_ways(found, marks),
        *_spectrum(found, marks),
        *_training(found, marks),
        *_pruning(found, marks),
    ]


def _plane(found: Landscape, marks: Mapping[str, Mark]) -> list[Panel]:
    made = []
    for name, plane, title in (
        ("plane", found.plane, "The plane"),
        ("along", found.along, "Two random directions"),
    ):
        if plane is None:
            continue
        whole = _plane_caption(plane, marks) if name == "plane" else _ALONG
        if "train" in plane.loss:
            made.append(
                Panel(f"{name}_loss", f"{title}: training loss",
                      f"{_span(plane, 'train')} {whole}", planes.loss_map(plane, marks, "train"))
            )  # fmt: skip
        if name == "plane" and "train" in plane.loss:
            made.append(
                Panel(
                    "plane_surface",
                    f"{title}: training loss as a surface",
                    "The same values, to be turned with the pointer. As Figure 11 of the paper.",
                    planes.surface(plane, marks, "train"),
                )
            )
        data = next((d for d in ("test", "train") if d in plane.error), None)
        if data:
            kind = "test" if data == "test" else "training"
            made.append(
                Panel(f"{name}_error", f"{title}: {kind} error",
                      f"{_corners(plane, marks, data)}The same places as above.",
                      planes.error_map(plane, marks, data))
            )  # fmt: skip
    return made


def _ways(found: Landscape, marks: Mapping[str, Mark]) -> list[Panel]:
    ways = {name: way for name, way in found.curve.items() if name in marks}
    made = []
    if any(way.line for way in ways.values()):
        told = standing(found, marks, line_barrier)
        caption = "Straight lines to D. Thick: training data; thin and dotted: test data." + (
            f" Barrier of the training loss: {told}." if told else ""
        )
        figure = paths.profiles(ways, marks, lambda way: way.line)
        made.append(Panel("line", "Along the straight lines", caption, figure))
    if any(way.bezier for way in ways.values()):
        told = standing(found, marks, curve_barrier)
        caption = (
            "Bézier curves to D, fitted for low training loss. Thick: training data; thin and"
            f" dotted: test data.{f' Barrier of the training loss: {told}.' if told else ''}"
            f"{_height(found)} As Figures 1 and 5 of the paper."
        )
        figure = paths.profiles(ways, marks, lambda way: way.bezier)
        made.append(Panel("curve", "Along the curves", caption, figure))
    sparse = {
        name: way
        for name, way in ways.items()
        if any(path is not None and path.off_face is not None for path in (way.line, way.bezier))
    }
    if sparse:
        caption = (
            "Exact zeros on the way, and the norm of those weights that are zero at the sparser"
            f" end, over the norm of all. Thick: curves; thin and dotted: straight"
            f" lines.{_leaving(found)}"
        )
        figure = paths.zeros(sparse, marks)
        made.append(Panel("zeros", "Zeros on the way", caption, figure))
    return made


def _spectrum(found: Landscape, marks: Mapping[str, Mark]) -> list[Panel]:
    hessian, made = found.hessian, []
    if hessian is None:
        return []
    if hessian.density or hessian.eigenvalues:
        caption = (
            "Above, eigenvalues of the Hessian at D, as shares; the area over a stretch of the"
            " axis is the share of eigenvalues there, but for the width of the bells that stand"
            f" for the quadrature's nodes. Below, the largest ones, each at its own network."
            f"{_sharpness(found)}"
        )
        figure = spectra.spectrum(hessian, marks)
        made.append(Panel("spectrum", "Spectrum", caption, figure))
    if any(spectra.above(seen) for seen in hessian.of.values()):
        t = threshold(found)
        told = band_standing(found, t) if t else ""
        caption = (
            "The share of |w − D|² in eigenvalues above t, from the rigorous lower to the upper"
            " bound that the Lanczos steps allow; where two bands overlap, nothing is decided."
            f"{f' Above {brief(t)}: {told}.' if told else ''}"
        )
        figure = spectra.energy(hessian.of, marks)
        made.append(Panel("energy", "Energy of the differences", caption, figure))
    if any(seen.ratios for seen in hessian.of.values()):
        caption = (
            "How much of w − D lies in the k sharpest directions at D. Grey and dotted: √(k/d),"
            " which a random direction has. Thin: the weights of D and G themselves."
            f"{_against_chance(found, marks)}"
        )
        figure = spectra.ratios(hessian, marks)
        made.append(Panel("ratios", "Projection on the sharp directions", caption, figure))
    return made


def _training(found: Landscape, marks: Mapping[str, Mark]) -> list[Panel]:
    moments = [found.training[step] for step in sorted(found.training, key=int)]
    if not moments:
        return []
    level = (len(moments[0].values) / found.dimension) ** 0.5 if found.dimension else None
    paper = of_dimension(found.dimension)
    paper = paper if paper and paper.ratios else None
    caption = (
        "The same at checkpoints: of each network minus D of that epoch, on the sharpest"
        " directions at that D; controls are made from it too."
        f"{_course(moments, found.sparse.name, level)} As Figure 6 of the paper, where the figure"
        " as published shows these ratios divided by √10"
        + (", which is undone in the paper's lines here." if paper else ".")
    )
    figure = spectra.over_training(moments, level, marks, paper)
    return [Panel("training", "Projection over training", caption, figure)]


def _pruning(found: Landscape, marks: Mapping[str, Mark]) -> list[Panel]:
    directional, made = found.directional, []
    if directional is None:
        return []
    sharp = directional.sharp
    if sharp and sharp.sample:
        caption = (
            f"Scores of {len(sharp.sample.w):,} weights of D, drawn at random, with all known"
            " sharp directions protected. Where all are 1, directional pruning is soft"
            f" thresholding by magnitude.{_negative(found)}"
        )
        figure = pruning.scores(sharp.sample)
        made.append(Panel("scores", "Scores against magnitudes", caption, figure))
    if len({row.sparsity for row in directional.rows}) > 1:
        caption = (
            "D pruned without any training after it. Thin and dotted: with BatchNorm's"
            " statistics re-estimated."
            if any(row.refreshed for row in directional.rows)
            else "D pruned without any training after it."
        )
        figure = pruning.one_shot(directional.rows, marks)
        made.append(Panel("one_shot", "One-shot pruning", caption + _best(found), figure))
    return made


_ALONG = (
    "Around D (0, 0) along two random directions of which every filter is as long as D's own; in"
    " units of these."
)


def _span(plane: Plane, data: str) -> str:
    values = [v for row in plane.loss[data] for v in row]
    known = [v for v in values if v is not None]
    if not known:
        return "No value is finite."
    lost = len(values) - len(known)
    return f"From {brief(min(known))} to {brief(max(known))}, on a logarithmic scale" + (
        f"; {lost} of {len(values)} points are not finite." if lost else "."
    )


def _plane_caption(plane: Plane, marks: Mapping[str, Mark]) -> str:
    off = [(place[2], name) for name, place in plane.networks.items() if len(place) > 2]
    far = [(d, name) for d, name in off if d and d > planes.ON and name in marks]
    text = f"{_corners(plane, marks, 'train')}Distances are in weight space."
    if (times := planes.stretch(plane)) != 1:
        times = max(times, 1 / times)
        text += f" Height and width differ {brief(times)}-fold: the map is stretched."
    if far:
        nearest, furthest = min(far), max(far)
        text += (
            " Hollow points and trajectories are projections: the map shows the loss below them,"
            f" not theirs. Networks are {brief(nearest[0])} ({marks[nearest[1]].label})"
        )
        if len(far) > 1:
            text += f" to {brief(furthest[0])} ({marks[furthest[1]].label})"
        text += " off the plane."
    return f"{text} As Figures 1 and 5 of the paper."


def _corners(plane: Plane, marks: Mapping[str, Mark], data: str) -> str:
    names = [*list(marks)[:2], plane.third or "the third point"]
    told = []
    for name, figures in zip(names, plane.measured, strict=False):
        if data in figures:
            label = marks[name].label if name in marks else name
            error = figures[data].error
            share = "" if error is None else f" ({percent(error)} errors)"
            told.append(f"{label} {brief(figures[data].loss)}{share}")
    kind = "Training" if data == "train" else "Test"
    return f"{kind} loss: {', '.join(told)}. " if told else ""


def _height(found: Landscape) -> str:
    """How high the loss gets on G's curve, against its ends."""
    ways = found.curve.get(found.sparse.name)
    profile = ways.bezier.loss.get("train") if ways and ways.bezier else None
    if profile is None or profile.largest.value is None:
        return ""
    known = [v for v in paths.ends(profile) if v is not None]
    top = max(known, default=None)
    place = f" at t = {profile.largest.t:.2f}" if profile.largest.t is not None else ""
    text = f" The largest on {found.sparse.name}'s curve is {brief(profile.largest.value)}{place}"
    if not top:
        return f"{text}."
    times = profile.largest.value / top
    return f"{text}, {brief(times)} times that of its higher end." if times > 1 else f"{text}."


def _leaving(found: Landscape) -> str:
    ways = found.curve.get(found.sparse.name)
    told = []
    for path, kind in ((ways.bezier, "curve"), (ways.line, "line")) if ways else ():
        if path is None or not path.zeros[0]:
            continue
        t = paths.leaves(path)
        told.append(
            f"on its {kind}, {percent(path.zeros[0])} zeros at the end, "
            + ("at least half of them all the way" if t is None else f"{_after(path, t)}")
        )
    return f" {found.sparse.name}: {'; '.join(told)}." if told else ""


def _after(path: Along, t: float) -> str:
    return f"{percent(path.zeros[path.t.index(t)])} at t = {t:.3f}"


def _sharpness(found: Landscape) -> str:
    hessian = found.hessian
    if not hessian or not hessian.eigenvalues:
        return ""
    text = f" At D the largest is {brief(hessian.eigenvalues[0])}"
    if theirs := hessian.top_of.get(found.sparse.name):
        text += f", at {found.sparse.name} {brief(theirs[0])}"
    if hessian.density and hessian.density.trace:
        estimate, *spread = hessian.density.trace
        text += f"; the trace at D is {brief(estimate)}"
        text += f" ± {brief(spread[0])}" if spread and spread[0] is not None else ""
    return f"{text}."


def _against_chance(found: Landscape, marks: Mapping[str, Mark]) -> str:
    told = standing(found, marks, ratio)
    ours = ratio(found, found.sparse.name)
    level = found.hessian.chance[-1] if found.hessian and found.hessian.chance else None
    if not told or ours is None or not level or not found.hessian:
        return ""
    times = ours / level
    side = "more" if times > 1 else "less"
    return (
        f" At k = {len(found.hessian.chance or ())}: {told}."
        f" {found.sparse.name} has {brief(times)} times chance, {side} than a random direction;"
        " directional pruning without clipping would have 0."
    )


def _course(moments: Sequence[Moment], name: str, level: Number) -> str:
    ours = [r for m in moments if (r := m.ratios.get(name)) is not None]
    if not ours:
        return ""
    text = f" {name}: {brief(ours[0])} at first, {brief(ours[-1])} in the end"
    return f"{text}, {brief(ours[-1] / level)} times chance." if level else f"{text}."


def _negative(found: Landscape) -> str:
    sharp = found.directional.sharp if found.directional else None
    if not sharp or not sharp.scores or sharp.scores.negative is None:
        return ""
    text = f" {percent(sharp.scores.negative, 2)} of all scores are not above 0"
    if sharp.largest_sparsity is not None:
        text += f", so no lambda gives more than {percent(sharp.largest_sparsity, 2)} zeros"
    return f"{text}."


def _best(found: Landscape) -> str:
    """Directional pruning against magnitude at every sparsity that both have."""
    table = found.directional.rows if found.directional else ()
    errors: dict[tuple[str, float | None], list[float]] = {}
    for row in table:
        if row.test and row.test.error is not None:
            errors.setdefault((row.method, row.sparsity), []).append(row.test.error)
    both = [s for m, s in errors if m == "directional" and ("magnitude", s) in errors]
    wins = sum(min(errors["directional", s]) < min(errors["magnitude", s]) for s in both)
    if not both:
        return ""
    return (
        f" The best k of directional pruning has fewer test errors than magnitude at {wins} of"
        f" {len(both)} sparsities."
    )
