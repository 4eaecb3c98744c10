"""The result of tuning, stored for the next start: in the network's file, or beside it."""

import hashlib
import json
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

from dirprune._support.files import write_json
from dirprune._support.processor import processor_name
from dirprune.deploy.programs import Prepared

_VERSION = 2
_NAMES = ("batch", "threads", "choices", "seconds")


class TunedFile:
    """The file ``model.dpz.tuned.json`` of ``model.dpz``.

    It belongs to one network, one instruction set and one version of the engine. It has an entry
    for every number of threads that may compute an image. A file that belongs to something else,
    or is damaged, is ignored.

    Args:
        path: File of the network.
        data: Its bytes.
        isa: Instruction set in use.
        threads: Number of threads of the engine; entries for more threads are kept unused.
    """

    def __init__(self, path: str | Path, data: bytes, isa: str, threads: int) -> None:
        self.path = Path(f"{path}.tuned.json").absolute()
        network = hashlib.sha256(data).hexdigest()
        self._key = {"version": _VERSION, "network": network, "isa": isa}
        self._threads = threads
        self._saved = 0  # number of modes of the program that the file holds
        self._lock = threading.Lock()

    def load(self, program: Any) -> None:
        """Set the choices of a program that the file holds."""
        choose(program, self._modes(), self._threads)
        self._saved = program.modes

    def save(self, program: Any) -> None:
        """Write what a program has found since the last time, if anything; warn if that fails."""
        if program.modes == self._saved or not self.path.parent.is_dir():
            return
        # In the child of a fork a thread of the parent may hold the lock: do not wait for it.
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.load(program)  # what other engines have found since
            found = tuned_modes(program)
            others = [m for m in self._modes() if m["threads"] > self._threads]
            self._saved = len(found)
            try:
                write_json(self.path, self._key | {"modes": others + found})
            except OSError as error:
                warnings.warn(f"{error}; the next start will tune again", stacklevel=3)
        finally:
            self._lock.release()

    def _modes(self) -> list[dict[str, Any]]:
        """The entries of the file for this network, one for each batch and number of threads."""
        try:
            record = json.loads(self.path.read_text())
            if {key: record[key] for key in self._key} != self._key:
                return []
            return _valid(record["modes"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return []


class StoredTuning:
    """The result of tuning in the network's file, for some processors and instruction sets.

    Args:
        text: JSON of an untrusted file; what is not valid is ignored.
        isa: Instruction set in use.
    """

    def __init__(self, text: str, isa: str) -> None:
        self._key = {"version": _VERSION, "processor": processor_name(), "isa": isa}
        self._entries: list[dict[str, Any]] = []
        with suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            self._entries = [
                {**entry, "modes": _valid(entry["modes"]), "sizes": [*entry["sizes"]]}
                for entry in json.loads(text or "[]")
            ]

    def load(self, prepared: Prepared, threads: int) -> None:
        """Set the choices for a program on this processor."""
        for entry in self._entries:
            if self._is_for(entry, prepared):
                choose(prepared.program, entry["modes"], threads)

    def with_programs(self, programs: Sequence[Prepared], threads: int) -> "StoredTuning":
        """The same with what programs have found on this processor.

        Raises:
            ValueError: If they have found nothing.
        """
        found = [
            {**self._key, "sizes": [*own.sizes], "modes": tuned_modes(own.program)}
            for own in programs
            if own.program.modes
        ]
        if not found:
            raise ValueError(
                "nothing has been tuned: call the engine, which tune=True needs, before save_tuned"
            )
        replaced = [own for own in programs if own.program.modes]
        others = [e for e in self._entries if not any(self._is_for(e, own) for own in replaced)]
        new = copy(self)
        new._entries = others + found
        return new

    def to_json(self) -> str:
        """Write it for a file."""
        return json.dumps(self._entries, separators=(",", ":"))

    def _is_for(self, entry: dict[str, Any], prepared: Prepared) -> bool:
        own = self._key | {"sizes": [*prepared.sizes]}
        return all(entry.get(key) == value for key, value in own.items())


def choose(program: Any, modes: list[dict[str, Any]], threads: int) -> None:
    """Set the choices of a program; those for more threads, or for something else, are ignored."""
    for mode in modes:
        if mode["threads"] <= threads:
            with suppress(ValueError, TypeError, RuntimeError, MemoryError):
                program.choose(**mode)


def tuned_modes(program: Any) -> list[dict[str, Any]]:
    """What a program has found for each batch size and number of threads."""
    return [dict(zip(_NAMES, mode)) for mode in program.tuned()]


def _valid(modes: Any) -> list[dict[str, Any]]:
    """Those entries that can be one, one for each batch and number of threads."""
    own = [m for m in modes if m.keys() == set(_NAMES)]
    kinds = {(m["batch"], m["threads"]): m for m in own}
    return [m for kind, m in kinds.items() if set(map(type, kind)) == {int}]


class TunedFiles:
    """The file beside a network, and one for every combination of sizes if sizes vary.

    Args:
        path: File of the network.
        data: Its bytes.
        isa: Instruction set in use.
        threads: Number of threads of the engine.
    """

    def __init__(self, path: Path, data: bytes, isa: str, threads: int) -> None:
        self._arguments = (data, isa, threads)
        self._path = path
        self._files: dict[tuple[int, ...], TunedFile] = {}

    def load(self, prepared: Prepared) -> None:
        """Set the choices of a program that its file holds."""
        self._file(prepared.sizes).load(prepared.program)

    def save(self, prepared: Prepared) -> None:
        """Write what a program has found since the last time, if anything."""
        self._file(prepared.sizes).save(prepared.program)

    def _file(self, sizes: tuple[int, ...]) -> TunedFile:
        if sizes not in self._files:
            suffix = "." + "x".join(map(str, sizes)) if sizes else ""
            self._files[sizes] = TunedFile(f"{self._path}{suffix}", *self._arguments)
        return self._files[sizes]
