"""Write the pages of docs/generated that list the command line's options and the public names."""

import contextlib
import io
import os
from importlib import import_module
from pathlib import Path

from dirprune.cli.commands import COMMANDS
from dirprune.cli.parsing import parse

GENERATED = Path(__file__).parent / "generated"
PACKAGES = {
    "dirprune": "The optimizers, directional pruning, and counting zeros",
    "dirprune.deploy": "Shrinking, compact files, the engine, ONNX",
    "dirprune.landscape": "Curvature, curves, planes and one-shot pruning",
    "dirprune.data": "Data sets and images",
    "dirprune.models": "Networks",
    "dirprune.bench": "Latency",
}
INTRODUCTION = """# Command line

`--recipe NAME` and `--config RUN/config.json` set the defaults of `train`, `compare`, `tune`
and `figures`;
`--debug` shows the traceback of an error; `--version` prints the version.
`dirprune --tyro-print-completion bash` prints a script for shell completion (also `zsh`, `tcsh`).

Exit status: 0; 1 if training diverged; 2 for an error of the user, of the data or of the disk; 70
for a bug; 130 if interrupted; 141 if the reader of the output has gone."""


def help_text(command: str) -> str:
    """What `dirprune COMMAND --help` prints, in 90 columns."""
    printed = io.StringIO()
    os.environ["COLUMNS"] = "90"
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse([command, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def command_line() -> str:
    """The page of the command line."""
    parts = [INTRODUCTION]
    parts += [f"## {name}\n\n```text\n{help_text(name)}\n```" for name in COMMANDS]
    return "\n\n".join(parts) + "\n"


def api() -> str:
    """The page of the public names, in the groups and the order of each package."""
    parts, seen = ["# API"], set()
    for package, title in PACKAGES.items():
        module = import_module(package)
        names = [n for n in module.__all__ if n[0] != "_" and getattr(module, n) not in seen]
        seen |= {getattr(module, name) for name in names}
        listed = "\n".join(f"   {package}.{name}" for name in names)
        parts.append(
            f"## {package}\n\n{title}.\n\n"
            f"```{{eval-rst}}\n.. autosummary::\n   :toctree: .\n\n{listed}\n```"
        )
    return "\n\n".join(parts) + "\n"


def write() -> None:
    """Write both pages, only if they changed, so that a second build is fast."""
    GENERATED.mkdir(exist_ok=True)
    for name, text in {"command-line.md": command_line(), "api.md": api()}.items():
        path = GENERATED / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
