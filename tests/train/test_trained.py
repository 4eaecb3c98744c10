"""Networks from run folders, which may come from untrusted sources."""

import json
from pathlib import Path

import pytest

from dirprune._support.files import read_json, write_json
from dirprune.cli import main
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.loop import train
from dirprune.train.trained import read_trained_config, trained_network

MODEL = """
from pathlib import Path
from torch import nn

Path("executed").touch()

def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose config names code in the working directory, not yet executed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    train(TrainConfig(model="mlp", epochs=1), "run", display=Displays())
    (tmp_path / "foreign_model.py").write_text(MODEL)
    record = read_json(Path("run/config.json"))
    record["config"]["model"] = "foreign_model:net"
    write_json(Path("run/config.json"), record)
    return Path("run")


@pytest.mark.parametrize(
    "command",
    [
        ["export", "run", "--out", "net.dpz"],
        ["landscape", "run", "run", "--out", "survey"],
        ["report", "run", "--out", "report.html"],
    ],
    ids=lambda command: command[0],
)
def test_a_foreign_run_executes_no_code(
    run: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(command)
    if command[0] != "report":
        assert status == 2
        assert "building it runs code: give --trust-model" in capsys.readouterr().err
    assert not Path("executed").exists()


def test_with_consent_the_model_is_built(run: Path) -> None:
    with pytest.raises(ValueError, match="trust_model=True"):
        trained_network(run)
    with pytest.raises(ValueError, match="belongs to another model"):  # the weights are an mlp's
        trained_network(run, trust_model=True)
    assert Path("executed").exists()


@pytest.mark.parametrize("change", [{"mu": 7}, {"epochs": "three"}, {"lr_steps": 3}])
def test_damaged_fields_are_named(run: Path, change: dict[str, object]) -> None:
    path = run / "config.json"
    record = json.loads(path.read_text())
    record["config"] |= change
    write_json(path, record)
    with pytest.raises(ValueError, match=r"config\.json: .*damaged"):
        read_trained_config(run, trust_model=True)
