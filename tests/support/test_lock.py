"""The lock on a folder, across processes, threads and kill -9."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dirprune._support import lock
from dirprune._support.lock import NAME, FolderInUse, locked

HOLD = """
import os, sys, time
from pathlib import Path
from dirprune._support.lock import locked
with locked(Path(sys.argv[1])):
    reader, writer = os.pipe()
    if sys.argv[2] == "fork" and os.fork() == 0:
        os.write(writer, b"x")
        time.sleep(60)
    if sys.argv[2] == "fork":
        os.read(reader, 1)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, mode: str = "") -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLD, str(folder), mode]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_second_process_is_refused_and_named(tmp_path: Path) -> None:
    with (
        holder(tmp_path) as process,
        pytest.raises(FolderInUse, match=f"in use by process {process.pid} on .* wait until"),
        locked(tmp_path),
    ):
        pass


@pytest.mark.parametrize("mode", ["", "fork"])
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, mode: str) -> None:
    with holder(tmp_path, mode) as process:
        process.kill()
        process.wait()
        assert (tmp_path / NAME).exists()
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_threads_holds_the_lock(tmp_path: Path) -> None:
    inside, most, failures = 0, 0, 0
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most, failures
        for _ in range(50):
            try:
                with locked(tmp_path / "run"):
                    with guard:
                        inside += 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except FolderInUse:  # noqa: PERF203
                failures += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert failures < 200
    assert list(tmp_path.rglob(NAME)) == []


def test_a_folder_that_is_removed_while_it_is_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, calls = os.mkdir, []

    def raced(path: str, mode: int = 0o777) -> None:
        calls.append(path)
        if len(calls) == 1:  # it existed, but has been removed since
            raise FileExistsError(17, "File exists", str(path))
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", raced)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / NAME).is_file()
    assert len(calls) == 2


def test_a_folder_that_is_removed_while_it_is_looked_at_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stat = tmp_path / "run", os.stat
    folder.mkdir()

    def raced(path: str, *args: object, **kwargs: object) -> os.stat_result:
        found = stat(path, *args, **kwargs)  # type: ignore[arg-type]
        if path == folder and not (folder / NAME).exists():  # the previous holder leaves
            folder.rmdir()
        return found

    monkeypatch.setattr(os, "stat", raced)
    with locked(folder):
        assert (folder / NAME).is_file()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in ("run", "run/sgd/1"):
        with pytest.raises(NotADirectoryError, match="run is a file"), locked(tmp_path / folder):
            pass
    for folder in ("link", "link/run"):
        with pytest.raises(FileExistsError, match="another folder"), locked(tmp_path / folder):
            pass
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError, match=r"run .*: choose another"), locked(Path("run")):
        pass


def test_a_lock_file_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = lock.fcntl.flock
    removed = []

    def remove_first(descriptor: int, flags: int) -> None:
        flock(descriptor, flags)
        if not removed:  # as the previous holder does just before this one has the lock
            (tmp_path / NAME).unlink()
            removed.append(descriptor)

    monkeypatch.setattr(lock.fcntl, "flock", remove_first)
    with locked(tmp_path):
        assert removed
        assert (tmp_path / NAME).exists()


def test_existing_or_used_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"), locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "c").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "c", "old"]


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="cannot write"), locked(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "data"
