"""Draw the pictures of the demo: the terminal (docs/demo.svg) and the report (docs/report.png).

python docs/pictures.py    # runs the demo; the report needs chromium
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

DOCS = Path(__file__).parent
WIDTH = 72
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def run_demo(folder: Path) -> str:
    """Run the demo in a folder and return what it prints."""
    command = [sys.executable, "-m", "dirprune", "demo"]
    environment = os.environ | {"COLUMNS": str(WIDTH)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return ended.stdout


def shorten(printed: str) -> list[str]:
    """Return the lines of the output, of every run's epochs only the first and the last two."""
    lines: list[str] = []
    for line in printed.splitlines():
        found = re.match(r" *(\d+)/(\d+) ", line)
        epoch, last = map(int, found.groups()) if found else (1, 1)
        if epoch == 2:
            lines.append("    ...")
        if epoch == 1 or epoch >= last - 1:
            lines.append(line)
    return lines


def draw_terminal(lines: list[str]) -> str:
    """Return an SVG of a terminal with these lines, which loads no fonts from the network."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in ["$ dirprune demo", *lines]:
        console.print(Text(line), no_wrap=True, overflow="crop")
    picture = console.export_svg(title="dirprune demo", unique_id="demo")
    return re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)


def photograph(page: Path, out: Path) -> None:
    """Save the top of a page as it looks in a browser."""
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=15000"]
    size = ["--window-size=1280,1000", f"--screenshot={out}"]
    subprocess.run([str(CHROMIUM), *flags, *size, page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Draw both."""
    with tempfile.TemporaryDirectory() as folder:
        lines = shorten(run_demo(Path(folder)))
        (DOCS / "demo.svg").write_text(draw_terminal(lines), encoding="utf-8")
        if CHROMIUM is not None:
            photograph(Path(folder, "runs/demo/report.html").resolve(), DOCS / "report.png")


if __name__ == "__main__":
    main()
