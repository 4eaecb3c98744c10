import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from stop_at import StopAt
from torch import nn

from dirprune.grda import GRDA
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays, forecast_line
from dirprune.train.errors import Interrupted
from dirprune.train.forecast import Magnitudes, c_for_sparsity, forecast_sparsity, magnitudes
from dirprune.train.loop import train
from dirprune.train.session import Progress, open_session
from dirprune.train.sizes import estimated_size, parse_size, sparsity_for_size
from dirprune.train.steering import start_steering, steer

QUIET = Displays()
AIMED = TrainConfig(model="mlp", epochs=6, batch_size=100, target_sparsity=0.7)


def started(
    steps: int, *, count: int = 400, c: float = 0.02, dense: int = 0, momentum: float = 0.0
) -> GRDA:
    """An optimizer in the midst of a run whose gradients are all zero."""
    torch.manual_seed(0)
    groups: list[dict[str, Any]] = [{"params": [nn.Parameter(torch.randn(count))]}]
    if dense:
        groups.append({"params": [nn.Parameter(torch.ones(dense))], "c": 0.0})
    optimizer = GRDA(groups, lr=0.1, c=c, mu=0.6, momentum=momentum)
    walk(optimizer, [0.1] * steps)
    return optimizer


def walk(optimizer: GRDA, lrs: list[float], pace: float = 0.0) -> None:
    """Take steps after which v of what lives has grown by ``pace`` per unit of g."""
    for lr in lrs:
        before = max(optimizer.thresholds())
        for group in optimizer.param_groups:
            group["lr"] = lr
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        optimizer.step()
        grown = max(optimizer.thresholds()) - before
        for state in optimizer.state.values():
            if "v" in state:
                state["v"] += pace * grown * state["v"].sign()


def zeros(optimizer: GRDA) -> float:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return sum(int((p == 0).sum()) for p in parameters) / sum(p.numel() for p in parameters)


FUTURE = [0.1] * 30 + [0.0] * 3 + [0.01] * 20


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dense", [0, 100])
@pytest.mark.parametrize("steps", [0, 7])
def test_without_gradients_the_forecast_is_exact(steps: int, dense: int, momentum: float) -> None:
    optimizer = started(steps, dense=dense, momentum=momentum)
    foretold = forecast_sparsity(optimizer, FUTURE)
    walk(optimizer, FUTURE)
    assert foretold == zeros(optimizer) > 0


@pytest.mark.parametrize("target", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("steps", [0, 7])
def test_without_gradients_the_target_is_hit(steps: int, target: float) -> None:
    optimizer = started(steps, dense=100)
    optimizer.param_groups[0]["c"] = c_for_sparsity(optimizer, FUTURE, target)
    walk(optimizer, FUTURE)
    assert zeros(optimizer) == target


def test_parameters_with_their_own_counters_are_forecast_each() -> None:
    torch.manual_seed(1)
    early, late = nn.Parameter(torch.randn(300)), nn.Parameter(torch.randn(300))
    optimizer = GRDA([early, late], lr=0.1, c=0.1, mu=0.6)
    for _ in range(9):  # the other one is frozen
        early.grad = torch.zeros_like(early)
        optimizer.step()
    foretold = forecast_sparsity(optimizer, FUTURE)
    walk(optimizer, FUTURE)
    assert foretold == zeros(optimizer)
    assert (early == 0).sum() != (late == 0).sum()


def test_a_steady_outward_pace_is_foreseen() -> None:
    optimizer = started(5, count=20_000, c=1.0)
    walk(optimizer, [0.1] * 10, pace=0.4)
    past = magnitudes(optimizer)
    walk(optimizer, [0.1] * 10, pace=0.4)
    foretold, still = (forecast_sparsity(optimizer, FUTURE, p) for p in (past, None))
    same = c_for_sparsity(optimizer, FUTURE, foretold, past)
    walk(optimizer, FUTURE, pace=0.4)
    assert foretold == pytest.approx(zeros(optimizer), abs=0.003)
    assert still > zeros(optimizer) + 0.03
    assert same == pytest.approx(1.0, rel=0.01)  # the present c leads where it leads


@settings(max_examples=50, deadline=None)
@given(
    scales=st.tuples(st.floats(1e-4, 1.0), st.floats(1e-4, 1.0)),
    pace=st.floats(-3.0, 3.0),
    targets=st.tuples(st.floats(0.3, 0.99), st.floats(0.3, 0.99)),
)
def test_more_c_is_more_zeros(
    scales: tuple[float, float], pace: float, targets: tuple[float, float]
) -> None:
    optimizer = started(7)
    now = magnitudes(optimizer)
    past = Magnitudes(now.threshold / 2, now.quantiles - pace * now.threshold / 2)
    wanted = [c_for_sparsity(optimizer, FUTURE, target, past) for target in sorted(targets)]
    assert wanted == sorted(wanted)
    foretold = []
    for c in sorted(scales):
        optimizer.param_groups[0]["c"] = c
        foretold.append(forecast_sparsity(optimizer, FUTURE))
    assert foretold == sorted(foretold)


@pytest.mark.parametrize("target", [0.9, 0.0001, 1.0, -0.1])
def test_targets_out_of_reach_are_refused_with_the_range(target: float) -> None:
    optimizer = started(7, dense=100, c=1.0)  # 400 of 500 can be cut
    lowest = zeros(optimizer)
    assert 0.01 < lowest < 0.5
    with pytest.raises(ValueError, match=rf"can end between {lowest:.2%} and 80\.00%"):
        c_for_sparsity(optimizer, FUTURE, target)


def test_when_nothing_is_left_of_the_run_only_the_present_is_in_reach() -> None:
    optimizer = started(7, c=0.05)
    assert c_for_sparsity(optimizer, [], zeros(optimizer)) == 0.0
    with pytest.raises(ValueError, match="cannot be reached"):
        c_for_sparsity(optimizer, [], 0.9)
    assert forecast_sparsity(optimizer, []) == zeros(optimizer)


def test_only_thresholds_can_be_forecast() -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="c above 0"):
        magnitudes(GRDA([p], c=0.0))
    with pytest.raises(TypeError, match="only GRDA"):
        forecast_sparsity(torch.optim.SGD([p]), [0.1])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "2", "MB", "-1MB", "0kB", "2 megabytes", "1e3", "nanMB"])
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2MB or 500kB"):
        TrainConfig(target_size=text)


@pytest.mark.parametrize(
    ("text", "size"), [("2MB", 2_000_000), (" .5 kib ", 512), ("700B", 700), ("1GiB", 2**30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(10_000, 10**8), st.floats(0.001, 0.99))
def test_size_and_sparsity_are_inverse_to_each_other(total: int, density: float) -> None:
    size = round(estimated_size(total, density))
    assert 1 - sparsity_for_size(size, total) == pytest.approx(density, abs=1 / total + 1e-4)


@pytest.mark.parametrize("size", [1, 10**6])
def test_sizes_out_of_reach_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="give a target_size between"):
        sparsity_for_size(size, 1000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_sparsity": 1.0}, "target_sparsity must be"),
        ({"target_sparsity": 0.0}, "target_sparsity must be"),
        ({"target_sparsity": float("nan")}, "target_sparsity must be"),
        ({"target_sparsity": 0.9, "target_size": "1MB"}, "exclude each other"),
        ({"target_sparsity": 0.9, "c": 0.0}, "c above 0"),
        ({"forecast": True, "c": 0.0}, "c above 0"),
        ({"target_size": "1MB", "epochs": 2}, "at least 6 epochs"),
        ({"forecast": True, "epochs": 1}, "a forecast needs at least 2 epochs, got 1"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "sgd"}, "sgd has no threshold"),
        ({"prune": "weights", "target_sparsity": 0.9999}, "can end between 0.00% and 98.64%"),
        ({"target_sparsity": 0.9999999}, "leaves none of 38,410 parameters: give less"),
        ({"target_sparsity": None, "target_size": "9MB"}, "give a target_size between"),
    ],
)
def test_hopeless_targets_are_refused_before_the_run(
    values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(replace(AIMED, **values), tmp_path / "run", display=QUIET)
    assert not (tmp_path / "run").exists()


def foretold(out: Path) -> list[dict[str, Any] | None]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["forecast"] for line in lines]


