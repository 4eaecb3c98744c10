import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dirprune.study import tune as tuning
from dirprune.study.tune import Trial, choose, tune
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.errors import Interrupted, Stopped

QUIET = Displays()
SHORT = TrainConfig(model="mlp", epochs=40, batch_size=100, target_sparsity=0.9)
REFERENCE = Trial(0.5, 0.0, 0.9, 0.0)


def test_tune_takes_the_largest_good_c_of_every_mu_then_the_sparsest() -> None:
    table = [
        Trial(0.501, 0.01, 0.95, 0.3),  # good, but not the largest of its mu
        Trial(0.501, 0.02, 0.891, 0.4),
        Trial(0.501, 0.05, 0.889, 0.9),  # just not good enough
        Trial(0.55, 0.01, 0.90, 0.45),
        Trial(0.55, 0.02, 0.0, 0.0),  # diverged
        Trial(0.51, 0.001, 0.93, 0.45),
    ]
    assert choose(table, REFERENCE, 0.01) == table[5]  # as sparse as another, more accurate
    assert choose(table[:5], REFERENCE, 0.01) == table[3]
    assert choose(table[:3], REFERENCE, 0.01) == table[1]
    assert choose(table, REFERENCE, 0.02) == table[2]
    with pytest.raises(ValueError, match=r"within 1.00% of 90.00% \(best: 88.90%\)"):
        choose(table[2:3], REFERENCE, 0.01)


def test_tune_decreases_c_until_the_accuracy_is_good(tmp_path: Path) -> None:
    result = tune(SHORT, tmp_path, mus=(0.51, 0.7), cs=(0.001, 2.0, 0.02), display=QUIET)
    assert [(t.mu, t.c) for t in result.trials[:2]] == [(0.51, 2.0), (0.51, 0.02)]
    assert result.trials[0].validation_accuracy < 0.5
    assert result.config == replace(SHORT, mu=result.chosen.mu, c=result.chosen.c)
    assert result.chosen.c < 2.0
    config = json.loads((tmp_path / "reference" / "config.json").read_text())["config"]
    assert (config["c"], config["validation"], config["epochs"]) == (0.0, 0.1, 3)
    saved = json.loads((tmp_path / "tune.json").read_text())
    assert saved["chosen"]["c"] == result.chosen.c

    started = (tmp_path / "reference" / "config.json").stat().st_mtime_ns
    again = tune(SHORT, tmp_path, mus=(0.51, 0.7), cs=(0.001, 2.0, 0.02), display=QUIET)
    assert again == result
    assert (tmp_path / "reference" / "config.json").stat().st_mtime_ns == started


def test_an_interrupted_tune_says_how_tune_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: TrainConfig, out: Path, **options: object) -> None:
        raise Interrupted(out, 3)

    monkeypatch.setattr(tuning, "train", interrupted)
    with pytest.raises(Stopped, match=f"saved in {tmp_path}: run the same command again"):
        tune(SHORT, tmp_path)


def test_a_trial_that_diverged_is_not_repeated(tmp_path: Path) -> None:
    wild = replace(SHORT, lr=1e9, epochs=1, target_sparsity=None, validation=0.1)
    for _ in range(2):
        trial = tuning._run(wild, tmp_path / "trial", QUIET)
        assert (trial.validation_accuracy, trial.sparsity) == (0.0, 0.0)
        assert trial.diverged


@pytest.mark.parametrize(("mus", "cs"), [((), (0.1,)), ((0.5,), ()), ((0.5,), (0.0, 0.1))])
def test_empty_grids_are_refused(
    mus: tuple[float, ...], cs: tuple[float, ...], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at least one mu and one c"):
        tune(SHORT, tmp_path, mus=mus, cs=cs)


def test_user_errors_are_reported_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="c must be at least 0 and finite, got nan"):
        tune(SHORT, tmp_path / "out", cs=(math.nan,))
    with pytest.raises(ValueError, match="gRDA's c and mu, got method 'sgd': use one of grda"):
        tune(replace(SHORT, method="sgd", target_sparsity=None), tmp_path / "out")
    for tolerance in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"tolerance must be in \[0, 1\]"):
            tune(SHORT, tmp_path / "out", tolerance=tolerance)
    assert not (tmp_path / "out").exists()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run: choose another folder"):
        tune(SHORT, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("name", "value"), [("width", math.inf), ("width", 1e9), ("warmup_epochs", math.inf)]
)
def test_infinite_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        replace(SHORT, **{name: value})
