"""The programs in examples/ run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_optuna_searches_continues_and_ends_at_90_percent(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    command = [sys.executable, str(EXAMPLES / "optuna_search.py"), "--out", str(tmp_path)]
    for trials in ("2", "3"):
        options = ["--epochs", "4", "--trials", trials]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(list(tmp_path.glob("trial-*"))) == int(trials)
    last = [p.read_text().splitlines()[-1] for p in tmp_path.glob("trial-*/metrics.jsonl")]
    ends = [end for end in map(json.loads, last) if end["epoch"] == 4]  # others have diverged
    assert ends
    assert len(last) == 3
    assert f": {max(end['validation_accuracy'] for end in ends):.2%} with " in done.stdout
    assert [end["sparsity"] for end in ends] == [pytest.approx(0.9, abs=1e-3)] * len(ends)
