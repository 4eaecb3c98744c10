"""The report shows the figures of the files, complete or not, and a browser draws every plot."""

import json
import math
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import CHROMIUM, browse, load, report
from synthetic_runs import TOTAL, write_comparison, write_json, write_run

from dirprune.report.runs import figures, histograms
from dirprune.report.runs.arms import arms, baseline, statistic, subject
from dirprune.report.runs.panels import panels
from dirprune.report.runs.read import read_results, read_run
from dirprune.report.runs.results import cards
from dirprune.report.runs.verdict import lead
from dirprune.report.shared import styles
from dirprune.report.shared.published import published
from dirprune.report.shared.styles import family
from dirprune.train.methods import METHODS


def test_tables_of_one_run_match_its_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = report([run], run / "report.html")
    summary = load(run / "summary.json")
    row = page.results()["gRDA"] | page.table("run")["run"]
    expected = {
        "test accuracy, %": (100 * summary["test_accuracy"], 0.005),
        "zeros, %": (100 * summary["sparsity"], 0.005),
        "nonzeros": (summary["nonzeros"], 0),
        "test loss": (summary["test_loss"], 1e-4),
        "train loss": (summary["train_loss"], 1e-4),
        "peak memory, MiB": (summary["peak_memory_mib"], 0.51),
    }
    for column, (value, tolerance) in expected.items():
        assert float(row[column].replace(",", "")) == pytest.approx(value, abs=tolerance), column
    ratio = summary["weights_bytes"] / summary["weights_zstd_bytes"]
    for column in ("file, kB", "weights after zstd, kB"):
        size, shown = map(float, re.findall(r"[\d.]+", row[column]))
        assert size == pytest.approx(summary["weights_zstd_bytes"] / 1000, abs=0.06)
        assert shown == pytest.approx(ratio, abs=0.06 if ratio < 10 else 0.51)


def test_table_of_a_comparison_holds_means_and_deviations_over_seeds(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "all", ("sgd", "grda"))
    page = report([folder], folder / "report.html")
    finals = {
        method: [
            load(folder / method / f"seed{seed}" / "summary.json")["test_accuracy"]
            for seed in (1, 2, 3)
        ]
        for method in ("sgd", "grda")
    }
    for label, values in (("SGD", finals["sgd"]), ("gRDA", finals["grda"])):
        mean, std = map(float, page.results()[label]["test accuracy, %"].split(" ± "))
        assert mean == pytest.approx(100 * statistics.mean(values), abs=0.005)
        assert std == pytest.approx(100 * statistics.stdev(values), abs=0.005)
        assert page.results()[label]["seeds"] == "1, 2, 3"
    above = 100 * (statistics.mean(finals["grda"]) - statistics.mean(finals["sgd"]))
    row = page.results()["gRDA"]
    assert float(row["against dense, points"]) == pytest.approx(above, abs=0.005)
    assert f"Accuracy against SGD+{above:.2f} points" in page.text
    assert "sgd/seed2" in page.text  # a row for every run
    assert "Learning-rate grid" in page.text


def test_exported_file_and_latency_appear_in_table_and_cards(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    assert "latency, ms" not in report(runs, tmp_path / "report.html").results()["gRDA"]
    for run, size in zip(runs, (2000, 4000), strict=True):
        latency = {"torch": 8.0, "dirprune": size / 1000, "onnxruntime": 30}
        found = {"file_bytes": size, "dense_bytes": 40_000, "latency_ms": latency}
        write_json(run / "summary.json", {**load(run / "summary.json"), "deploy": found})
    sgd = write_run(tmp_path / "sgd", "sgd")
    page = report([*runs, sgd], tmp_path / "report.html")
    rows = page.results()
    assert rows["gRDA"]["file, kB"] == "3.0 (15×)"
    assert rows["gRDA"]["latency, ms"] == "3 (torch 8)"
    assert rows["SGD"]["latency, ms"] == "–"
    assert "torch takes 2.7× as long" in page.text
    found = cards(arms(read_results([*runs, sgd]).runs))
    assert [card.value for card in found[2:]] == ["15× smaller", "3 ms"]


def test_there_are_always_four_cards(tmp_path: Path) -> None:
    for status in ("finished", "unfinished"):
        found = cards(arms([read_run(write_run(tmp_path / status, status=status))]))
        assert [card.title for card in found] == ["Accuracy", "Zeros", "File", "Latency"]
        assert found[3].value == "–"


def test_layers_carry_their_type_and_epochs_are_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    record = load(run / "summary.json")
    record["layers"][0]["kind"] = "Conv2d"
    write_json(run / "summary.json", record)
    shown = {panel.name: panel.figure for panel in panels(arms([read_run(run)]))}
    assert list(shown["layers"].layout.yaxis.ticktext)[:2] == [
        "features.0 (Conv2d)",
        "features.3 (2-d kernel)",
    ]
    for name in ("accuracy", "sparsity", "loss", "threshold", "norms"):
        assert shown[name].layout.xaxis.dtick == 5  # of 30 epochs
        assert shown[name].layout.xaxis.tick0 == 0


def test_a_long_table_is_folded(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / str(i), "grda", c=0.001 * i) for i in range(1, 15)]
    page = report(runs, tmp_path / "report.html")
    assert "14 rows" in page.text
    assert len(page.results()) == 14


