"""Calls in new processes, and commands that share a folder."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dirprune._support.lock import FolderInUse
from dirprune._support.memory import peak_memory_mib
from dirprune.study.compare import compare
from dirprune.study.isolated import run_isolated
from dirprune.study.tune import tune
from dirprune.survey.config import SurveyConfig
from dirprune.survey.survey import survey
from dirprune.train.config import TrainConfig

SHORT = TrainConfig(
    model="mlp", epochs=3, batch_size=50, c=0.08, mu=0.51, momentum=0.9, weight_decay=5e-4
)


def test_isolated_processes_report_their_errors(tmp_path: Path) -> None:
    run_isolated(_write_pid, tmp_path / "pid", out=tmp_path)
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    with pytest.raises(FileNotFoundError, match="nothing"):
        run_isolated(_write_pid, tmp_path / "nothing" / "pid", out=tmp_path)
    with pytest.raises(RuntimeError, match="exit status 3"):
        run_isolated(os._exit, 3, out=tmp_path)


_CALLER = """
import pathlib, time
from dirprune.study.isolated import run_isolated
if __name__ == "__main__":
    run_isolated(time.sleep, 600, out=pathlib.Path("x"))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to see processes")
def test_a_process_ends_when_its_caller_is_killed(tmp_path: Path) -> None:
    caller = tmp_path / "caller.py"
    caller.write_text(_CALLER)
    with subprocess.Popen([sys.executable, str(caller)], start_new_session=True) as process:
        session = process.pid

        def alive() -> int:
            return sum(_session(int(p.name)) == session for p in Path("/proc").glob("[0-9]*"))

        deadline = time.monotonic() + 300
        while alive() < 4:  # the caller, the fork server, the resource tracker and the call
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1.0)
        process.kill()
    while alive() > 0:
        assert time.monotonic() < deadline, "a process outlives its caller"
        time.sleep(0.1)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:  # it has ended since
        return -1


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    holder = (
        "import sys, pathlib; from dirprune._support.lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=str(process.pid)):
            compare(SHORT, tmp_path, methods=("sgd",))
        with pytest.raises(FolderInUse, match=str(process.pid)):
            tune(SHORT, tmp_path)
        with pytest.raises(FolderInUse, match=str(process.pid)):
            survey([tmp_path / "a", tmp_path / "b"], SurveyConfig(), tmp_path)
        process.kill()
    with pytest.raises(FileNotFoundError):  # no lock is left; there is no run
        survey([tmp_path / "a", tmp_path / "b"], SurveyConfig(), tmp_path)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to see the process")
def test_ctrl_c_while_the_first_process_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dirprune", "compare", "--out", str(tmp_path / "out")]
    options = ["--methods", "sgd", "--epochs", "1", "--seeds", "1"]
    with subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not _has_clean_process(process.pid) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)  # into its imports, which take seconds
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=300)
    assert process.returncode == 130, printed
    assert printed.startswith("dirprune: interrupted, saved in ")
    assert printed.count("\n") == 1


def _has_clean_process(pid: int) -> bool:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    with suppress(FileNotFoundError):  # a child that has ended since
        return any(b"forkserver" in Path(f"/proc/{c}/cmdline").read_bytes() for c in children)
    return False


def test_peak_memory_excludes_the_parent_process(tmp_path: Path) -> None:
    ballast = torch.ones(200 * 2**20)  # 800 MiB, which a plain child would count as its own
    peaks = []
    for mib in (300, 0):
        run_isolated(_write_peak, tmp_path / "peak", mib, out=tmp_path)
        peaks.append(float((tmp_path / "peak").read_text()))
    assert peaks[1] + 250 < peaks[0] < 800
    assert len(ballast)


def _write_peak(path: Path, mib: int) -> None:
    torch.ones(mib * 2**18)
    path.write_text(str(peak_memory_mib(torch.device("cpu"))))


def _write_pid(path: Path) -> None:
    path.write_text(str(os.getpid()))


def test_isolated_processes_have_the_present_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("first", "second"):  # the fork server is started before the second
        monkeypatch.setenv("DIRPRUNE_TEST_VALUE", value)
        run_isolated(_write_variable, tmp_path / value, out=tmp_path)
        assert (tmp_path / value).read_text() == value


def _write_variable(path: Path) -> None:
    path.write_text(os.environ["DIRPRUNE_TEST_VALUE"])
