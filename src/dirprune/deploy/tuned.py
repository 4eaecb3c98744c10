"""What an engine found by timing, kept beside its file for the next start."""

import hashlib
import json
import threading
import warnings
from pathlib import Path
from typing import Any

from dirprune._support.files import write_json

_VERSION = 1
_NAMES = ("batch", "threads", "choices", "seconds")


class TunedFile:
    """The file ``model.dpz.tuned.json`` of ``model.dpz``.

    It belongs to one content of the network's file, one instruction set and one form of the
    engine, and has a part for every number of threads that may compute an image. What belongs to
    others, or is damaged, counts as if it were not there.

    Args:
        path: Of the network.
        isa: Instruction set in use.
        threads: Of the engine; parts of more threads are neither used nor lost.
    """

    def __init__(self, path: str | Path, isa: str, threads: int) -> None:
        self.path = Path(f"{path}.tuned.json").absolute()
        network = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self._key = {"version": _VERSION, "network": network, "isa": isa}
        self._threads = threads
        self._saved = 0  # modes of the program
        self._lock = threading.Lock()

    def load(self, program: Any) -> None:
        """Give a program what the file holds for it."""
        for mode in self._modes():
            if mode["threads"] > self._threads:
                continue
            try:
                program.choose(**mode)
            except (ValueError, TypeError, RuntimeError, MemoryError):
                continue  # of something else, though it does not say so
        self._saved = program.modes

    def save(self, program: Any) -> None:
        """Write what a program has found since the last time, if anything; warn if that fails."""
        if program.modes == self._saved or not self.path.parent.is_dir():
            return
        with self._lock:
            self.load(program)  # what others have found since
            found = [dict(zip(_NAMES, mode)) for mode in program.tuned()]
            others = [m for m in self._modes() if m["threads"] > self._threads]
            self._saved = len(found)
            try:
                write_json(self.path, self._key | {"modes": others + found})
            except OSError as error:
                warnings.warn(f"{error}; the next start will tune again", stacklevel=3)

    def _modes(self) -> list[dict[str, Any]]:
        """What the file holds for this network, one of a kind."""
        try:
            record = json.loads(self.path.read_text())
            if {key: record[key] for key in self._key} != self._key:
                return []
            modes = [m for m in record["modes"] if m.keys() == set(_NAMES)]
            kinds = {(m["batch"], m["threads"]): m for m in modes}
            return [m for kind, m in kinds.items() if set(map(type, kind)) == {int}]
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return []
