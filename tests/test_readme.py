"""The README's examples and commands run."""

import json
import re
from pathlib import Path

import pytest

from dirprune import cli
from dirprune._support import native

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_and_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    example = EXAMPLES[0]
    assert len(example.splitlines()) <= 12
    exec(compile(example, "README.md", "exec"), {})
    shares = re.findall(r"([\d.]+)%", capsys.readouterr().out)
    assert float(shares[-1]) > 85


@pytest.mark.parametrize("example", EXAMPLES[1:])
def test_the_other_examples_run(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "Engine" in example and native.extension() is None:
        pytest.skip("the C++ extension is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


@pytest.mark.slow
def test_the_commands_run_and_reach_90_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.extension() is None:
        pytest.skip("the C++ extension is not installed")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^dirprune ([^#\n]*)", README, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        assert cli.main(command.split()) == 0
    summary = json.loads((tmp_path / "runs" / "sparse" / "summary.json").read_text())
    assert summary["sparsity"] == pytest.approx(0.9, abs=1e-4)


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets
