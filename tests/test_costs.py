"""The cost that remains when blocks are removed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

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


@pytest.mark.parametrize("block", [3, -2])
def test_a_block_that_does_not_exist_is_refused(block: int) -> None:
    with pytest.raises(ValueError, match="give all blocks of channel_blocks in its order"):
        Costs([(1.0, [0, block], [])], blocks=3)


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cost_that_is_no_cost_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="finite, at least 0, and one above 0"):
        Costs([(cost, [0], [])], blocks=1)


def test_costs_need_layers_and_blocks() -> None:
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        Costs([], blocks=1)
    with pytest.raises(ValueError, match="costs belong to blocks"):
        SparsityPlan(0.5, 10, costs=[(1.0, [0], [])])


def test_a_share_that_the_blocks_cannot_save_is_refused() -> None:
    w = nn.Parameter(torch.ones(4, 3))
    blocks = [[(w, 0, i)] for i in range(4)]
    costs = [(12.0, [0, 1, 2, 3], [-1, -1, -1]), (8.0, [-1, -1], [])]  # one row stays: 9 of 20
    options = {"structure": "channels", "blocks": blocks, "costs": costs}
    SparsityPlan(0.45, 10, **options)
    with pytest.raises(ValueError, match=r"at most 45.0% of the multiply-adds.*got sparsity=0.5"):
        SparsityPlan(0.5, 10, **options)
    SparsityPlan(0.6, 10, minimum=0, **options)
    with pytest.raises(ValueError, match=r"at most 60\.0%"):
        SparsityPlan(0.61, 10, minimum=0, **options)
