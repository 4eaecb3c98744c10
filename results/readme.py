"""Write the tables of docs/ and of the README.md files from the files here.

    python results/readme.py [--check]

With ``--check`` nothing is written, and the exit status is 1 if a page is not up to date.
"""

import csv
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cost

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PAGES = (
    *(DOCS / "benchmarks.md", DOCS / "cost.md"),
    *(HERE / folder / "README.md" for folder in ("engine", "gpu", "structures")),
)
STEP_ROWS = {
    "SGD, fused": "`torch.optim.SGD(fused=True)`",
    "SGD momentum, fused": "`torch.optim.SGD(momentum=0.9, fused=True)`",
    "GRDA": "**`GRDA`**, with the C++ extension",
    "GRDA fused=False": "`GRDA(fused=False)`, PyTorch alone",
    "GRDA compiled": "`GRDA`, `torch.compile(optimizer.step)`",
    "GRDA momentum": "`GRDA(momentum=0.9)`, with the C++ extension",
    "GRDA momentum fused=False": "`GRDA(momentum=0.9, fused=False)`",
    "authors' way": "a loop over tensors with temporaries, as in the authors' code",
}


def machine(environment: dict[str, Any]) -> str:
    hardware, versions = environment["hardware"], environment["versions"]
    threads = hardware["threads"]
    plural = "s" * (threads > 1)
    return f"{hardware['cpu']}, {threads} thread{plural}, torch {versions['torch']}"


def step_table() -> str:
    """Time of a step relative to fused SGD with momentum, one column per network."""
    parts = []
    for path in sorted((HERE / "step").glob("*.json")):
        report = json.loads(path.read_text())
        nets = report["nets"]
        parts.append(
            f"One step in ms, median of {report['rounds']} interleaved rounds (in brackets: ratio "
            f"to SGD with momentum, median; quartiles), {machine(report['environment'])}:\n"
        )
        parts.append("| | " + " | ".join(nets) + " |\n|---|" + "---|" * len(nets))
        for name, words in STEP_ROWS.items():
            cells = []
            for figures in nets.values():
                low, middle, high = figures[name]["ratio"]
                ms = figures[name]["ms"][1]
                cells.append(f"{ms:.2f} ({middle:.2f}; {low:.2f}-{high:.2f})")
            parts.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(parts)


def training_table() -> str:
    """A whole training step of ResNet-50, time and peak memory."""
    parts = []
    for path in sorted((HERE / "resnet50").glob("*.json")):
        report = json.loads(path.read_text())
        parts.append(
            f"A whole training step of ResNet-50 on {report['batch']} photographs of 224 x 224, "
            f"median of {report['rounds']} interleaved steps (quartiles), "
            f"{machine(report['environment'])}:\n"
        )
        parts.append("| | s | ratio to SGD | ratio to SGD with momentum | peak memory, MiB |")
        parts.append("|---|---|---|---|---|")
        for name, figures in report["methods"].items():
            cells = [
                "{1:.2f} ({0:.2f}-{2:.2f})".format(*figures[key])
                for key in ("seconds", "over_sgd", "over_sgd_momentum")
            ]
            parts.append(f"| {name} | {' | '.join(cells)} | {figures['peak_mib']:,.0f} |")
    return "\n".join(parts)


