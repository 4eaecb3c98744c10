"""Export and latency of finished runs."""

import json
from pathlib import Path

import pytest

from dirprune import cli
from dirprune._support import native
from dirprune.cli import training
from dirprune.cli.shipping import ship
from dirprune.deploy import load
from dirprune.train.runs import RunFolder

TRAIN = ["train", "--model", "mlp", "--width", "0.1", "--epochs", "2", "--c", "0.1"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    assert cli.main([*TRAIN, "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_size_and_latency_are_added_to_the_summary(run: Path) -> None:
    before = json.loads((run / "summary.json").read_text())
    found = ship(run)
    after = json.loads((run / "summary.json").read_text())
    assert after == before | {"deploy": found}
    assert found["file_bytes"] == RunFolder(run).exported.stat().st_size
    assert found["dense_bytes"] == 4 * before["total"]
    if native.extension() is not None:
        assert found["latency_ms"].keys() == {"torch", "dirprune"}
        assert min(found["latency_ms"].values()) > 0
    assert ship(run) == found, "what was measured is not measured again"
    assert not isinstance(load(RunFolder(run).exported), dict)


def test_a_new_run_removes_the_old_export(run: Path) -> None:
    ship(run)
    assert cli.main([*TRAIN, "--out", str(run), "--overwrite"]) == 0
    assert not RunFolder(run).exported.exists()
    assert "deploy" not in json.loads((run / "summary.json").read_text())


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match="let the run finish first"):
        ship(run)


def test_networks_that_cannot_be_exported_are_named_and_skipped(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("aten.sort has no place in a file")

    monkeypatch.setattr("dirprune.cli.shipping.shrink", refuse)
    training._ship([run])
    assert "not exported: aten.sort" in " ".join(capsys.readouterr().out.split())
