"""landscape.json: rewritten after every entry, so that nothing is measured twice."""

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
from dirprune.landscape.connectivity.paths import CurveProfile
from dirprune.survey.config import SurveyConfig

FORMAT, VERSION = "dirprune-landscape", 1


def plain(value: Any) -> Any:
    """Convert figures to JSON values; numbers that are infinite or NaN become None.

    Example:
        >>> plain({"loss": CurveProfile([1.0, math.inf, 0.0])})["loss"]["values"]
        [1.0, None, 0.0]
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, CurveProfile):
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

    Raises:
        ValueError: If the folder holds a file of that name which this version did not write.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.figures: dict[str, Any] = {}
        if self.path.exists():
            self.figures = read_json(self.path)
            if self.figures.get("format") != FORMAT:
                raise ValueError(f"{self.path} was not written by dirprune: choose another folder")
            if self.figures.get("version") != VERSION:
                raise ValueError(
                    f"{self.path} has version {self.figures.get('version')}, but this dirprune "
                    f"writes {VERSION}: choose another folder"
                )

    @property
    def path(self) -> Path:
        """The JSON file."""
        return self.out / "landscape.json"

    @property
    def work(self) -> Path:
        """The folder of intermediate states, from which an interrupted survey resumes."""
        return self.out / "work"

    @property
    def finished(self) -> bool:
        """Whether everything requested is measured."""
        return self.figures.get("status") == "finished"

    def begin(self, config: SurveyConfig, subject: str, device: str) -> None:
        """Start, or resume.

        Raises:
            ValueError: If the folder holds the figures of another survey, or is damaged.
        """
        requested = plain(asdict(config))
        if "plan" in self.figures:  # before there is one, nothing has been measured
            self._check_same(requested, subject)
            return
        self.figures = {"format": FORMAT, "version": VERSION, "status": "running"}
        self.figures |= {"config": requested, "subject": subject}
        self.figures |= environment(device)
        self.write()

    def _check_same(self, requested: dict[str, Any], subject: str) -> None:
        saved = self.figures.get("config")
        if not isinstance(saved, dict) or not isinstance(self.figures["plan"], dict):
            raise ValueError(f"{self.path} is damaged (no config or plan): choose another folder")
        before = plain(asdict(SurveyConfig())) | saved  # a field may be newer than the file
        differing = [
            f"{name} was {before.get(name)!r}, now {requested.get(name)!r}"
            for name in before | requested
            if before.get(name) != requested.get(name) and name != "trust_model"
        ]
        if self.figures.get("subject") != subject:
            differing.append("the networks or the data differ")
        if differing:
            raise ValueError(
                f"{self.out} holds another landscape ({'; '.join(differing)}): repeat the same"
                " command, or choose another folder"
            )

    def has(self, *keys: str) -> bool:
        """Whether an entry exists."""
        node: Any = self.figures
        for key in keys:
            if not isinstance(node, dict) or key not in node:
                return False
            node = node[key]
        return True

    def get_or_compute(self, *keys: str, call: Callable[[], Any]) -> Any:
        """Return an entry; compute it and write the file if it does not exist yet.

        Args:
            keys: Its position: section, entry, ...
            call: Computes it.

        Returns:
            The entry as JSON values.
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
        """Mark the survey as finished."""
        self.figures["status"] = "finished"
        self.write()

    def write(self) -> None:
        """Replace the file."""
        write_json(self.path, self.figures)
