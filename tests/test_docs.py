"""What the pages of docs/ say about code and tests is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_example_of_a_plan_prints_what_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "choosing.md").read_text()
    match = re.search(r"```python\n(.*?)```\s*prints (\d+)", page, re.DOTALL)
    assert match
    exec(compile(match[1], "choosing.md", "exec"), {})
    assert capsys.readouterr().out.strip() == match[2]


def test_the_tests_that_a_page_names_exist() -> None:
    page = (ROOT / "docs" / "differences.md").read_text()
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = re.findall(r"`(test_\w+)`", page)
    assert len(names) >= 7
    assert [name for name in names if f"def {name}(" not in sources] == []
    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/\w+\.py)`", page))


def test_links_between_pages_lead_to_files() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
