"""The folder of a run: reading and writing its files, and the checks before that."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dirprune._support.environment import environment
from dirprune._support.files import (
    naming_errors,
    parse_json,
    read_json,
    read_text,
    write_json,
    writing,
)
from dirprune.train.config import TECHNICAL, TrainConfig
from dirprune.train.replaced import restore_replaced, set_aside

FORMAT, VERSION = "dirprune-run", 1
"""Written to config.json; the version changes when older programs cannot read a run."""

CONTENTS = {
    "config.json": "a run",
    "comparison.json": "a comparison",
    "tune.json": "the trials of tune",
    "landscape.json": "a landscape",
}
"""What a folder holds that has such a file."""


def check_contents(folder: Path, own: str | None = None) -> None:
    """Refuse to write into a folder that another command has written.

    Args:
        folder: The folder; it need not exist.
        own: The name in `CONTENTS` that is allowed.

    Raises:
        ValueError: If the folder holds something else.
    """
    for name, kind in CONTENTS.items():
        if name != own and (folder / name).exists():
            raise ValueError(f"{folder} holds {kind}: choose another folder")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: The folder; it may not exist yet.

    Example:
        >>> RunFolder(Path("runs/first")).metrics.as_posix()
        'runs/first/metrics.jsonl'
    """

    path: Path

    @property
    def config(self) -> Path:
        """Everything needed to repeat the run, with versions and hardware."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One line per epoch."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """The final figures."""
        return self.path / "summary.json"

    @property
    def weights(self) -> Path:
        """The final weights."""
        return self.path / "model.safetensors"

    @property
    def exported(self) -> Path:
        """The network as one compact file, if it was exported."""
        return self.path / "model.dpz"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def check_free(self, *, overwrite: bool = False) -> None:
        """Refuse a folder if a new run would destroy files in it.

        Raises:
            ValueError: If the folder holds another run, or other files with the names of a
                run's files.
        """
        own = (self.config, self.metrics, self.summary, self.weights, self.checkpoints)
        taken = [path.name for path in own if path.exists()]
        if taken and not self.holds_run():
            raise ValueError(
                f"{self.path} has a {taken[0]} that dirprune did not write: choose another folder"
            )
        if not taken:
            check_contents(self.path)
        if taken and not overwrite:
            raise ValueError(
                f"{self.path} holds another run: continue it with --resume (resume=True), "
                "replace it with --overwrite (overwrite=True), or choose another folder"
            )

    def check_resumable(self, config: TrainConfig) -> None:
        """Refuse to resume a run with another config, or a run that has diverged.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the run was started with other values, or has diverged.
        """
        check_same_config(self.read_config()["config"], config, str(self.path))
        if (self.read_summary() or {}).get("status") == "diverged":
            raise ValueError(
                f"{self.path} diverged, and would diverge again: start again with --overwrite "
                "(overwrite=True) or in another folder, with a smaller lr, c or mu"
            )

    def begin(
        self,
        config: TrainConfig,
        recipe: Mapping[str, Any] | None,
        device: str,
        task: Mapping[str, Any],
    ) -> None:
        """Start a run: set an earlier one aside and write the config.

        Args:
            config: Config of the new run.
            recipe: Name and published figures, if it is one of the paper's experiments.
            device: Type of the device.
            task: Number of classes and shape of the images, :attr:`dirprune.data.Dataset.task`.
        """
        with naming_errors(self.path):
            if self.holds_run():
                set_aside(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "config": asdict(config),
            "recipe": dict(recipe) if recipe else None,
            "task": dict(task),
        }
        try:
            write_json(self.config, record | environment(device))
        except OSError:
            restore_replaced(self.path)
            raise

    def read_config(self) -> dict[str, Any]:
        """Read config.json.

        Returns:
            At least the keys ``config`` and ``versions``.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the file is damaged, not a run's, or of a newer version.
        """
        if not self.config.is_file():
            raise FileNotFoundError(
                f"{self.path} is not a run (it has no config.json): give the folder of a run"
            )
        record = read_json(self.config)
        if not _is_run(record):
            raise ValueError(
                f"{self.config} is damaged or was not written by dirprune: restore it, or give "
                "the folder of a run"
            )
        version = record.get("version", 1)  # version 0.1 of dirprune wrote none
        if version != VERSION:
            wrote = record["versions"].get("dirprune")
            raise ValueError(
                f"{self.config} has format version {version}, but this dirprune reads {VERSION}: "
                f"install the version of dirprune that wrote it ({wrote}) or a newer one"
            )
        return record

    def read_summary(self) -> dict[str, Any] | None:
        """Return the final figures, or None if there are none yet."""
        return read_json(self.summary) if self.summary.exists() else None

    def is_over(self) -> bool:
        """Return whether the run has finished or diverged."""
        summary = self.read_summary()
        return summary is not None and summary["status"] in ("finished", "diverged")

    def read_metrics(self, until: int | None = None) -> list[dict[str, Any]]:
        """Return the figures of every epoch up to ``until``, without an incomplete last line.

        Raises:
            ValueError: If another line is damaged, or the file is not text.
        """
        records: list[dict[str, Any]] = []
        text = read_text(self.metrics) if self.metrics.exists() else ""
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            try:
                record = parse_json(line)
            except ValueError:
                record = None
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                if until is None or record["epoch"] <= until:
                    records.append(record)
            elif line.endswith("\n"):
                raise ValueError(
                    f"{self.metrics} is damaged at line {number}: restore it, or start again with "
                    "--overwrite (overwrite=True)"
                )
        return records

    def truncate_metrics(self, until: int) -> None:
        """Remove the epochs after ``until``, which a resumed run repeats.

        Raises:
            ValueError: If the figures of an earlier epoch are missing.
        """
        records = self.read_metrics(until)
        if len(records) < until:
            raise ValueError(
                f"{self.metrics} has {len(records)} of the {until} epochs before the "
                "checkpoint: restore it, or start again with --overwrite (overwrite=True)"
            )
        lines = [json.dumps(record) + "\n" for record in records]
        with writing(self.metrics) as temporary:
            temporary.write_text("".join(lines))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append the figures of one epoch, and wait until they are on disk."""
        with naming_errors(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def check_exists(self) -> None:
        """Refuse to write into a run's folder that has been moved or deleted.

        Raises:
            FileNotFoundError: If the folder is gone. It is not created again, because the new
                folder would hold only a part of the run.
        """
        if not self.config.exists():
            raise FileNotFoundError(
                f"{self.path} was moved or deleted during the run: restore it and resume with "
                "--resume (resume=True), or start again"
            )

    def holds_run(self) -> bool:
        """Return whether there is a config.json of dirprune, of any version."""
        try:
            record = read_json(self.config)
        except (OSError, ValueError):
            return False
        return _is_run(record)


def _is_run(record: Mapping[str, Any]) -> bool:
    """Whether a file's record is that of a run."""
    return all(isinstance(record.get(name), dict) for name in ("config", "versions"))


def check_same_config(saved: Mapping[str, Any], config: TrainConfig, origin: str) -> None:
    """Refuse to resume a run with different values.

    Fields that do not affect the weights (:data:`.config.TECHNICAL`) may differ. A field that did
    not exist when the run was started must have its default value.

    Args:
        saved: The fields of the run, read from JSON.
        config: The current values.
        origin: The file of ``saved``, for the message.

    Raises:
        ValueError: If a field differs; the message names all of them.
    """
    defaults = asdict(TrainConfig())
    before, now = (json.loads(json.dumps(defaults | v)) for v in (dict(saved), asdict(config)))
    differing = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in now | before
        if before.get(name) != now.get(name)
        and name not in TECHNICAL
        and (name in now or before[name])  # options of an earlier version that were not used
    ]
    if differing:
        raise ValueError(
            f"{origin} belongs to a run with another config ({'; '.join(differing)}): give the "
            "values that it was started with, or another folder"
        )
