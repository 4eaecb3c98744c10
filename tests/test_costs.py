"""The cost that remains when blocks are removed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dirprune import SparsityPlan
from dirprune.costs import Costs, Layer

BLOCKS = 5
sides = st.lists(st.integers(-1, BLOCKS - 1), max_size=6)
layers = st.lists(st.tuples(st.integers(1, 1000), sides, sides), min_size=1, max_size=4)


def pairs_left(layers: list[Layer], kept: list[bool]) -> float:
    """Count the pairs of a row and a column that stay, one by one."""
    total = left = 0.0
    for cost, rows, columns in layers:
        pairs = [(a, b) for a in rows or [-1] for b in columns or [-1]]
        stay = [all(i < 0 or kept[i] for i in pair) for pair in pairs]
        total += cost
        left += cost * sum(stay) / len(pairs)
    return left / total


@given(layers, st.lists(st.booleans(), min_size=BLOCKS, max_size=BLOCKS))
def test_the_remaining_cost_counts_pairs(layers: list[Layer], kept: list[bool]) -> None:
    found = Costs(layers, BLOCKS).remaining(torch.tensor(kept))
    assert found == pytest.approx(pairs_left(layers, kept), abs=1e-12)


@given(layers, st.permutations(range(BLOCKS)), st.floats(0, 1))
def test_as_many_blocks_are_removed_as_the_share_needs(
    layers: list[Layer], order: list[int], share: float
) -> None:
    costs = Costs(layers, BLOCKS)
    count = costs.needed(torch.tensor(order), share)
    saved = []
    for n in range(BLOCKS + 1):
        kept = torch.ones(BLOCKS, dtype=torch.bool)
        kept[order[:n]] = False
        saved.append(1 - costs.remaining(kept))
    assert count == BLOCKS or saved[count] >= share - 1e-9
    assert count == 0 or saved[count - 1] < share + 1e-9


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="take blocks and costs from the same network"):
        Costs([(1.0, [0, 3], [])], blocks=3)
    with pytest.raises(ValueError, match="some above 0"):
        Costs([(0.0, [0], [])], blocks=1)
    with pytest.raises(ValueError, match="some above 0"):
        Costs([(float("nan"), [0], [])], blocks=1)
    with pytest.raises(ValueError, match="some above 0"):
        Costs([], blocks=1)
    with pytest.raises(ValueError, match="costs belong to blocks"):
        SparsityPlan(0.5, 10, costs=[(1.0, [0], [])])
