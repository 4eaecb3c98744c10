"""The result of tuning inside the network's file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.deploy import Engine, load, save
from dirprune.deploy.file.read import read_file
from dirprune.deploy.file.tuning import with_tuning

pytest.importorskip("dirprune._cpp", reason="dirprune was installed without its extension")

MODULE = "dirprune.deploy.tuned"


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3))
    with torch.no_grad():
        net[2].weight[torch.rand(net[2].weight.shape) < 0.8] = 0.0
    return net.eval()


def tuned(engine: Engine) -> Any:
    return engine._programs.first.program.tuned()


X = np.random.default_rng(0).standard_normal((16, 3, 12, 12), np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(network(), tmp_path / "m.dpz", torch.ones(2, 3, 12, 12))
    return tmp_path / "m.dpz"


def test_the_choices_are_used_at_the_next_start(path: Path) -> None:
    engine = Engine(path, threads=1)
    with pytest.raises(ValueError, match="nothing has been tuned"):
        engine.save_tuned(path)
    single, several = engine(X[:1]), engine(X)
    weights = load(path)
    engine.save_tuned(path)
    again = Engine(path, threads=1)
    assert tuned(again) == tuned(engine)
    assert np.array_equal(again(X[:1]), single)
    assert np.array_equal(again(X), several)
    assert isinstance(weights, nn.Module)
    loaded = load(path)
    assert isinstance(loaded, nn.Module)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, weights.state_dict()[name])
    assert tuned(Engine(path, threads=1, tune=False)) == []
    assert list(path.parent.iterdir()) == [path]


def test_other_processors_keep_theirs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Engine(path, threads=1)
    here(X[:1])
    here.save_tuned(path)
    monkeypatch.setattr(f"{MODULE}.processor_name", lambda: "another processor")
    there = Engine(path, threads=1)
    assert tuned(there) == []
    there(X)
    there.save_tuned(path)
    there.save_tuned(path)  # replaces its own
    entries = json.loads(read_file(path).tuning)
    assert len(entries) == 2
    assert tuned(Engine(path, threads=1)) == tuned(there)
    monkeypatch.undo()
    assert tuned(Engine(path, threads=1)) == tuned(here)


def test_choices_for_more_threads_are_left_out(path: Path) -> None:
    engine = Engine(path, threads=2)
    engine(X[:1])
    engine.save_tuned(path)
    assert [mode[1] for mode in tuned(Engine(path, threads=2))] == [2]
    assert tuned(Engine(path, threads=1)) == []


def test_choices_belong_to_a_combination_of_sizes(tmp_path: Path) -> None:
    path = tmp_path / "m.dpz"
    save(network(), path, torch.ones(2, 3, 12, 12), dynamic={0: {2: (8, 32)}})
    engine = Engine(path, threads=1)
    for height in (12, 20):
        engine(np.ones((1, 3, height, 12), np.float32))
    engine.save_tuned(path)
    again = Engine(path, threads=1)
    for height in (20, 24):
        x = np.ones((1, 3, height, 12), np.float32)
        _, prepared = again._input((x,), {})
        assert bool(prepared.program.modes) == (height == 20)


@pytest.mark.parametrize(
    "text",
    ["", "{", "7", "[7]", "[[]]", "null", '[{"modes": 7, "sizes": []}]', '[{"modes": []}]',
     '[{"modes": [{}], "sizes": 1}]', '[{"modes": [7], "sizes": []}]', "[" * 5000],
)  # fmt: skip
def test_what_is_not_valid_is_ignored(text: str, path: Path) -> None:
    path.write_bytes(with_tuning(path.read_bytes(), text))
    engine = Engine(path, threads=1)
    assert tuned(engine) == []
    assert engine(X[:1]).shape == (1, 8, 10, 10)


def test_wrong_choices_are_ignored(path: Path) -> None:
    engine = Engine(path, threads=1)
    engine(X[:1])
    engine.save_tuned(path)
    [entry] = json.loads(read_file(path).tuning)
    for change in ({"batch": 7}, {"choices": [[1] * 9] * 9}, {"seconds": "x"}, {"threads": 0},
                   {"threads": "1"}, {"more": 1}):  # fmt: skip
        wrong = {**entry, "modes": [{**entry["modes"][0], **change}]}
        path.write_bytes(with_tuning(path.read_bytes(), json.dumps([wrong])))
        assert tuned(Engine(path, threads=1)) == []


def test_a_damaged_length_is_refused(path: Path) -> None:
    data = bytearray(with_tuning(path.read_bytes(), "[]"))
    assert read_file(bytes(data)).tuning == "[]"
    data[8] = 3
    with pytest.raises(ValueError, match="version 3"):
        Engine(bytes(data))
    data[8] = 1
    with pytest.raises(ValueError, match="checksum"):
        Engine(bytes(data))
