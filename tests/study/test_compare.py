"""Comparisons: equal sparsity, chosen rates, tables, and resuming."""

import csv
import json
import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dirprune.report.runs.read import read_results
from dirprune.study import compare as module
from dirprune.study.compare import compare
from dirprune.study.comparison import Plan, method_config
from dirprune.study.one_shot import prune_finished, prune_magnitude
from dirprune.study.tables import csv_text, markdown_text, rows
from dirprune.threshold import threshold_path
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Diverged, Interrupted
from dirprune.train.loop import train
from dirprune.train.methods import METHODS, build_optimizer
from dirprune.train.names import CALIBRATED, COMPARED, MASKED, REFERENCES, TARGETED
from dirprune.train.runs import RunFolder
from dirprune.train.schedule import learning_rates

SHORT = TrainConfig(
    model="mlp", epochs=3, batch_size=50, c=0.08, mu=0.51, momentum=0.9, weight_decay=5e-4
)

MODELS = """
from torch import nn

def normalised(num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, num_classes)
    )
"""


def call_here(function: Callable[..., object], *args: Any, out: Path) -> None:
    with suppress(Diverged):
        function(*args)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call functions in this process: new processes take seconds to start."""
    monkeypatch.setattr(module, "run_isolated", call_here)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compare_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))


def load(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def snapshot(out: Path) -> dict[str, tuple[int, int]]:
    files = (p for p in out.glob("*/*/*") if p.is_file())
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}


def test_an_interrupted_comparison_resumes_bit_identically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def compare_in(name: str) -> None:
        compare(SHORT, tmp_path / name, methods=("grda", "gmp"), seeds=(1, 2), lrs=(0.1,))

    def stop_during_second_run() -> None:
        while len(list(tmp_path.glob("stopped/grda/*/metrics.jsonl"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_during_second_run, daemon=True).start()
    with pytest.raises(Interrupted, match="run the same command again") as caught:
        compare_in("stopped")
    assert str(tmp_path / "stopped") in str(caught.value)
    assert signal.getsignal(signal.SIGTERM) is before
    done = load(tmp_path / "stopped" / "comparison.json")["runs"]
    kept = snapshot(tmp_path / "stopped" / done[0])
    compare_in("stopped")
    assert kept.items() <= snapshot(tmp_path / "stopped" / done[0]).items()

    monkeypatch.setattr(module, "run_isolated", call_here)
    compare_in("uninterrupted")
    runs = load(tmp_path / "uninterrupted" / "comparison.json")["runs"]
    assert [run.partition("/")[0] for run in runs] == ["grda"] * 2 + ["gmp"] * 2
    for run in runs:
        ours, theirs = (
            tmp_path / name / run / "model.safetensors" for name in ("stopped", "uninterrupted")
        )
        assert ours.read_bytes() == theirs.read_bytes(), run

    again = snapshot(tmp_path / "uninterrupted")
    compare_in("uninterrupted")
    assert snapshot(tmp_path / "uninterrupted") == again
    assert "seed 2" in capfd.readouterr().out


@pytest.mark.usefixtures("in_process", "models")
def test_every_method_reaches_the_same_sparsity(tmp_path: Path) -> None:
    out = tmp_path / "all"
    config = replace(SHORT, model="compare_models:normalised")
    table = compare(config, out, seeds=(1, 2), lrs=(0.1,))
    record = load(out / "comparison.json")
    runs = {run: load(out / run / "summary.json") for run in record["runs"]}
    configs = {run: load(out / run / "config.json")["config"] for run in runs}

    extra = ["magnitude_refreshed", "magnitude_momentum", "magnitude_momentum_refreshed"]
    assert [row.method for row in table if row.method not in extra] == list(COMPARED)
    assert {row.method for row in table} == {*COMPARED, *extra}
    assert all(row.finished == 2 for row in table)

    target = round(statistics.fmean(s["sparsity"] for r, s in runs.items() if "grda/" in r), 4)
    assert record["sparsity"] == target
    total = next(iter(runs.values()))["total"]
    for run, summary in runs.items():
        method = run.partition("/")[0]
        if method.startswith(("gmp", "magnitude", "random")):
            assert summary["zeros"] == round(target * total), run
        if method in ("prox_sgd", "rda"):
            calibration = record["calibration"][method]
            assert calibration["reached"] == all(
                abs(s - target) <= 0.01 for s in calibration["attained"]
            )
            assert summary["sparsity"] in calibration["attained"]
            assert configs[run]["c"] == calibration["c"]
            assert abs(calibration["tried"][-1]["sparsity"] - target) <= 0.01
            assert len(calibration["tried"]) <= 5
        heavy = "momentum" in method
        assert (configs[run]["momentum"], configs[run]["weight_decay"]) == (
            (0.9, 5e-4) if heavy else (0.0, 0.0)
        )
    assert set(record["lr_grid"]) == METHODS.keys() & set(COMPARED)

    # Two arms of a method must not differ in more than the seed.
    assert len({json.dumps(c | {"seed": 0}) for c in configs.values()}) == len(table)
    assert len(read_results([out]).runs) == len(runs)

    dense = load_file(out / "sgd" / "lr0.1-seed1" / "model.safetensors")
    pruned = load_file(out / f"magnitude/lr0.1-sparsity{target:g}-seed1/model.safetensors")
    cut = sorted(w for name in dense if "running" not in name and "num" not in name
                 for w in dense[name].abs().flatten().tolist())[round(target * total)]  # fmt: skip
    for name, tensor in dense.items():
        keep = torch.ones(()) if "running" in name or "num" in name else tensor.abs() >= cut
        assert torch.equal(pruned[name], tensor * keep), name
    refreshed = load_file(
        out / f"magnitude_refreshed/lr0.1-sparsity{target:g}-seed1/model.safetensors"
    )
    changed = {name for name in pruned if not torch.equal(pruned[name], refreshed[name])}
    assert {"2.running_mean", "2.running_var"} <= changed
    assert all(name.startswith("2.") and not name.endswith(("weight", "bias")) for name in changed)

    _check_files(out, runs)


def _check_files(out: Path, runs: dict[str, dict[str, Any]]) -> None:
    """The table's figures follow from the summaries alone."""
    with (out / "comparison.csv").open() as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    for method, line in lines.items():
        for figure in ("test_accuracy", "sparsity", "nonzeros", "peak_memory_mib"):
            a, b = (s[figure] for run, s in runs.items() if run.startswith(f"{method}/"))
            assert float(line[f"{figure}_mean"]) == pytest.approx((a + b) / 2)
            assert float(line[f"{figure}_std"]) == pytest.approx(abs(a - b) / math.sqrt(2))
    assert (out / "comparison.md").read_text().count("\n") == len(lines) + 2


@pytest.mark.usefixtures("in_process")
def test_the_rate_is_chosen_on_held_out_data(tmp_path: Path) -> None:
    out = tmp_path / "search"
    compare(SHORT, out, methods=("sgd", "grda", "rda"), seeds=(4,), lrs=(0.01, 0.1, 1e20))
    record = load(out / "comparison.json")
    for method in ("sgd", "grda", "rda"):
        grid = record["lr_grid"][method]
        assert list(grid) == ["0.01", "0.1", "1e+20"]
        assert grid["1e+20"] is None
        assert len(list(out.glob(f"{method}/*validation0.1-seed4/config.json"))) == 3
        best = max((value or 0, name) for name, value in grid.items())[1]
        assert record["chosen"][method]["lr"] == float(best)
    for run in record["runs"]:
        assert load(out / run / "config.json")["config"]["validation"] == 0.0
        metrics = [json.loads(x) for x in (out / run / "metrics.jsonl").read_text().splitlines()]
        assert metrics[-1]["validation_accuracy"] is None
    [searched_run] = out.glob("sgd/lr0.1-validation0.1-seed4")
    last = json.loads((searched_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert record["lr_grid"]["sgd"]["0.1"] == last["validation_accuracy"]


@pytest.mark.usefixtures("in_process")
def test_divergence_is_counted_and_kept(tmp_path: Path) -> None:
    methods = ("sgd", "magnitude")
    [row] = compare(SHORT, tmp_path / "a", methods=methods, seeds=(1,), lrs=(1e20,))
    assert (row.method, row.finished, row.diverged) == ("sgd", 0, 1)
    before = snapshot(tmp_path / "a")
    compare(SHORT, tmp_path / "a", methods=methods, seeds=(1,), lrs=(1e20,))
    assert snapshot(tmp_path / "a") == before
    with pytest.raises(Diverged, match="every run of grda diverged"):
        compare(SHORT, tmp_path / "b", methods=("grda", "gmp"), seeds=(1,), lrs=(1e20,))


@pytest.mark.usefixtures("in_process")
def test_another_comparison_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "c"
    config = replace(SHORT, epochs=1)

    def refused(expected: str, config: TrainConfig, out: Path, seeds: tuple[int, ...]) -> None:
        with pytest.raises((ValueError, NotADirectoryError), match=expected) as caught:
            compare(config, out, methods=("sgd",), seeds=seeds, lrs=(0.1,))
        assert "\n" not in str(caught.value)

    refused("unknown model", replace(config, model="mpl"), out, (1,))
    compare(config, out, methods=("sgd",), seeds=(1,), lrs=(0.1,))  # nothing was there to mix with
    before = snapshot(out)
    refused("seeds was", config, out, (2,))
    refused("epochs was 1, now 2", replace(config, epochs=2), out, (1,))
    refused("holds a run", config, out / "sgd" / "lr0.1-seed1", (1,))
    (out / "comparison.json").unlink()
    refused("runs that do not belong to a comparison", config, out, (1,))
    assert snapshot(out) == before
    (tmp_path / "file").touch()
    refused("is a file", config, tmp_path / "file", (1,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("sgd", "adam")}, "unknown method 'adam'"),
        ({"methods": ()}, "methods must be one or more"),
        ({"seeds": (1, 1)}, "one or more different values"),
        ({"seeds": (-1,)}, "seed must be"),
        ({"lrs": (0.1, -1.0)}, "lr must be"),
        ({"methods": ("grda", "magnitude")}, "add sgd or sgd_momentum"),
        (
            {"methods": ("sgd", "gmp"), "config": replace(SHORT, target_sparsity=0.8, epochs=6)},
            "add grda",
        ),
        ({"config": replace(SHORT, momentum=0.0)}, "needs momentum above 0"),
        ({"config": replace(SHORT, c=0.0)}, "give a c above 0"),
        ({"config": replace(SHORT, batch_seed=3)}, "follow from each run's seed"),
        ({"config": replace(SHORT, sparsity=0.5)}, "grda sets the sparsity of all methods"),
    ],
)
def test_impossible_plans_are_refused(changes: dict[str, Any], message: str) -> None:
    plan: dict[str, Any] = {"config": SHORT, "methods": COMPARED, "seeds": (1, 2), "lrs": (0.1,)}
    with pytest.raises(ValueError, match=message) as caught:
        Plan(**(plan | changes))
    assert "\n" not in str(caught.value)


