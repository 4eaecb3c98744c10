"""Files are written atomically, through private temporary files."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dirprune._support.files import remove_leftovers, write_json, writing
from dirprune._support.lock import locked
from dirprune._support.tensors import write_tensors

DIE = """
import os, signal, sys
from pathlib import Path
from dirprune._support.files import writing
with writing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_behind(path: Path) -> Path:
    """A temporary folder whose writer was killed."""
    done = subprocess.run([sys.executable, "-c", DIE, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (found,) = path.parent.glob(".*.part")
    return found


def test_the_temporary_file_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    leave_behind(tmp_path / "a.json")
    write_json(tmp_path / "b.json", {})
    assert len(list(tmp_path.iterdir())) == 2  # it may belong to another writer's start
    write_json(tmp_path / "a.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_the_lock_of_a_folder_removes_all_leftovers_and_nothing_else(tmp_path: Path) -> None:
    leave_behind(tmp_path / "a.json")
    (tmp_path / ".model.safetensors.123.456.part").write_text("of version 0.1")
    (tmp_path / ".mine.part").write_text("of the user")
    (tmp_path / ".link.abcdefgh.part").symlink_to(tmp_path / ".mine.part")
    with locked(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".link.abcdefgh.part",
        ".mine.part",
    ]


def test_the_temporary_file_of_a_running_writer_is_kept(tmp_path: Path) -> None:
    with writing(tmp_path / "a") as first:
        first.write_text("first")
        remove_leftovers(tmp_path)
        with writing(tmp_path / "a") as second:
            second.write_text("second")
        assert (tmp_path / "a").read_text() == "second"
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_names_differ_and_the_folder_is_private(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with writing(tmp_path / "a") as temporary:
            temporary.touch()
            names.add(temporary.parent.name)
            assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
    assert len(names) == 3


def test_a_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    with writing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "precious").read_text() == "data"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_text() == "new"


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "a") as temporary:
        temporary.write_text(f"half{1 / 0}")
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_files_have_the_usual_mode_and_may_have_long_names(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_tensors(tmp_path / "w.safetensors", {"w": torch.ones(2)})
        write_json(tmp_path / ("n" * 250), {})
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
