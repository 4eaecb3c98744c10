"""Rows of results: what is appended is read again with its types."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import rows


@dataclass(frozen=True)
class Run:
    method: str
    seed: int
    loss: float


def test_rows_are_read_as_they_were_appended(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "runs.csv"
    assert rows.read(file, Run) == []
    runs = [Run("p=2, end", 3, 1e-17), Run("dense", 0, math.inf)]
    for run in runs:
        rows.append(file, asdict(run))
    rows.append(file, asdict(Run("gmp", 1, math.nan)))
    *found, last = rows.read(file, Run)
    assert found == runs
    assert (last.method, last.seed) == ("gmp", 1)
    assert math.isnan(last.loss)
    assert file.read_text().splitlines()[0] == "method,seed,loss"
