"""The command line, called in this process: files of results, and user errors in one line."""

import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torchvision

import dirprune
from dirprune import cli
from dirprune.cli import names, training
from dirprune.cli.options import GROUPS
from dirprune.cli.parsing import _take_defaults, parse
from dirprune.cli.program import _messages_shown
from dirprune.models.factory import OWN
from dirprune.models.names import OWN_NAMES
from dirprune.study.comparison import Plan
from dirprune.train.config import TrainConfig
from dirprune.train.methods import METHODS
from dirprune.train.names import COMPARED, TRAINED
from dirprune.train.recipes import RECIPES

QUICK = ["train", "--model", "mlp", "--width", "0.1", "--epochs", "2", "--c", "0.1"]


def test_train_writes_a_run_with_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert cli.main([*QUICK, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    printed = capsys.readouterr().out
    assert f"{summary['sparsity']:.2%}" in printed
    assert f"{summary['test_accuracy']:.2%}" in printed
    for name in ("config.json", "metrics.jsonl", "model.safetensors", "report.html"):
        assert (out / name).stat().st_size > 0
    assert cli.main([*QUICK, "--out", str(out)]) == 2
    assert "another run" in capsys.readouterr().err
    assert cli.main([*QUICK, "--out", str(out), "--resume"]) == 0
    assert cli.main([*QUICK, "--out", str(out), "--overwrite"]) == 0


def test_report_of_two_runs(tmp_path: Path) -> None:
    for method in ("sgd", "grda"):
        assert cli.main([*QUICK, "--method", method, "--out", str(tmp_path / method)]) == 0
    page = tmp_path / "both.html"
    runs = [str(tmp_path / "sgd"), str(tmp_path / "grda")]
    assert cli.main(["report", *runs, "--out", str(page)]) == 0
    assert "grda" in page.read_text()


def test_a_recorded_config_is_repeated_with_options_on_top(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "again", "other")]
    assert cli.main([*QUICK, "--seed", "5", "--out", str(runs[0])]) == 0
    config = str(runs[0] / "config.json")
    assert cli.main(["train", "--config", config, "--out", str(runs[1])]) == 0
    assert cli.main(["train", f"--config={runs[0]}", "--lr", "0.2", "--out", str(runs[2])]) == 0
    first, again, other = (json.loads((run / "config.json").read_text())["config"] for run in runs)
    assert again == first
    assert other == first | {"lr": 0.2}
    weights = [(run / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1] != weights[2]


def test_a_recorded_config_runs_no_code_without_consent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit(77)")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {"model": "evil:build"}, "versions": {}}))
    words = ["train", "--config", str(file), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    assert "names the code evil:build" in capsys.readouterr().err
    file.write_text(json.dumps({"config": {"model": "timm:hf_hub:evil/net"}, "versions": {}}))
    assert cli.main(words) == 2
    assert "names the code timm:hf_hub:evil/net" in capsys.readouterr().err
    assert cli.main([*words, "--model", "evil:build"]) == 77


MISTAKES = [
    (["train", "--config"], "--config needs a value"),
    (["train", "--config", "missing.json", "--out", "OUT"], "missing.json does not exist"),
    (["train", "--config", "a", "--recipe", "b", "--out", "OUT"], "exclude each other"),
    ([], "a command is missing"),
    (["trian"], "did you mean train?"),
    (
        ["figures", "--method", "sgd"],
        "unrecognized option --method",
    ),  # no option of figures
    (["landscape", "OUT", "--sampels", "3", "-o", "OUT"], "did you mean --samples"),
    (["landscape", "OUT", "-o", "OUT", "--what", "curve,hesian"], "did you mean hessian?"),
    (["bench", "OUT/a.dpz", "--vs", "openvno"], "did you mean openvino"),
    (["bench"], "model is missing; see dirprune bench --help"),
    ([*QUICK, "--mdoel", "x"], "did you mean --model? see dirprune train --help"),
    ([*QUICK, "--out", "OUT", "--track", "wandbb"], "did you mean wandb"),
    ([*QUICK, "--out", "OUT", "--data", "digit"], "did you mean digits?"),
    ([*QUICK, "--out", "OUT", "--method", "gRDA"], "did you mean grda or rda or adam_grda?"),
    ([*QUICK, "--out", "OUT", "--model", "resnet5"], "resnet50"),
    (["compare", "--out", "OUT", "--methods", "sgd", "gmpp"], "did you mean gmp"),
    (["compare", "--out", "OUT", "--seed", "2"], "--seeds"),
    (["train"], "--out"),
    ([*QUICK, "--out", "OUT", "--mu", "3"], "mu must lie in (0, 1], got 3.0"),
    ([*QUICK, "--out", "OUT", "--lr", "nan"], "lr must be positive and finite, got nan"),
    ([*QUICK, "--out", "OUT", "--c", "-1"], "c must be"),
    ([*QUICK, "--out", "OUT", "--epohcs", "3"], "--epochs"),
    (
        [*QUICK, "--out", "OUT", "--batch-size", "many"],
        "--batch-size takes a whole number, got 'many'; see",
    ),
    ([*QUICK, "--out", "OUT", "--epochs", "1.5"], "--epochs takes a whole number, got '1.5'"),
    ([*QUICK, "--out", "OUT", "--target-sparsity", "90%"], "takes a number, got '90%'; see"),
    (["compare", "--out", "OUT", "--seeds", "1", "two"], "takes a whole number, got 'two'"),
    ([*QUICK, "--out", ""], "an argument is empty"),
    ([*QUICK, "--out", "OUT", "--schedule", "zigzag"], "'constant'"),
    (["train", "--out", "OUT", "--model", "vgg61"], "vgg16"),
    (["train", "--out", "OUT", "--model", "vgg16"], "vgg16"),
    (["train", "--out", "OUT", "--data", "mnist"], "fashion-mnist"),
    (["train", "--out", "OUT", "--data", "imagefolder:/nowhere"], "/nowhere"),
    (["train", "--out", "OUT", "--method", "adam"], "sgd_momentum"),
    (["train", "--out", "OUT", "--device", "cuda:7"], "cuda:7"),
    (["train", "--out", "OUT", "--recipe=digit"], "digits"),
    (["tune", "--out", "OUT", "--tune-epochs", "2147483648"], "--tune-epochs"),
    (["train", "--out", "OUT", "--warmup-epochs", "9" * 20], "warmup_epochs"),
    (["report"], "at least one run folder"),
    (["report", "OUT"], "OUT"),
]


@pytest.mark.parametrize("words", [["-o", "~/run"], ["--out=~/run"]], ids=str)
def test_a_home_that_the_shell_left_is_replaced(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(["train", *words]).keywords["out"] == tmp_path / "run"


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda x: " ".join(x)[-40:])
def test_a_user_error_gives_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("dirprune: ")
    assert stderr.count("\n") == 1
    assert message in stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SyntaxError])
def test_an_interrupt_while_parsing_gives_one_line(
    raised: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def parse(words: list[str]) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # Python's import of unicodedata turns it into a SyntaxError
            raise raised("in the middle of an import") from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("dirprune.cli.program.parse", parse)
    assert cli.main(["train"]) == 130
    stderr = capsys.readouterr().err
    assert stderr == "dirprune: interrupted; saved files are kept\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_divergence_has_its_own_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*QUICK, "--out", str(tmp_path / "run"), "--c", "50"]) == 1
    stderr = capsys.readouterr().err
    assert "every weight is zero" in stderr
    assert "smaller" in stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "diverged"


def test_an_interrupted_run_states_how_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(
        "dirprune.train.display.ConsoleDisplay.epoch",
        lambda self, record: os.kill(os.getpid(), signal.SIGTERM),
    )
    assert cli.main([*QUICK, "--out", str(out)]) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main([*QUICK, "--out", str(out), "--resume"]) == 0


def test_the_demo_trains_both_methods(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "DEMO", training.TrainConfig(model="mlp", epochs=3, c=0.05))
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    runs = {m: json.loads((tmp_path / m / "summary.json").read_text()) for m in ("sgd", "grda")}
    assert runs["sgd"]["sparsity"] < 0.01 < runs["grda"]["sparsity"]
    assert (tmp_path / "report.html").exists()
    assert "nonzeros" in capsys.readouterr().out


def test_misspelt_names_are_refused_without_torch() -> None:
    code = (
        "import sys; from dirprune import cli; "
        "cli.main(['train', '-o', 'x', '--data', 'digit']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert "did you mean digits?" in done.stderr


def test_the_lists_of_names_are_complete() -> None:
    assert set(TRAINED) == set(METHODS)
    assert set(OWN_NAMES) == set(OWN)
    classifiers = set(torchvision.models.list_models(module=torchvision.models))
    assert classifiers <= set(names._torchvision_names())
    shown = [name for group in GROUPS.values() for name in group]
    assert sorted(shown) == sorted(TrainConfig.__dataclass_fields__)


def test_every_recipe_can_be_compared() -> None:
    for recipe in RECIPES:
        _, start = _take_defaults(["compare", "--recipe", recipe])
        Plan(start, COMPARED, (1, 2), (start.lr,))


@pytest.mark.parametrize("words", [["--version"], ["train", "--version"]])
def test_the_version_is_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"dirprune {dirprune.__version__}\n"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_stream_is_not_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    assert cli.main(["--version"]) == 0
    assert cli.main(["trian"]) == 2
    getattr(sys, name).close()


def test_a_closed_pipe_is_not_an_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dirprune", "train", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
    process.stderr.close()


def test_only_user_errors_give_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "nowhere"]
    assert cli.main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main([*words, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setattr("dirprune.report.runs.page.read_results", lambda path: int("one"))
    assert cli.main(words) == 70
    stderr = capsys.readouterr().err
    assert "Traceback" in stderr
    assert "bug in dirprune" in stderr


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory")]
)
def test_out_of_memory_gives_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("dirprune.report.runs.page.read_results", fail)
    assert cli.main(["report", "x"]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("dirprune: out of memory")
    assert stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_a_path_need_not_be_text(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    assert cli.main([*QUICK, "--out", folder]) == 0
    assert cli.main(["report", folder]) == 0
    assert cli.main(["export", folder, "--out", f"{folder}/m.dpz"]) == 0
    assert cli.main([*QUICK, "--out", folder]) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_the_folder_of_a_landscape_need_not_be_text(tmp_path: Path) -> None:
    dense, sparse = (os.fsdecode(os.fsencode(tmp_path) + name) for name in (b"/\xe9", b"/\xea"))
    assert cli.main([*QUICK, "--out", dense, "--method", "sgd"]) == 0
    assert cli.main([*QUICK, "--out", sparse]) == 0
    words = ["landscape", dense, sparse, "--what", "plane", "--grid", "3", "--samples", "200"]
    assert cli.main([*words, "--out", f"{sparse}/landscape"]) == 0


@pytest.mark.parametrize(
    "damage", [{"config": {"model": None}}, {"config": {"lr": "x"}}, {"versions": ["a"]}]
)
def test_a_value_of_another_type_gives_one_line(
    damage: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"config": {}, "versions": {}} | damage
    (tmp_path / "config.json").write_text(json.dumps(record))
    (tmp_path / "model.safetensors").touch()
    assert cli.main(["export", str(tmp_path), "--out", str(tmp_path / "m.dpz")]) == 2
    stderr = capsys.readouterr().err
    assert "damaged" in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**5, "\xff", "", "3"])
def test_damaged_json_gives_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    for words in (["report", "IN"], ["export", "IN", "-o", "OUT"], ["landscape", "IN", "-o", "O"]):
        assert cli.main([str(tmp_path) if w == "IN" else w for w in words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert cli.main([*QUICK, "--out", str(tmp_path), "--resume"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("stderr_is_full", [False, True])
def test_output_to_a_full_disk_ends_in_one_line(stderr_is_full: bool) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dirprune", "--version"],
            stdout=full,
            stderr=full if stderr_is_full else subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    if not stderr_is_full:
        assert done.stderr.startswith("dirprune: the output cannot be printed (No space left")
        assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/sys/kernel").is_dir(), reason="needs a folder that is read-only for root"
)
def test_a_read_only_home_is_not_needed(tmp_path: Path) -> None:
    program = f"""
from dirprune.cli import main
run = {str(tmp_path / "run")!r}
assert main(["train", "--model", "mlp", "--epochs", "1", "--out", run]) == 0
assert main(["export", run, "--out", run + "/model.dpz"]) == 0
raise SystemExit(main(["train", "--data", "cifar10", "--out", run + "-2"]))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    command = [sys.executable, "-c", program]
    home = {"HOME": "/sys/kernel"}
    done = subprocess.run(command, env=environment | home, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(
        "dirprune: no complete cifar-10-batches-py in /sys/kernel/.cache"
    )
    assert done.stderr.count("\n") == 1


def test_a_warning_is_one_line_without_the_source() -> None:
    before = warnings.formatwarning
    warning = UserWarning("every entry\nof 7.weight is zero")
    with _messages_shown():
        text = warnings.formatwarning(warning, UserWarning, "evaluation.py", 45)
    assert text == "dirprune: warning: every entry of 7.weight is zero\n"
    assert warnings.formatwarning is before


def test_tune_says_how_to_end_at_a_known_sparsity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "mlp", "--width", "0.1", "--epochs", "2", "--tune-epochs", "1"]
    grid = ["--mus", "0.51", "--cs", "0.0001", "--tolerance", "1"]
    assert cli.main(["tune", *words, *grid, "--out", str(tmp_path / "tune")]) == 0
    printed = capsys.readouterr().out
    assert "after 1 of 2 epochs" in printed
    (command,) = (line for line in printed.splitlines() if line.startswith("now: dirprune "))
    advised = shlex.split(command)[2:]
    advised[advised.index("RUN")] = str(tmp_path / "run")
    assert "--target-sparsity 0.9" in printed
    assert cli.main([*advised, "--target-sparsity", "0.9"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["sparsity"] == pytest.approx(0.9, abs=2e-3)
