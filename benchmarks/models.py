"""Save networks of public libraries, run them in the engine, and compare the outputs with torch's.

The weights are random and 90 % of them are zero; BatchNorm statistics are random. A network is
saved with a batch of 2 as the example and run on a batch of 3. ``difference`` is the largest
difference between the outputs of the engine and of the float32 network, relative to the largest
output; ``torch`` is that between the float32 and the float64 network. A network passes if its
difference is at most 1e-4, or if it is as near to the float64 network as torch, up to a factor of
4. Each network runs in a new process.

An interrupted run continues where its tables end.

    python benchmarks/models.py [--suites timm transformers] [--only resnet18 vgg11]
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from dirprune.deploy import Engine, save
from dirprune.deploy.file.read import read_file
from dirprune.deploy.graph.fold import fold
from suites import SUITES, Inputs, build, names

SPARSITY = 0.9
LARGEST_DIFFERENCE = 1e-4
FOLDER = Path(__file__).parent.parent / "results" / "models"
COLUMNS = ("model", "outcome", "difference", "torch", "parameters", "nodes", "lowered", "bytes",
           "dense")  # fmt: skip


@torch.no_grad()
def make_sparse(model: nn.Module) -> None:
    """Set most weights to zero, and give every BatchNorm random statistics and parameters."""
    for p in model.parameters():
        if not p.any():  # a zero head would hide errors of the layers before it
            p.normal_(std=0.02)
        if p.dim() > 1:
            # Keep the variance, so that signals neither die nor explode.
            kept = torch.rand_like(p) >= SPARSITY
            p.copy_(torch.where(kept, p / (1 - SPARSITY) ** 0.5, 0.0))
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.1)


def call(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Run a network; return all its output tensors in order."""
    if isinstance(inputs, dict):
        return leaves(model(**inputs))
    return leaves(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


def leaves(outputs: Any) -> list[Tensor]:
    """Flatten nested outputs to a list of tensors."""
    outputs = dict(outputs) if isinstance(outputs, dict) else outputs
    return [torch.as_tensor(leaf) for leaf in pytree.tree_leaves(outputs) if leaf is not None]


def difference(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest difference over all outputs, each relative to its largest element."""
    worst = 0.0
    for wanted, own in zip(expected, found, strict=True):
        wanted, own = wanted.double(), own.double()
        if wanted.shape != own.shape:
            return float("inf")
        gap, scale = float((wanted - own).abs().max()), float(wanted.abs().max()) or 1.0
        worst = max(worst, gap / scale) if gap == gap else float("inf")
    return worst


@torch.no_grad()
def measure(model: nn.Module, inputs: Callable[[int], Inputs]) -> dict[str, Any]:
    """Measure a network: a row of a table without the name.

    Args:
        model: Its weights are changed.
        inputs: Returns inputs for a batch size.
    """
    make_sparse(model.eval())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dpz"
        saved = save(model, path, inputs(2))
        x = inputs(3)
        engine = Engine(path, threads=torch.get_num_threads())
        graph = read_file(path).graph
    expected = call(model, x)
    arrays = pytree.tree_map_only(Tensor, lambda leaf: leaf.numpy(), x)
    if isinstance(arrays, dict):
        found = leaves(engine(**arrays))
    else:
        found = leaves(engine(*arrays) if isinstance(arrays, tuple) else engine(arrays))
    doubles = pytree.tree_map_only(
        Tensor, lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, x
    )
    exact = call(model.double(), doubles)
    gap, own = difference(expected, found), difference(exact, expected)
    # Two orders of summation round differently. In a network that magnifies errors, their
    # distances from the exact result are of the same size, but differ by chance.
    is_exact = gap <= LARGEST_DIFFERENCE or difference(exact, found) <= 4 * own
    return {
        "outcome": "ok" if is_exact else f"differs by {difference(exact, found):.1e} from float64",
        "difference": f"{gap:.1e}",
        "torch": f"{own:.1e}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "nodes": len(graph.nodes),
        "lowered": len(fold(graph).nodes),
        "bytes": saved.bytes,
        "dense": saved.dense_bytes,
    }


def measure_in_process(suite: str, name: str) -> dict[str, Any]:
    """Measure one row in a new process, so that a crash affects only this row."""
    command = [sys.executable, __file__, "--suites", suite, "--one", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == 0:
        row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return row
    return {"model": name, "outcome": f"ended with status {done.returncode}"}


def one(suite: str, name: str) -> dict[str, Any]:
    """Measure one row; if an exception is raised, the row contains its message."""
    warnings.simplefilter("ignore")
    try:
        torch.manual_seed(0)
        return {"model": name, **measure(*build(suite, name))}
    except Exception as error:  # a network may raise anything
        reason = " | ".join(line.strip() for line in str(error).splitlines())
        return {"model": name, "outcome": f"{type(error).__name__}: {reason}"[:500]}


def complete(suite: str, only: list[str] | None, path: Path) -> list[dict[str, Any]]:
    """Measure and append the missing rows of a table; return all rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n")
    with path.open(newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for name in only or names(suite):
        if name in {row["model"] for row in rows}:
            continue
        rows.append(measure_in_process(suite, name))
        print(suite, *rows[-1].values(), file=sys.stderr, flush=True)
        with path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=SUITES)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--one", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.suites[0], options.one)))
        return
    failed = []
    for suite in options.suites:
        rows = complete(suite, options.only, options.folder / f"{suite.replace(' ', '_')}.csv")
        passed = sum(row["outcome"] == "ok" for row in rows)
        print(f"{suite}: {passed} of {len(rows)}", file=sys.stderr)
        failed += [row["model"] for row in rows if row["outcome"] != "ok"]
    if failed:
        raise SystemExit(f"not within {LARGEST_DIFFERENCE}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
