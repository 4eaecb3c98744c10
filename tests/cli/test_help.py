"""Help is complete and readable, and the command that `tune` recommends is one."""

import io
import re
import shlex
from contextlib import redirect_stdout
from functools import partial

import pytest

from dirprune import cli
from dirprune.cli import commands
from dirprune.cli.options import GROUPS, given_options
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


def help_of(command: str, columns: int) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        printed = io.StringIO()
        with redirect_stdout(printed):
            assert cli.main([*filter(None, [command]), "--help"]) == 0
    return printed.getvalue()


@pytest.mark.parametrize("command", ["", *commands.COMMANDS])
def test_no_word_is_broken_in_a_narrow_terminal(command: str) -> None:
    narrow, wide = (set(re.split(r"[\s,│]+", help_of(command, columns))) for columns in (50, 400))
    assert {word for word in narrow - wide if not set(word) <= set("╭╮╰╯─-")} == set()


@pytest.mark.parametrize("command", ["train", "compare", "tune", "figures"])
def test_options_are_in_groups_and_named_as_they_are_given(command: str) -> None:
    text = help_of(command, 100)
    for option in ("--recipe", "--config"):
        assert re.search(rf"^[│ ]*{option} ", text, re.MULTILINE)
    for group in GROUPS:
        assert f"{group} options" in text
    fields = {name for name in TrainConfig.__dataclass_fields__ if "_" in name}
    assert fields & set(re.findall(r"\w+", text)) == set()
    assert "Whether" not in text


def test_the_list_of_commands_has_the_options_of_all() -> None:
    for option in ("--version", "--debug"):
        assert re.search(rf"^[│ ]*{option} ", help_of("", 80), re.MULTILINE)


def test_other_commands_are_one_sentence_in_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert "Measure the loss landscape" in listed
    assert "To continue after an interruption" not in listed
    assert cli.main(["landscape", "--help"]) == 0
    assert "To continue after an interruption" in capsys.readouterr().out


def test_the_command_that_tune_recommends_has_all_settings() -> None:
    config = TrainConfig(
        data="imagefolder:/a folder", augment=False, mu=0.51, c=0.01, momentum=0.9, nesterov=True,
        schedule="steps", lr_steps=(0.5, 0.75), batch_seed=3, prune="weights",
    )  # fmt: skip
    command = parse(["train", "--out", "RUN", *shlex.split(given_options(config))])
    assert isinstance(command, partial)
    assert command.keywords["config"] == config
