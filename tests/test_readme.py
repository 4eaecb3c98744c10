"""The README's examples and commands run."""

import html
import json
import re
from pathlib import Path

import pytest

from dirprune import cli
from dirprune._support import native

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def check_printed(shown: str, printed: str) -> None:
    """Each shown line was printed; numbers may differ by rounding on another processor."""
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for line in (" ".join(line.split()) for line in shown.strip().splitlines()):
        same = [other for other in lines if NUMBER.sub("#", other) == NUMBER.sub("#", line)]
        assert any(close(line, other) for other in same), f"{line!r} is not in {printed}"


def close(shown: str, printed: str) -> bool:
    """Whether all numbers agree to a tenth; times may be anything."""
    pairs = zip(*(NUMBER.findall(re.sub(r"[\d.]+ s$", "", line)) for line in (shown, printed)))
    return all(
        float(a.replace(",", "")) == pytest.approx(float(b.replace(",", "")), rel=0.1, abs=2)
        for a, b in pairs
    )


def test_the_example_is_short_and_prints_what_the_readme_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(EXAMPLE.splitlines()) <= 13
    exec(compile(EXAMPLE, "README.md", "exec"), {})
    shown = README.split(EXAMPLE)[1].split("```")[2]
    assert len(shown.strip().splitlines()) == 7
    check_printed(shown, capsys.readouterr().out)


def in_the_picture() -> str:
    """The figures of the table in the picture of the demo's terminal, one run on a line."""
    picture = html.unescape((ROOT / "docs" / "demo.svg").read_text()).replace(
        "\N{NO-BREAK SPACE}", " "
    )
    lines = [re.sub("<[^>]*>", "", text) for text in re.findall(r"<text .*?</text>", picture)]
    cells = [line.replace("│", " ").split() for line in lines if "│" in line]
    return "\n".join(" ".join(row[:3]) for row in cells)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 112


@pytest.mark.slow
def test_the_commands_print_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if native.extension() is None:
        pytest.skip("the C++ extension is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")  # the README's longest line fits
    assert cli.main(["demo"]) == 0
    final = json.loads((tmp_path / "runs" / "demo" / "grda" / "summary.json").read_text())
    check_printed(f"grda {final['test_accuracy']:.2%} {final['sparsity']:.2%}", in_the_picture())
    (block,) = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    commands = re.findall(r"^\$ dirprune (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
    assert len(commands) == 4
    for command, shown in commands:
        capsys.readouterr()
        assert cli.main(command.split()) == 0
        check_printed(shown, capsys.readouterr().out)
    summary = json.loads((tmp_path / "runs" / "sparse" / "summary.json").read_text())
    assert summary["sparsity"] == pytest.approx(0.9, abs=1e-4)


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets
