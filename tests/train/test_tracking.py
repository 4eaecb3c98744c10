"""Trackers of accelerate, with a small one in its registry, MLflow's and W&B's local files."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate.tracking
import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from dirprune.study.compare import compare
from dirprune.train.errors import Interrupted
from dirprune.train.loop import train
from train.short_runs import QUIET, SHORT, Recorder, interrupt, one_line


class Listing(GeneralTracker):
    """A tracker that lists its calls."""

    name = "listing"
    requires_logging_directory = False
    calls: list[tuple[str, Any]]
    fails = ""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.project = project

    @property
    def tracker(self) -> object:
        return self

    def _call(self, name: str, values: Any) -> None:
        if name == self.fails:
            raise ConnectionError("no route to the server")
        self.calls.append((name, values))

    def start(self) -> None:
        self._call("start", self.project)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._call("config", values)

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self._call("log", (step, values))

    def finish(self) -> None:
        self._call("finish", None)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "listing", Listing)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    Listing.calls, Listing.fails = [], ""
    return Listing.calls


def test_a_tracker_gets_the_config_and_every_epoch(
    calls: list[tuple[str, Any]], tmp_path: Path
) -> None:
    config = replace(SHORT, method="grda", c=0.05)
    train(config, tmp_path / "run", display=QUIET, track="listing")
    names, values = zip(*calls)
    assert names == ("start", "config", "log", "log", "finish")
    assert values[0] == "dirprune"
    assert values[1]["c"] == 0.05
    assert all(isinstance(v, (bool, int, float, str)) for v in values[1].values())
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    for (step, logged), line in zip(values[2:4], lines, strict=True):
        record = json.loads(line)
        assert step == record["step"]
        for name in ("train_loss", "sparsity", "lr", "threshold", "test_accuracy"):
            assert logged[name] == record[name]
        assert logged["test_error"] == pytest.approx(1 - record["test_accuracy"])
        assert logged["images_per_second"] * record["seconds"] == pytest.approx(1437)


def test_a_resumed_run_logs_the_remaining_epochs(
    calls: list[tuple[str, Any]], tmp_path: Path
) -> None:
    config = replace(SHORT, epochs=3)
    with pytest.raises(Interrupted):
        train(config, tmp_path, display=Recorder(20, interrupt), track="listing")
    train(config, tmp_path, display=QUIET, resume=True, track="listing")
    assert [name for name, _ in calls].count("finish") == 2
    assert [values[0] for name, values in calls if name == "log"] == [15, 30, 45]


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_training_continues_without_a_tracker_that_fails(
    calls: list[tuple[str, Any]],
    fails: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Listing, "fails", fails)
    summary = train(SHORT, tmp_path, display=QUIET, track="listing")
    assert summary["status"] == "finished"
    assert caplog.messages == [
        "the tracker failed; training continues without it: no route to the server"
    ]


def test_a_tracker_that_does_not_start_leaves_nothing(
    calls: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Listing, "fails", "start")
    with pytest.raises(ValueError, match="no route to the server") as caught:
        train(SHORT, tmp_path / "run", display=QUIET, track="listing")
    assert one_line(caught.value).startswith("the tracker does not start: ")
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_unknown_tracker_or_a_missing_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ValueError, match=r"unknown tracker 'wand': did you mean wandb\? use one of .*mlflow"
    ):
        train(SHORT, tmp_path / "run", track="wand")
    monkeypatch.setattr(accelerate.tracking, "_available_trackers", [])
    with pytest.raises(ImportError, match="tracker wandb needs its package: pip install wandb"):
        compare(SHORT, tmp_path / "run", track="wandb")
    assert not (tmp_path / "run" / "comparison.json").exists()


def test_the_command_line_refuses_a_missing_package_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dirprune", "train", "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--track", "clearml"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "dirprune: tracker clearml needs its package: pip install clearml\n"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_mlflow_continues_its_run_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path}/server")
    with pytest.raises(Interrupted):
        train(SHORT, tmp_path / "run", display=Recorder(20, interrupt), track="mlflow")
    config = replace(SHORT, threads=1)  # MLflow refuses changed parameters; threads may change
    train(config, tmp_path / "run", display=QUIET, resume=True, track="mlflow")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "test_accuracy")
    assert [metric.step for metric in history] == [15, 30]
    assert run.data.params["method"] == "sgd"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_wandb_offline_tracks_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    compare(replace(SHORT, c=0.05), tmp_path, methods=["sgd", "grda"], seeds=[1], track="wandb")
    files = [path.parts[-5] for path in tmp_path.rglob("run-*.wandb")]
    assert sorted(files) == ["lr0.1-seed1"] * 2
