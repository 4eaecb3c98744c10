"""Interrupted runs, and the content of their folders."""

import errno
import json
import os
import random
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from short_runs import (
    QUIET,
    SHORT,
    STEPS,
    Recorder,
    interrupt,
    metrics,
    models_on_the_path,
    one_line,
    weights,
)

from dirprune._support.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from dirprune._support.files import naming_errors
from dirprune._support.lock import FolderInUse
from dirprune.train.config import TrainConfig
from dirprune.train.errors import Diverged, Interrupted
from dirprune.train.loop import train

own_models = pytest.fixture(autouse=True)(models_on_the_path)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "grda_momentum", "momentum": 0.9, "c": 0.02, "lr": 0.02},
        {"method": "grda", "c": 0.05, "validation": 0.2, "refresh_batchnorm": True},
        {"method": "sgd_momentum", "momentum": 0.9, "lr": 0.02, "schedule": "cosine"},
    ],
    ids=lambda options: str(options["method"]),
)
def test_a_repeatedly_interrupted_run_is_bit_identical(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    config = replace(SHORT, model="loop_models:noisy", epochs=4, **options)
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    expected = train(config, uninterrupted, display=QUIET)
    steps = expected["threshold_path"]["step"][-1] if expected["threshold_path"] else 4 * STEPS

    stops = sorted(random.Random(str(options)).sample(range(1, steps), 5))
    for i, stop in enumerate(stops):
        recorder = Recorder(stop, interrupt)
        with pytest.raises(Interrupted):
            train(config, interrupted, resume=i > 0, display=recorder)
        assert recorder.steps == list(range((stops[i - 1] if i else 0) + 1, stop + 1))
        assert json.loads((interrupted / "summary.json").read_text())["status"] == "interrupted"
    found = train(config, interrupted, resume=True, display=QUIET)

    original = (uninterrupted / "model.safetensors").read_bytes()
    assert (interrupted / "model.safetensors").read_bytes() == original
    assert metrics(interrupted) == metrics(uninterrupted)
    measured = ("seconds_per_epoch", "peak_memory_mib")
    assert {k: v for k, v in found.items() if k not in measured} == {
        k: v for k, v in expected.items() if k not in measured
    }


def test_a_killed_run_resumes_from_its_last_epoch(tmp_path: Path) -> None:
    class PowerCut(Exception):
        pass

    def cut() -> None:
        raise PowerCut

    for at, begins in ((7, 0), (STEPS + 5, 0), (STEPS + 9, STEPS)):
        recorder = Recorder(at, cut)
        with pytest.raises(PowerCut):
            train(SHORT, tmp_path / "cut", resume=at > 7, display=recorder)
        assert recorder.started[2] == begins
        assert recorder.stopped == 1
    # Killed after the line of the second epoch was written and before its checkpoint, and again in
    # the middle of a line.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 30, "seconds": 0.1}\n{"epoch": 3, "st')
    train(SHORT, tmp_path / "cut", resume=True, display=QUIET)
    train(SHORT, tmp_path / "uninterrupted", display=QUIET)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "uninterrupted")
    assert weights(tmp_path / "cut").keys() == weights(tmp_path / "uninterrupted").keys()
    for name, tensor in weights(tmp_path / "uninterrupted").items():
        assert torch.equal(weights(tmp_path / "cut")[name], tensor)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_states_how_to_resume(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    recorder = Recorder(3, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=r"after step 3.*--resume") as caught:
        train(SHORT, tmp_path / "run", display=recorder)
    assert str(tmp_path / "run") in one_line(caught.value)
    assert caught.value.out == tmp_path / "run"
    assert recorder.stopped == 1
    assert signal.getsignal(number) is before
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert checkpoint.name == "step-00000003.safetensors"


def test_a_second_signal_stops_immediately(tmp_path: Path) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(SHORT, tmp_path / "run", display=Recorder(3, twice))
    assert not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_during_the_last_step_does_not_undo_the_run(tmp_path: Path) -> None:
    summary = train(SHORT, tmp_path / "run", display=Recorder(2 * STEPS, interrupt))
    assert summary["status"] == "finished"


def test_a_run_interrupted_at_the_start_resumes_from_its_weights(tmp_path: Path) -> None:
    train(replace(SHORT, epochs=1, seed=9), tmp_path / "a", display=QUIET)
    start = str(tmp_path / "a" / "model.safetensors")
    config = replace(SHORT, epochs=1, start_from=start)
    train(config, tmp_path / "uninterrupted", display=QUIET)
    out = tmp_path / "run"
    shutil.copytree(tmp_path / "uninterrupted", out)
    shutil.rmtree(out / "checkpoints")
    (out / "summary.json").unlink()
    train(config, out, resume=True, display=QUIET)
    a, b = weights(tmp_path / "uninterrupted"), weights(out)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_last_good_checkpoint_is_kept_after_divergence(tmp_path: Path) -> None:
    config = replace(SHORT, model="loop_models:Mortal", epochs=3)
    with pytest.raises(Diverged, match=r"last good checkpoint is .*step-00000015\.safetensors"):
        train(config, tmp_path / "run", display=QUIET)
    (path,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    tensors, meta = load_checkpoint(path)
    assert meta["step"] == STEPS
    assert all(bool(t.isfinite().all()) for t in tensors.values())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("diverged", 1)
    assert summary["test_accuracy"] == metrics(tmp_path / "run")[-1]["test_accuracy"]
    with pytest.raises(ValueError, match="diverged"):
        train(config, tmp_path / "run", resume=True, display=QUIET)
    train(replace(config, epochs=1), tmp_path / "run", overwrite=True, display=QUIET)


def test_resuming_refuses_other_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(SHORT, out, display=Recorder(STEPS + 2, interrupt))
    with pytest.raises(ValueError, match=r"another config.*epochs was 2, now 3"):
        train(replace(SHORT, epochs=3), out, resume=True, display=QUIET)
    latest = list_checkpoints(out / "checkpoints")[-1]
    tensors, meta = load_checkpoint(latest)

    save_checkpoint(latest, tensors, meta | {"config": meta["config"] | {"seed": 5}})
    with pytest.raises(ValueError, match=r"step-00000017.*seed was 5, now 1"):
        train(SHORT, out, resume=True, display=QUIET)
    other = {n: t[:1] if n.startswith("model.") else t for n, t in tensors.items()}
    save_checkpoint(latest, other, meta)
    with pytest.raises(ValueError, match=r"step-00000017.*another model"):
        train(SHORT, out, resume=True, display=QUIET)
    latest.write_bytes(latest.read_bytes()[:-1])
    train(SHORT, tmp_path / "uninterrupted", display=QUIET)
    recorder = Recorder()
    assert train(SHORT, out, resume=True, display=recorder)["status"] == "finished"
    assert recorder.started[2] == STEPS  # the checkpoint before the damaged one
    assert str(latest) in caplog.text
    assert (out / "model.safetensors").read_bytes() == (
        tmp_path / "uninterrupted" / "model.safetensors"
    ).read_bytes()
    (out / "summary.json").unlink()
    for path in list_checkpoints(out / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-00000030.*delete it") as caught:
        train(SHORT, out, resume=True, display=QUIET)
    one_line(caught.value)


def test_resume_and_overwrite_check_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        train(SHORT, tmp_path / "run", resume=True, overwrite=True, display=QUIET)
    one = replace(SHORT, epochs=1)
    assert train(one, tmp_path / "run", resume=True, display=QUIET)["status"] == "finished"
    with pytest.raises(ValueError, match="holds another run"):
        train(SHORT, tmp_path / "run", display=QUIET)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").touch()
    with pytest.raises(ValueError, match="that dirprune did not write"):
        train(one, tmp_path / "other", resume=True, display=QUIET)


def test_a_locked_run_is_refused(tmp_path: Path) -> None:
    out, refused = tmp_path / "run", []

    def start_again() -> None:
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(FolderInUse, match=f"{out} is in use by process") as caught:
                train(replace(SHORT, epochs=1), out, display=QUIET, **options)
            refused.append(one_line(caught.value))

    train(SHORT, out, display=Recorder(STEPS + 1, start_again))
    assert len(refused) == 3
    train(SHORT, tmp_path / "alone", display=QUIET)
    assert metrics(out) == metrics(tmp_path / "alone")


@pytest.mark.parametrize("how", ["diverges", "interrupted twice"])
def test_a_failed_overwrite_keeps_the_old_run(tmp_path: Path, how: str) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    out = tmp_path / "run"
    train(replace(SHORT, epochs=1), out, display=QUIET)
    before = run_tree(out)
    if how == "diverges":
        with pytest.raises(Diverged, match="the earlier run is kept"):
            train(replace(SHORT, lr=1e20), out, overwrite=True, display=QUIET)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, out, overwrite=True, display=Recorder(3, twice))
    assert run_tree(out) == before


def test_a_folder_that_disappears_is_named_and_not_half_created(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=f"{out} was moved or deleted") as caught:
        train(SHORT, out, display=Recorder(STEPS + 1, lambda: out.rename(tmp_path / "moved")))
    one_line(caught.value)
    assert not out.exists()
    assert train(SHORT, tmp_path / "moved", resume=True, display=QUIET)["status"] == "finished"


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "run"
    recorder = Recorder(STEPS + 1, lambda: monkeypatch.setattr("os.fsync", full))
    with pytest.raises(OSError, match=rf"cannot write {out}/.*No space left.*make room") as caught:
        train(SHORT, out, display=recorder)
    one_line(caught.value)
    monkeypatch.undo()
    (tmp_path / "loop_models.py").touch()
    (latest,) = list_checkpoints(out / "checkpoints")
    assert load_checkpoint(latest)[1]["step"] == STEPS
    assert [p for p in out.rglob("*") if p.name.endswith(".part")] == []
    assert train(SHORT, out, resume=True, display=QUIET)["status"] == "finished"


def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(SHORT, tmp_path / "whole", display=QUIET)
    plain = os.fsync
    for first in (1, 2, 3, 4, 6, 9, 12):  # the first write that fails
        left = first

        def fsync(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            plain(descriptor)

        out = tmp_path / str(first)
        monkeypatch.setattr("os.fsync", fsync)
        with pytest.raises(OSError, match=rf"cannot write {out}/.*No space left") as caught:
            train(SHORT, out, display=QUIET)
        one_line(caught.value)
        monkeypatch.undo()
        (tmp_path / "loop_models.py").touch()
        assert not list(tmp_path.rglob("*.part"))
        train(SHORT, out, resume=True, display=QUIET)
        assert metrics(out) == metrics(tmp_path / "whole")
        ours, theirs = weights(out), weights(tmp_path / "whole")
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_full_disk_at_the_start_keeps_the_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "run"
    train(replace(SHORT, epochs=1), out, display=QUIET)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    with pytest.raises(OSError, match=r"cannot write .*events.* \(No space .*make room") as caught:
        train(SHORT, out, overwrite=True, display=QUIET)
    one_line(caught.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    assert not capfd.readouterr().err


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room or choose another folder"),
        (errno.EROFS, "choose another folder"),
        (errno.ENOTDIR, "choose another folder"),
    ],
)
def test_advice_fits_the_disk_error(number: int, advice: str) -> None:
    def fail() -> None:
        with naming_errors(Path("here")):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=rf"^cannot write here \({os.strerror(number)}\): {advice}$"):
        fail()


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_broken_streamed_image_keeps_the_run(tmp_path: Path, part: str) -> None:
    rng = np.random.default_rng(0)
    for path in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / "data" / path).mkdir(parents=True)
        for i in range(2):
            pixels = rng.integers(256, size=(70, 70, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / path / f"{i}.png")
    config = TrainConfig(
        data=f"imagefolder:{tmp_path / 'data'}", model="convnet", width=0.1, epochs=1, method="sgd"
    )
    broken = tmp_path / "data" / part / "b" / "1.png"
    uninterrupted = broken.read_bytes()
    broken.write_bytes(uninterrupted[:300])
    with pytest.raises(ValueError, match=r"broken image .*b/1\.png"):
        train(config, tmp_path / "new", display=QUIET)
    train(SHORT, tmp_path / "old", display=QUIET)
    before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="broken image"):
        train(config, tmp_path / "old", overwrite=True, display=QUIET)
    assert {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()} == before
    broken.write_bytes(uninterrupted)
    for name, overwrite in (("new", False), ("old", True)):
        summary = train(config, tmp_path / name, overwrite=overwrite, display=QUIET)
        assert summary["status"] == "finished"
        assert not (tmp_path / name / ".replaced").exists()


def run_tree(out: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
