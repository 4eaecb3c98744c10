"""Several processes train like one: runs the checks of scripts/equivalence.py."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from dirprune import GRDA
from scripts import equivalence

QUICK = ["ddp", "fsdp", "fsdp_adopts", "post_local_sgd", "zero_redundancy"]
SLOW = [
    "ddp_compiled",
    "ddp_tied_frozen_late_intermittent",
    "ddp_with_a_scaler",
    "distributed_checkpoint",
    "fsdp_compiled",
    "fsdp_mixed_precision",
    "fsdp_tied_frozen_late_intermittent",
    "tensor_parallel",
]
BY_FOUR = [
    "ddp",
    "ddp_tied_frozen_late_intermittent",
    "distributed_checkpoint",
    "fsdp",
    "post_local_sgd",
    "sharded_and_replicated",
    "sharded_in_two_dimensions",
    "tensor_parallel",
    "zero_redundancy",
]


def launch(folder: Path, world: int, names: Sequence[str]) -> Path:
    """Run checks in new processes; each writes a file per check, empty if the check passed."""
    script = Path(equivalence.__file__)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world)}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(script.parents[1])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder), *names],
            env=environment | {"RANK": str(rank)},
        )
        for rank in range(world)
    ]
    try:
        for process in processes:
            process.wait(600)
    finally:
        for process in processes:
            process.kill()
    return folder


def assert_passed(folder: Path, name: str, world: int) -> None:
    for rank in range(world):
        file = folder / f"{name}.{rank}.of.{world}"
        assert file.exists(), f"process {rank} ended before {name}"
        assert not file.read_text(), file.read_text()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("quick"), 2, QUICK)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch(tmp_path_factory.mktemp("slow"), 2, SLOW)


@pytest.fixture(scope="module")
def by_four(slow: Path) -> Path:
    """Four processes in the same folder, with the checkpoints saved by two processes."""
    return launch(slow, 4, BY_FOUR)


@pytest.mark.parametrize("name", QUICK)
def test_two_processes(name: str, quick: Path) -> None:
    assert_passed(quick, name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_two_processes_slow(name: str, slow: Path) -> None:
    assert_passed(slow, name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_FOUR)
def test_four_processes(name: str, by_four: Path) -> None:
    assert_passed(by_four, name, 4)


def test_every_check_is_run() -> None:
    assert set(QUICK) | set(SLOW) | set(BY_FOUR) == set(equivalence.CHECKS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", equivalence.MAKERS)
def test_one_process_loads_a_checkpoint_of_two(name: str, slow: Path) -> None:
    ours, theirs = equivalence.plain(), equivalence.plain()
    a, b = (equivalence.MAKERS[name](net) for net in (ours, theirs))
    equivalence.load_checkpoint(ours, a, slow / name)
    steps = range(equivalence.SAVED_AFTER, equivalence.STEPS)
    equivalence.train(ours, a, lambda x: x, steps)
    equivalence.train(theirs, b, lambda x: x)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)
        assert torch.equal(p == 0, q == 0)


def test_an_optimizer_for_each_parameter_in_a_backward_hook() -> None:
    ours, theirs = equivalence.Awkward(), equivalence.Awkward()
    options = {"lr": 0.1, "c": 0.05, "momentum": 0.9}
    trained = [p for p in ours.parameters() if p.requires_grad]
    optimizers = {p: GRDA([p], **options) for p in trained}

    def step(p: nn.Parameter) -> None:
        optimizers[p].step()
        p.grad = None

    for p in trained:
        p.register_post_accumulate_grad_hook(step)
    single = GRDA(theirs.parameters(), **options)
    for n in range(equivalence.STEPS):
        ours.step = n
        ours(equivalence.batch(n)).square().mean().backward()
    equivalence.train(theirs, single, lambda x: x)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        assert torch.equal(p, q)
        if p.requires_grad:
            assert optimizers[p].state[p]["n"] == single.state[q]["n"]
