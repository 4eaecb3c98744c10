"""Structures of zeros: two of every four weights, or whole channels.

Both act on v as the plain threshold does on single entries. The weights after the last step follow
from v and the plan's threshold, so changes from outside are detected and adopted.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dirprune.costs import ROUNDING, Costs, Layer
from dirprune.prox import invert_threshold, power_threshold

Slice = tuple[Tensor, int, int]
"""A parameter, a dimension and an index along it: one row or column."""


# 2:4 sparsity


def check_two_four(p: Tensor) -> None:
    """Check that a parameter has groups of four along its input dimension, 1.

    Raises:
        ValueError: If its dimension 1 is not divisible by four.
    """
    if p.dim() < 2 or p.shape[1] % 4:
        raise ValueError(
            'structure="2:4" needs parameters whose dimension 1 is divisible by four, got shape '
            f"{tuple(p.shape)}; leave this parameter out of the plan"
        )


def two_four_levels(v: Tensor) -> Tensor:
    """Return, for every entry, the second smallest magnitude in its group of four.

    Args:
        v: Shape (out, in, ...), with in divisible by four; groups are along dimension 1.

    Returns:
        The same shape. As a threshold it keeps two entries of four, fewer if magnitudes are equal.

    Example:
        >>> two_four_levels(torch.tensor([[3.0, -1.0, 2.0, 5.0]]))
        tensor([[2., 2., 2., 2.]])
    """
    rows = v.abs().movedim(1, -1)
    fours = rows.reshape(*rows.shape[:-1], -1, 4)
    second = fours.kthvalue(2, dim=-1, keepdim=True).values
    return second.expand_as(fours).reshape(rows.shape).movedim(-1, 1)


# Channels


class Blocks:
    r"""Disjoint blocks of slices; each block is thresholded as a whole.

    .. math:: w_B = v_B \, [\,1 - (g / |v_B|)^p\\,]_+^{1/p}

    where :math:`|v_B|` is the root mean square of the block's entries.

    Args:
        blocks: Lists of ``(parameter, dimension, index)``. A parameter appears with one
            dimension only, and no slice appears twice. Entries in no block stay dense.
        keep_one: Whether every parameter keeps its largest block.
        costs: What blocks cost, as for :class:`.costs.Costs`; by default the number of entries.

    Raises:
        ValueError: If a slice does not exist or appears twice.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[Slice]],
        keep_one: bool = True,
        costs: Sequence[Layer] | None = None,
    ) -> None:
        self.keep_one = keep_one
        self._costs = None if costs is None else Costs(costs, len(blocks))
        self.sizes = torch.zeros(len(blocks), dtype=torch.int64)
        self._members: list[tuple[Tensor, int, Tensor]] = []
        self._index: dict[int, tuple[Tensor, int, Tensor]] = {}
        for number, block in enumerate(blocks):
            for p, dim, index in block:
                if not 0 <= dim < p.dim() or not 0 <= index < p.shape[dim]:
                    raise ValueError(
                        f"block {number} names index {index} of dimension {dim} of a parameter "
                        f"of shape {tuple(p.shape)}, which does not exist: give existing slices"
                    )
                if id(p) not in self._index:
                    self._members.append((p, dim, torch.full((p.shape[dim],), -1)))
                    self._index[id(p)] = self._members[-1]
                _, known, owner = self._index[id(p)]
                if known != dim or owner[index] >= 0:
                    raise ValueError(
                        f"block {number} names a slice of a parameter of shape {tuple(p.shape)} "
                        "that overlaps with another; give every slice to one block"
                    )
                owner[index] = number
                self.sizes[number] += p.numel() // p.shape[dim]
        if not len(self.sizes) or not bool((self.sizes > 0).all()):
            raise ValueError("blocks must be a list of non-empty lists of (parameter, dim, index)")

    def owner(self, p: Tensor) -> tuple[int, Tensor]:
        """Return the dimension of a parameter's slices, and the block of each (-1: none)."""
        found = self._index.get(id(p))
        if found is None or found[0] is not p:  # a deep copy has other ids
            self._index = {id(member[0]): member for member in self._members}
            found = self._index.get(id(p))
        if found is None:
            raise ValueError(
                f"no block contains a slice of the planned parameter of shape {tuple(p.shape)}; "
                "leave it out of the plan"
            )
        return found[1], found[2]

    def norms(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the root mean square of every block, float64 on the CPU.

        Args:
            pairs: Parameters, and values of their shapes (such as v).

        Returns:
            Shape (number of blocks,).
        """
        squares = torch.zeros(len(self.sizes) + 1, dtype=torch.float64)
        for p, x in pairs:
            dim, owner = self.owner(p)
            slices = x.double().square().movedim(dim, 0).reshape(x.shape[dim], -1)
            squares.index_add_(0, owner % len(squares), slices.sum(1).cpu())
        return (squares[:-1] / self.sizes).sqrt()

    def scale(self, p: Tensor, factors: Tensor, x: Tensor) -> Tensor:
        """Multiply the slices of ``x`` by the factors of their blocks.

        Args:
            p: A parameter.
            factors: One factor per block; slices in no block keep their values.
            x: Values with the shape of ``p``.

        Returns:
            A new tensor; a factor of zero gives 0.0, never -0.0.
        """
        dim, owner = self.owner(p)
        each = torch.cat([factors, factors.new_ones(1)])[owner].to(x.device, x.dtype)
        each = each.view([-1 if i == dim else 1 for i in range(x.dim())])
        return torch.where(each == 0, 0.0, x * each)

    def threshold(self, norms: Tensor, sparsity: float) -> float:
        """Return the threshold that prunes a share of the cost or of the entries.

        Args:
            norms: From :meth:`norms`.
            sparsity: With costs, the share of the cost that is saved at least. Without, the share
                of the entries of all blocks that are set to zero at most.

        Returns:
            The threshold g, 0 if nothing is pruned.
        """
        candidates = norms.clone()
        candidates[self._largest(norms)] = math.inf
        order = candidates.argsort(stable=True)
        order = order[candidates[order].isfinite()]
        if self._costs is not None:
            count = self._costs.needed(order, sparsity)
        else:
            most = round(sparsity * int(self.sizes.sum()))
            count = int((self.sizes[order].cumsum(0) <= most).sum())
        return float(candidates[order[count - 1]]) if count else 0.0

    def check_reachable(self, sparsity: float) -> None:
        """Check that the blocks can save a share of the cost.

        Raises:
            ValueError: If they cannot, although every parameter keeps at most one block.
        """
        if self._costs is None:
            return
        kept = torch.zeros(len(self.sizes), dtype=torch.bool)
        if self.keep_one:
            kept[[int(owner[owner >= 0][0]) for _, _, owner in self._members]] = True
        if (most := 1 - self._costs.remaining(kept)) < sparsity - ROUNDING:
            raise ValueError(
                f"the blocks can save at most {most:.1%} of the multiply-adds, got "
                f"sparsity={sparsity}: lower the sparsity, or add blocks"
            )

    def levels(self, norms: Tensor, g: float) -> Tensor:
        """Return every block's threshold: g, or less for the largest block of a parameter.

        Args:
            norms: From :meth:`norms`.
            g: From :meth:`threshold`.

        Returns:
            One threshold per block. If g would set a whole parameter to zero, its largest block
            gets the norm of the second largest block as its threshold.
        """
        levels = torch.full_like(norms, g)
        largest = self._largest(norms)
        others = norms.clone()
        others[largest] = 0.0
        for (_, _, owner), best in zip(self._members, largest):
            if norms[best] <= g:
                levels[best] = others[owner[owner >= 0]].max()
        return levels

    def _largest(self, norms: Tensor) -> Tensor:
        """The largest block of every parameter."""
        if not self.keep_one:
            return torch.zeros(0, dtype=torch.int64)
        owners = [owner[owner >= 0] for _, _, owner in self._members]
        return torch.stack([mine[norms[mine].argmax()] for mine in owners])

    def adopt(self, pairs: Sequence[tuple[Tensor, Tensor]], g: float, power: float) -> None:
        """Set v from the weights in the blocks whose weights were changed from outside.

        Args:
            pairs: Parameters and their v.
            g: The threshold of the last step.
            power: Exponent of the threshold function.
        """
        norms = self.norms(pairs)
        levels = self.levels(norms, g)
        factors = block_factors(norms, levels, power)
        changed = torch.zeros(len(norms) + 1, dtype=torch.bool)
        for p, v in pairs:
            dim, owner = self.owner(p)
            differs = self.scale(p, factors, v).to(p.dtype) != p
            if bool(differs.any()):
                slices = differs.movedim(dim, 0).reshape(p.shape[dim], -1).any(1)
                changed[owner[slices.cpu()]] = True  # -1, no block, is the last one
        if not bool(changed.any()):
            return
        present = self.norms([(p, p.detach()) for p, _ in pairs])
        target = invert_threshold(present, norms, levels, power)
        zero = present == 0
        # blocks that are zero keep v, with its norm limited to g
        grow = torch.where(zero, (target / norms).nan_to_num(1.0).clamp(max=1), target / present)
        for p, v in pairs:
            _, owner = self.owner(p)
            own = zero[owner].logical_and(owner >= 0).to(p.device)
            shape = [-1 if i == self.owner(p)[0] else 1 for i in range(p.dim())]
            source = torch.where(own.view(shape), v, p.to(v.dtype))
            new = self.scale(p, grow, source)
            v.copy_(torch.where(changed[owner].to(p.device).view(shape), new, v))


def block_factors(norms: Tensor, levels: Tensor, power: float) -> Tensor:
    """Return the factors of blocks with given norms: T_p(norm, g) / norm.

    Args:
        norms: Norms of the blocks, at least 0.
        levels: Thresholds of the blocks.
        power: Exponent p of the threshold function.

    Returns:
        Factors in [0, 1].

    Example:
        >>> block_factors(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 3.0]), power=2)
        tensor([0.0000, 0.8000])
    """
    factors = power_threshold(norms, levels, power) / norms
    return torch.where(norms > 0, factors, torch.where(levels > 0, 0.0, 1.0))
