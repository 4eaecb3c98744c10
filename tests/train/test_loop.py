import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import SGD

from dirprune._support.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from dirprune._support.files import naming_errors
from dirprune._support.lock import FolderInUse
from dirprune._support.tensors import write_tensors
from dirprune.data.loading import load
from dirprune.models import build
from dirprune.train import loop
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Diverged, Interrupted, OutOfMemory
from dirprune.train.loop import train
from dirprune.train.resources import forward_flops
from dirprune.train.runs import RunFolder
from dirprune.train.schedule import learning_rates
from dirprune.train.session import open_session

QUIET = Displays()
SHORT = TrainConfig(model="mlp", epochs=2, batch_size=100, method="sgd")
STEPS = 15  # in an epoch: 1437 images, the last batch has 37

MODELS = """
import torch
from torch import nn

def noisy(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(288, num_classes),
    )

class Mortal(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.linear = nn.Linear(64, num_classes)
        self.register_buffer("age", torch.zeros(()))

    def forward(self, x):
        self.age += self.training
        return self.linear(x.flatten(1)) * (float("nan") if self.age > 20 else 1.0)
"""


@pytest.fixture(autouse=True)
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop_models.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))


class Recorder:
    """A display that remembers what it is told and may act at some step."""

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None) -> None:
        self.at, self.act = at, act
        self.steps: list[int] = []
        self.epochs: list[Mapping[str, Any]] = []
        self.stopped = 0

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        self.started = (total, steps_per_epoch, step)

    def step(self, step: int) -> None:
        self.steps.append(step)
        if step == self.at:
            self.act()

    def epoch(self, record: Mapping[str, Any]) -> None:
        self.epochs.append(record)

    def stop(self) -> None:
        self.stopped += 1


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model.safetensors")


def metrics(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_the_loop_is_plain_sgd(tmp_path: Path) -> None:
    config = replace(
        SHORT, method="sgd_momentum", momentum=0.9, weight_decay=1e-3, precision="float64"
    )
    train(config, tmp_path / "run", display=QUIET)

    data = load(
        config.data, validation=config.validation, seed=config.seed, augment=config.augment
    )
    torch.manual_seed(config.seed)
    model = build("mlp", num_classes=10, channels=1, size=(8, 8)).double()
    optimizer = SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=1e-3)
    rates = iter(learning_rates(config, STEPS))
    for epoch in range(config.epochs):
        losses = []
        for x, y in data.train.batches(100, seed=config.seed, epoch=epoch, shuffle=True):
            optimizer.param_groups[0]["lr"] = next(rates)
            loss = F.cross_entropy(model(x.double()), y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append((loss.item(), len(y)))
    for name, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=1e-12)

    last = metrics(tmp_path / "run")[-1]
    assert last["train_loss"] == pytest.approx(sum(a * b for a, b in losses) / 1437, abs=1e-12)
    ((x, y),) = data.test.batches(1000)
    scores = model(x.double()).detach()
    assert last["test_loss"] == pytest.approx(float(F.cross_entropy(scores, y)), abs=1e-12)
    assert last["test_accuracy"] == pytest.approx(float((scores.argmax(1) == y).double().mean()))


def test_every_method_sees_the_same(tmp_path: Path) -> None:
    config = replace(SHORT, model="loop_models:noisy", epochs=1)
    train(config, tmp_path / "sgd", display=QUIET)
    train(replace(config, method="grda", c=0.0), tmp_path / "grda", display=QUIET)
    ours, theirs = weights(tmp_path / "grda"), weights(tmp_path / "sgd")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("pieces", [3, 100])
def test_accumulation_changes_nothing(tmp_path: Path, pieces: int) -> None:
    config = replace(SHORT, precision="float64", epochs=1)
    train(config, tmp_path / "whole", display=QUIET)
    train(replace(config, accumulation=pieces), tmp_path / "pieces", display=QUIET)
    for name, tensor in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "pieces")[name], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "grda_momentum", "momentum": 0.9, "c": 0.02, "lr": 0.02},
        {"method": "grda", "c": 0.05, "validation": 0.2, "refresh_batchnorm": True},
        {"method": "sgd_momentum", "momentum": 0.9, "lr": 0.02, "schedule": "cosine"},
    ],
    ids=lambda options: str(options["method"]),
)
def test_a_run_that_is_stopped_again_and_again_ends_in_the_same_bits(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    config = replace(SHORT, model="loop_models:noisy", epochs=4, **options)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    expected = train(config, whole, display=QUIET)
    steps = expected["threshold_path"]["step"][-1] if expected["threshold_path"] else 4 * STEPS

    stops = sorted(random.Random(str(options)).sample(range(1, steps), 5))
    for i, stop in enumerate(stops):
        recorder = Recorder(stop, interrupt)
        with pytest.raises(Interrupted):
            train(config, pieces, resume=i > 0, display=recorder)
        assert recorder.steps == list(range((stops[i - 1] if i else 0) + 1, stop + 1))
        assert json.loads((pieces / "summary.json").read_text())["status"] == "interrupted"
    found = train(config, pieces, resume=True, display=QUIET)

    original = (whole / "model.safetensors").read_bytes()
    assert (pieces / "model.safetensors").read_bytes() == original
    assert metrics(pieces) == metrics(whole)
    measured = ("seconds_per_epoch", "peak_memory_mib")
    assert {k: v for k, v in found.items() if k not in measured} == {
        k: v for k, v in expected.items() if k not in measured
    }


def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
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
    # Died after the line of the second epoch was written, before its checkpoint, and then once
    # more in the middle of a line.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "step": 30, "seconds": 0.1}\n{"epoch": 3, "st')
    train(SHORT, tmp_path / "cut", resume=True, display=QUIET)
    train(SHORT, tmp_path / "whole", display=QUIET)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert weights(tmp_path / "cut").keys() == weights(tmp_path / "whole").keys()
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(weights(tmp_path / "cut")[name], tensor)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_says_how_to_go_on(tmp_path: Path, number: int) -> None:
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


def test_a_second_signal_is_not_waited_for(tmp_path: Path) -> None:
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


def test_a_finished_run_returns_its_summary(tmp_path: Path) -> None:
    summary = train(SHORT, tmp_path / "run", display=QUIET)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train(SHORT, tmp_path / "run", resume=True, display=QUIET) == summary
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_the_folder_holds_what_the_report_reads(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recorder = Recorder()
    config = replace(SHORT, method="grda", c=0.05, validation=0.1, keep_checkpoints=1)
    summary = train(config, out, display=recorder)
    assert json.loads((out / "summary.json").read_text()) == summary
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert recorder.epochs == lines
    steps = recorder.started[1]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, steps), (2, 2 * steps)]

    model = weights(out)
    zeros = sum(int((tensor == 0).sum()) for tensor in model.values())
    total = sum(tensor.numel() for tensor in model.values())
    assert (summary["zeros"], summary["total"]) == (zeros, total)
    assert lines[-1]["sparsity"] == summary["sparsity"] == zeros / total
    assert sum(layer["zeros"] for layer in summary["layers"]) == zeros
    path = summary["threshold_path"]
    assert path["step"][-1] == 2 * steps
    assert path["g"][-1] == pytest.approx(summary["threshold"], rel=1e-12)
    assert path["g"] == sorted(path["g"])
    for kind in ("weights", "accumulators"):
        assert sum(summary["histograms"][kind]["counts"]) == total
    assert summary["weights_bytes"] == (out / "model.safetensors").stat().st_size
    assert 0 < summary["weights_zstd_bytes"] < summary["weights_bytes"]
    assert summary["peak_memory_mib"] > 50

    accuracies = [line["validation_accuracy"] for line in lines]
    best = accuracies.index(max(accuracies)) + 1
    assert summary["best"]["epoch"] == best
    kept = {int(p.stem.removeprefix("step-")) for p in list_checkpoints(out / "checkpoints")}
    assert kept == {best * steps, 2 * steps}
    assert len(list(out.glob("events.out.tfevents.*"))) == 1


def test_the_same_start_with_other_batches(tmp_path: Path) -> None:
    at_rest = replace(SHORT, epochs=1, lr=1e-30)
    moving = replace(SHORT, model="loop_models:noisy", epochs=1)
    for name, config in (
        ("start", at_rest),
        ("same start", replace(at_rest, batch_seed=7)),
        ("end", moving),
        ("same end", replace(moving, batch_seed=1)),
        ("other end", replace(moving, batch_seed=7)),
    ):
        train(config, tmp_path / name, display=QUIET)
    for pair, equal in (
        (("start", "same start"), True),
        (("end", "same end"), True),
        (("end", "other end"), False),
    ):
        a, b = (weights(tmp_path / name) for name in pair)
        assert all(torch.equal(a[name], b[name]) for name in a) is equal


