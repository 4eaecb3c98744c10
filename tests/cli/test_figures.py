"""The command of the paper's figures gives each of its three runs the options that are for it."""

import json
from pathlib import Path

import pytest

from dirprune import cli
from dirprune.cli import figures as command
from dirprune.survey.config import SurveyConfig
from dirprune.train import loop
from dirprune.train.config import TrainConfig
from dirprune.train.errors import Interrupted

QUICK = ["figures", "--model", "mlp", "--width", "0.1", "--epochs", "1"]
SMALL = SurveyConfig("hessian", samples=20, test_samples=20, eigenvectors=1, steps=2, probes=1)


@pytest.fixture
def small_landscape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SKETCH", SMALL)


@pytest.mark.usefixtures("small_landscape")
@pytest.mark.parametrize(
    ("options", "methods", "expected"),
    [
        (["--target-sparsity", "0.5", "--power", "3"], ("sgd", "grda"), [(None, None), (0.5, 3)]),
        (["--momentum", "0.5"], ("sgd_momentum", "grda_momentum"), [(None, None)] * 2),
    ],
)
def test_options_of_grda_are_for_grda_and_momentum_is_for_all(
    options: list[str],
    methods: tuple[str, str],
    expected: list[tuple[float | None, float | None]],
    tmp_path: Path,
) -> None:
    assert cli.main([*QUICK, *options, "--out", str(tmp_path)]) == 0
    dense, sparse, control = (
        json.loads((tmp_path / name / "config.json").read_text())["config"]
        for name in ("sgd", "grda", "sgd-2")
    )
    assert (dense["method"], sparse["method"]) == methods
    assert [(run["target_sparsity"], run["power"]) for run in (dense, sparse)] == expected
    assert control == dense | {"batch_seed": 2}
    assert (tmp_path / "landscape" / "report.html").is_file()


@pytest.mark.usefixtures("small_landscape")
def test_a_model_that_the_command_line_names_is_trusted_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_figures_model.py").write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["figures", "--model", "own_figures_model:build", "--epochs", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("name", ["config.json", "comparison.json", "landscape.json", "tune.json"])
def test_commands_keep_what_other_commands_wrote(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("{}")
    own = {"landscape": "landscape.json", "compare": "comparison.json", "tune": "tune.json"}
    short = ["--model", "mlp", "--epochs", "1"]
    for words in (
        *(QUICK, ["landscape", "a", "b"], ["train", *short], ["tune", *short]),
        ["compare", *short, "--methods", "sgd"],
    ):
        if name != own.get(words[0]):
            assert cli.main([*words, "--out", str(tmp_path)]) == 2
            assert "choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_figures_without_zeros_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*QUICK, "--c", "0", "--out", str(tmp_path / "out")]) == 2
    assert "give a --c above 0, or a --target-sparsity" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interrupted_figures_say_how_they_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: TrainConfig, out: Path, **options: object) -> None:
        raise Interrupted(out, 3)

    monkeypatch.setattr(loop, "train", interrupted)
    assert cli.main([*QUICK, "--out", str(tmp_path)]) == 130
    assert f"saved in {tmp_path}: run the same command again" in capsys.readouterr().err