def test_a_target_needs_no_c() -> None:
    config = replace(SHORT, c=0.0, target_sparsity=0.8)
    Plan(config, ("sgd", "grda", "gmp"), (1,), (0.1,))
    assert method_config(config, "grda", 0.2, seed=1).target_sparsity == 0.8
    with pytest.raises(ValueError, match="rda with c = 0"):
        Plan(config, ("grda", "rda"), (1,), (0.1,))


def test_grda_follows_one_threshold_path_at_all_rates() -> None:
    paths = []
    for method, lr in (("grda", 0.1), ("grda", 0.02), ("grda_momentum", 0.05)):
        config = method_config(SHORT, method, lr, seed=1)
        rates = [r / (1 - config.momentum) for r in learning_rates(config, 10)]
        paths.append(threshold_path(config.c, config.mu, rates))
    for path in paths[1:]:
        torch.testing.assert_close(path, paths[0], rtol=1e-3, atol=0)
    assert method_config(SHORT, "grda", 0.1, seed=1).c == SHORT.c


@pytest.mark.usefixtures("in_process")
def test_methods_and_seeds_may_be_added_later(tmp_path: Path) -> None:
    config, out = replace(SHORT, epochs=1), tmp_path / "all"
    compare(config, out, methods=("sgd",), seeds=(1,), lrs=(0.1,))
    first = (out / "sgd" / "lr0.1-seed1" / "model.safetensors").stat()
    table = compare(config, out, methods=("sgd", "grda"), seeds=(1, 2), lrs=(0.1,))
    assert [(row.method, row.finished) for row in table] == [("sgd", 2), ("grda", 2)]
    assert (out / "sgd" / "lr0.1-seed1" / "model.safetensors").stat() == first
    with pytest.raises(ValueError, match="methods was"):
        compare(config, out, methods=("grda",), seeds=(1, 2), lrs=(0.1,))
    with pytest.raises(ValueError, match="seeds was"):  # the first seed chose rates
        compare(config, out, methods=("sgd", "grda"), seeds=(2, 1), lrs=(0.1,))


