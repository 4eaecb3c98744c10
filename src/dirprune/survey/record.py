"""landscape.json: written as a whole after every piece, so that nothing is measured twice."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from dirprune._support.environment import environment
from dirprune._support.files import read_json, write_json
from dirprune.landscape import Frame, Measured, PathFigures, PlaneFigures
from dirprune.landscape.connectivity.paths import Profile
from dirprune.survey.config import SurveyConfig

FORMAT, VERSION = "dirprune-landscape", 1


def plain(value: Any) -> Any:
    """Turn figures into what JSON can hold; numbers that are infinite or NaN become None.

    Example:
        >>> plain({"loss": Profile([1.0, math.inf, 0.0])})["loss"]["values"]
        [1.0, None, 0.0]
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, Profile):
        t, largest = value.largest
        at = {"t": t, "value": largest}
        more = {"mean": value.mean, "barrier": value.barrier, "rise": value.rise}
        return plain({"values": value.values, "largest": at, **more})
    if isinstance(value, (PathFigures, PlaneFigures)):
        parts = {name: getattr(value, name) for name in value.__dataclass_fields__}
        return {name: plain(part) for name, part in parts.items() if not isinstance(part, Frame)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Measured):
        return plain(value._asdict())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


class Record:
    """The figures of one survey, in a folder.

    Args:
        out: The folder; it need not exist yet.

    Attributes:
        figures: As in landscape.json.
        out: As given.
    """

    def __init__(self, out: Path) -> None:
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"{out} is a file: give a folder for the landscape")
        self.out = out
        self.figures: dict[str, Any] = {}
        if self.path.exists():
            self.figures = read_json(self.path)
            if self.figures.get("format") != FORMAT:
                raise ValueError(f"{self.path} is not of dirprune: choose another folder")
            if self.figures.get("version") != VERSION:
                raise ValueError(
                    f"{self.path} has version {self.figures.get('version')}, this dirprune "
                    f"writes {VERSION}: choose another folder"
                )

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self.out / "landscape.json"

    @property
    def work(self) -> Path:
        """The folder of what is needed to go on."""
        return self.out / "work"

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.figures.get("status") == "finished"

    def begin(self, config: SurveyConfig, subject: str, device: str) -> None:
        """Start, or go on.

        Args:
            config: What is asked for.
            subject: Tells networks and data from others.
            device: What is computed on.

        Raises:
            ValueError: If the folder has figures of something else.
        """
        asked = plain(asdict(config))
        if "plan" in self.figures:  # before there is one, nothing has been measured
            before = self.figures["config"]
            differing = [
                f"{name} was {before.get(name)!r}, now {asked.get(name)!r}"
                for name in before | asked
                if before.get(name) != asked.get(name)
            ]
            if self.figures["subject"] != subject:
                differing.append("the networks or the data are others")
            if differing:
                raise ValueError(
                    f"{self.out} holds a landscape of something else ({'; '.join(differing)}): "
                    "give the same command again, or another folder"
                )
            return
        self.figures = {"format": FORMAT, "version": VERSION, "status": "running"}
        self.figures |= {"config": asked, "subject": subject}
        self.figures |= environment(device)
        self.write()

    def has(self, *keys: str) -> bool:
        """Whether a piece is there."""
        node: Any = self.figures
        for key in keys:
            if key not in node:
                return False
            node = node[key]
        return True

    def piece(self, *keys: str, call: Callable[[], Any]) -> Any:
        """Return a piece, measured now if it is not there yet.

        Args:
            keys: Where it goes: section, entry, ...
            call: Measures it.
        """
        node = self.figures
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        if keys[-1] not in node:
            begun = time.monotonic()
            value = plain(call())
            spent = self.figures.setdefault("seconds", {})
            spent[keys[0]] = spent.get(keys[0], 0.0) + time.monotonic() - begun
            node[keys[-1]] = value
            self.write()
        return node[keys[-1]]

    def finish(self) -> None:
        """Say that all is there."""
        self.figures["status"] = "finished"
        self.write()

    def write(self) -> None:
        """Write the file as a whole."""
        write_json(self.path, self.figures)
