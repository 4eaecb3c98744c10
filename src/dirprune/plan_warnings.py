"""Warnings of a sparsity plan, each given once."""

import logging
from collections.abc import Sequence

_logger = logging.getLogger("dirprune.plan")


class PlanWarnings:
    """What a plan has warned of."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def give(self, step: int, message: str) -> None:
        """Log a warning, unless it was given before."""
        if message not in self._known:
            self._known.add(message)
            _logger.warning("step %d: %s", step, message)

    def name(self, step: int, names: Sequence[str], finding: str) -> None:
        """Name parameters that no warning has named yet.

        Args:
            step: The optimizer's step.
            names: Of parameters that were pruned too much.
            finding: What is wrong with them, with ``{}`` for their names.
        """
        if new := [name for name in names if name not in self._known]:
            self._known.update(new)
            self.give(
                step,
                f"{finding.format(', '.join(new))}; lower the sparsity or the power, raise the "
                "learning rate or minimum, or leave these parameters out of the plan",
            )

    def check_minimum(self, step: int, zeros: int, minimum: int, sizes: Sequence[int]) -> None:
        """Warn if the minimum of every tensor leaves fewer zeros than planned."""
        most = sum(max(0, size - minimum) for size in sizes)
        if zeros > most:
            self.give(
                step,
                f"minimum={minimum} of each tensor leaves at most {most:,} zeros among "
                f"{sum(sizes):,} weights, fewer than the plan needs; lower minimum, or leave "
                "small parameters out of the plan",
            )
