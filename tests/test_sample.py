"""The sample that the C++ step leaves for the next comparison of the weights."""

from typing import Any

import numpy as np
import pytest

from dirprune.changes import LINE, SPARSE, WHOLE

_cpp = pytest.importorskip("dirprune._cpp", reason="the C++ extension is not built here")

# shares of 65,536 floats begin and end within lines; the last row is stored past the caches
LENGTHS = [3, 70_001, 0, 4096, 300_003, 5000, 2_000_003]


class Rows:
    """Arrays that are stepped with one sample."""

    def __init__(self, root: bool, threads: int) -> None:
        rng = np.random.default_rng(0)
        self.w, self.v, self.d = (
            [rng.normal(size=n).astype(np.float32) for n in LENGTHS] for _ in range(3)
        )
        self.root, self.threads, self.phase, self.g = root, threads, 0, 0.0
        self.sample = _cpp.Sample()
        self.step(g_before=None)

    def step(self, g_before: float | None) -> list[int]:
        """Step with another threshold; return the rows that were changed."""
        columns = [[a.ctypes.data for a in column] for column in (self.w, self.v, self.d)]
        self.g = 0.1 + 0.01 * (self.phase % 3)
        self.phase += 1
        changed: list[int] = _cpp.grda_step(
            *columns, [], LENGTHS, lr=0.01, g=self.g, momentum=0.0, decay=0.0, nesterov=False,
            maximize=False, root=self.root, threads=self.threads, g_before=g_before,
            sample=self.sample,
        )  # fmt: skip
        return changed


@pytest.fixture(params=_cpp.available())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRPRUNE_ISA", request.param)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("root", "threads"), [(False, 1), (False, 3), (True, 2)])
def test_nothing_is_found_where_nothing_was_changed(root: bool, threads: int) -> None:
    rows = Rows(root, threads)
    assert not any(rows.step(rows.g) for _ in range(SPARSE + 2))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("root", [False, True])
def test_a_changed_float_is_found_if_it_is_sampled(root: bool) -> None:
    rng = np.random.default_rng(1)
    rows = Rows(root, 2)
    found = 0
    for n in range(50):
        i = int(rng.choice([1, 3, 4, 5, 6]))
        lines = LENGTHS[i] // LINE
        position = int(rng.integers(LENGTHS[i]))
        if n % 2 and LENGTHS[i] > WHOLE:  # in a sampled line
            line = rows.phase % min(SPARSE, lines)
            position = line * LINE + int(rng.integers(LINE))
        w, line = rows.w[i], position // LINE
        is_sampled = LENGTHS[i] <= WHOLE or (
            line < lines and line % SPARSE == rows.phase % min(SPARSE, lines)
        )
        w[position] = np.nextafter(w[position], np.float32(9))
        changed = rows.step(rows.g)
        assert changed == ([i] if is_sampled else [])
        if is_sampled:
            found += 1
            w[:] = rows.v[i][:] = 0.0  # the threshold of v again
            assert rows.step(rows.g) == []
    assert 20 < found < 49


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    "change",
    [lambda w: w * 0.5, lambda w: -w, lambda w: np.roll(w, 1), np.flip],
    ids=["halved", "negated", "rolled", "flipped"],
)
def test_changes_of_all_floats_are_found(change: Any) -> None:
    rows = Rows(False, 2)
    for i in (1, 4, 6):
        w = rows.w[i]
        w[:] = change(w)
    assert rows.step(rows.g) == [1, 4, 6]


def test_a_sample_is_not_used_for_another_threshold_or_after_forgetting() -> None:
    rows = Rows(False, 1)
    assert rows.step(rows.g + 0.05) == [0, 1, 3, 4, 5, 6]  # compared with T(v)
    rows = Rows(False, 1)
    rows.v[4][:] += 1.0
    assert rows.step(rows.g) == []  # v is not read
    rows = Rows(False, 1)
    rows.v[4][:] += 1.0
    rows.sample.forget()
    assert rows.step(rows.g) == [4]
