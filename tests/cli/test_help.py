"""Help is complete and readable, and the command that `tune` recommends is one."""

import shlex
from functools import partial

import pytest

from dirprune import cli
from dirprune.cli import commands
from dirprune.cli.options import given_options
from dirprune.cli.parsing import parse
from dirprune.train.config import TrainConfig


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_is_complete(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert "--out" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_help_fits_into_a_narrow_terminal_and_shows_no_none(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert cli.main([*filter(None, [command]), "--help"]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if len(line) > 50] == []
    assert "None" not in printed


def test_the_command_that_tune_recommends_has_all_settings() -> None:
    config = TrainConfig(
        data="imagefolder:/a folder", augment=False, mu=0.51, c=0.01, momentum=0.9, nesterov=True,
        schedule="steps", lr_steps=(0.5, 0.75), batch_seed=3, prune="weights",
    )  # fmt: skip
    command = parse(["train", "--out", "RUN", *shlex.split(given_options(config))])
    assert isinstance(command, partial)
    assert command.keywords["config"] == config
