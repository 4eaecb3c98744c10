"""The landscape command: consistent figures, resuming, and user errors."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dirprune import cli
from dirprune._support.lock import locked
from dirprune.data import load
from dirprune.landscape import ParameterLayout
from dirprune.models import build
from dirprune.survey.config import parse_duration
from dirprune.survey.data import MEMORY_SHARE, frozen_data
from dirprune.survey.display import SurveyDisplay
from dirprune.survey.estimate import Units
from dirprune.survey.networks import open_subject
from dirprune.survey.record import Record
from dirprune.survey.survey import SurveyConfig, survey

COARSE = ["--samples", "200", "--test-samples", "100", "--points", "5", "--grid", "3"]
COARSE += ["--curve-epochs", "1", "--eigenvectors", "3", "--steps", "6", "--probes", "2"]
COARSE += ["--trust-model"]
ALL = "hessian,directional,curve,plane,along,training"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Runs of SGD, gRDA, and SGD with other batches, of a network with BatchNorm."""
    folder = tmp_path_factory.mktemp("runs")
    common = ["train", "--model", "survey.small:network", "--epochs", "3", "--c", "0.1"]
    common += ["--keep-checkpoints", "10", "--mu", "0.6"]
    kinds = {"sgd": [], "grda": [], "order": ["--batch-seed", "5"]}
    for name, more in kinds.items():
        method = "grda" if name == "grda" else "sgd"
        words = [*common, "--method", method, *more, "--out", str(folder / name)]
        assert cli.main(words) == 0
    return [str(folder / name) for name in kinds]


def landscape(runs: list[str], out: Path, *more: str) -> dict[str, Any]:
    assert cli.main(["landscape", *runs, "--out", str(out), *COARSE, *more]) == 0
    figures: dict[str, Any] = json.loads((out / "landscape.json").read_text())
    return figures


