"""The first sentences of a page state what its figures show."""

from pathlib import Path
from typing import Any

import pytest
from reading import load
from synthetic_landscape import landscape
from synthetic_runs import write_json, write_run

from dirprune.report.landscape.read import read_landscape
from dirprune.report.landscape.summary import lead as landscape_lead
from dirprune.report.runs.arms import arms
from dirprune.report.runs.read import read_results
from dirprune.report.runs.verdict import lead


def run_with(folder: Path, method: str, seed: int = 1, **changes: Any) -> Path:
    run = write_run(folder / f"{method}{seed}", method, seed=seed)
    write_json(run / "summary.json", {**load(run / "summary.json"), **changes})
    return run


def verdict(*runs: Path) -> list[str]:
    return [
        line.replace("\N{NO-BREAK SPACE}", " ") for line in lead(arms(read_results(runs).runs))
    ]


@pytest.mark.parametrize(
    ("right", "text"),
    [
        (354, "gRDA is 0.28 points above SGD (1 of 360 test images) at 92.8 % zeros."),
        (353, "gRDA is as accurate as SGD at 92.8 % zeros."),
        (343, "gRDA is 2.78 points below SGD (10 of 360 test images) at 92.8 % zeros."),
    ],
)
def test_one_run_of_each_is_compared_in_test_images(tmp_path: Path, right: int, text: str) -> None:
    dense = run_with(tmp_path, "sgd", test_accuracy=353 / 360, test_images=360)
    changes = {"test_accuracy": right / 360, "test_images": 360, "sparsity": 0.928}
    assert verdict(dense, run_with(tmp_path, "grda", **changes)) == [text]


def test_several_seeds_are_compared_with_their_spread(tmp_path: Path) -> None:
    runs = [
        run_with(tmp_path, method, seed, test_accuracy=accuracy, sparsity=zeros, test_images=360)
        for method, zeros, accuracies in (("sgd", 0.0, (0.97, 0.99)), ("grda", 0.9, (0.96, 0.97)))
        for seed, accuracy in enumerate(accuracies, 1)
    ]
    assert verdict(*runs) == [
        "gRDA is 1.50 points below SGD at 90.0 % zeros (means over 2 seeds, standard deviations "
        "0.71 and 1.41)."
    ]


def test_the_file_and_the_latency_follow(tmp_path: Path) -> None:
    dense = run_with(tmp_path, "sgd", test_accuracy=0.9)
    for ours, text in ((1.0, "one image is 8.0 times as fast as in torch."),
                       (10.0, "one image takes 1.2 times as long as in torch.")):  # fmt: skip
        deploy = {"file_bytes": 1000, "dense_bytes": 13_000,
                  "latency_ms": {"torch": 8.0, "dirprune": ours}}  # fmt: skip
        sparse = run_with(tmp_path, "grda", test_accuracy=0.9, deploy=deploy)
        assert verdict(dense, sparse)[1] == (
            f"The file is 13 times smaller than the dense weights; {text}"
        )
    deploy["latency_ms"] = {}
    sparse = run_with(tmp_path, "grda", test_accuracy=0.9, deploy=deploy)
    assert verdict(dense, sparse)[1] == "The file is 13 times smaller than the dense weights."


def test_without_a_dense_run_the_accuracy_is_stated(tmp_path: Path) -> None:
    run = run_with(tmp_path, "grda", test_accuracy=0.981, sparsity=0.92)
    assert verdict(run) == ["gRDA reaches 98.1 % test accuracy at 92.0 % zeros."]


@pytest.mark.parametrize(
    ("ours", "theirs", "answer"),
    [
        (0.05, 0.2, "G is as well connected to D as"),
        (0.208, 0.2, "G is as well connected to D as"),
        (0.4, 0.2, "G is not as well connected to D as"),
    ],
)
def test_the_valley_is_judged_by_a_second_run(
    tmp_path: Path, ours: float, theirs: float, answer: str
) -> None:
    record = landscape()
    for name, barrier in (("grda", ours), ("sgd-2", theirs), ("sgd-seed-7", 0.0)):
        record["curve"][name]["line"]["loss"]["train"]["barrier"] = barrier
    write_json(tmp_path / "landscape.json", record)
    assert landscape_lead(read_landscape(tmp_path))[0] == (
        "Same valley? On the straight line from G to D the training loss rises by "
        f"{ours:g}, from sgd-2 to D by {theirs:g}: {answer} a second run of D's method."
    )


def test_without_a_second_run_the_verdict_asks_for_one(tmp_path: Path) -> None:
    record = landscape()
    record["networks"] = [n for n in record["networks"] if not n["name"].startswith("sgd-")]
    record["curve"]["grda"]["line"]["loss"]["train"]["barrier"] = 0.3
    write_json(tmp_path / "landscape.json", record)
    (first, _) = landscape_lead(read_landscape(tmp_path))
    assert first.endswith("A second sgd run from the same start would show how much is usual.")
