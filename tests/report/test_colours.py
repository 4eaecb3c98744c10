"""The colours of lines, markers and texts are legible in both themes, and differ for all eyes."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from reading import CHROMIUM, browse
from synthetic_runs import write_run

from dirprune.report.runs.page import write_report
from dirprune.report.shared import styles

DAY = list(styles.NIGHT)
NIGHT = list(styles.NIGHT.values())
TEMPLATE = Path(styles.__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
PAPERS = re.findall(r"--paper: (#\w{6})", TEMPLATE)

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB
DEUTERANOPIA = np.array([
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
])  # fmt: skip
TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2: the ratio of relative luminances, each with 0.05 of flare."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) + 0.05 for colour in (one, other))
    return high / low


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_the_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize(("colours", "paper"), [*zip((DAY, NIGHT), PAPERS, strict=True)])
def test_every_colour_of_data_has_contrast(colours: list[str], paper: str) -> None:
    assert {colour: contrast(colour, paper) for colour in colours
            if contrast(colour, paper) < 4.5} == {}  # fmt: skip


@pytest.mark.parametrize("colours", [DAY, NIGHT])
@pytest.mark.parametrize("sight", [np.eye(3), DEUTERANOPIA])
def test_all_colours_differ(colours: list[str], sight: np.ndarray) -> None:
    seen = {colour: lab(sight @ linear(colour)) for colour in colours}
    distances = {pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]])
                 for pair in combinations(colours, 2)}  # fmt: skip
    assert {pair: d for pair, d in distances.items() if d < 15} == {}


def test_every_style_has_a_colour_for_the_night() -> None:
    assert {colour for _, colour in styles.METHODS.values()} <= set(DAY)
    assert len(set(DAY) | set(NIGHT)) == 2 * len(DAY)
    assert TEMPLATE.index("--data: var(--day)") < TEMPLATE.index("--data: var(--night)")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize(
    ("scheme", "shown"), [(1, styles.ORANGE), (0, styles.NIGHT[styles.ORANGE])]
)
def test_the_browser_draws_in_the_colours_of_its_theme(
    tmp_path: Path, scheme: int, shown: str
) -> None:
    page = write_report([write_run(tmp_path / "run", "grda")], tmp_path / "report.html")
    dom, complaints = browse(page, tmp_path / "profile", f"preferredColorScheme={scheme}")
    stroke = "stroke: rgb({}, {}, {})".format(*(int(shown[at : at + 2], 16) for at in (1, 3, 5)))
    assert stroke in dom
    assert complaints == []