@pytest.fixture(scope="module")
def figures(runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("landscape") / "out"
    found = landscape(runs, out, "--what", ALL)
    return found | {"out": out}


def test_the_report_of_a_survey(figures: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "landscape.html"
    assert cli.main(["report", str(figures["out"]), "--out", str(page)]) == 0
    assert "soft" in page.read_text()


def test_the_networks(figures: dict[str, Any]) -> None:
    networks = {n["name"]: n for n in figures["networks"]}
    names = ["sgd", "grda", "order", "magnitude", "soft_threshold", "random"]
    assert list(networks) == names
    assert [n["role"] for n in networks.values()] == ["dense", "sparse", "run"] + ["control"] * 3
    zeros = networks["grda"]["zeros"]
    assert 0.2 < zeros < 1
    assert networks["magnitude"]["zeros"] == networks["soft_threshold"]["zeros"] == zeros
    assert networks["random"]["distance"] == pytest.approx(networks["grda"]["distance"], rel=1e-5)
    assert networks["order"]["batch_seed"] == 5
    assert networks["sgd"]["seed"] == networks["order"]["seed"] == 1
    assert networks["sgd"]["distance"] == 0
    assert networks["sgd"]["measured"]["train"] != networks["sgd"]["stored"]["train"]
    assert networks["sgd"]["shift"]["running_var"] > 0
    assert figures["data"]["train"]["samples"] == 200
    assert figures["status"] == "finished"
    assert not (figures["out"] / "work").exists()


def test_the_curvature(figures: dict[str, Any]) -> None:
    hessian = figures["hessian"]
    vectors = load_file(figures["out"] / "eigenvectors.safetensors")
    assert vectors["values"].tolist() == hessian["top"]["values"]
    assert hessian["top"]["values"] == sorted(hessian["top"]["values"], reverse=True)
    gram = vectors["vectors"] @ vectors["vectors"].T
    torch.testing.assert_close(gram, torch.eye(3), atol=1e-4, rtol=0)
    assert set(hessian["of"]) == {n["name"] for n in figures["networks"][1:]}
    for found in hessian["of"].values():
        assert found["ratios"] == sorted(found["ratios"])
        assert 0 < found["ratios"][-1] <= 1
        assert sum(found["weights"]) == pytest.approx(1)
        lower, _ = zip(*found["below"])
        assert list(lower) == sorted(lower)
        assert all(a <= b for a, b in found["below"])
        assert lower[-1] > 0.5  # most energy lies below the largest eigenvalue
        mean = sum(x * w for x, w in zip(found["nodes"], found["weights"]))
        assert mean == pytest.approx(found["rayleigh"], rel=1e-3, abs=1e-6)
    assert hessian["chance"][-1] == pytest.approx((3 / figures["dimension"]) ** 0.5)
    assert set(hessian["top_of"]) == {"grda", "order"}


def test_the_projection_is_that_of_the_weights(figures: dict[str, Any], runs: list[str]) -> None:
    sgd, order = (load_file(Path(runs[k]) / "model.safetensors") for k in (0, 2))
    vectors = load_file(figures["out"] / "eigenvectors.safetensors")["vectors"]
    trainable = [name for name in sgd if "running" not in name and "num_batches" not in name]
    layout = ParameterLayout(
        open_subject([Path(r) for r in runs], SurveyConfig(trust_model=True)).model
    )
    assert set(trainable) == set(layout.shapes)
    way = layout.point(order).w - layout.point(sgd).w
    expected = float((vectors @ way).norm() / way.norm())
    assert figures["hessian"]["of"]["order"]["ratios"][-1] == pytest.approx(expected, rel=1e-4)


def test_curves_and_lines(figures: dict[str, Any]) -> None:
    ends = {n["name"]: n["measured"]["train"]["loss"] for n in figures["networks"]}
    for name, found in figures["curve"].items():
        for kind in ("line", "bezier"):
            values = found[kind]["loss"]["train"]["values"]
            assert len(values) == 5
            assert (values[0], values[-1]) == pytest.approx((ends[name], ends["sgd"]), rel=1e-4)
        assert found["bezier"]["length"] >= found["line"]["length"] * (1 - 1e-6)
        assert len(found["fit"]["losses"]) == 1
    assert figures["curve"]["grda"]["line"]["zeros"][0] == figures["networks"][1]["zeros"]
    assert figures["curve"]["grda"]["line"]["off_face"][0] == 0
    assert (figures["out"] / "curve-grda.safetensors").exists()


def test_the_plane(figures: dict[str, Any]) -> None:
    plane = figures["plane"]
    found = plane["measured"]["figures"]
    assert plane["measured"]["third"] == "bend"
    distance = figures["networks"][1]["distance"]
    assert plane["networks"]["grda"] == pytest.approx([distance, 0, 0], abs=1e-5)
    assert plane["networks"]["sgd"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert plane["networks"]["random"][2] > 0.5 * distance
    assert max(at[2] for at in plane["curve"]["at"]) < 1e-5 * distance
    assert [len(row) for row in found["loss"]["train"]] == [3, 3, 3]
    way = plane["trajectories"]["grda"]
    assert way["epoch"] == [1, 2, 3]
    assert way["at"][-1] == pytest.approx(plane["networks"]["grda"], abs=1e-5)
    assert plane["directional"]["at"][0] == pytest.approx([0, 0, 0], abs=1e-6)
    assert plane["directional"]["sparsity"] == sorted(plane["directional"]["sparsity"])
    centre = figures["along"]["measured"]["loss"]["train"][1][1]
    assert centre == figures["along"]["measured"]["measured"][0]["train"]["loss"]


def test_one_shot_pruning(figures: dict[str, Any]) -> None:
    for key, rows in figures["directional"]["table"].items():
        assert {row["method"] for row in rows} >= {"magnitude", "soft_threshold", "obd"}
        for row in rows:
            assert row["sparsity"] == pytest.approx(float(key), abs=3e-3)  # of 418
            assert row["refreshed"]["train"]["loss"] != row["train"]["loss"]
        assert rows[0]["overlap"] == rows[1]["overlap"] == 1
    scores = figures["directional"]["sharp"]["scores"]
    assert scores["quantiles"] == sorted(scores["quantiles"])


def test_training(figures: dict[str, Any]) -> None:
    moments = figures["training"]
    assert [m["epoch"] for m in moments.values()] == [1, 2, 3]
    last = list(moments.values())[-1]
    final = figures["hessian"]["of"]
    assert last["values"] == pytest.approx(figures["hessian"]["top"]["values"], rel=1e-2)
    for name in ("grda", "order", "random"):
        assert last["ratios"][name] == pytest.approx(final[name]["ratios"][-1], rel=0.05)


@pytest.mark.slow
def test_an_interrupted_measurement_resumes_bit_identically(
    runs: list[str],
    figures: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Interrupt with SIGTERM at every 40th progress report; each run continues from the files."""
    looks = 0
    check = SurveyDisplay.check

    def checked(self: SurveyDisplay) -> None:
        nonlocal looks
        looks += 1
        if looks % 40 == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        check(self)

    monkeypatch.setattr(SurveyDisplay, "check", checked)
    words = ["landscape", *runs, "--out", str(tmp_path / "out"), *COARSE, "--what", ALL]
    stops = 0
    while (status := cli.main(words)) == 130:
        assert "run the same command again" in capsys.readouterr().err
        stops += 1
    assert status == 0
    assert stops >= 5
    found = json.loads((tmp_path / "out" / "landscape.json").read_text())
    for name in ("networks", "curve", "directional", "along", "data"):
        assert found[name] == figures[name], name
    assert found["hessian"]["of"] == figures["hessian"]["of"]
    assert found["plane"]["measured"] == figures["plane"]["measured"]


@pytest.mark.slow  # tests/landscape has a quick case of two processes
def test_two_processes_measure_the_same_as_one(runs: list[str], tmp_path: Path) -> None:
    """Interrupted by a signal to one process while a curve is fitted, and resumed."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(tests), os.environ.get("PYTHONPATH")]))
    what, out = ["--what", "hessian,curve,plane"], tmp_path / "two"
    script = str(tests / "scripts" / "survey_of_two.py")
    command = [sys.executable, script, "landscape", *runs[:2], "--out", str(out), *COARSE, *what]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # The variables that torchrun sets; starting torchrun would take as long again.
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        (out_0, err_0), (out_1, err_1) = (p.communicate(timeout=300) for p in processes)
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], err_0 + err_1
    assert "run the same command again" in err_0
    for once in ("status 130", "estimating", "curve: ", "plane: ", "measured in", "report: "):
        assert out_0.count(once) == 1, once
    assert (out_1, err_1) == ("status 130\n", "")  # silent but for the script
    two = json.loads((out / "landscape.json").read_text())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        coarse = SurveyConfig(**two["config"])
        one = survey([Path(run) for run in runs[:2]], coarse, tmp_path / "one")
    finally:
        torch.set_num_threads(threads)
    for name in ("dimension", "data", "networks", "curve"):
        assert two[name] == one[name], name
    assert two["plane"]["measured"] == one["plane"]["measured"]
    assert two["plane"]["networks"] == one["plane"]["networks"]
    top, of = (one["hessian"][name] for name in ("top", "of"))
    assert two["hessian"]["top"]["values"] == pytest.approx(top["values"], rel=1e-4)
    for name, found in two["hessian"]["of"].items():
        assert found["ratios"] == pytest.approx(of[name]["ratios"], rel=1e-2)
        assert found["rayleigh"] == pytest.approx(of[name]["rayleigh"], rel=1e-4)


def test_a_repeated_command_and_changed_options(
    runs: list[str], figures: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    out = figures["out"]
    before = (out / "landscape.json").read_bytes()
    landscape(runs, out, "--what", ALL)
    assert "is already finished" in capsys.readouterr().out
    words = ["landscape", *runs, "--out", str(out), *COARSE, "--what", ALL, "--grid", "4"]
    assert cli.main(words) == 2
    assert "grid was 3, now 4" in capsys.readouterr().err
    words = ["landscape", *reversed(runs), "--out", str(out), *COARSE, "--what", ALL]
    assert cli.main(words) == 2
    assert "the networks or the data differ" in capsys.readouterr().err
    assert (out / "landscape.json").read_bytes() == before


def test_a_budget_reduces_the_resolution(
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    units = Units(evaluation=0.03, product=0.0, step=0.0)  # seconds, whatever else runs here
    monkeypatch.setattr("dirprune.survey.survey.measure_units", lambda *_: units)
    words = ["landscape", *runs, "--what", "plane", "--grid", "901", "--points", "99"]
    words += ["--trust-model"]
    assert cli.main([*words, "--out", str(tmp_path / "out"), "--budget", "4s"]) == 0
    found = json.loads((tmp_path / "out" / "landscape.json").read_text())
    chosen = found["plan"]["chosen"]
    assert 9 <= chosen["grid"] < 901
    assert found["plan"]["total"] <= 4
    assert len(found["plane"]["measured"]["figures"]["x"]) == chosen["grid"]
    assert found["plane"]["measured"]["third"] == "order"
    assert cli.main([*words, "--out", str(tmp_path / "no"), "--budget", "0.001s"]) == 2
    assert "the coarsest survey takes about" in capsys.readouterr().err
    assert cli.main([*words, "--out", str(tmp_path / "no"), "--budget", "4s"]) == 0


def test_plain_checkpoints(runs: list[str], tmp_path: Path) -> None:
    files = []
    for k, run in enumerate(runs[:2]):
        files.append(str(tmp_path / f"net{k}.safetensors"))
        save_file(load_file(Path(run) / "model.safetensors"), files[-1])
    more = ["--model", "survey.small:network", "--what", "curve,plane"]
    found = landscape(files, tmp_path / "out", *more)
    assert [n["name"] for n in found["networks"]][:2] == ["net0", "net1"]
    assert found["networks"][0]["method"] is None
    assert set(found["curve"]) == {"net1", "magnitude", "soft_threshold", "random"}
    assert "directional" not in found["plane"]


@pytest.mark.parametrize(("width", "last"), [(0.25, False), (1.0, True)])
def test_narrow_shortcuts_stay_out_of_channels_last(
    width: float, last: bool, tmp_path: Path
) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        net = build("resnet20", num_classes=10, channels=1, size=(8, 8), width=width)
        save_file(net.state_dict(), file)
    subject = open_subject(files, SurveyConfig(model="resnet20", width=width))
    inner = subject.model.get_parameter("3.conv1.weight")
    assert inner.is_contiguous(memory_format=torch.channels_last) is last
    assert inner.is_contiguous() is not last


MISTAKES = [
    (["A"], "at least two runs, the dense one first, got 1"),
    (["A", "NOWHERE"], "no run or checkpoint NOWHERE"),
    (["A", "."], "is not a run"),
    (["A", "B"], "give --trust-model"),
    (["A", "A"], "are the same point"),
    (["A", "B", "--what", "curve,hessain"], "unknown part 'hessain'"),
    (["A", "B", "--budget", "10 minutes"], "is not a duration: write a number and a unit"),
    (["A", "B", "--grid", "1"], "grid must be at least 2"),
    (["A", "B", "--model", "mlp"], "--model is for plain checkpoints"),
    (["A", "A/config.json"], "not a safetensors file"),
    (["A/model.safetensors", "B/model.safetensors"], "plain checkpoints need --model"),
    (["A", "B", "--policy", "train"], "'refresh'"),
    (["A", "B", "--device", "cuda"], "no CUDA device found"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda x: " ".join(x)[:40])
def test_a_user_error_gives_one_line(
    words: list[str],
    message: str,
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"A": runs[0], "B": runs[1]}
    named = [
        places.get(w.partition("/")[0], w.partition("/")[0]) + "".join(w.partition("/")[1:])
        for w in words
    ]
    trust = [] if words == ["A", "B"] else ["--trust-model"]
    assert cli.main(["landscape", *named, *trust, "--out", "OUT"]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("dirprune: ")
    assert stderr.count("\n") == 1
    assert message in stderr
    assert not list(tmp_path.iterdir())


def test_runs_of_different_models_are_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "mlp"
    words = ["train", "--model", "mlp", "--width", "0.1", "--epochs", "1", "--method", "sgd"]
    assert cli.main([*words, "--out", str(other)]) == 0
    assert cli.main(["landscape", runs[0], str(other), "--trust-model", "--out",
                     str(tmp_path / "out")]) == 2  # fmt: skip
    assert "differ in model" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert cli.main(["landscape", *runs, "--out", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def _without_config(record: dict[str, Any]) -> object:
    return {"hidden_size": 768}


def _without_versions(record: dict[str, Any]) -> object:
    return {"config": record["config"]}


def _mistyped(record: dict[str, Any]) -> object:
    return record | {"config": record["config"] | {"epochs": "three"}}


def _negative(record: dict[str, Any]) -> object:
    return record | {"config": record["config"] | {"lr": -1.0}}


@pytest.mark.parametrize("spoil", [_without_config, _without_versions, _mistyped, _negative])
def test_a_foreign_or_damaged_run_gives_one_line(
    spoil: Callable[[dict[str, Any]], object],
    runs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(runs[1], copied)
    record = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(spoil(record)))
    out = ["--trust-model", "--out", str(tmp_path / "out")]
    assert cli.main(["landscape", runs[0], str(copied), *out]) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert f"{copied}/config.json" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": "other"}', "[]", "{"])
def test_a_foreign_landscape_is_not_changed(
    text: str, runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "landscape.json").write_text(text)
    assert cli.main(["landscape", *runs, "--trust-model", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "landscape.json").read_text() == text


def test_a_second_survey_of_a_folder_is_refused(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path):
        assert cli.main(["landscape", *runs, *COARSE, "--out", str(tmp_path)]) == 2
    assert f"{tmp_path} is in use by process {os.getpid()}" in capsys.readouterr().err
    assert not (tmp_path / "landscape.json").exists()


def test_a_landscape_from_before_a_config_field_resumes(
    figures: dict[str, Any], tmp_path: Path
) -> None:
    record = json.loads((figures["out"] / "landscape.json").read_text())
    del record["config"]["trust_model"], record["config"]["probes"]
    record["status"] = "running"
    (tmp_path / "landscape.json").write_text(json.dumps(record))
    config = SurveyConfig(**(record["config"] | {"trust_model": True}))
    Record(tmp_path).begin(config, record["subject"], "cpu")
    with pytest.raises(ValueError, match="probes was 2, now 5"):
        Record(tmp_path).begin(replace(config, probes=5), record["subject"], "cpu")


def test_frozen_data_stays_within_its_share_of_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = load("digits")
    image = 4 * 8 * 8
    memory = SimpleNamespace(total=image * 400 / MEMORY_SHARE)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    config = SurveyConfig(samples=0, test_samples=0)
    data = frozen_data(source, config, torch.contiguous_format)
    held = sum(frozen.samples for frozen in data.values())
    assert set(data) == {"train", "test"}
    assert 395 <= held <= 400
    assert "images need" in caplog.text
    small = frozen_data(source, replace(config, samples=50, test_samples=60),
                        torch.contiguous_format)  # fmt: skip
    assert [small[name].samples for name in ("train", "test")] == [50, 60]


@pytest.mark.parametrize("text", ["", "10", "m", "-3s", "0s", "1d", "1e3s"])
def test_invalid_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)
