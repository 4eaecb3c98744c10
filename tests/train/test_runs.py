import contextlib
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dirprune._support.environment import environment
from dirprune._support.files import read_json, write_json, writing
from dirprune._support.user_errors import is_user_error
from dirprune.train.config import TrainConfig
from dirprune.train.replaced import abandon, discard_replaced, locked_run, restore_replaced
from dirprune.train.runs import RunFolder
from dirprune.train.summary import histogram

CONFIG = TrainConfig(lr_steps=(0.25, 0.5))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A folder with every file of a run, and one file of the user."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(CONFIG, None, "cpu", {})
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step-00000001.safetensors").touch()
    for name in ("metrics.jsonl", "model.safetensors", "report.html", "events.out.tfevents.1"):
        (folder.path / name).touch()
    write_json(folder.summary, {"status": "interrupted"})
    (folder.path / "notes.txt").write_text("mine")
    return folder


def contents(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))


def test_the_config_is_sufficient_to_repeat_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "deep" / "run")
    recipe = {"name": "vgg16_cifar10", "published": {"test_accuracy": 0.91}}
    folder.begin(CONFIG, recipe, "cpu", {})
    record = json.loads(folder.config.read_text())
    assert TrainConfig(**record["config"] | {"lr_steps": (0.25, 0.5)}) == CONFIG
    assert record["recipe"] == recipe
    assert {"command", "versions", "commit", "hardware", "started"} <= record.keys()


def test_environment_has_the_fields_of_the_report() -> None:
    found = environment("cpu")
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "torchvision", "dirprune"} <= found["versions"].keys()
    assert found["hardware"].keys() == {"cpu", "cores", "threads", "device", "memory_gib"}
    assert found["hardware"]["device"] == "cpu"
    json.dumps(found)


def test_another_run_is_not_changed_without_overwrite(folder: RunFolder) -> None:
    before = contents(folder.path)
    with pytest.raises(ValueError, match=r"holds another run.*resume.*overwrite"):
        folder.check_free()
    assert contents(folder.path) == before


def test_overwriting_removes_only_the_files_of_a_run(folder: RunFolder) -> None:
    (folder.checkpoints / "mine.txt").touch()
    folder.check_free(overwrite=True)
    folder.begin(CONFIG, None, "cpu", {})
    discard_replaced(folder.path)
    left = ["checkpoints", "checkpoints/mine.txt", "config.json", "notes.txt"]
    assert contents(folder.path) == left
    assert (folder.path / "notes.txt").read_text() == "mine"


def test_an_overwritten_run_is_restored_if_nothing_new_is_saved(folder: RunFolder) -> None:
    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}

    before = files()
    folder.begin(replace(CONFIG, lr=0.2), None, "cpu", {})
    (folder.path / "events.out.tfevents.2").touch()
    assert not folder.summary.exists()
    abandon(folder.path)
    assert files() == before
    folder.begin(replace(CONFIG, lr=0.2), None, "cpu", {})
    write_json(folder.summary, {"status": "diverged"})
    abandon(folder.path)
    assert json.loads(folder.summary.read_text()) == {"status": "diverged"}


def test_an_overwritten_run_is_restored_if_the_disk_is_full(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    before = contents(folder.path)
    with monkeypatch.context() as patch:
        patch.setattr("dirprune.train.runs.write_json", full)
        with pytest.raises(OSError, match="No space"):
            folder.begin(replace(CONFIG, lr=0.2), None, "cpu", {})
    assert contents(folder.path) == before
    folder.check_resumable(CONFIG)


def test_a_failed_new_run_leaves_no_files(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(CONFIG, None, "cpu", {})
    abandon(folder.path)
    assert not contents(tmp_path)
    folder.check_free()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"model_type": "bert"}'),
        ("config.json", "[1]"),
        ("config.json", "no json"),
        ("model.safetensors", ""),
        ("summary.json", "{}"),
    ],
)
def test_unrelated_files_are_never_replaced(
    tmp_path: Path, name: str, text: str, overwrite: bool
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} that dirprune did not write"):
        RunFolder(tmp_path).check_free(overwrite=overwrite)


