"""Missing, damaged and hostile files of runs give one line, and never replace a page."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from reading import load
from synthetic_runs import write_comparison, write_json, write_run

from dirprune.report.runs.page import write_report
from dirprune.report.runs.read import read_results


def _break_json(run: Path) -> None:
    (run / "config.json").write_text("{", encoding="utf-8")


def _nested(run: Path) -> None:
    (run / "config.json").write_text("[" * 100_000, encoding="utf-8")


def _foreign(run: Path) -> None:
    write_json(run / "config.json", {"hidden_size": 768})


def _lacking(run: Path) -> None:
    record = load(run / "summary.json")
    del record["sparsity"]
    write_json(run / "summary.json", record)


def _mistyped(run: Path) -> None:
    write_json(run / "summary.json", {**load(run / "summary.json"), "sparsity": "much"})


def _damaged(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("{\n" + path.read_text(encoding="utf-8"), encoding="utf-8")


def _binary(run: Path) -> None:
    (run / "summary.json").write_bytes(b"\xff\xfe\x00")


def _ragged(run: Path) -> None:
    record = load(run / "summary.json")
    record["histograms"]["weights"]["edges"].pop()
    write_json(run / "summary.json", record)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_break_json, r"config\.json is not JSON"),
        (_nested, r"config\.json is not JSON"),
        (_foreign, "it is not a run of dirprune"),
        (_lacking, r"summary\.json: .*missing required field `sparsity`"),
        (_mistyped, r"summary\.json: Expected `float \| null`, got `str` - at `\$\.sparsity`"),
        (_damaged, "line 1 is not JSON"),
        (_binary, "not UTF-8"),
        (_ragged, "one edge more than counts"),
    ],
)
def test_damaged_files_give_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    run = write_run(tmp_path / "run")
    out = tmp_path / "report.html"
    out.write_text("the page before", encoding="utf-8")
    spoil(run)
    with pytest.raises(ValueError, match=message) as error:
        write_report([run], out)
    assert "\n" not in str(error.value)
    assert out.read_text(encoding="utf-8") == "the page before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run"]


def test_comparison_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "comparison.json", {"runs": [], "lr_grid": {}})
    with pytest.raises(ValueError, match="has finished yet"):
        read_results([tmp_path])


def test_missing_folders_are_named(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        write_report([tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no config\.json"):
        write_report([tmp_path / "empty"], out)
    with pytest.raises(ValueError, match="at least one"):
        write_report([], out)
    folder = write_comparison(tmp_path / "all", ("sgd",))
    shutil.rmtree(folder / "sgd" / "seed2")
    with pytest.raises(FileNotFoundError, match="'sgd/seed2', which is not there"):
        write_report([folder], out)
    write_json(folder / "comparison.json", {"runs": ["../run"], "lr_grid": {}})
    with pytest.raises(ValueError, match="outside its own folder"):
        write_report([folder], out)
    assert not out.exists()


def test_the_folder_of_a_report_is_made(tmp_path: Path) -> None:
    page = tmp_path / "new" / "folder" / "report.html"
    assert write_report([write_run(tmp_path / "run")], page) == page
    assert page.exists()