def significant(value: float) -> str:
    """Format a number with three digits, or with all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def label(row: dict[str, Any]) -> str:
    """The name of a runtime, with its precision unless that is float32."""
    precision: str = row["precision"]
    return row["runtime"] + {"f32": "", "i8": " int8"}.get(precision, f" {precision}")


def engine_table(single_layers: bool = False) -> str:
    """Latency of sparse networks and dense runtimes, one row per network, batch and threads."""
    parts: list[str] = []
    for path in sorted((HERE / "engine").glob("*.json")):
        report = json.loads(path.read_text())
        networks = {
            name: found
            for name, found in report["networks"].items()
            if name.startswith("3x3") == single_layers
        }
        rows = [row for found in networks.values() for row in found["rows"]]
        peers = list(dict.fromkeys(label(r) for r in rows if r["runtime"] != "dirprune"))
        counts = sorted({row["threads"] for row in rows})
        if not rows:
            continue
        versions = next(iter(networks.values()))["machine"]
        runtimes = dict.fromkeys(row["runtime"] for row in rows)
        named = ", ".join(f"{name} {versions[name]}" for name in runtimes if name != "dirprune")
        parts.append(
            f"`{path.name}`: one batch in ms, median of interleaved calls (in brackets: ratio to "
            f"dirprune's time, median over rounds), {report['environment']['hardware']['cpu']}, "
            f"{named}; float32 unless stated otherwise:\n"
        )
        parts.append(
            "| network | zeros | batch | threads | **dirprune** | " + " | ".join(peers) + " |"
        )
        parts.append("|---" * (5 + len(peers)) + "|")
        for name, found in networks.items():
            for batch in dict.fromkeys(row["batch"] for row in found["rows"]):
                for threads in counts:
                    of = {
                        label(row): row
                        for row in found["rows"]
                        if (row["batch"], row["threads"]) == (batch, threads)
                    }
                    cells = [significant(of["dirprune"]["quartiles"][1])]
                    cells += [
                        f"{significant(of[peer]['quartiles'][1])} ({of[peer]['speedup']:.2f})"
                        for peer in peers
                    ]
                    parts.append(
                        f"| {name} | {found['sparsity']:.1%} | {batch} | {threads} | "
                        + " | ".join(cells)
                        + " |"
                    )
        parts.append("")
    return "\n".join(parts).rstrip()


def comparisons() -> str:
    """The tables of all comparisons, with the commands that made them."""
    parts = []
    for path in sorted(HERE.glob("*/comparison.csv")):
        about = json.loads((path.parent / "about.json").read_text())
        parts.append(f"**{about['title']}** ({machine(about['environment'])}), made by")
        apart = [f"; {method} by `{call}`" for method, call in about["apart"].items()]
        parts.append(f"`{about['command']}`{''.join(apart)}:\n")
        parts.append("| method | seeds | test accuracy, % | zeros, % | s/epoch | after zstd, kB |")
        parts.append("|---|---|---|---|---|---|")
        parts += [comparison_row(row) for row in csv.DictReader(path.open())]
        parts.append("")
    return "\n".join(parts).rstrip()


def comparison_row(row: dict[str, str]) -> str:
    def spread(name: str, scale: float, digits: int) -> str:
        if not row[f"{name}_mean"]:
            return "diverged"
        text = f"{scale * float(row[f'{name}_mean']):.{digits}f}"
        std = row[f"{name}_std"]
        return text + (f" ± {scale * float(std):.{digits}f}" if std else "")

    cells = [
        row["method"],
        row["finished"],
        spread("test_accuracy", 100, 2),
        spread("sparsity", 100, 2),
        spread("seconds_per_epoch", 1, 2),
        spread("weights_zstd_bytes", 1e-3, 1),
    ]
    return f"| {' | '.join(cells)} |"


def layer_table() -> str:
    """Time of every layer of ResNet-50 for one image."""
    parts = []
    for path in sorted((HERE / "engine").glob("*.json")):
        report = json.loads(path.read_text())
        found = report["networks"].get("resnet50")
        if found is None:
            continue
        peaks = [f"{q[1]:.0f} with {n}" for n, q in report["dense_gflops"].items()]
        parts.append(
            f"`{path.name}`: one image, all threads. Speed of a large dense product in torch, in "
            f"GFLOP/s: {' and '.join(peaks)} thread(s).\n"
        )
        parts.append("| layer | kernel | zeros | ms | useful GFLOP/s |\n|---|---|---|---|---|")
        parts += [
            f"| {row['path'] or row['op']} | {row['kernel']} | {row['sparsity']:.1%} | "
            f"{row['milliseconds']:.3f} | {row['gflops']:.0f} |"
            for row in found["layers"]
            if row["gflops"] is not None
        ]
    return "\n".join(parts)


def coverage_table() -> str:
    """How many public networks the engine runs, and the largest difference from torch."""
    lines = ["| library | networks | pass | largest difference |", "|---|---|---|---|"]
    for path in sorted((HERE / "models").glob("*.csv")):
        with path.open(newline="") as file:
            networks = list(csv.DictReader(file))
        passed = [float(row["difference"]) for row in networks if row["outcome"] == "ok"]
        library = path.stem.replace("torchvision_segmentation", "torchvision, segmentation")
        lines.append(f"| {library} | {len(networks)} | {len(passed)} | {max(passed):.1e} |")
    return "\n".join(lines)


def tables_of(folder: str) -> dict[str, Callable[[], str]]:
    """The tables of a folder here, whose program lies beside its files."""
    spec = importlib.util.spec_from_file_location(f"{folder}_tables", HERE / folder / "tables.py")
    assert spec is not None  # noqa: S101 - the file is there
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tables: dict[str, Callable[[], str]] = module.TABLES
    return tables


def filled(text: str) -> str:
    """Replace the text between the markers by the tables."""
    tables = {
        "results": comparisons(),
        "step": step_table(),
        "training": training_table(),
        "engine": engine_table(),
        "single": engine_table(single_layers=True),
        "layers": layer_table(),
        "coverage": coverage_table(),
        "cost": cost.table(),
        **{name: table() for name, table in (tables_of("gpu") | tables_of("structures")).items()},
    }
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda m, t=table: f"{m[1]}{t}\n{m[2]}" if t else m[0], text)
    return text


def main() -> int:
    stale = 0
    for page in PAGES:
        before = page.read_text()
        after = filled(before)
        stale += before != after
        if "--check" not in sys.argv:
            page.write_text(after)
    return int("--check" in sys.argv and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
