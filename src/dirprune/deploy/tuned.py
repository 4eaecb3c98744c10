"""What an engine found by timing, kept beside its file for the next start."""

import hashlib
import json
import threading
import warnings
from pathlib import Path
from typing import Any

from dirprune.files import write_json

_VERSION = 1


class TunedFile:
    """The file ``model.dpz.tuned.json`` of ``model.dpz``.

    It belongs to one content of the network's file, one instruction set and one form of the
    engine. What belongs to others, or is damaged, counts as if it were not there.

    Args:
        path: Of the network.
        isa: Instruction set in use.
    """

    def __init__(self, path: str | Path, isa: str) -> None:
        self.path = Path(f"{path}.tuned.json")
        network = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self._key = {"version": _VERSION, "network": network, "isa": isa}
        self._modes = 0  # that the file holds
        self._lock = threading.Lock()

    def load(self, program: Any) -> None:
        """Give a program what the file holds."""
        try:
            record = json.loads(self.path.read_text())
            if {key: record[key] for key in self._key} != self._key:
                return
            for mode in record["modes"]:
                program.choose(**mode)
                self._modes += 1
        except (OSError, ValueError, LookupError, TypeError):
            return

    def save(self, program: Any) -> None:
        """Write what a program has found since the last time, if anything; warn if that fails."""
        with self._lock:
            modes = program.chosen()
            if len(modes) <= self._modes:
                return
            self._modes = len(modes)
            names = ("batch", "threads", "choices", "seconds")
            try:
                write_json(
                    self.path, self._key | {"modes": [dict(zip(names, mode)) for mode in modes]}
                )
            except OSError as error:
                warnings.warn(f"{error}; the next start will tune again", stacklevel=4)
