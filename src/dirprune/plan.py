"""A threshold that follows a planned sparsity and reaches it exactly, without a scale to tune."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dirprune.blocks import Blocks, Slice, block_factors, check_two_four, two_four_levels
from dirprune.costs import Layer
from dirprune.cubic_path import cubic_sparsity
from dirprune.plan_state import PlanState
from dirprune.plan_warnings import PlanWarnings
from dirprune.prox import invert_threshold, power_threshold
from dirprune.quantile import is_sharded
from dirprune.tensor_thresholds import tensor_thresholds, tensor_thresholds_on_device

# With more entries, thresholds before the plan's end are computed on a sample of about this size.
# The error of the sparsity is below .15 points (one standard deviation).
SAMPLE = 1 << 17
# With up to this number of entries, the threshold is updated at every step after the plan's end.
# With more, the updates are 4 to 16 steps apart: 4 if the threshold changes by more than the share
# CHANGE between them, which is about .005 points of sparsity for normal weights at 90 %. At the
# last 16 steps of the run it is exact, because steps may have been skipped.
EVERY_STEP = 1 << 20
CHANGE = 1.5e-4
INTERVALS = 4, 16
LAST = 16


class SparsityPlan(PlanState):
    r"""Let the threshold of :class:`dirprune.GRDA` or ``AdamGRDA`` follow a planned sparsity.

    At step n of N the threshold is the quantile of all planned :math:`|v|` at the sparsity

    .. math:: s_n = s \,\bigl(1 - (1 - t)^3\bigr), \qquad
              t = \operatorname{clip}\Bigl(\frac{n / N - b}{e - b}, 0, 1\Bigr)

    with begin b and end e. Before the end, the threshold is updated at least every 8 steps; with
    more than a million planned entries and a long path every 32 steps, on a sample. From the end
    on the share of zeros is s, but the positions of zeros can still change. With more than a
    million planned entries the share is exact at the end and at the last 16 steps, and between
    them at every 4th to 16th step, more often if it changes more. Entries of equal magnitude
    become zero together, so there may be more zeros. With weight decay and ``power=math.inf``,
    weights without a gradient decay to the threshold and stay there; this gave up to .07 points
    more.

    n counts the optimizer's steps at which a planned parameter has a gradient and its group's rate
    is above 0, so steps that a ``GradScaler`` skips are not counted.

    One plan can be given to the optimizer or to several param groups, which then share one
    quantile; or each group can have its own plan. The planned parameters are those of its groups
    that require gradients and have had a gradient. The thresholds of a plan do not depend on
    ``c`` and ``mu``. The state of the plan is part of the optimizer's ``state_dict``. Every
    optimizer counts its own steps: one that is given a plan of another optimizer makes a copy at
    step 0.

    Args:
        sparsity: Share :math:`s` of zeros among the planned parameters, in [0, 1).
        steps: Optimizer steps N of the whole run, at least 1. Training may continue after them.
        begin: Share of the steps after which zeros appear, in [0, 1).
        end: Share of the steps after which the sparsity is reached, in (begin, 1].
        structure: ``"elements"``: single weights. ``"2:4"``: from the end on, two of every four
            weights along dimension 1 are zero, as sparse tensor cores require; the sparsity must
            be .5, and the threshold is a share of the second smallest of the four. ``"channels"``:
            whole blocks, so that ``dirprune.deploy.shrink`` can remove them.
        minimum: Nonzero weights that every tensor keeps (all, if it has fewer), at least 0. Other
            tensors get more zeros, so that the total is still exact; a warning says if they have
            too few weights for it (not with ``capturable=True``). With channels, every tensor
            keeps its largest block unless this is 0.
        blocks: With ``structure="channels"``: a list of blocks. A block is a list of ``(parameter,
            dimension, index)`` that are removed together, such as a row, its bias, and the scale
            and shift of its norm. A block is thresholded by the root mean square of its entries.
            The sparsity is the share of zeros among the entries of all blocks; it is the largest
            one up to ``sparsity`` that whole blocks allow. All planned parameters must appear;
            entries in no block stay dense.
        costs: With ``structure="channels"``, from ``dirprune.deploy.channel_costs``: ``sparsity``
            is then the share of multiply-adds that is saved. The blocks with the smallest norms
            are removed until it is reached.

    Raises:
        ValueError: If an argument is out of its range, or the blocks cannot save that much.
        TypeError: If an argument is not a number.

    References:
        The cubic path: To prune, or not to prune (Zhu & Gupta, 2017), equation 1,
        https://arxiv.org/abs/1710.01878

    Example:
        >>> from dirprune import GRDA
        >>> w = torch.nn.Parameter(torch.linspace(-1, 1, 20))
        >>> optimizer = GRDA([w], lr=0.1, plan=SparsityPlan(0.9, steps=10))
        >>> for _ in range(10):
        ...     w.grad = torch.zeros(20)
        ...     optimizer.step()
        >>> int((w == 0).sum())
        18
    """

    def __init__(
        self,
        sparsity: float,
        steps: int,
        *,
        begin: float = 0.0,
        end: float = 0.75,
        structure: str = "elements",
        minimum: int = 2,
        blocks: Sequence[Sequence[Slice]] | None = None,
        costs: Sequence[Layer] | None = None,
    ) -> None:
        self.sparsity, self.steps = sparsity, steps
        self.begin, self.end = begin, end
        self.structure, self.minimum = structure, minimum
        self.weighted = costs is not None
        """Whether the sparsity is a share of costs."""
        self._check()
        if (structure == "channels") != (blocks is not None):
            raise ValueError(
                f'structure="channels" needs blocks, and other structures have none, got '
                f"{structure!r} and {'no blocks' if blocks is None else 'blocks'}: "
                "give both or neither"
            )
        if blocks is None and costs is not None:
            raise ValueError('costs belong to blocks: give blocks and structure="channels" too')
        self._blocks = None if blocks is None else Blocks(blocks, minimum > 0, costs)
        if self._blocks is not None:
            self._blocks.check_reachable(self.sparsity)
        self._owner: object = None
        """The optimizer whose steps are counted."""
        self._restart()

    def owned_by(self, optimizer: object) -> "SparsityPlan":
        """Return this plan for an optimizer, or a copy at step 0 if it belongs to another."""
        if self._owner is None or self._owner is optimizer:
            return self.taken_by(optimizer)
        plan = copy.copy(self)
        plan._restart()
        return plan.taken_by(optimizer)

    def taken_by(self, optimizer: object) -> "SparsityPlan":
        """Make an optimizer the owner, and return the plan."""
        self._owner = optimizer
        return self

    def _restart(self) -> None:
        """Go back to step 0."""
        self.step = 0
        """Steps taken so far; on the device if the optimizer is ``capturable``."""
        self.threshold = 0.0
        """The current threshold, in the units of the weights."""
        self.total = 0
        """Planned entries at the last update of the threshold."""
        self.updated = 0
        """The step of the last update."""
        self.interval = INTERVALS[0]
        """Steps between two updates after the end, for many entries."""
        self._warnings = PlanWarnings()

    def sparsity_at(self, step: int) -> float:
        """Return the planned sparsity after a step.

        Args:
            step: Counted from 1.

        Returns:
            The share of zeros, 0 to ``sparsity``.

        Example:
            >>> [SparsityPlan(0.5, 100, end=1.0).sparsity_at(n) for n in (0, 50, 100)]
            [0.0, 0.4375, 0.5]
        """
        if step >= self.end * self.steps:
            return self.sparsity
        done = max(0.0, (step / self.steps - self.begin) / (self.end - self.begin))
        return cubic_sparsity(self.sparsity, done)

    def advance(self) -> bool:
        """Count one more step.

        Returns:
            Whether the threshold has to be updated at this step.
        """
        step = self.step = int(self.step) + 1
        if self.structure != "elements":
            return True
        end = math.ceil(self.end * self.steps)
        if step in (end, self.steps) or self._is_last(step, self.total):
            return True
        if step > end:
            return self.total <= EVERY_STEP or step - self.updated >= self.interval
        most = 8 if self.total <= EVERY_STEP else 32
        # at least a hundred updates
        every = min(most, max(1, int((self.end - self.begin) * self.steps / 100)))
        return step % every == 0

    def advance_on_device(self, moved: Tensor) -> None:
        """Count one more step where ``moved`` is 1, without copying anything to the host.

        Args:
            moved: 0-dimensional, 0 or 1.
        """
        if not isinstance(self.step, Tensor):
            self.step = torch.full((), self.step, dtype=torch.float64, device=moved.device)
            self.threshold = torch.full_like(self.step, float(self.threshold))
        self.step.add_(moved)

    def choose_on_device(self, accumulators: Sequence[Tensor]) -> list[Tensor]:
        """Update the threshold like :meth:`choose`, without copying anything to the host.

        Args:
            accumulators: v of every planned parameter.

        Returns:
            The threshold of each tensor, 0-dimensional.
        """
        step = torch.as_tensor(self.step)
        done = ((step / self.steps - self.begin) / (self.end - self.begin)).clamp(0, 1)
        total = sum(v.numel() for v in accumulators)
        zeros = (cubic_sparsity(self.sparsity, done) * total).round().long()
        g, levels = tensor_thresholds_on_device(accumulators, zeros, self.minimum)
        before = torch.as_tensor(self.threshold)
        before.copy_(torch.where(g.isfinite(), g, before))
        return levels

    def choose(self, accumulators: Sequence[Tensor], names: Sequence[str]) -> list[float] | None:
        """Update the threshold for the current step.

        Args:
            accumulators: v of every planned parameter, of one dtype on one device.
            names: Names of the parameters, for warnings.

        Returns:
            The threshold of each tensor: the plan's, or a smaller one because of ``minimum``. None
            if too many entries are infinite or NaN; then the threshold stays.
        """
        step, total = int(self.step), sum(v.numel() for v in accumulators)
        zeros = round(self.sparsity_at(step) * total)
        is_exact = step >= self.end * self.steps or self._is_last(step, total)
        stride = 1 if is_exact else total // SAMPLE | 1
        near = float(self.threshold)
        g, levels, empty = tensor_thresholds(accumulators, zeros, self.minimum, stride, near)
        if not math.isfinite(g):
            self._warnings.give(
                step, "the weights are not finite: the threshold stays at its last value"
            )
            return None
        if total > EVERY_STEP and step > math.ceil(self.end * self.steps):
            self._adapt_interval(g)
        self.total, self.updated, self.threshold = total, step, g
        if zeros > total - self.minimum * len(accumulators):
            sizes = [v.numel() for v in accumulators]
            self._warnings.check_minimum(step, zeros, self.minimum, sizes)
        self._warnings.name(step, [names[i] for i in empty], "all weights of {} are zero")
        # weights that start at zero have few nonzeros at first, or none
        if 2 * self.sparsity_at(step) >= self.sparsity:
            held = [
                name
                for name, v, level in zip(names, accumulators, levels)
                if 0 < level < g and v.dim() > 1 and v.numel() > self.minimum
            ]
            weights = "1 weight" if self.minimum == 1 else f"{self.minimum} weights"
            finding = f"only the minimum of {weights} is nonzero in {{}}"
            self._warnings.name(step, held, finding)
        return levels

    def _is_last(self, step: int, total: int) -> bool:
        return total > SAMPLE and self.steps - LAST < step <= self.steps

    def _adapt_interval(self, g: float) -> None:
        """Set the interval by the relative change of the threshold, which follows the weights."""
        change = abs(g - float(self.threshold))
        if change > CHANGE * g:
            self.interval = INTERVALS[0]
        elif change < CHANGE / 2 * g and int(self.step) - self.updated >= self.interval:
            self.interval = min(2 * self.interval, INTERVALS[1])

    def apply_structure(self, pairs: Sequence[tuple[Tensor, Tensor]], power: float) -> None:
        """Update the threshold of blocks or groups of four, and write the weights.

        Args:
            pairs: Every planned parameter and its v.
            power: Exponent of the threshold function.
        """
        sparsity = self.sparsity_at(int(self.step))
        if self._blocks is None:
            self.threshold = sparsity / self.sparsity
        else:
            self.threshold = self._blocks.threshold(self._blocks.norms(pairs), sparsity)
        for (p, _), w in zip(pairs, self.structured_weights(pairs, power)):
            p.copy_(w)

    def structured_weights(
        self, pairs: Sequence[tuple[Tensor, Tensor]], power: float
    ) -> list[Tensor]:
        """Apply the current threshold to blocks or groups of four.

        Args:
            pairs: Every planned parameter and its v.
            power: Exponent of the threshold function.

        Returns:
            New weights in the dtype of v.
        """
        g = float(self.threshold)
        if self._blocks is None:
            return [power_threshold(v, g * two_four_levels(v), power) for _, v in pairs]
        norms = self._blocks.norms(pairs)
        factors = block_factors(norms, self._blocks.levels(norms, g), power)
        return [self._blocks.scale(p, factors, v) for p, v in pairs]

    def adopt_structure(self, pairs: Sequence[tuple[Tensor, Tensor]], power: float) -> None:
        """Set v from the weights that differ from the result of :meth:`apply_structure`.

        Args:
            pairs: Every planned parameter and its v.
            power: Exponent of the threshold function.
        """
        g = float(self.threshold)
        if self._blocks is not None:
            self._blocks.adopt(pairs, g, power)
            return
        for (p, v), left in zip(pairs, self.structured_weights(pairs, power)):
            inverse = invert_threshold(p.to(v.dtype), v, g * two_four_levels(v), power)
            v.copy_(torch.where(p == left.to(p.dtype), v, inverse))

    def check_parameter(self, p: Tensor) -> None:
        """Check that a parameter fits the structure.

        Raises:
            ValueError: If it does not fit.
        """
        if self.structure != "elements" and is_sharded(type(p)):
            raise ValueError(
                f'structure="{self.structure}" needs whole parameters, got a DTensor of shape '
                f'{tuple(p.shape)}; use structure="elements" with sharded parameters'
            )
        if self.structure == "2:4":
            check_two_four(p)
        elif self._blocks is not None:
            self._blocks.owner(p)