def test_torchrun_is_for_single_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        compare(SHORT, tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_a_config_has_no_option_that_its_method_ignores() -> None:
    shared = replace(SHORT, target_sparsity=0.8, epochs=6, sparsity=0.7, momentum=0.9)
    for method in METHODS:
        given = 0.6 if method in TARGETED else None
        config = method_config(shared, method, 0.1, seed=1, sparsity=given)
        target = 0.6 if method == "adam_grda" else 0.8 if "grda" in method else None
        assert config.target_sparsity == target
        assert config.sparsity == (given if method in MASKED else None)
        assert (config.c > 0) == (method in (*REFERENCES, *CALIBRATED))
        build_optimizer(config, torch.nn.Linear(40, 30), 50)  # refuses what it would ignore


def test_a_comparison_at_a_target(tmp_path: Path) -> None:
    config = replace(SHORT, target_sparsity=0.8, epochs=6)
    table = compare(config, tmp_path / "all", methods=("sgd", "grda", "gmp"), seeds=(1,))
    zeros = {row.method: row.mean["sparsity"] for row in table}
    assert zeros["sgd"] == 0
    assert zeros["grda"] == pytest.approx(0.8, abs=0.02)
    assert zeros["gmp"] == pytest.approx(zeros["grda"], abs=1e-4)


def test_magnitude_refuses_more_zeros_than_prunable_weights() -> None:
    layer = torch.nn.Linear(9, 10)
    before = layer.bias.detach().clone()
    prune_magnitude(layer, 0.9, "weights")
    assert int((layer.weight == 0).sum()) == 90
    assert torch.equal(layer.bias, before)
    with pytest.raises(ValueError, match="needs 95 zeros, but only 90"):
        prune_magnitude(layer, 0.95, "weights")


def test_a_row_without_finished_runs() -> None:
    table = rows({"grda": [{"status": "diverged"}]})
    assert "| grda | 0 (+1 diverged) | - |" in markdown_text(table)
    assert csv_text(table).splitlines()[1].startswith("grda,0,1,,")


def test_interrupted_pruning_is_repeated(tmp_path: Path) -> None:
    config = TrainConfig(model="mlp", width=0.1, epochs=1, method="sgd")
    train(config, tmp_path / "dense", display=Displays())
    pruned = RunFolder(tmp_path / "pruned")
    final = replace(config, method="magnitude", sparsity=0.5)
    pruned.begin(final, None, "cpu", {})  # and no more
    prune_finished(tmp_path / "dense", config, pruned.path, final)
    summary = pruned.read_summary()
    assert summary is not None
    assert summary["sparsity"] == pytest.approx(0.5, abs=1e-3)
    names = ("config.json", "metrics.jsonl", "model.safetensors", "summary.json")
    assert sorted(path.name for path in pruned.path.iterdir()) == list(names)


def test_adam_grda_reaches_the_reference_sparsity(tmp_path: Path) -> None:
    table = compare(SHORT, tmp_path / "all", methods=("grda", "adam_grda"), seeds=(1,))
    zeros = {row.method: row.mean["sparsity"] for row in table}
    assert zeros["grda"] > 0
    assert abs(zeros["adam_grda"] - zeros["grda"]) < 1e-3
