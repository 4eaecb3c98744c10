"""What the README shows, runs."""

import re
from pathlib import Path

import pytest

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


def test_the_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) <= targets
