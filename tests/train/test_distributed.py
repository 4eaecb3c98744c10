"""Training by two processes, started by torchrun, equals training by one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dirprune._support.checkpoint import list_checkpoints
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.loop import train
from dirprune.train.session import _was_meant_to_be_several, open_accelerator

# Trains with the given options and writes the results of this process to OUT.RANK.json and
# OUT.RANK.safetensors.
SCRIPT = """
import json, signal, sys
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from dirprune import GRDA
from dirprune.train import loop
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays

def normalised(num_classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(288, num_classes),
    )

class StopAt(Displays):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def step(self, number):
        if number == self.number:
            signal.raise_signal(signal.SIGTERM)

def main():
    steps, sessions = [], []
    plain_step, plain_open = GRDA.step, loop.open_session

    def step(self, closure=None):
        plain_step(self, closure)
        lrs = [group["lr"] for group in self.param_groups]
        steps.append([lrs, [state["n"] for state in self.state.values()], self.thresholds()])

    def open_session(*arguments):
        sessions.append(plain_open(*arguments))
        return sessions[-1]

    GRDA.step, loop.open_session = step, open_session
    for name, options in json.loads(sys.argv[1]).items():
        del steps[:]
        out, config = Path(sys.argv[2], name), TrainConfig(**options)
        stopped = None
        if name == "stopped":
            try:
                loop.train(config, out, display=StopAt(13))  # which the first process alone has
            except loop.Interrupted:
                stopped = len(steps)
        summary = loop.train(config, out, display=Displays(), resume=stopped is not None)
        session = sessions[-1]
        save_file(session.net.state_dict(), f"{out}.{session.rank}.safetensors")
        record = {"world": session.world, "steps": steps, "summary": summary, "stopped": stopped}
        Path(f"{out}.{session.rank}.json").write_text(json.dumps(record))
    sessions.clear()  # DDP's last reference: see disconnect_at_exit

if __name__ == "__main__":
    main()
