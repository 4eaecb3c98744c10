"""A threshold that follows a planned sparsity and reaches it exactly, without a scale to tune."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dirprune.blocks import Blocks, Slice, block_factors, check_two_four, two_four_levels
from dirprune.cubic_path import cubic_sparsity
from dirprune.prox import invert_threshold, power_threshold
from dirprune.quantile import is_sharded
from dirprune.tensor_thresholds import tensor_thresholds, tensor_thresholds_on_device

_logger = logging.getLogger(__name__)

# With more entries, thresholds before the plan's end are computed on a sample of about this size.
# The error of the sparsity is below .15 points (one standard deviation).
SAMPLE = 1 << 17
# With up to this number of entries, the threshold is exact at every step after the plan's end.
# With more, it is exact at the end, at the last step, and at every 16th step between them.
EVERY_STEP = 1 << 20


class SparsityPlan:
    r"""Let the threshold of :class:`dirprune.GRDA` or ``AdamGRDA`` follow a planned sparsity.

    At step n of N the threshold is the quantile of all planned :math:`|v|` at the sparsity

    .. math:: s_n = s \,\bigl(1 - (1 - t)^3\bigr), \qquad
              t = \operatorname{clip}\Bigl(\frac{n / N - b}{e - b}, 0, 1\Bigr)

    with begin b and end e. Before the end, the threshold is updated at least every 8 steps; with
    more than a million planned entries and a long path every 32 steps, on a sample. From the end
    on it is exact: the share of zeros is s, but the positions of zeros can still change. With
    more than a million planned entries it is exact at the end, at step N, and at every 16th step
    between them. n counts the optimizer's steps at which a planned parameter has a gradient and
    its group's rate is above 0, so steps that a ``GradScaler`` skips are not counted.

    One plan can be given to the optimizer or to several param groups, which then share one
    quantile; or each group can have its own plan. The planned parameters are those of its groups
    that require gradients and have had a gradient. The thresholds of a plan do not depend on
    ``c`` and ``mu``. The state of the plan is part of the optimizer's ``state_dict``.

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
            tensors get more zeros, so that the total is still exact. With channels, every tensor
            keeps its largest block unless this is 0.
        blocks: With ``structure="channels"``: a list of blocks. A block is a list of ``(parameter,
            dimension, index)`` that are removed together, such as a row, its bias, and the scale
            and shift of its norm. A block is thresholded by the root mean square of its entries.
            The sparsity is the share of zeros among the entries of all blocks; it is the largest
            one up to ``sparsity`` that whole blocks allow. All planned parameters must appear;
            entries in no block stay dense.

    Raises:
        ValueError: If an argument is out of its range.

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
    ) -> None:
        self.sparsity, self.steps = sparsity, steps
        self.begin, self.end = begin, end
        self.structure, self.minimum = structure, minimum
        if (structure == "channels") != (blocks is not None):
            raise ValueError(
                f'structure="channels" needs blocks, and other structures have none, got '
                f"{structure!r} and {'no blocks' if blocks is None else 'blocks'}: "
                "give both or neither"
            )
        self._blocks = None if blocks is None else Blocks(blocks, keep_one=minimum > 0)
        self.step: int | Tensor = 0
        """Steps taken so far; on the device if the optimizer is ``capturable``."""
        self.threshold: float | Tensor = 0.0
        """The current threshold, in the units of the weights."""
        self.total = 0
        """Planned entries at the last update of the threshold."""
        self._emptied: set[str] = set()
        """The parameters that a warning has named."""
        self._check()

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
        if step in (end, self.steps):
            return True
        if step > end:
            every = 1 if self.total <= EVERY_STEP else 16
        else:  # at least a hundred updates
            most = 8 if self.total <= EVERY_STEP else 32
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
        torch.as_tensor(self.threshold).copy_(g)
        return levels

    def choose(self, accumulators: Sequence[Tensor], names: Sequence[str]) -> list[float]:
        """Update the threshold for the current step.

        Args:
            accumulators: v of every planned parameter, of one dtype on one device.
            names: Names of the parameters, for warnings.

        Returns:
            The threshold of each tensor: the plan's, or a smaller one because of ``minimum``.
        """
        total = self.total = sum(v.numel() for v in accumulators)
        zeros = round(self.sparsity_at(int(self.step)) * total)
        stride = total // SAMPLE | 1 if self.step < self.end * self.steps else 1
        g, levels, empty = tensor_thresholds(accumulators, zeros, self.minimum, stride)
        if emptied := [name for i in empty if (name := names[i]) not in self._emptied]:
            self._emptied.update(emptied)
            _logger.warning(
                "step %d: all weights of %s are zero; lower the sparsity, raise minimum, or leave "
                "these parameters out of the plan",
                int(self.step),
                ", ".join(emptied),
            )
        self.threshold = g
        return levels

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

        Args:
            p: A parameter of the plan.

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

    def state_dict(self) -> dict[str, Any]:
        """Return the options and the progress as plain numbers.

        Returns:
            A state for :meth:`load_state_dict`.
        """
        state = {name: value for name, value in vars(self).items() if name[0] != "_"}
        return state | {"step": int(self.step), "threshold": float(self.threshold)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore options and progress.

        Args:
            state: From :meth:`state_dict`.
        """
        for name in vars(self).keys() & state.keys():
            if name[0] != "_":
                setattr(self, name, state[name])
        self._check()

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "SparsityPlan":
        """Make a plan from a saved state.

        Args:
            state: From :meth:`state_dict`.

        Returns:
            A new plan.
        """
        if state["structure"] == "channels":
            raise ValueError(
                "the saved plan prunes channels, and its blocks are not part of the state: make "
                "the optimizer with the plan, then load the state"
            )
        plan = cls(state["sparsity"], state["steps"])
        plan.load_state_dict(state)
        return plan

    def __repr__(self) -> str:
        """Show the options."""
        return (
            f"SparsityPlan({self.sparsity}, steps={self.steps}, begin={self.begin}, "
            f"end={self.end}, structure={self.structure!r}, minimum={self.minimum})"
        )

    def _check(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")
        if not self.steps >= 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"begin and end must satisfy 0 <= begin < end <= 1, got {self.begin}, {self.end}"
            )
        if self.structure not in ("elements", "2:4", "channels"):
            raise ValueError(
                f'structure must be "elements", "2:4" or "channels", got {self.structure!r}'
            )
        if self.structure == "2:4" and self.sparsity != 0.5:
            raise ValueError(f'structure="2:4" needs sparsity=0.5, got {self.sparsity}')
        if not self.minimum >= 0:
            raise ValueError(f"minimum must be at least 0, got {self.minimum}")
