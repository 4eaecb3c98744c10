"""Imports point down: read from the source, without importing anything."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dirprune

SOURCE = Path(dirprune.__file__).parent
# Floors from the bottom up. Parts on one floor never import each other, except the files of the
# mathematics.
FLOORS = [
    {"_support"},
    {
        "grda",
        "adam_grda",
        "averaging",
        "batch",
        "blocks",
        "changes",
        "costs",
        "cubic_path",
        "kernels",
        "optimizer",
        "update",
        "tensor_thresholds",
        "threshold",
        "plan",
        "plan_state",
        "plan_warnings",
        "quantile",
        "prox",
        "groups",
        "sparsity",
        "directional",
        "batchnorm",
    },
    {"data", "models", "landscape", "deploy", "report"},
    {"train"},
    {"study", "survey", "bench", "integrations"},
    {"cli"},
    {"__main__"},
]
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
MATHEMATICS = 1


def part(module: str) -> str:
    """The part of the package that a dotted module name belongs to, '' for the package itself."""
    name = module.split(".")[1] if "." in module else ""
    return part(dirprune._HOME[name]) if name in dirprune._HOME else name


def imports() -> list[tuple[str, str]]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE).with_suffix("")
        module = ".".join(["dirprune", *relative.parts]).removesuffix(".__init__")
        if module == "dirprune":
            continue  # the lazy table of public names
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: write imports absolutely"
                base = node.module or ""
                found += [(module, f"{base}.{alias.name}") for alias in node.names]
            elif isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
    return [(a, b) for a, b in found if b.split(".")[0] == "dirprune"]


def wrong(importer: str, imported: str) -> bool:
    a, b = part(importer), part(imported)
    if a == b or b in ("", "__version__"):
        return False
    return FLOOR[b] > FLOOR[a] or (FLOOR[b] == FLOOR[a] != MATHEMATICS)


def test_every_part_has_a_floor() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__", "_cpp"} == set(FLOOR)


def test_imports_point_down() -> None:
    graph = imports()
    assert ("dirprune.optimizer.advance", "dirprune.threshold.threshold_increment") in graph
    assert [edge for edge in graph if wrong(*edge)] == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("dirprune.grda", "dirprune.train.loop"),
        ("dirprune.landscape.Hessian", "dirprune.deploy.Engine"),
        ("dirprune.train.loop", "dirprune.study.tune"),
        ("dirprune.report.runs.page", "dirprune.cli.main"),
    ],
)
def test_an_upward_or_sideways_import_is_seen(importer: str, imported: str) -> None:
    assert wrong(importer, imported)
    assert not wrong("dirprune.__main__", imported)


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


HEAVY = {"torchvision", "accelerate", "sklearn", "scipy", "rich", "tyro", "plotly", "jinja2",
         "pandas", "matplotlib", "tensorboard", "safetensors", "zstandard"}  # fmt: skip


def test_importing_the_package_loads_nothing() -> None:
    assert loaded_by("import dirprune") - sys.stdlib_module_names == {"dirprune"}


def test_importing_the_optimizer_loads_torch_and_nothing_heavier() -> None:
    ours = loaded_by("from dirprune import GRDA")
    assert ours & HEAVY == set()
    assert ours - loaded_by("import torch, torch.optim.lr_scheduler") == {"dirprune"}


def test_public_names_exist_are_listed_and_documented() -> None:
    for name in dirprune.__all__:
        value = getattr(dirprune, name)
        assert name in dir(dirprune)
        assert value.__doc__
        if callable(value) and name not in {"SparsityReport"}:
            assert "Example:" in value.__doc__, f"{name} has no example"
    with pytest.raises(AttributeError, match="no attribute 'grad'"):
        dirprune.grad  # noqa: B018