"""

EXACT: dict[str, Any] = {
    "model": "mlp",
    "precision": "float64",
    "method": "grda_momentum",
    "momentum": 0.5,
    "c": 0.02,
    "epochs": 1,
    "device": "cpu",
}
NORMALISED: dict[str, Any] = {
    "model": "distributed_script:normalised",
    "method": "grda",
    "c": 0.05,
    "batch_size": 67,
    "epochs": 2,
    "device": "cpu",
}
RUNS = {
    # 1280 training images: 20 full batches
    "even": EXACT | {"validation": 157 / 1437, "batch_size": 64, "schedule": "cosine"},
    # 1437 images: slices of 33 and 34, and a last batch of 30
    "ragged": EXACT | {"batch_size": 67, "accumulation": 2},
    "planned": EXACT
    | {"epochs": 6, "batch_size": 480, "target_sparsity": 0.6, "keep_checkpoints": 2},
    "normalised": NORMALISED,
    "stopped": NORMALISED,
}


def run(folder: Path, processes: int) -> Path:
    script = folder / "distributed_script.py"
    script.write_text(SCRIPT)
    out = folder / f"by {processes}"
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command = [
        *[sys.executable, *(launcher if processes > 1 else [])],
        *([f"--master_port={port}"] if processes > 1 else []),
        *[str(script), json.dumps(RUNS), str(out)],
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, env=environment, cwd=folder, timeout=300, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("two"), 2)


def record(out: Path, name: str, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / f"{name}.{rank}.json").read_text())
    return found


def weights(out: Path, name: str, rank: int) -> dict[str, Tensor]:
    return load_file(out / f"{name}.{rank}.safetensors")


@pytest.mark.parametrize(
    ("sizes", "warned"), [({}, 1), ({"WORLD_SIZE": "1"}, 0), ({"OMPI_COMM_WORLD_SIZE": "2"}, 0)]
)
def test_a_launcher_that_starts_one_process_instead_of_two_is_reported(
    sizes: dict[str, str],
    warned: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500", **sizes}.items():
        monkeypatch.setenv(name, value)
    assert _was_meant_to_be_several() is bool(warned)
    if not sizes:
        open_accelerator(TrainConfig(device="cpu"))
    assert caplog.text.count("use torchrun --nproc_per_node N") == warned


@pytest.mark.parametrize("name", ["even", "ragged"])
@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_equal_one(one: Path, two: Path, name: str, rank: int) -> None:
    alone, shared = record(one, name, 0), record(two, name, rank)
    assert (alone["world"], shared["world"]) == (1, 2)
    assert shared["steps"] == alone["steps"]  # lr, n and g
    assert len(shared["steps"]) == (20 if name == "even" else 22)
    expected, found = weights(one, name, 0), weights(two, name, rank)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-10)
        assert torch.equal(found[key] == 0, tensor == 0)
    for figure in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "sparsity"):
        assert shared["summary"][figure] == pytest.approx(alone["summary"][figure], abs=1e-10)


@pytest.mark.parametrize("name", list(RUNS))
def test_processes_agree_bit_for_bit(two: Path, name: str) -> None:
    first, second = weights(two, name, 0), weights(two, name, 1)
    saved = load_file(two / name / "model.safetensors")
    assert first.keys() == second.keys() == saved.keys()
    for key, tensor in first.items():
        assert torch.equal(second[key], tensor), key
        assert torch.equal(saved[key], tensor), key
    assert record(two, name, 0)["summary"] == record(two, name, 1)["summary"]


def test_processes_reach_the_same_target(one: Path, two: Path) -> None:
    target = RUNS["planned"]["target_sparsity"]
    alone, shared = (record(out, "planned", 0)["summary"] for out in (one, two))
    assert abs(alone["zeros"] - target * alone["total"]) <= 0.5
    assert shared["zeros"] == alone["zeros"]
    assert shared["threshold"] == pytest.approx(alone["threshold"], rel=1e-6)


def test_one_process_writes(two: Path) -> None:
    lines = (two / "normalised" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert len(list((two / "normalised").glob("events.out.tfevents.*"))) == 1
    assert json.loads((two / "normalised" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("figure", ["test_accuracy", "validation_accuracy"])
def test_evaluation_counts_every_image_once(one: Path, two: Path, figure: str) -> None:
    found, expected = (
        json.loads((out / "even" / "metrics.jsonl").read_text())[figure] for out in (two, one)
    )
    assert found == pytest.approx(expected, abs=1e-12)


def test_all_processes_stop_together_and_resume_bit_identically(two: Path) -> None:
    steps = [record(two, "stopped", rank)["stopped"] for rank in (0, 1)]
    assert steps[0] == steps[1]
    assert 13 <= steps[0] < 44
    stopped, uninterrupted = (
        two / name / "model.safetensors" for name in ("stopped", "normalised")
    )
    assert stopped.read_bytes() == uninterrupted.read_bytes()


def before_the_last_epoch(run: Path, copy: Path) -> Path:
    """A copy of a run, as if its processes had been killed in the last epoch."""
    shutil.copytree(run, copy)
    for file in (list_checkpoints(copy / "checkpoints")[-1], copy / "summary.json"):
        file.unlink()
    (copy / "model.safetensors").unlink()
    return copy


def check_same_to_rounding(out: Path, uninterrupted: Path) -> None:
    found, expected = (load_file(run / "model.safetensors") for run in (out, uninterrupted))
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-10)
        assert torch.equal(found[key] == 0, tensor == 0)


def test_a_run_of_two_processes_resumes_on_one(two: Path, tmp_path: Path) -> None:
    out = before_the_last_epoch(two / "planned", tmp_path / "run")
    train(TrainConfig(**RUNS["planned"]), out, resume=True, display=Displays())
    check_same_to_rounding(out, two / "planned")


def torchrun(*words: str) -> "subprocess.Popen[str]":
    """Start the command line on two processes that may be restarted once."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--max-restarts", "1", "-m", "dirprune"]
    return subprocess.Popen(
        [*launcher, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_run_of_one_process_resumes_on_two(one: Path, tmp_path: Path) -> None:
    out = before_the_last_epoch(one / "planned", tmp_path / "run")
    config = str(out / "config.json")
    with torchrun("train", "--config", config, "-o", str(out), "--resume") as process:
        printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    check_same_to_rounding(out, one / "planned")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find a worker")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker_is_restarted_and_the_run_keeps_its_bits(
    two: Path, tmp_path: Path, rank: int
) -> None:
    """One command line; torchrun starts both workers again, and the run continues."""
    uninterrupted, out = two / "planned", tmp_path / "run"
    config = str(uninterrupted / "config.json")
    killed = 0
    with torchrun("train", "--config", config, "-o", str(out), "--resume") as process:
        while not (out / "checkpoints").exists() or not list_checkpoints(out / "checkpoints"):
            assert process.poll() is None
            time.sleep(0.001)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in map(int, children):
            if f"\0RANK={rank}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes():
                os.kill(pid, signal.SIGKILL)
                killed += 1
        printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert killed == 1
    # the lines of the epochs: it did not start again; the first may be lost with its worker
    assert printed.count(" 1/6 ") <= 1
    ours, theirs = (run / "model.safetensors" for run in (out, uninterrupted))
    assert ours.read_bytes() == theirs.read_bytes()
