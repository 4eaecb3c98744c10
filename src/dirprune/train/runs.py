"""The folder of a run: which files it has, and what the run depended on."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dirprune._support.files import naming_errors, read_json, write_json, writing
from dirprune.train.config import TrainConfig

_PACKAGES = ("dirprune", "torch", "torchvision", "accelerate", "numpy", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds one run.

    Attributes:
        path: The folder; it need not exist yet.

    Example:
        >>> RunFolder(Path("runs/first")).metrics.as_posix()
        'runs/first/metrics.jsonl'
    """

    path: Path

    @property
    def config(self) -> Path:
        """What it takes to repeat the run, and on what it ran."""
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
        """The network as one compact file, where it was exported."""
        return self.path / "model.dpz"

    @property
    def checkpoints(self) -> Path:
        """The folder of what resuming needs."""
        return self.path / "checkpoints"

    @property
    def replaced(self) -> Path:
        """The folder of the run that is being overwritten, until the new one has saved."""
        return self.path / ".replaced"

    def check_free(self, *, overwrite: bool = False) -> None:
        """Refuse a folder in which a new run would destroy something.

        Args:
            overwrite: Whether another run's files may go.

        Raises:
            ValueError: If the folder holds another run, or files that a run would replace and
                that are of no run.
            NotADirectoryError: If the path is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file: give a folder for the run")
        own = (self.config, self.metrics, self.summary, self.weights, self.checkpoints)
        taken = [path.name for path in own if path.exists()]
        if taken and not self._holds_run():
            raise ValueError(
                f"{self.path} holds {taken[0]}, which is of no run of dirprune: "
                "choose another folder"
            )
        if taken and not overwrite:
            raise ValueError(
                f"{self.path} holds another run: continue it with --resume (resume=True), "
                "replace it with --overwrite (overwrite=True), or choose another folder"
            )

    def check_resumable(self, config: TrainConfig) -> None:
        """Refuse to continue a run that is not there or that is another one.

        Args:
            config: What the run is to be continued with.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the run was started with other values, or has diverged.
        """
        if not self._holds_run():
            damaged = self.config.is_file()
            raise FileNotFoundError(
                f"{self.config} is damaged or of no run of dirprune: restore it, or choose "
                "another folder"
                if damaged
                else f"{self.path} holds no run that could be resumed: leave out --resume "
                "(resume=True) to start one"
            )
        check_same_config(read_json(self.config)["config"], config, str(self.path))
        if (self.read_summary() or {}).get("status") == "diverged":
            raise ValueError(
                f"{self.path} diverged and would do so again: start anew with --overwrite "
                "(overwrite=True) and a smaller lr, c or mu"
            )

    def begin(
        self,
        config: TrainConfig,
        recipe: Mapping[str, Any] | None,
        device: str,
        task: Mapping[str, Any],
    ) -> None:
        """Start a run: set aside what an earlier one wrote, and nothing else; write the config.

        The earlier run comes back with :meth:`give_back`, and is gone for good with
        :meth:`settle`.

        Args:
            config: Of the new run.
            recipe: Its name and published figures, if it is one of the paper's.
            device: What the run computes on.
            task: What the network has to fit, as :attr:`.data.Dataset.task` gives it.
        """
        with naming_errors(self.path):
            if self.replaced.exists():  # a start that was cut short: what it left is not that run
                self._clear()
            else:
                self._set_aside()
            self.path.mkdir(parents=True, exist_ok=True)
        record = {
            "config": asdict(config),
            "recipe": dict(recipe) if recipe else None,
            "task": dict(task),
        }
        try:
            write_json(self.config, record | environment(device))
        except OSError:
            self.give_back()
            raise

    def settle(self) -> None:
        """Remove the run that this one replaces."""
        if self.replaced.is_dir():
            with naming_errors(self.replaced):
                shutil.rmtree(self.replaced)

    def give_back(self) -> None:
        """Undo :meth:`begin`, if nothing of the new run has been saved."""
        if self.summary.exists() or any(self.checkpoints.glob("step-*")):
            return
        self._clear()
        if self.replaced.is_dir():
            _move(self.replaced, self.path, _written(self.replaced))
            shutil.rmtree(self.replaced)

    def read_summary(self) -> dict[str, Any] | None:
        """Return the final figures, or None while there are none."""
        return read_json(self.summary) if self.summary.exists() else None

    def read_metrics(self, until: int | None = None) -> list[dict[str, Any]]:
        """Return the figures of every epoch, without a last line that was cut off.

        Args:
            until: The last epoch wanted; by default all.

        Raises:
            ValueError: If another line is damaged.
        """
        records: list[dict[str, Any]] = []
        text = self.metrics.read_text() if self.metrics.exists() else ""
        for number, line in enumerate(text.splitlines(keepends=True), start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                record = None
            if isinstance(record, dict) and isinstance(record.get("epoch"), int):
                if until is None or record["epoch"] <= until:
                    records.append(record)
            elif line.endswith("\n"):
                raise ValueError(
                    f"{self.metrics} is damaged in line {number}: restore it, or start anew with "
                    "--overwrite (overwrite=True)"
                )
        return records

    def truncate_metrics(self, until: int) -> None:
        """Forget the epochs after ``until``, which a resumed run is about to repeat.

        Raises:
            ValueError: If the figures of an epoch before it are not there.
        """
        records = self.read_metrics(until)
        if len(records) < until:
            raise ValueError(
                f"{self.metrics} holds {len(records)} of the {until} epochs behind the "
                "checkpoint: restore it, or start anew with --overwrite (overwrite=True)"
            )
        lines = [json.dumps(record) + "\n" for record in records]
        with writing(self.metrics) as temporary:
            temporary.write_text("".join(lines))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add the figures of one epoch, on disk when this returns."""
        with naming_errors(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _holds_run(self) -> bool:
        if not self.config.is_file():
            return False
        try:
            record = json.loads(self.config.read_text())
        except ValueError:
            return False
        known = isinstance(record, dict) and record.keys() >= {"config", "versions"}
        return known and isinstance(record["config"], dict)

    def _clear(self) -> None:
        for path in _written(self.path) if self._holds_run() else ():
            path.unlink()
        _remove_empty(self.checkpoints)

    def _set_aside(self) -> None:
        if self._holds_run():
            _move(self.path, self.replaced, _written(self.path))
            _remove_empty(self.checkpoints)


def _written(path: Path) -> list[Path]:
    """What a run has written into its folder."""
    folder = RunFolder(path)
    files = [folder.metrics, folder.summary, folder.weights, folder.exported, path / "report.html"]
    files += folder.checkpoints.glob("step-*.safetensors")
    files += path.glob("events.out.tfevents.*")
    # The config goes last: while it is there, an overwrite that was cut short can be repeated.
    return [file for file in (*files, folder.config) if file.exists()]


def _move(source: Path, target: Path, files: list[Path]) -> None:
    for file in files:
        moved = target / file.relative_to(source)
        moved.parent.mkdir(parents=True, exist_ok=True)
        file.replace(moved)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def check_same_config(saved: Mapping[str, Any], config: TrainConfig, origin: str) -> None:
    """Refuse to go on with other values than a run was started with.

    Args:
        saved: The fields as JSON gives them back.
        config: What is asked for now.
        origin: Where ``saved`` comes from, for the message.

    Raises:
        ValueError: If a field differs; the message names all that do.
    """
    now = json.loads(json.dumps(asdict(config)))
    differing = [
        f"{name} was {saved.get(name)!r}, now {now.get(name)!r}"
        for name in now | dict(saved)
        if saved.get(name) != now.get(name)
    ]
    if differing:
        raise ValueError(
            f"{origin} is of a run with another config ({'; '.join(differing)}): give the values "
            "it was started with, or another folder"
        )


def environment(device: str) -> dict[str, Any]:
    """Return what a run's figures depend on besides its config.

    Args:
        device: What the run computes on, such as ``"cpu"`` or ``"cuda"``.

    Returns:
        The keys ``command``, ``versions``, ``commit``, ``hardware`` and ``started``.
    """
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version()} | {p: version(p) for p in _PACKAGES},
        "commit": _commit(),
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "memory_gib": _memory_gib(),
        },
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit of this source tree, or None for an installed copy."""
    package = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    top, commit = done.stdout.splitlines()
    return commit if Path(top, "src", "dirprune").resolve() == package else None


def _cpu() -> str:
    """The processor's name, with the family and model that tell its generation."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