def test_weights_to_start_from(tmp_path: Path) -> None:
    first = train(replace(SHORT, epochs=1), tmp_path / "a", display=QUIET)
    start = tmp_path / "a" / "model.safetensors"
    config = replace(SHORT, epochs=1, lr=1e-30, seed=9, start_from=str(start))
    again = train(config, tmp_path / "b", display=QUIET)
    assert again["test_loss"] == pytest.approx(first["test_loss"], rel=1e-6)
    for name in ("wrong", "none", "folder/x"):
        (tmp_path / name).mkdir(parents=True)
    write_tensors(tmp_path / "wrong" / "x", weights(tmp_path / "a") | {"extra": torch.ones(1)})
    (tmp_path / "none" / "x").write_text("no weights")
    for folder, told in (
        ("wrong", "x: of another model, 1 tensors differ, first extra"),
        ("none", "x is not a safetensors file"),
        ("missing", "missing/x"),
        ("folder", "folder/x is a folder"),
    ):
        mistaken = replace(config, start_from=str(tmp_path / folder / "x"))
        with pytest.raises((ValueError, OSError), match=told) as e:
            train(mistaken, tmp_path / "c", display=QUIET)
        one_line(e.value)
        assert not (tmp_path / "c").exists()


def test_a_run_stopped_at_once_still_starts_from_its_weights(tmp_path: Path) -> None:
    train(replace(SHORT, epochs=1, seed=9), tmp_path / "a", display=QUIET)
    start = str(tmp_path / "a" / "model.safetensors")
    config = replace(SHORT, epochs=1, start_from=start)
    train(config, tmp_path / "whole", display=QUIET)
    out = tmp_path / "run"
    shutil.copytree(tmp_path / "whole", out)
    shutil.rmtree(out / "checkpoints")
    (out / "summary.json").unlink()
    train(config, out, resume=True, display=QUIET)
    a, b = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_refreshing_batchnorm_changes_statistics_only(tmp_path: Path) -> None:
    config = replace(SHORT, model="loop_models:noisy", epochs=1)
    train(config, tmp_path / "a", display=QUIET)
    train(replace(config, refresh_batchnorm=True), tmp_path / "b", display=QUIET)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert {"1.running_mean", "1.running_var"} <= changed
    assert changed <= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_divergence_is_noticed_within_the_epoch(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(Diverged, match=r"not finite.*smaller lr.*no checkpoint") as caught:
        train(replace(SHORT, lr=1e20), tmp_path / "run", display=recorder)
    one_line(caught.value)
    assert recorder.steps[-1] <= loop.CHECK_EVERY
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []
    assert not (tmp_path / "run" / "model.safetensors").exists()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("diverged", 0)


def test_the_last_good_checkpoint_outlives_divergence(tmp_path: Path) -> None:
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


def test_a_network_of_zeros_is_noticed(tmp_path: Path) -> None:
    config = replace(SHORT, method="grda", c=100.0)
    with pytest.raises(Diverged, match="every weight is zero"):
        train(config, tmp_path / "run", display=QUIET)
    dense_biases = replace(config, prune="weights")
    with pytest.raises(Diverged, match="every weight is zero"):
        train(dense_biases, tmp_path / "run", overwrite=True, display=QUIET)


@pytest.mark.filterwarnings("ignore:every entry of .* is zero:UserWarning")
def test_a_network_that_no_longer_looks_at_the_image_diverged(tmp_path: Path) -> None:
    config = replace(SHORT, method="sgd", epochs=4)
    weights = dict(open_session(config).net.state_dict())
    last = [name for name, tensor in weights.items() if tensor.dim() > 1][-1]
    blind = {n: torch.zeros_like(t) if n != last else t for n, t in weights.items()}
    write_tensors(tmp_path / "blind", blind)
    begun = replace(config, start_from=str(tmp_path / "blind"))
    with pytest.raises(Diverged, match=r"every image gets the same scores.*no checkpoint"):
        train(begun, tmp_path / "run", display=QUIET)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


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
    train(SHORT, tmp_path / "whole", display=QUIET)
    recorder = Recorder()
    assert train(SHORT, out, resume=True, display=recorder)["status"] == "finished"
    assert recorder.started[2] == STEPS  # the checkpoint before the damaged one
    assert str(latest) in caplog.text
    assert (out / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()
    (out / "summary.json").unlink()
    for path in list_checkpoints(out / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-00000030.*delete it") as caught:
        train(SHORT, out, resume=True, display=QUIET)
    one_line(caught.value)


def test_resume_and_overwrite_need_each_their_own_kind_of_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        train(SHORT, tmp_path / "run", resume=True, overwrite=True, display=QUIET)
    one = replace(SHORT, epochs=1)
    assert train(one, tmp_path / "run", resume=True, display=QUIET)["status"] == "finished"
    with pytest.raises(ValueError, match="holds another run"):
        train(SHORT, tmp_path / "run", display=QUIET)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").touch()
    with pytest.raises(ValueError, match="of no run of dirprune"):
        train(one, tmp_path / "other", resume=True, display=QUIET)


def run_tree(out: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_run_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
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
def test_an_overwrite_that_comes_to_nothing_keeps_the_old_run(tmp_path: Path, how: str) -> None:
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


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_too_little_memory_is_said_in_one_line(tmp_path: Path, error: Exception) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(OutOfMemory, match="batch_size 100: use a smaller batch_size") as caught:
        train(SHORT, tmp_path / "run", display=Recorder(3, fail))
    one_line(caught.value)


def test_threads_follow_the_option_or_the_network(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []
    for config in (SHORT, replace(SHORT, threads=3)):
        look = Recorder(1, lambda: seen.append(torch.get_num_threads()))
        train(replace(config, epochs=1), tmp_path / str(config.threads), display=look)
    assert seen == [min(2, before), 3]
    assert torch.get_num_threads() == before


def test_a_larger_network_gets_more_threads() -> None:
    per_image = forward_flops(open_session(replace(SHORT, model="resnet20")))
    fine = open_session(replace(SHORT, model="mlp"))
    assert forward_flops(fine) == 2 * (64 * 512 + 512 * 10)
    assert per_image > 30 * forward_flops(fine)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "device 'cuda' is not there"),
        ({"device": "tpu"}, "device 'tpu' is not there: take auto or cpu"),
        ({"device": "cpu", "precision": "float16"}, "float16 needs a GPU"),
        ({"method": "adam"}, "unknown method 'adam'"),
        ({"model": "vgg1"}, "unknown model"),
        ({"data": "digit"}, "unknown data"),
    ],
)
def test_bad_input_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "run"
    train(replace(SHORT, epochs=1), out, display=QUIET)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=message) as caught:
        train(replace(SHORT, **options), out, overwrite=True, display=QUIET)
    one_line(caught.value)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


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


def test_a_disk_that_is_full_from_the_start_costs_no_run(
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
def test_advice_fits_what_is_wrong_with_the_disk(number: int, advice: str) -> None:
    def fail() -> None:
        with naming_errors(Path("here")):
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=rf"^cannot write here \({os.strerror(number)}\): {advice}$"):
        fail()


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("part", ["train", "val"])
def test_a_broken_image_of_streamed_data_costs_no_run(tmp_path: Path, part: str) -> None:
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
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"broken image .*b/1\.png"):
        train(config, tmp_path / "new", display=QUIET)
    train(SHORT, tmp_path / "old", display=QUIET)
    before = {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="broken image"):
        train(config, tmp_path / "old", overwrite=True, display=QUIET)
    assert {p: p.read_bytes() for p in (tmp_path / "old").rglob("*") if p.is_file()} == before
    broken.write_bytes(whole)
    for name, overwrite in (("new", False), ("old", True)):
        summary = train(config, tmp_path / name, overwrite=overwrite, display=QUIET)
        assert summary["status"] == "finished"
        assert not (tmp_path / name / ".replaced").exists()


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"channels_last": False}])
def test_precision_and_memory_format_hardly_matter(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    config = replace(SHORT, model="loop_models:noisy")
    expected = train(config, tmp_path / "a", display=QUIET)
    found = train(replace(config, **options), tmp_path / "b", display=QUIET)
    assert found["test_loss"] == pytest.approx(expected["test_loss"], abs=0.05)
    assert all(t.dtype in (torch.float32, torch.int64) for t in weights(tmp_path / "b").values())


@pytest.mark.parametrize(("width", "last"), [(0.25, False), (1.0, True)])
def test_narrow_shortcuts_stay_out_of_channels_last(width: float, last: bool) -> None:
    session = open_session(replace(SHORT, model="resnet20", width=width))
    assert (session.memory_format == torch.channels_last) is last


def test_parameters_keep_their_memory_format_when_resumed(tmp_path: Path) -> None:
    config = replace(SHORT, model="loop_models:noisy", method="grda", c=0.01)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", display=Recorder(5, interrupt))
    session = open_session(config)
    loop._resume(session, RunFolder(tmp_path / "run"))
    convolution = session.net[0]  # type: ignore[index]
    assert isinstance(convolution, nn.Conv2d)
    state = session.optimizer.state[convolution.weight]
    assert state["v"].stride() == convolution.weight.stride()