@pytest.mark.parametrize("target", [0.5, 0.9, 0.97])
def test_a_run_meets_its_target(target: float, tmp_path: Path) -> None:
    config = replace(AIMED, epochs=30, target_sparsity=target)
    summary = train(config, tmp_path / "run", display=QUIET)
    assert abs(summary["sparsity"] - target) < 0.01
    told = foretold(tmp_path / "run")
    assert [bool(t) for t in told] == [True] * 22 + [False] * 8
    # 15 steps an epoch; c is set at first, and after epochs 5 to 22.
    assert [scale["step"] for scale in summary["scales"]] == [0, *range(75, 331, 15)]
    assert [scale["c"] for scale in summary["scales"][1:]] == [t["c"] for t in told[4:22] if t]
    # The path that the report draws is the one that was walked.
    assert summary["threshold_path"]["g"][-1] == pytest.approx(summary["threshold"], rel=1e-9)


def test_a_run_with_too_many_zeros_slows_down_and_goes_on() -> None:
    session = open_session(replace(AIMED, target_sparsity=0.05))
    progress = Progress(session.zero_totals())
    start_steering(session, progress)
    for p in session.net.parameters():
        p.grad = torch.zeros_like(p)
    session.optimizer.step()
    for p, state in session.optimizer.state.items():
        state["v"].view(-1)[::2] = 0.0
        p.data.view(-1)[::2] = 0.0
    progress.step = session.steps_per_epoch
    before = session.optimizer.param_groups[0]["c"]
    told = steer(session, progress)
    assert told is not None
    assert told["c"] is None
    assert 0.5 <= told["sparsity"] < 0.6
    assert session.optimizer.param_groups[0]["c"] == pytest.approx(before / 1000)
    assert progress.scales[-1]["c"] == session.optimizer.param_groups[0]["c"]
    progress.step += session.steps_per_epoch
    steer(session, progress)  # the least there is: it does not fall on to 0
    assert session.optimizer.param_groups[0]["c"] == pytest.approx(before / 1000)


def test_a_size_is_met(tmp_path: Path) -> None:
    config = replace(AIMED, epochs=30, target_sparsity=None, target_size="25kB")
    summary = train(config, tmp_path / "run", display=QUIET)
    assert summary["weights_zstd_bytes"] == pytest.approx(25_000, rel=0.15)


def test_estimated_size_is_that_of_trained_weights(tmp_path: Path) -> None:
    summary = train(replace(AIMED, target_sparsity=0.9), tmp_path / "run", display=QUIET)
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    size = len(zstandard.ZstdCompressor(level=9).compress(save(tensors)))
    assert estimated_size(summary["total"], 1 - summary["sparsity"]) == pytest.approx(
        size, rel=0.1
    )


def test_forecasting_alone_changes_nothing(tmp_path: Path) -> None:
    plain = replace(AIMED, target_sparsity=None)
    train(plain, tmp_path / "plain", display=QUIET)
    told = replace(plain, forecast=True)
    train(told, tmp_path / "told", display=QUIET)
    train(replace(told, target_sparsity=0.7), tmp_path / "aimed", display=QUIET)
    weights = [load_file(tmp_path / n / "model.safetensors") for n in ("plain", "told", "aimed")]
    assert foretold(tmp_path / "plain") == [None] * 6
    assert [t and t["target"] for t in foretold(tmp_path / "aimed")] == 4 * [0.7] + 2 * [None]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
        assert torch.equal(tensor, weights[2][name])


def test_a_steered_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = train(AIMED, tmp_path / "whole", display=QUIET)
    for step in sorted(random.Random(3).sample(range(1, 80), 3)):
        again = (tmp_path / "parts").exists()
        with pytest.raises(Interrupted):
            train(AIMED, tmp_path / "parts", resume=again, display=StopAt(step))
    parts = train(AIMED, tmp_path / "parts", resume=True, display=QUIET)
    assert parts["scales"] == whole["scales"] is not None
    assert foretold(tmp_path / "parts") == foretold(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("parts", "whole"))
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name])


def test_forecasts_fit_a_narrow_terminal() -> None:
    for c, target in ((0.00123456, None), (0.00123456, 0.999), (None, 0.999)):
        line = forecast_line({"sparsity": 0.9999, "c": c, "target": target})
        assert len(line) <= 60