def test_unrelated_files_do_not_block_a_run(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").check_free()
    RunFolder(tmp_path).check_free()
    (tmp_path / "notes.txt").touch()
    RunFolder(tmp_path).check_free()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["comparison", "tune", "landscape"])
def test_the_folder_of_several_runs_is_refused(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(ValueError, match=f"holds .*{name}: choose another folder"):
        RunFolder(tmp_path).check_free(overwrite=overwrite)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write .*file/run"):
        RunFolder(tmp_path / "file" / "run").begin(CONFIG, None, "cpu", {})


def test_resuming_needs_the_same_config(folder: RunFolder, tmp_path: Path) -> None:
    folder.check_resumable(CONFIG)
    other = replace(CONFIG, lr=0.2, lr_steps=(0.5,), model="mlp")
    with pytest.raises(ValueError, match="another config") as caught:
        folder.check_resumable(other)
    message = str(caught.value)
    assert "\n" not in message
    assert "lr was 0.1, now 0.2" in message
    assert "lr_steps was [0.25, 0.5], now [0.5]" in message
    assert "model was 'convnet', now 'mlp'" in message
    assert "seed" not in message
    with pytest.raises(FileNotFoundError, match="is not a run"):
        RunFolder(tmp_path / "elsewhere").check_resumable(CONFIG)


@pytest.mark.parametrize("text", ["no json", "[1]", '{"config": [1], "versions": {}}'])
def test_a_damaged_config_is_named(folder: RunFolder, text: str) -> None:
    folder.config.write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is"):
        folder.check_resumable(CONFIG)


def test_a_diverged_run_is_not_resumed(folder: RunFolder) -> None:
    write_json(folder.summary, {"status": "diverged"})
    with pytest.raises(ValueError, match=r"diverged.*smaller lr"):
        folder.check_resumable(CONFIG)


def test_an_incomplete_last_line_of_metrics_is_removed(folder: RunFolder) -> None:
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch, "lr": 0.1 * epoch})
    complete = folder.metrics.read_text()
    folder.metrics.write_text(complete[:-5])
    assert [r["epoch"] for r in folder.read_metrics()] == [1, 2]
    folder.truncate_metrics(1)
    folder.append_metrics({"epoch": 2, "lr": 0.2})
    first = complete.splitlines()[0]
    assert folder.metrics.read_text().splitlines() == [first, '{"epoch": 2, "lr": 0.2}']


def test_metrics_that_are_not_text_are_refused(folder: RunFolder) -> None:
    folder.metrics.write_bytes(b'{"epoch": 1}\n\xff\n')
    with pytest.raises(
        ValueError, match=r"metrics\.jsonl is not UTF-8 text.*restore it"
    ) as caught:
        folder.read_metrics()
    assert is_user_error(caught.value)


@pytest.mark.parametrize("line", ["{", "[1]", '{"lr": 0.1}'])
def test_damaged_metrics_are_refused_and_not_changed(folder: RunFolder, line: str) -> None:
    text = f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n'
    folder.metrics.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged at line 2: restore it"):
        folder.truncate_metrics(3)
    assert folder.metrics.read_text() == text


