"""Text and tables of a page, and the page as a browser renders it."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from dirprune.report.runs.page import write_report

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

SLOW = ("GL Driver Message (OpenGL, Performance", "are faster with the willReadFrequently")
"""Messages of the browser about drawing without a graphics card."""


@dataclass
class Page(HTMLParser):
    """Tables as rows of cell texts, and all text outside of scripts and styles."""

    source: str
    tables: list[list[list[str]]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    text: str = ""
    inside: str = ""
    is_cell: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(re.sub(r"<script>/\*.*?</script>", "", self.source, count=1, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.inside = tag if tag in ("script", "style") else self.inside
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside
        self.is_cell = self.is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            return
        self.text += data
        if self.is_cell:
            self.tables[-1][-1][-1] += data

    def table(self, title: str) -> dict[str, dict[str, str]]:
        """The table whose first column has this title: row -> column -> cell."""
        found = [[[" ".join(c.split()) for c in row] for row in table] for table in self.tables]
        head, *body = next(table for table in found if table and table[0][0] == title)
        return {row[0]: dict(zip(head, row, strict=True)) for row in body}

    def results(self) -> dict[str, dict[str, str]]:
        """The first table: setting -> column -> cell."""
        head, *body = [[" ".join(cell.split()) for cell in row] for row in self.tables[0]]
        return {row[0]: dict(zip(head, row, strict=True)) for row in body}


def browse(page: Path, profile: Path, settings: str = "") -> tuple[str, list[str]]:
    """Return the document after its scripts have run, and the messages of the console."""
    flags = "--headless=new --no-sandbox --disable-gpu --enable-logging=stderr --v=0"
    flags += " --enable-unsafe-swiftshader"  # WebGL without a graphics card
    flags += f" --blink-settings={settings}" if settings else ""
    command = [str(CHROMIUM), *flags.split(), "--virtual-time-budget=10000", "--dump-dom"]
    ended = subprocess.run(
        [*command, f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return ended.stdout, [line for line in console if not any(note in line for note in SLOW)]


def report(folders: list[Path], out: Path) -> Page:
    return Page(write_report(folders, out).read_text(encoding="utf-8"))


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
