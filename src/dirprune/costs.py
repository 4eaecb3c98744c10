"""The cost of a network without some of its channels, such as its multiply-adds."""

from collections.abc import Sequence

import torch
from torch import Tensor

Layer = tuple[float, Sequence[int], Sequence[int]]
"""The cost of a whole layer, the block of each row and the block of each column (-1: none)."""

ROUNDING = 1e-12
"""Shares of the cost that differ by less are equal."""


class Costs:
    r"""The share of a cost that remains when blocks are removed.

    A layer costs as much as it has pairs of a row and a column that are both kept:

    .. math:: C(A) = \frac{\sum_l c_l \, r_l(A) \, s_l(A)}{\sum_l c_l}

    where :math:`r_l` and :math:`s_l` are the shares of the layer's rows and columns whose blocks
    are in the set A of kept blocks.

    Args:
        layers: For each layer its cost, the block of every row and the block of every column. A
            row or column of block -1 is always kept. A layer without columns depends on its rows
            only, such as a depthwise convolution.
        blocks: Number of blocks.

    Raises:
        ValueError: If there is no cost, a cost is negative or infinite, or a block does not exist.

    Example:
        >>> costs = Costs([(4.0, [0, 1], [-1, -1]), (6.0, [-1, -1, -1], [0, 1])], blocks=2)
        >>> costs.remaining(torch.tensor([True, False]))
        0.5
    """

    def __init__(self, layers: Sequence[Layer], blocks: int) -> None:
        shares = torch.tensor([cost for cost, _, _ in layers], dtype=torch.float64)
        if not len(shares):
            raise ValueError("costs are empty: the network has no convolution or linear layer")
        if not bool((shares >= 0).all() and shares.isfinite().all() and shares.sum() > 0):
            raise ValueError(
                "costs must be finite, at least 0, and one above 0, got "
                f"{float(shares.min())} to {float(shares.max())}"
            )
        self._shares = shares / shares.sum()
        self._blocks = blocks
        self._rows = self._places([rows for _, rows, _ in layers], blocks)
        self._columns = self._places([columns for _, _, columns in layers], blocks)

    @staticmethod
    def _places(layers: Sequence[Sequence[int]], blocks: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blocks of all layers in a row, the layer of each, and each one's weight."""
        owners = torch.tensor([block for layer in layers for block in layer], dtype=torch.int64)
        if owners.numel() and not -1 <= int(owners.min()) <= int(owners.max()) < blocks:
            raise ValueError(
                f"costs must name blocks from -1 to {blocks - 1}, got {int(owners.min())} to "
                f"{int(owners.max())}: give all blocks of channel_blocks in its order, and the "
                "costs of the same network"
            )
        sizes = torch.tensor([len(layer) for layer in layers])
        layer = torch.arange(len(layers)).repeat_interleave(sizes)
        return owners, layer, 1 / sizes.double()[layer]

    def remaining(self, kept: Tensor) -> float:
        """Return the share of the cost that remains.

        Args:
            kept: Whether each block is kept, boolean of shape (blocks,).

        Returns:
            A share in [0, 1].
        """
        stays = torch.cat([kept, kept.new_ones(1)]).double()  # the last one is block -1
        left = self._shares
        for owners, layer, weight in (self._rows, self._columns):
            removed = torch.zeros_like(left)
            removed.index_add_(0, layer, (1 - stays[owners]) * weight)
            left = left * (1 - removed)
        return float(left.sum())

    def needed(self, order: Tensor, share: float) -> int:
        """Return how many blocks must be removed to save a share of the cost.

        Args:
            order: Numbers of the blocks, the first to be removed first.
            share: Of the cost, in [0, 1].

        Returns:
            The smallest number of blocks; all, if they do not save that much.
        """
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            kept = torch.ones(self._blocks, dtype=torch.bool)
            kept[order[:middle]] = False
            if 1 - self.remaining(kept) >= share - ROUNDING:
                high = middle
            else:
                low = middle + 1
        return low
