"""Replacing an earlier run: its files are set aside, and deleted once the new run has saved.

After a kill, the two config.json files show the state of the folder: the old run's config is the
last file to move, in both directions; the new run's config is written first and removed last.
"""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dirprune._support.files import naming_errors, remove_leftovers
from dirprune._support.lock import locked

ASIDE, DISCARDED = ".replaced", ".discarded"
"""Folders inside a run's folder: the run that is being replaced, and a run to be deleted."""

_log = logging.getLogger(__name__)


def set_aside(run: Path) -> None:
    """Move only the files of a run into :data:`ASIDE`."""
    aside = run / ASIDE
    for file in run_files(run):
        moved = aside / file.relative_to(run)
        moved.parent.mkdir(parents=True, exist_ok=True)
        file.replace(moved)
    _remove_if_empty(run / "checkpoints")


def restore_replaced(run: Path) -> bool:
    """Undo :func:`set_aside`, unless the new run has saved; return whether a run was restored."""
    aside = run / ASIDE
    if not is_replacing(run) or _has_replaced(run):
        discard_replaced(run)
        return False
    with naming_errors(run):
        if (aside / "config.json").exists() and (run / "config.json").exists():
            clear(run)
        for file in run_files(aside):
            moved = run / file.relative_to(aside)
            moved.parent.mkdir(parents=True, exist_ok=True)
            file.replace(moved)
        shutil.rmtree(aside)
    return True


def abandon(run: Path) -> None:
    """Undo the start of a run that has saved nothing yet, and restore the run that it replaces."""
    if is_replacing(run):
        restore_replaced(run)
    elif not _saved(run):
        clear(run)


def is_replacing(run: Path) -> bool:
    """Return whether an earlier run is set aside and would be restored if the new one failed."""
    return (run / ASIDE).is_dir()


def discard_replaced(run: Path) -> None:
    """Delete the run that has been replaced."""
    with naming_errors(run):
        discarded = run / DISCARDED
        if discarded.is_dir():  # a deletion that was cut short
            shutil.rmtree(discarded)
        if (run / ASIDE).is_dir():
            (run / ASIDE).rename(discarded)  # in one step: half of a run is never restored
            shutil.rmtree(discarded)


@contextmanager
def locked_run(run: Path) -> Iterator[None]:
    """Lock a run's folder, and clean up after a killed command.

    Raises:
        FolderInUse: If another process is writing the run.
    """
    with locked(run):
        if (run / "checkpoints").is_dir():
            remove_leftovers(run / "checkpoints")
        if restore_replaced(run):
            _log.warning(
                "%s: a command was killed while it replaced this run; the earlier run is restored",
                run,
            )
        yield


def clear(run: Path) -> None:
    """Delete only the files of a run."""
    for path in run_files(run):
        path.unlink()
    _remove_if_empty(run / "checkpoints")


def run_files(run: Path) -> list[Path]:
    """List the files that belong to a run; its config.json comes last."""
    names = ("metrics.jsonl", "summary.json", "model.safetensors", "model.dpz", "report.html")
    files = [run / name for name in names]
    files += (run / "checkpoints").glob("step-*.safetensors")
    files += run.glob("events.out.tfevents.*")
    files += (path for path in run.glob("tracking/**/*") if not path.is_dir())
    return [file for file in (*files, run / "config.json") if file.exists()]


def _has_replaced(run: Path) -> bool:
    """Return whether the new run had saved before a kill, so that the old one is deleted."""
    new, old = (run / "config.json").exists(), (run / ASIDE / "config.json").exists()
    return new and old and _saved(run)


def _saved(run: Path) -> bool:
    return (run / "summary.json").exists() or any((run / "checkpoints").glob("step-*"))


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
