"""Writes valid graphs of every operator, from which the fuzzer starts.

Usage: PYTHONPATH=tests python cpp/fuzz/seeds.py FOLDER
"""

import sys
from pathlib import Path
from random import Random

from deploy.hostile_graphs import hostile_graph
from dirprune.deploy.file.encode import encode
from dirprune.deploy.graph.fold import fold
from dirprune.deploy.graph.lowering import lowered
from dirprune.deploy.graph.operators import OPERATORS

EACH = 40


def main(folder: Path) -> None:
    """Write each graph as it is and folded."""
    folder.mkdir(parents=True, exist_ok=True)
    for op in OPERATORS:
        for seed in range(EACH):
            graph = hostile_graph(op, Random(seed))
            for form, lower in (("lowered", lowered), ("folded", fold)):
                (folder / f"{op}.{seed}.{form}").write_bytes(encode(lower(graph)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
