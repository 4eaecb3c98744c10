"""Files of version 0.1 can be read: runs, checkpoints, networks, optimizer states."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dirprune import GRDA
from dirprune.cli import main
from dirprune.deploy import load

FIXTURES = Path(__file__).parent / "fixtures" / "v0_1"
# The weights were recorded on another processor, which sums in another order.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def test_an_optimizer_state_continues_identically() -> None:
    saved = torch.load(FIXTURES / "optimizer.pt", weights_only=True)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    net.load_state_dict(saved["weights"])
    weights, biases = [net[0].weight, net[2].weight], [net[0].bias, net[2].bias]
    optimizer = GRDA(
        [{"params": weights}, {"params": biases, "c": 0.0}], lr=0.1, c=0.2, mu=0.6, momentum=0.5
    )
    optimizer.load_state_dict(saved["optimizer"])
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(saved["x"]), saved["y"]).backward()
        optimizer.step()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, saved["after"][name])
        assert torch.equal(value == 0, saved["after"][name] == 0)


def test_weights_of_a_network_are_read() -> None:
    saved = torch.load(FIXTURES / "optimizer.pt", weights_only=True)
    weights = load(FIXTURES / "weights.dpz")
    assert weights.keys() == saved["after"].keys()
    assert all(torch.equal(value, saved["after"][name]) for name, value in weights.items())


def test_a_network_is_read_with_the_weights_of_its_run() -> None:
    net = load(FIXTURES / "network.dpz")
    trained = load_file(FIXTURES / "run" / "model.safetensors")
    nonzeros = sum(int(p.count_nonzero()) for p in net.parameters())
    assert 0 < nonzeros <= sum(int(t.count_nonzero()) for t in trained.values())
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(FIXTURES / "run", run)
    finished = load_file(run / "model.safetensors")
    (run / "summary.json").unlink()
    (run / "model.safetensors").unlink()
    max((run / "checkpoints").iterdir()).unlink()
    options = [
        "--data",
        "digits",
        "--model",
        "mlp",
        "--width",
        "0.05",
        "--epochs",
        "4",
        "--c",
        "0.05",
        "--mu",
        "0.6",
    ]
    assert main(["train", *options, "--out", str(run), "--resume"]) == 0
    for name, value in load_file(run / "model.safetensors").items():
        torch.testing.assert_close(value, finished[name], **CLOSE)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "run", "--out", "out/net.dpz"],
        ["report", "run", "--out", "out/report.html"],
        [
            "report",
            "comparison/sgd/lr0.1-seed1",
            "comparison/grda/lr0.1-seed1",
            "--out",
            "out/r.html",
        ],
        ["report", "landscape", "--out", "out/landscape.html"],
    ],
    ids=" ".join,
)
def test_folders_are_read_by_the_command_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(FIXTURES, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    assert main(command) == 0
    assert Path(command[-1]).stat().st_size > 1000
