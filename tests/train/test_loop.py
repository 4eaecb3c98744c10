import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
from torch import nn
from torch.optim import SGD

from dirprune._support.checkpoint import list_checkpoints
from dirprune._support.tensors import write_tensors
from dirprune.data.loading import load
from dirprune.models import build
from dirprune.train import loop
from dirprune.train.errors import Diverged, Interrupted, OutOfMemory
from dirprune.train.loop import train
from dirprune.train.resources import forward_flops
from dirprune.train.runs import RunFolder
from dirprune.train.schedule import learning_rates
from dirprune.train.session import open_session, restore_latest

own_models = pytest.fixture(autouse=True)(models_on_the_path)


def test_the_loop_equals_plain_sgd(tmp_path: Path) -> None:
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


def test_every_method_gets_the_same_data(tmp_path: Path) -> None:
    config = replace(SHORT, model="loop_models:noisy", epochs=1)
    train(config, tmp_path / "sgd", display=QUIET)
    train(replace(config, method="grda", c=0.0), tmp_path / "grda", display=QUIET)
    ours, theirs = weights(tmp_path / "grda"), weights(tmp_path / "sgd")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("chunks", [3, 100])
def test_accumulation_gives_the_same_result(tmp_path: Path, chunks: int) -> None:
    config = replace(SHORT, precision="float64", epochs=1)
    train(config, tmp_path / "full", display=QUIET)
    train(replace(config, accumulation=chunks), tmp_path / "chunks", display=QUIET)
    for name, tensor in weights(tmp_path / "full").items():
        torch.testing.assert_close(weights(tmp_path / "chunks")[name], tensor, rtol=0, atol=1e-12)


def test_a_finished_run_returns_its_summary(tmp_path: Path) -> None:
    summary = train(SHORT, tmp_path / "run", display=QUIET)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train(SHORT, tmp_path / "run", resume=True, display=QUIET) == summary
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_the_folder_has_the_documented_files(tmp_path: Path) -> None:
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
    for folder, message in (
        ("wrong", "x belongs to another model: 1 tensors differ, the first is extra"),
        ("none", "x is not a safetensors file"),
        ("missing", "missing/x"),
        ("folder", "folder/x is a folder"),
    ):
        mistaken = replace(config, start_from=str(tmp_path / folder / "x"))
        with pytest.raises((ValueError, OSError), match=message) as e:
            train(mistaken, tmp_path / "c", display=QUIET)
        one_line(e.value)
        assert not (tmp_path / "c").exists()


def test_refreshing_batchnorm_changes_statistics_only(tmp_path: Path) -> None:
    config = replace(SHORT, model="loop_models:noisy", epochs=1)
    train(config, tmp_path / "a", display=QUIET)
    train(replace(config, refresh_batchnorm=True), tmp_path / "b", display=QUIET)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert {"1.running_mean", "1.running_var"} <= changed
    assert changed <= {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_divergence_is_detected_within_the_epoch(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(Diverged, match=r"not finite.*smaller lr.*no checkpoint") as caught:
        train(replace(SHORT, lr=1e20), tmp_path / "run", display=recorder)
    one_line(caught.value)
    assert recorder.steps[-1] <= loop.CHECK_EVERY
    assert list_checkpoints(tmp_path / "run" / "checkpoints") == []
    assert not (tmp_path / "run" / "model.safetensors").exists()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["epochs"]) == ("diverged", 0)


def test_a_network_of_zeros_diverges(tmp_path: Path) -> None:
    config = replace(SHORT, method="grda", c=100.0)
    with pytest.raises(Diverged, match="every weight is zero"):
        train(config, tmp_path / "run", display=QUIET)
    dense_biases = replace(config, prune="weights")
    with pytest.raises(Diverged, match="every weight is zero"):
        train(dense_biases, tmp_path / "run", overwrite=True, display=QUIET)


@pytest.mark.filterwarnings("ignore:every entry of .* is zero:UserWarning")
def test_a_network_that_ignores_the_image_has_diverged(tmp_path: Path) -> None:
    config = replace(SHORT, method="sgd", epochs=4)
    weights = dict(open_session(config).net.state_dict())
    last = [name for name, tensor in weights.items() if tensor.dim() > 1][-1]
    blind = {n: torch.zeros_like(t) if n != last else t for n, t in weights.items()}
    write_tensors(tmp_path / "blind", blind)
    begun = replace(config, start_from=str(tmp_path / "blind"))
    with pytest.raises(Diverged, match=r"every image gets the same scores.*no checkpoint"):
        train(begun, tmp_path / "run", display=QUIET)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_too_little_memory_gives_one_line(tmp_path: Path, error: Exception) -> None:
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
        ({"device": "cuda"}, "device 'cuda' is not available"),
        ({"device": "tpu"}, "device 'tpu' is not available: use auto or cpu"),
        ({"device": "cpu", "precision": "float16"}, "float16 needs a GPU"),
        ({"method": "adam"}, "unknown method 'adam'"),
        ({"model": "vgg1"}, "unknown model"),
        ({"data": "digit"}, "unknown data"),
    ],
)
def test_bad_input_is_refused_without_writing(
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


@pytest.mark.parametrize("options", [{"precision": "bfloat16"}, {"channels_last": False}])
def test_precision_and_memory_format_change_little(
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
    restore_latest(session, RunFolder(tmp_path / "run").checkpoints)
    convolution = session.net[0]  # type: ignore[index]
    assert isinstance(convolution, nn.Conv2d)
    state = session.optimizer.state[convolution.weight]
    assert state["v"].stride() == convolution.weight.stride()
