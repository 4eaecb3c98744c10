"""The figures of a landscape in order, with captions and references to the paper's figures."""

from collections.abc import Mapping

from dirprune.report.landscape import paths, planes, pruning, spectra
from dirprune.report.landscape.read import Landscape
from dirprune.report.shared.numbers import brief
from dirprune.report.shared.page import Panel
from dirprune.report.shared.published import of_dimension
from dirprune.report.shared.styles import Style


def panels(found: Landscape, styles: Mapping[str, Style]) -> list[Panel]:
    """Return every figure that has data."""
    if not found.networks:
        return []
    return [
        *_paths(found, styles),
        *_planes(found, styles),
        *_spectrum(found, styles),
        *_training(found, styles),
        *_pruning(found, styles),
    ]


def _paths(found: Landscape, styles: Mapping[str, Style]) -> list[Panel]:
    pairs = {name: pair for name, pair in found.curve.items() if name in styles}
    made = []
    data = "Thick: training data; thin and dotted: test data."
    if any(pair.line for pair in pairs.values()):
        figure = paths.profiles(pairs, styles, lambda pair: pair.line)
        made.append(Panel("line", "Along the straight lines", f"Straight lines to D. {data}",
                          figure))  # fmt: skip
    if any(pair.bezier for pair in pairs.values()):
        caption = f"Bézier curves to D, fitted for low training loss. {data}"
        figure = paths.profiles(pairs, styles, lambda pair: pair.bezier)
        made.append(Panel("curve", "Along the curves", caption, figure, "Figures 1 and 5"))
    sparse = {
        name: pair
        for name, pair in pairs.items()
        if any(path is not None and path.off_face is not None for path in (pair.line, pair.bezier))
    }
    if sparse:
        caption = (
            "Above: share of exact zeros. Below: norm of the weights that are zero at the sparser"
            " end, relative to the norm of all weights. Thick: curves; thin and dotted: straight"
            " lines."
        )
        made.append(Panel("zeros", "Zeros along the paths", caption, paths.zeros(sparse, styles)))
    return made


def _planes(found: Landscape, styles: Mapping[str, Style]) -> list[Panel]:
    made = []
    for name, plane, title, caption, reference in (
        ("plane", found.plane, "The plane", _PLANE, "Figures 1 and 5"),
        ("along", found.along, "Two random directions", _ALONG, ""),
    ):
        if plane is None:
            continue
        if "train" in plane.loss:
            lost = sum(value is None for row in plane.loss["train"] for value in row)
            count = len(plane.x) * len(plane.y)
            gaps = f" {lost} of {count} points are not finite." if lost else ""
            if (ratio := planes.stretch(plane)) != 1:
                times = brief(max(ratio, 1 / ratio))
                gaps += f" The axes have different scales, because the sides differ {times}-fold."
            figure = planes.loss_map(plane, styles, "train")
            made.append(Panel(f"{name}_loss", f"{title}: training loss", caption + gaps, figure,
                              reference))  # fmt: skip
        if name == "plane" and "train" in plane.loss:
            made.append(
                Panel(
                    "plane_surface",
                    f"{title}: training loss as a surface",
                    "The same values as a surface. Drag to rotate.",
                    planes.surface(plane, styles, "train"),
                    "Figure 11",
                )
            )
        data = next((d for d in ("test", "train") if d in plane.error), None)
        if data:
            kind = "test" if data == "test" else "training"
            figure = planes.error_map(plane, styles, data)
            made.append(Panel(f"{name}_error", f"{title}: {kind} error",
                              "The error at the same points.", figure))  # fmt: skip
    return made


def _spectrum(found: Landscape, styles: Mapping[str, Style]) -> list[Panel]:
    hessian, made = found.hessian, []
    if hessian is None:
        return []
    if hessian.density or hessian.eigenvalues:
        caption = (
            "Above: density of the Hessian's eigenvalues at D (the quadrature, smoothed by"
            " Gaussians); the area over an interval is the share of eigenvalues in it. Below: the"
            " largest eigenvalues at each network."
        )
        made.append(Panel("spectrum", "Spectrum", caption, spectra.spectrum(hessian, styles)))
    if any(spectra.above(seen) for seen in hessian.of.values()):
        caption = (
            "Share of |w − D|² in eigenvalues above t. Bands: rigorous lower and upper bounds from"
            " the Lanczos steps. If two bands overlap, the order of the shares is not known."
        )
        figure = spectra.energy(hessian.of, styles)
        made.append(Panel("energy", "Energy of the differences", caption, figure))
    if any(seen.ratios for seen in hessian.of.values()):
        caption = (
            "Share of w − D in the k sharpest directions at D. Grey and dotted: √(k/d), the share"
            " of a random direction. Thin: the share of the weights of D and G."
        )
        figure = spectra.ratios(hessian, styles)
        made.append(Panel("ratios", "Projection on the sharp directions", caption, figure))
    return made


def _training(found: Landscape, styles: Mapping[str, Style]) -> list[Panel]:
    moments = [found.training[step] for step in sorted(found.training, key=int)]
    if not moments:
        return []
    level = (len(moments[0].values) / found.dimension) ** 0.5 if found.dimension else None
    paper = of_dimension(found.dimension)
    paper = paper if paper and paper.ratios else None
    caption = (
        "Share of w − D in the sharpest directions at D, for w and D of the same epoch. The"
        " published figure shows these ratios divided by √10."
    )
    figure = spectra.over_training(moments, level, styles, paper)
    return [Panel("training", "Projection over training", caption, figure, "Figure 6")]


def _pruning(found: Landscape, styles: Mapping[str, Style]) -> list[Panel]:
    directional, made = found.directional, []
    if directional is None:
        return []
    sharp = directional.sharp
    if sharp and sharp.sample:
        caption = (
            "Scores of randomly chosen weights of D, with all known sharp directions protected. If"
            " all scores are 1, directional pruning equals the soft threshold. A weight with a"
            " score of 0 or less is never pruned."
        )
        figure = pruning.scores(sharp.sample)
        made.append(Panel("scores", "Scores against magnitudes", caption, figure))
    if len({row.sparsity for row in directional.rows}) > 1:
        caption = (
            "D pruned, without training afterwards. Thin and dotted: with re-estimated BatchNorm"
            " statistics."
        )
        figure = pruning.one_shot(directional.rows, styles)
        made.append(Panel("one_shot", "One-shot pruning", caption, figure))
    return made


_PLANE = (
    "Training loss on a logarithmic scale; distances are in weight space. Hollow points and"
    " trajectories are projections onto the plane, where the loss is not their own loss."
)
_ALONG = (
    "Training loss on a logarithmic scale around D (0, 0) along two random directions, normalised"
    " to the norms of D's filters."
)
