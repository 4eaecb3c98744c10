"""The tables of the pages agree with the files in results/."""

import subprocess
import sys
from pathlib import Path


def test_the_readme_is_up_to_date() -> None:
    script = Path(__file__).parents[1] / "results" / "readme.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0
