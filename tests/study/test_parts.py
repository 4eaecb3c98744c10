"""A comparison in parts that share its folder, as array jobs do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dirprune._support.lock import FolderInUse
from dirprune.cli import main
from dirprune.study import compare as module
from dirprune.study.compare import compare
from dirprune.study.parts import Part
from dirprune.train.config import TrainConfig
from dirprune.train.errors import Diverged

SHORT = TrainConfig(model="mlp", width=0.1, epochs=2, batch_size=100, c=0.1, momentum=0.9)
METHODS = ("sgd", "magnitude", "rda", "grda", "gmp")
OPTIONS: dict[str, Any] = {"methods": METHODS, "seeds": (1, 2, 3), "lrs": (0.05, 0.1)}

Call = Callable[..., object]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Call functions in this process, and record the folders of the runs in order."""
    folders: list[Path] = []

    def call_here(function: Call, *args: Any, out: Path) -> None:
        folders.append(args[-2])
        with suppress(Diverged):
            function(*args)

    monkeypatch.setattr(module, "run_isolated", call_here)
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    return folders


def results(out: Path) -> dict[str, Any]:
    """Everything that is reproducible: the bits of the weights, choices and figures."""
    record = json.loads((out / "comparison.json").read_text())
    weights = {p.relative_to(out): p.read_bytes() for p in out.glob("*/*/model.safetensors")}
    table = (out / "comparison.csv").read_text().splitlines()
    names = table[0].split(",")
    columns = [n for n in names if n.startswith(("test", "sparsity", "nonzeros"))]
    kept = [[line.split(",")[names.index(n)] for n in columns] for line in table]
    return record | {"weights": weights, "table": kept}


@pytest.fixture
def whole(tmp_path: Path, calls: list[Path]) -> dict[str, Any]:
    compare(SHORT, tmp_path / "whole", **OPTIONS)
    calls.clear()
    return results(tmp_path / "whole")


def test_consecutive_parts_equal_one_comparison(
    tmp_path: Path, whole: dict[str, Any], calls: list[Path]
) -> None:
    out = tmp_path / "parts"
    runs = []
    while not calls or json.loads((out / "comparison.json").read_text())["missing"]:
        for part in ("1/2", "2/2"):
            before = len(calls)
            compare(SHORT, out, part=part, **OPTIONS)
            runs += [(part, folder.relative_to(out)) for folder in calls[before:]]
            assert len(calls) < 40
    assert results(out) == whole
    assert len(set(calls)) == len(calls)  # nothing ran twice
    for part, folder in runs:  # seeds of a method alternate
        method, seed = folder.parts[0], int(str(folder)[-1])
        method = "magnitude" if "magnitude" in method else method
        number = METHODS.index(method) * 3 + seed - 1
        assert part == f"{number % 2 + 1}/2", folder
    assert not list(out.glob(".*"))


def test_concurrent_parts_equal_one_comparison(
    tmp_path: Path, whole: dict[str, Any], calls: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second part starts and ends while the first one trains."""
    out, train_here = tmp_path / "parts", module.run_isolated
    refused: list[str] = []

    def call(function: Call, *args: Any, out: Path) -> None:
        if not refused:
            for part in ("1/2", None):
                with pytest.raises(
                    FolderInUse, match=f"in use by process {os.getpid()}"
                ) as caught:
                    compare(SHORT, out, part=part, **OPTIONS)
                refused.append(str(caught.value))
            compare(SHORT, out, part="2/2", **OPTIONS)
        train_here(function, *args, out=out)

    monkeypatch.setattr(module, "run_isolated", call)
    compare(SHORT, out, part="1/2", **OPTIONS)
    assert all("\n" not in text for text in refused)
    assert json.loads((out / "comparison.json").read_text())["missing"]
    compare(SHORT, out, **OPTIONS)  # without parts: all that is left
    assert results(out) == whole
    assert len(set(calls)) == len(calls)


def test_a_part_beside_the_complete_comparison_is_refused(
    tmp_path: Path, calls: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(function: Call, *args: Any, out: Path) -> None:
        with pytest.raises(FolderInUse, match="in use by process"):
            compare(SHORT, out, part="1/2", methods=("sgd",))
        calls.append(out)
        function(*args)

    monkeypatch.setattr(module, "run_isolated", call)
    compare(SHORT, tmp_path, methods=("sgd",), seeds=(1,))
    assert len(calls) == 1


def test_a_part_of_a_grown_comparison_does_not_overwrite_it(
    tmp_path: Path, calls: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(function: Call, *args: Any, out: Path) -> None:
        function(*args)
        if len(list(out.glob("*/*/config.json"))) == 1:
            compare(SHORT, out, part="2/2", methods=("sgd", "grda"), seeds=(1, 2))

    monkeypatch.setattr(module, "run_isolated", call)
    with pytest.raises(ValueError, match=r"holds another comparison .*methods was"):
        compare(SHORT, tmp_path, part="1/2", methods=("sgd",), seeds=(1, 2))
    assert json.loads((tmp_path / "comparison.json").read_text())["plan"]["methods"][1] == "grda"


@pytest.mark.parametrize("text", ["3/2", "0/2", "1/0", "2", "", "1/2/3", "-1/2", "a/b", "1/ 2"])
def test_parts_that_do_not_exist_are_refused(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=f"part '{text}' does not exist: give I/N"):
        Part.parse(text)
    assert main(["compare", "--out", str(tmp_path / "out"), f"--part={text}"]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith(f"dirprune: part '{text}' does not exist")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_tune_has_no_parts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--out", str(tmp_path / "out"), "--part", "1/2"]) == 2
    printed = capfd.readouterr().err
    assert printed.startswith("dirprune: tune has no --part: each trial depends on the one before")
    assert printed.count("\n") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("calls")
def test_a_killed_part_resumes_while_the_other_runs(tmp_path: Path) -> None:
    options = ["--model", "mlp", "--width", "0.1", "--epochs", "3", "--c", "0.1", "--threads", "1"]
    options += ["--methods", "sgd", "grda", "gmp", "--seeds", "1", "2"]
    command = [sys.executable, "-m", "dirprune", "compare", *options, "--out"]

    def start(out: str, *part: str) -> "subprocess.Popen[str]":
        words = [*command, str(tmp_path / out), *part]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(process: "subprocess.Popen[str]") -> str:
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 0, printed
        return printed

    whole = TrainConfig(
        model="mlp", width=0.1, epochs=3, c=0.1, momentum=0.9, weight_decay=5e-4, threads=1
    )
    compare(whole, tmp_path / "whole", methods=("sgd", "grda", "gmp"), seeds=(1, 2))
    one, two = start("parts", "--part", "1/2"), start("parts", "--part", "2/2")
    while not list(tmp_path.glob("parts/*/*/config.json")):
        time.sleep(0.01)
    one.send_signal(signal.SIGKILL)
    one.communicate()
    assert "not finished yet" in finish(two)
    finish(start("parts", "--part", "1/2"))
    printed = finish(start("parts", "--part", "2/2"))
    assert "not finished yet" not in printed
    assert "report: " in printed
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    assert list(tmp_path.glob("parts/*/*/model.dpz"))