def test_folder_of_runs(tmp_path: Path) -> None:
    for method in ("sgd", "grda"):
        write_run(tmp_path / method, method)
    assert [run.name for run in read_results([tmp_path]).runs] == ["grda", "sgd"]


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("demo/sgd", "demo/grda", "sparse"):
        write_run(tmp_path / name, Path(name).name.replace("sparse", "grda"))
    assert [run.name for run in read_results([tmp_path]).runs] == [
        "demo/grda", "demo/sgd", "sparse",
    ]  # fmt: skip


def test_runs_that_are_being_replaced_are_not_shown(tmp_path: Path) -> None:
    for name in ("demo/grda", "demo/grda/.replaced", "demo/sgd/.discarded", "demo/sgd"):
        write_run(tmp_path / name, Path(name).parts[1])
    assert [run.name for run in read_results([tmp_path]).runs] == ["grda", "sgd"]
    hidden = tmp_path / ".cache" / "demo"
    write_run(hidden / "sgd", "sgd")
    assert [run.name for run in read_results([hidden]).runs] == ["sgd"]


def test_page_is_self_contained(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = report([run], tmp_path / "report.html")
    assert page.source.count("* plotly.js (basic - minified) v") == 1
    assert len(page.source) < 1.5e6
    assert page.source.index("plotly.js (basic") > page.source.index("<footer>")  # text first
    own = re.sub(r"<script>/\*.*?</script>", "", page.source, count=1, flags=re.DOTALL)
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'>\s]+)""", own)) == {
        "data:,",  # an empty icon, so that the browser requests none
        "https://arxiv.org/abs/2006.09358",  # a link
    }
    assert "noscript" in page.tags
    assert "default-src 'none'" in page.source


@pytest.mark.parametrize("status", ["finished", "unfinished", "interrupted", "diverged"])
@pytest.mark.parametrize("method", ["sgd", "grda", "rda", "gmp"])
def test_every_method_and_status_gives_a_page(tmp_path: Path, method: str, status: str) -> None:
    run = write_run(tmp_path / "run", method, status=status)
    source = read_results([run])
    drawn = {panel.name for panel in panels(arms(source.runs))}
    assert {"accuracy", "loss", "sparsity", "norms"} <= drawn
    assert ("threshold" in drawn) == method.startswith(("grda", "rda"))
    assert ("weights" in drawn) == (status != "unfinished")
    label, (first, *_) = arms(source.runs)[0].label, lead(arms(source.runs))
    if status == "finished":
        assert first.startswith(f"{label} reaches ")
    else:
        assert first == f"{label}: seeds 1 ({status}, epoch 7 of 30)."


def test_table_of_a_diverged_run_shows_nan_and_infinity(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(seed), seed=seed, status=status)
        for seed, status in ((1, "finished"), (2, "diverged"), (3, "finished"))
    ]
    row = report(runs, tmp_path / "report.html").results()["gRDA"]
    kept = [load(runs[i] / "summary.json")["test_accuracy"] for i in (0, 2)]
    mean = float(row["test accuracy, %"].split(" ± ")[0])
    assert mean == pytest.approx(100 * statistics.mean(kept), abs=0.005)
    assert row["seeds"] == "1, 2, 3 (2 finished, 1 diverged)"
    lost = report([runs[1]], tmp_path / "lost.html")
    assert lost.table("run")["2"]["train loss"] == "NaN"
    assert lost.table("run")["2"]["test loss"] == "∞"
    assert lead(arms(read_results(runs).runs))[-1] == "Seeds: 1, 2, 3 (2 finished, 1 diverged)."


