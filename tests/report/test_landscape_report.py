"""The page of a landscape shows the figures of a complete or partial landscape.json."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reading import CHROMIUM, Page, browse
from synthetic_landscape import SECTIONS, SIZE, K, Quadratic, landscape, write_landscape
from synthetic_runs import write_json, write_run

from dirprune.report.landscape import paths, planes, spectra
from dirprune.report.landscape.page import render, write_landscape_report
from dirprune.report.landscape.panels import panels
from dirprune.report.landscape.read import Density, Landscape, Spectrum, Top, read_landscape
from dirprune.report.landscape.styles import styles_of
from dirprune.report.landscape.summary import cards, lead
from dirprune.report.runs.page import write_report
from dirprune.report.shared.describing import _title
from dirprune.report.shared.numbers import brief
from dirprune.report.shared.published import of_dimension, paper

Spoil = Callable[[dict[str, Any]], object]


def written(folder: Path, change: Spoil = lambda record: None, **options: Any) -> Path:
    record = landscape(**options)
    change(record)
    folder.mkdir(exist_ok=True)
    write_json(folder / "landscape.json", record)
    return folder


def read(folder: Path, change: Spoil = lambda record: None, **options: Any) -> Landscape:
    return read_landscape(written(folder, change, **options))


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_first_table_has_the_figures_of_the_quadratic(tmp_path: Path) -> None:
    page = Page(write_landscape_report(write_landscape(tmp_path)).read_text(encoding="utf-8"))
    made = Quadratic()
    d = made.sparse - made.dense
    row = page.table("network")["grda"]
    assert number(row["zeros, %"]) == pytest.approx(100 * np.mean(made.sparse == 0), rel=5e-3)
    assert number(row["distance to D"]) == pytest.approx(np.linalg.norm(d), rel=5e-3)
    sharp = np.linalg.norm(d[:K]) / np.linalg.norm(d)
    assert number(row["in the 10 sharpest, share"]) == pytest.approx(sharp, rel=5e-3)
    assert number(row["times chance"]) == pytest.approx(sharp / math.sqrt(K / SIZE), abs=0.051)
    assert number(row["mean curvature"]) == pytest.approx(d @ (made.h * d) / (d @ d), rel=5e-3)
    t = made.h[0] / 100
    share = 100 * float((d**2)[made.h > t].sum() / (d @ d))
    column = next(name for name in row if name.startswith("energy above"))
    low, high = map(number, row[column].split(" to "))
    assert low < share < high


def test_a_figure_is_described_by_its_first_axis() -> None:
    upper, lower = (
        SimpleNamespace(title=SimpleNamespace(text=text)) for text in ("loss", "error")
    )
    for axes in ({"yaxis": upper, "yaxis2": lower}, {"yaxis2": lower, "yaxis": upper}):
        assert _title(SimpleNamespace(layout=axes), "yaxis") == "loss"


def test_titles_are_words(tmp_path: Path) -> None:
    found = read_landscape(write_landscape(tmp_path))
    titles = {panel.title for panel in panels(found, styles_of(found.networks))}
    assert {"Along the straight lines", "Along the curves", "Spectrum"} <= titles
    assert not [title for title in titles if re.search("[a-z][A-Z]", title)]


def test_convex_loss_has_no_barrier_on_a_line(tmp_path: Path) -> None:
    page = Page(write_landscape_report(write_landscape(tmp_path)).read_text(encoding="utf-8"))
    rows = page.table("network")
    assert set(rows) == {"grda", "sgd-2", "sgd-seed-7", "magnitude pruning", "soft threshold",
                         "random direction"}  # fmt: skip
    for row in rows.values():
        assert number(row["line: barrier of train loss"]) == pytest.approx(0, abs=1e-12)
    assert number(rows["grda"]["curve: barrier of train loss"]) > 1


def test_card_shows_the_barriers_between_both_networks(tmp_path: Path) -> None:
    def set_barriers(record: dict[str, Any]) -> None:
        for path, barrier in (("line", 0.2), ("bezier", 0.01)):
            record["curve"]["grda"][path]["loss"]["train"]["barrier"] = barrier

    found = read(tmp_path, set_barriers)
    barrier = next(card for card in cards(found) if card.title.startswith("Loss barrier"))
    assert (barrier.value, barrier.note) == ("0.01", "on the straight line: 0.2")


@pytest.mark.parametrize("section", SECTIONS)
def test_any_section_may_be_the_only_one_or_missing(tmp_path: Path, section: str) -> None:
    rest = tuple(name for name in SECTIONS if name != section)
    for sections in ((section,), rest):
        folder = write_landscape(
            tmp_path / "-".join(sections), sections=sections, status="running"
        )
        found = read_landscape(folder)
        text = render(found)
        assert "<figure" in text
        text = lead(found)[0]
        assert text.startswith("Still running")
        missing = text.partition("; missing: ")[2].partition(".")[0].split(", ")
        assert set(missing) == set(SECTIONS) - set(sections)


def test_entries_of_a_section_may_be_missing(tmp_path: Path) -> None:
    def thin_out(record: dict[str, Any]) -> None:
        del record["curve"]["grda"]["bezier"]
        del record["curve"]["random"]
        record["hessian"] = {"top": record["hessian"]["top"]}
        record["plane"] = {"networks": record["plane"]["networks"]}
        record["directional"] = {"sharp": record["directional"]["sharp"]}

    folder = written(tmp_path / "part", thin_out)
    page = Page(write_landscape_report(folder).read_text(encoding="utf-8"))
    assert page.table("network")["random direction"]["line: barrier of train loss"] == "–"


def test_page_of_an_empty_landscape(tmp_path: Path) -> None:
    record = {"format": "dirprune-landscape", "version": 1, "status": "running"}
    write_json(tmp_path / "landscape.json", record)
    page = Page(write_landscape_report(tmp_path).read_text(encoding="utf-8"))
    assert "nothing is measured yet" in page.text
    assert "figure" not in page.tags


def test_values_that_are_not_finite_are_named_and_leave_gaps(tmp_path: Path) -> None:
    def blow_up(record: dict[str, Any]) -> None:
        loss = record["curve"]["grda"]["line"]["loss"]["train"]
        loss["values"][7] = loss["barrier"] = loss["largest"]["value"] = None
        record["plane"]["measured"]["figures"]["loss"]["train"][0][0] = None

    folder = written(tmp_path / "wild", blow_up)
    found = read_landscape(folder)
    page = Page(write_landscape_report(folder).read_text(encoding="utf-8"))
    assert page.table("network")["grda"]["line: barrier of train loss"] == "not finite"
    assert "1 of 225 points are not finite" in page.text
    figure = paths.profiles(found.curve, styles_of(found.networks), lambda pair: pair.line)
    assert figure.data[1].y[7] is None
    assert found.plane is not None
    assert planes.logarithms(found.plane.loss["train"])[0][0] is None


def test_points_on_the_plane_are_drawn_on_its_surface(tmp_path: Path) -> None:
    found = read(tmp_path)
    assert found.plane is not None
    figure = planes.surface(found.plane, styles_of(found.networks), "train")
    made = Quadratic()
    dense = next(t for t in figure.data[1:] if t.name == "sgd" and t.mode == "markers")
    spread = max(map(max, figure.data[0].z)) - min(map(min, figure.data[0].z))
    # Between grid points the logarithm is interpolated linearly.
    assert dense.z[0] == pytest.approx(math.log10(made.loss(made.dense)), abs=0.2 * spread)
    curve = next(t for t in figure.data[1:] if t.mode == "lines" and len(t.x) > 2)
    assert len(curve.x) == 61
    assert all(z is not None for z in curve.z)


@pytest.mark.parametrize("height", [0.001, 1.0])
def test_a_flat_plane_is_stretched_and_the_caption_states_it(
    tmp_path: Path, height: float
) -> None:
    def flatten(record: dict[str, Any]) -> None:
        figures = record["plane"]["measured"]["figures"]
        figures["y"] = [height * y for y in figures["y"]]

    found = read(tmp_path, flatten)
    shown = {panel.name: panel for panel in panels(found, styles_of(found.networks))}
    flat = height < 1
    assert ("different scales" in shown["plane_loss"].caption) == flat
    assert (shown["plane_loss"].figure.layout.yaxis.scaleanchor is None) == flat


def test_area_of_the_drawn_spectrum_is_one() -> None:
    density = Density(nodes=((-0.5, 0.0, 0.01, 4.0),), weights=((0.1, 0.6, 0.2, 0.1),))
    found = Spectrum(density=density, top=Top((4.0, 1.0)))
    names = styles_of(read_names())
    line = spectra.spectrum(found, names).data[0]
    heights = [y or 0.0 for y in line.y]
    assert np.trapezoid(heights, line.x) == pytest.approx(1.0, abs=1e-3)


def read_names() -> Any:
    from dirprune.report.landscape.read import NetworkRecord

    return (NetworkRecord("sgd", "dense"), NetworkRecord("grda", "sparse"))


def test_published_figures_are_shown_only_for_the_same_network(tmp_path: Path) -> None:
    for size in (15_245_130, SIZE):
        found = read(tmp_path, lambda record, d=size: record.update(dimension=d))
        shown = {panel.name: panel for panel in panels(found, styles_of(found.networks))}
        names = {trace.legendgroup for trace in shown["training"].figure.data}
        assert ("paper" in names) == (size != SIZE)
    vgg = of_dimension(15_245_130)
    assert vgg is not None
    assert vgg.ratios[0].ratios[-1] == pytest.approx(0.0034, abs=5e-5)
    assert of_dimension(None) is None


def test_paper_ratios_are_not_divided_by_the_root_of_ten() -> None:
    wide = next(s for s in paper().settings if (s.model, s.data) == ("wrn28x10", "cifar10"))
    chance = math.sqrt(10 / wide.dimension)
    assert 2.0 < wide.ratios[0].ratios[-1] / chance < 2.4  # 1.07e-3 over 5.2e-4


def test_report_recognises_a_landscape(tmp_path: Path) -> None:
    folder = write_landscape(tmp_path / "found")
    page = write_report([folder], folder / "report.html").read_text(encoding="utf-8")
    assert "Valley and sharp directions" in page
    with pytest.raises(ValueError, match="has its own page"):
        write_report([folder, write_run(tmp_path / "run")], tmp_path / "report.html")


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)<!--<b>%{x}\"'"
    text = json.dumps(landscape()).replace('"sgd-2"', json.dumps(hostile))
    (tmp_path / "landscape.json").write_text(text, encoding="utf-8")
    page = Page(write_landscape_report(tmp_path).read_text(encoding="utf-8"))
    plain = Page(write_landscape_report(write_landscape(tmp_path)).read_text(encoding="utf-8"))
    assert page.tags == plain.tags
    assert hostile in page.text


def _other_version(record: dict[str, Any]) -> None:
    record["version"] = 2


def _foreign(record: dict[str, Any]) -> None:
    record["format"] = "other"


def _ragged(record: dict[str, Any]) -> None:
    record["plane"]["measured"]["figures"]["loss"]["train"][3].pop()


def _mistyped(record: dict[str, Any]) -> None:
    record["curve"]["grda"]["line"]["length"] = "far"


def _lonely(record: dict[str, Any]) -> None:
    del record["networks"][1:]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_other_version, "has version 2"),
        (_foreign, "not a landscape"),
        (_ragged, "rows of 15 values"),
        (_mistyped, r"Expected `float \| null`, got `str` - at `\$\.curve"),
        (_lonely, "needs two"),
    ],
)
def test_damaged_files_give_one_line(tmp_path: Path, spoil: Spoil, message: str) -> None:
    folder = written(tmp_path / "spoilt", spoil)
    with pytest.raises(ValueError, match=message) as refused:
        write_landscape_report(folder)
    assert "\n" not in str(refused.value)
    assert [path.name for path in folder.iterdir()] == ["landscape.json"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-2.5e-7, "−2.5e−7"), (math.inf, "not finite"), (98765.0, "98800"), (1e9, "1e9")],
)
def test_numbers_are_brief(value: float, text: str) -> None:
    assert brief(value) == text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
def test_browser_draws_every_figure_without_complaint(tmp_path: Path) -> None:
    path = write_landscape_report(write_landscape(tmp_path / "found"))
    page = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 6e6
    dom, complaints = browse(path, tmp_path / "profile")
    drawn = re.findall(r'id="figure-(\w+)" class="[^"]*js-plotly-plot', dom)
    assert len(drawn) == page.tags.count("figure") == 14
    for name, part in zip(drawn, dom.split('<div id="figure-')[1:], strict=True):
        assert 'class="main-svg"' in part
        shape = "<canvas" if name == "plane_surface" else r'class="(?:js-line|point|contourfill)'
        assert re.search(shape, part), f"{name}: axes without data"
    assert complaints == []
