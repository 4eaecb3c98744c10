"""The recipes of the packages agree with pyproject.toml."""

import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

import dirprune

tomllib = pytest.importorskip("tomllib")  # Python 3.11
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
CONDA = {"torch": "pytorch"}
"""Names that differ on conda-forge."""


def load_file_regex(load_file: str, regex_pattern: str, from_recipe_dir: bool) -> Any:
    """conda-build's function of this name."""
    folder = ROOT / "conda" if from_recipe_dir else ROOT
    return re.search(regex_pattern, (folder / load_file).read_text())


def recipe() -> Any:
    text = Environment().from_string((ROOT / "conda" / "meta.yaml").read_text())
    functions = {"compiler": str, "stdlib": str, "load_file_regex": load_file_regex}
    return yaml.safe_load(text.render(PYTHON="python", **functions))


def test_the_conda_recipe_has_the_version_and_the_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    made = recipe()
    assert made["package"] == {"name": "dirprune", "version": dirprune.__version__}
    needed = {"python" + project["project"]["requires-python"]}
    for requirement in project["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)(>=.*)", requirement).groups()
        needed.add(CONDA.get(name, name) + bound)
    assert {line.replace(" ", "") for line in made["requirements"]["run"]} == needed
    host = {line.replace(" ", "") for line in made["requirements"]["host"]}
    assert set(project["build-system"]["requires"]) <= host
    assert made["about"]["summary"] == project["project"]["description"]
    (entry,) = made["build"]["entry_points"]
    name, target = entry.split(" = ")
    assert project["project"]["scripts"] == {name: target}


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(v for v in versions if v != "Unreleased") == dirprune.__version__