def test_metrics_that_lack_an_epoch_are_refused(folder: RunFolder) -> None:
    folder.append_metrics({"epoch": 1})
    with pytest.raises(ValueError, match="has 1 of the 2 epochs before the checkpoint"):
        folder.truncate_metrics(2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("no"), OSError(28, "full")])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with writing(path) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises((KeyboardInterrupt, ValueError, OSError)):
        fail()
    assert json.loads(path.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("bins", [1, 3, 61])
def test_histograms_equal_numpy(bins: int) -> None:
    tensors = [torch.randn(40, 5), torch.zeros(30), torch.randn(7).double() * 3]
    found = histogram(tensors, bins)
    assert found is not None
    values = np.concatenate([t.numpy().ravel() for t in tensors])
    largest = np.abs(values).max()
    counts, edges = np.histogram(values, bins, (-largest, largest))
    np.testing.assert_array_equal(found["counts"], counts)
    np.testing.assert_allclose(found["edges"], edges, atol=1e-12)


def test_histograms_of_empty_and_zero_tensors() -> None:
    assert histogram([]) is None
    found = histogram([torch.zeros(5)], bins=3)
    assert found == {"edges": pytest.approx([-1, -1 / 3, 1 / 3, 1]), "counts": [0, 5, 0]}


class Killed(BaseException):
    """Simulates kill -9: no code may handle it."""


def kill_at(count: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Raise ``Killed`` before change number ``count`` of the file system."""
    done: list[str] = []

    def dying(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if len(done) == count:
                raise Killed
            done.append(name)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in ((Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "mkdir")):
        dying(owner, name)
    dying(shutil, "rmtree")
    return done


def tree(path: Path) -> dict[str, bytes]:
    names = {p.relative_to(path).as_posix(): p for p in path.rglob("*")}
    return {n: p.read_bytes() for n, p in names.items() if p.is_file() and ".part" not in n}


def write_first_checkpoint(folder: RunFolder) -> None:
    (folder.checkpoints).mkdir(exist_ok=True)
    (folder.checkpoints / "step-00000007.safetensors").write_text("new")
    discard_replaced(folder.path)


@pytest.mark.parametrize("ending", ["killed", "abandoned", "saved"])
def test_a_kill_at_any_moment_of_an_overwrite_loses_no_run(
    folder: RunFolder, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after any number of changes, also during recovery, leaves a complete run."""
    before = tree(folder.path)
    saved = tmp_copy(folder.path)
    restored = replaced = 0
    for count in itertools.count():
        shutil.rmtree(folder.path)
        shutil.copytree(saved, folder.path)
        with monkeypatch.context() as patch:
            done = kill_at(count, patch)
            with contextlib.suppress(Killed):
                folder.begin(replace(CONFIG, lr=0.2), None, "cpu", {})
                folder.append_metrics({"epoch": 1})
                if ending == "abandoned":
                    abandon(folder.path)
                elif ending == "saved":
                    write_first_checkpoint(folder)
        complete = len(done) < count
        for again in (0, 1, 2, 3, 5, 8, None):
            with monkeypatch.context() as patch, contextlib.suppress(Killed):
                if again is not None:
                    kill_at(again, patch)
                restore_replaced(folder.path)
        assert not list(folder.path.glob(".replaced")) + list(folder.path.glob(".discarded"))
        if (folder.checkpoints / "step-00000007.safetensors").exists():
            assert read_json(folder.config)["config"]["lr"] == 0.2
            assert tree(folder.path).keys() & before.keys() == {
                "config.json",
                "metrics.jsonl",
                "notes.txt",
            }
            replaced += 1
        else:
            assert tree(folder.path) == before
            restored += 1
        if complete:
            break
    assert restored > 8
    assert (replaced > 1) is (ending == "saved")


def tmp_copy(path: Path) -> Path:
    return Path(shutil.copytree(path, path.with_name("saved")))


def test_the_next_command_restores_the_run_and_reports_it(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    before = tree(folder.path)
    folder.begin(replace(CONFIG, lr=0.2), None, "cpu", {})
    with locked_run(folder.path):
        pass
    assert tree(folder.path) == before
    assert "earlier run is restored" in caplog.text


def test_a_run_of_a_newer_format_is_refused(folder: RunFolder) -> None:
    record = read_json(folder.config)
    write_json(folder.config, record | {"version": 99})
    with pytest.raises(ValueError, match="format version 99, but this dirprune reads 1: install"):
        folder.read_config()
    write_json(folder.config, {k: v for k, v in record.items() if k not in ("format", "version")})
    assert folder.read_config()["config"] == record["config"]


def test_an_added_field_and_other_threads_do_not_stop_a_run_from_resuming(
    folder: RunFolder,
) -> None:
    record = read_json(folder.config)
    del record["config"]["validation"], record["config"]["workers"]
    write_json(folder.config, record)
    folder.check_resumable(replace(CONFIG, threads=3, workers=1))
    with pytest.raises(ValueError, match=r"validation was 0\.0, now 0\.5"):
        folder.check_resumable(replace(CONFIG, validation=0.5))
