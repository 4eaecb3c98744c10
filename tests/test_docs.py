"""What the pages of docs/ say about code and tests is true."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dirprune import cli
from dirprune.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The program that writes the generated pages."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_quickstart_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (DOCS / "quickstart.md").read_text()
    match = re.search(r"```python\n(.*?)```\s*prints `(.*?)`", page, re.DOTALL)
    assert match
    exec(compile(match[1], "quickstart.md", "exec"), {})
    assert capsys.readouterr().out.strip() == match[2]


def test_the_blocks_about_choosing_do_what_the_page_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (DOCS / "choosing.md").read_text()
    plan, channels = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(plan, "choosing.md", "exec"), {})
    assert f"prints {capsys.readouterr().out.strip()}: exactly 90 %" in page
    exec(compile(channels, "choosing.md", "exec"), {})
    left = float(capsys.readouterr().out.split("%")[0])
    assert "saves half of the multiply-adds" in page
    assert 47 <= left <= 50


def test_the_quickstart_has_the_commands_of_the_readme() -> None:
    commands = re.findall(r"^dirprune .*$", (DOCS / "quickstart.md").read_text(), re.MULTILINE)
    assert len(commands) == 4
    assert [c for c in commands if c not in (ROOT / "README.md").read_text()] == []


def test_the_page_of_the_command_line_has_every_command_and_option(generate: ModuleType) -> None:
    page = generate.command_line()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(COMMANDS)
    for option in ("--track", "--target-sparsity", "--part", "--recipe", "--budget", "--onnx"):
        assert option in page
    assert "\x1b" not in page


def test_the_page_of_the_names_has_every_public_object(generate: ModuleType) -> None:
    recorded = (ROOT / "tests" / "public_names.txt").read_text().splitlines()
    names = {line.split("(")[0] for line in recorded}
    listed = set(re.findall(r"^   (dirprune\S+)$", generate.api(), re.MULTILINE))
    assert names - listed == {"dirprune.landscape.FlatProjector"}  # is dirprune.FlatProjector
    assert listed <= names


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_and_its_assertions_hold(page: Path) -> None:
    pytest.importorskip("matplotlib")
    assert "assert " in page.read_text()
    program = (
        "import matplotlib; matplotlib.use('agg'); import runpy, sys; runpy.run_path(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(page)], check=True)


@pytest.mark.slow
def test_the_site_is_built_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_gallery")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", str(DOCS), str(tmp_path)]
    subprocess.run(command, check=True)
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) > 80
    broken = [
        f"{page.relative_to(tmp_path)}: {link}"
        for page in pages
        for link in re.findall(r'(?:href|src)="([^"#:?]+)[^":]*"', page.read_text())
        if not (page.parent / link).exists()
    ]
    assert broken == []


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
            assert (page.parent / link).exists() or link.startswith("generated/"), (
                f"{page.name} links to {link}"
            )


@pytest.mark.slow
def test_the_command_of_the_papers_figures_draws_every_panel_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "figures.md").read_text()
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(r"^dirprune (.*)$", page, re.MULTILINE)
    assert cli.main(command.split()) == 0
    rows = re.findall(r"^\| .* \| (.*) \| `(runs/.*)` \|$", page, re.MULTILINE)
    assert len(rows) == 7
    for panels, file in rows:
        headings = re.findall(r"<h3[^>]*>([^<]*)", (tmp_path / file).read_text())
        assert set(panels.split(", ")) <= set(headings)