def test_run_without_a_complete_epoch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", status="unfinished")
    first = (run / "metrics.jsonl").read_text(encoding="utf-8")[:50]
    (run / "metrics.jsonl").write_text(first, encoding="utf-8")
    page = report([run], tmp_path / "report.html")
    assert "gRDA: seeds 1 (unfinished, epoch 0 of 30)." in page.text
    assert "figure" not in page.tags


def test_last_line_may_be_cut_off_and_a_repeated_epoch_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    again = json.dumps({**json.loads(lines[9]), "test_accuracy": 0.5})
    path.write_text("\n".join([*lines, again, lines[0][:99]]), encoding="utf-8")
    epochs = read_run(run).epochs
    assert [epoch.epoch for epoch in epochs] == list(range(1, 31))
    assert epochs[9].test_accuracy == 0.5


def test_hostile_names_are_text(tmp_path: Path) -> None:
    hostile, harmless = (
        report(
            [
                write_run(tmp_path / name / "a", model=name, data=f"imagefolder:{name}"),
                write_run(tmp_path / name / image, "sgd", model=name),
            ],
            tmp_path / "report.html",
        )
        for name, image in (("<script>alert(1)<!--<b>&amp;\"'", "<img onerror=x>"), ("a", "b"))
    )
    assert hostile.tags == harmless.tags
    assert "<script>alert(1)<!--<b>&amp;\"'" in hostile.text
    assert "<img onerror=x>" in hostile.text
    folders = [write_run(tmp_path / "run", model="<script>"), write_run(tmp_path / "other")]
    figure = figures.trajectory(arms(read_results(folders).runs), "train_loss", "loss")
    assert "&lt;script&gt;" in figure.data[0].name


def test_zeros_and_other_weights_add_up(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    figure = histograms.weight_histogram(arms([read_run(run)]))
    zeros, others = figure.data
    assert zeros.y == (load(run / "summary.json")["zeros"],)
    assert zeros.y[0] + sum(count or 0 for count in others.y) == TOTAL


def test_norm_ratio_never_falls_below_the_drawn_bound(tmp_path: Path) -> None:
    figure = figures.norm_ratio(arms([read_run(write_run(tmp_path / "run"))]))
    bound = figure.layout.shapes[0].y0
    assert bound == pytest.approx(1 / math.sqrt(TOTAL))
    assert min(figure.data[0].y) > bound


@pytest.mark.parametrize(
    ("model", "data", "best"),
    [
        ("vgg16", "cifar10", (0.972, 0.9064)),
        ("wrn28x10", "cifar10:/data", (0.983, 0.9453)),
        ("wrn28x10", "cifar100", (0.963, 0.7685)),
        ("resnet50", "imagenet:/data", (0.998, 0.2269)),
    ],
)
def test_published_points_are_drawn_for_the_same_model_and_data(
    tmp_path: Path, model: str, data: str, best: tuple[float, float]
) -> None:
    run = read_run(write_run(tmp_path / "run", model=model, data=data))
    found = published(run.config)
    assert found is not None
    points = {series.label: series.points for series in found.series}["gRDA"]
    sparsest = max(points, key=lambda point: point.sparsity)
    assert (sparsest.sparsity, sparsest.test_accuracy) == pytest.approx(best, abs=1e-3)
    figure = figures.accuracy_against_sparsity(arms([run]), found)
    assert {trace.name for trace in figure.data} > {"paper: gRDA", "paper: SGD"}
    assert published({**run.config, "width": 0.25}) is None
    assert published({**run.config, "data": "digits"}) is None


def test_a_method_has_one_colour_and_distinct_arms(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / f"{method}{c}", method, c=c))
        for method in ("sgd", "grda", "grda_momentum")
        for c in (0.002, 0.006)
    ]
    found = arms(runs)
    assert len({arm.colour for arm in found if arm.method.startswith("grda")}) == 1
    assert len({(arm.colour, arm.dash, arm.symbol) for arm in found}) == len(found)
    assert [arm.label for arm in found[2:4]] == ["gRDA · c=0.002", "gRDA · c=0.006"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_statistic_is_that_of_the_standard_library_in_any_order(values: list[float]) -> None:
    found = statistic([None, *values])
    reverse = statistic(values[::-1])
    assert found.n == len(values)
    assert found.mean is not None
    assert min(values) - 1e-6 <= found.mean <= max(values) + 1e-6
    assert (found.mean, found.std) == pytest.approx((reverse.mean, reverse.std))
    assert found.std == pytest.approx(statistics.variance(values) ** 0.5, rel=1e-6, abs=1e-9)


def test_points_at_the_same_place_are_rings_around_each_other(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / method, method=method) for method in ("sgd", "sgd_momentum")]
    same = load(runs[0] / "summary.json")
    write_json(runs[1] / "summary.json", same)
    apart = write_run(tmp_path / "grda", method="grda")
    record = load(apart / "summary.json")
    record["test_accuracy"] = same["test_accuracy"] / 2
    for layer in record["layers"]:
        layer["zeros"] = layer["total"] // 2
    write_json(apart / "summary.json", record)
    shown = {p.name: p.figure for p in panels(arms([read_run(run) for run in [*runs, apart]]))}
    for name in ("outcome", "layers"):
        first, second, third = (trace.marker for trace in shown[name].data[-3:])
        assert second.symbol.endswith("-open")
        assert second.size >= first.size + 6
        assert not first.symbol.endswith("-open")
        assert (third.size, third.symbol.endswith("-open")) == (first.size, False)


def test_descriptions_say_what_is_seen(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / method, method=method) for method in ("sgd", "grda")]
    shown = {p.name: p.description for p in panels(arms([read_run(run) for run in runs]))}
    summary = load(runs[1] / "summary.json")
    epochs = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    first, last = (f"{epochs[at]['train_loss']:.4g}" for at in (0, -1))
    assert float(first) > float(last)  # the order is that of time, not of size
    assert f"gRDA: {first} to {last}" in shown["loss"]
    assert (
        f"gRDA: {100 * summary['test_accuracy']:.4g} at {summary['sparsity']:.2%} zeros"
        in (shown["outcome"])
    )
    layers = [layer for layer in summary["layers"] if len(layer["shape"]) > 1]
    sparsest = max(layers, key=lambda layer: layer["zeros"] / layer["total"])
    assert f"to {100 * sparsest['zeros'] / sparsest['total']:.4g} at " in shown["layers"]
    counts = summary["histograms"]["accumulators"]["counts"]
    assert f"gRDA: at most {max(counts):,}, near " in shown["accumulators"]
    assert "number of accumulators against value of the accumulator v" in shown["accumulators"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome")
@pytest.mark.parametrize("case", ["comparison", pytest.param("diverged", marks=pytest.mark.slow)])
def test_browser_draws_every_figure_without_complaint(tmp_path: Path, case: str) -> None:
    if case == "comparison":
        folders = [write_comparison(tmp_path / "all", ("sgd", "grda", "magnitude"))]
    else:
        folders = [write_run(tmp_path / "run", status="diverged")]
    page = report(folders, tmp_path / "report.html")
    dom, complaints = browse(tmp_path / "report.html", tmp_path / "profile")
    drawn = re.findall(r'id="(figure-\w+)" class="[^"]*js-plotly-plot', dom)
    assert len(drawn) == page.tags.count("figure") > 0
    for part in dom.split('<div id="figure-')[1:]:
        assert 'class="main-svg"' in part
        assert re.search(r'class="(?:js-line|point)', part), "axes without data"
    assert complaints == []


def test_every_method_of_training_has_a_name_and_a_dense_twin(tmp_path: Path) -> None:
    for method in METHODS:
        assert family(method) in styles.METHODS, method
    dense = read_run(write_run(tmp_path / "adamw", "adamw"))
    sparse = read_run(write_run(tmp_path / "adam_grda", "adam_grda"))
    found = arms([dense, sparse])
    assert subject(found).method == "adam_grda"
    assert baseline(found[1], found) == found[0]
