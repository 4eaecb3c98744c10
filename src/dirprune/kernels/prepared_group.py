"""Parameters that are stepped together in one call: prepared once, checked at every step.

For many small tensors, the bookkeeping in Python takes longer than the step itself. So everything
that does not change between steps is prepared once, and a step only checks it.
"""

import operator
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dirprune.kernels.arrays import Arrays
from dirprune.kernels.rows import PLAIN, Row
from dirprune.kernels.triton_step import Tables, prepare

_layout = operator.attrgetter("layout")


class PreparedGroup(NamedTuple):
    """The parameters of a group, in columns, which are all updated at every step."""

    w: tuple[Tensor, ...]
    v: tuple[Tensor | None, ...]
    m: tuple[Tensor | None, ...]
    s: tuple[Tensor | None, ...]
    states: list[dict[str, Any]]
    tables: Tables | Arrays
    grads: tuple[Any, ...] = ()

    @classmethod
    def of(
        cls, rows: Sequence[Row], states: list[dict[str, Any]], kind: type[Tables | Arrays]
    ) -> "PreparedGroup | None":
        """Prepare the rows, if one launch of Triton or one call of the extension can step them.

        Args:
            rows: Rows with gradients.
            states: The optimizer's state of each.
            kind: The tables to prepare.

        Returns:
            The prepared group, or None.
        """
        w, v, grads, m, s = zip(*rows)
        tables = prepare(w, v, m, s) if kind is Tables else Arrays.of(w, v, m, s, grads)
        return None if tables is None else cls(w, v, m, s, states, tables)

    def is_current(self, group: dict[str, Any], state: Mapping[Tensor, Any]) -> bool:
        """Whether all share the counters, all gradients exist and no tensor was replaced.

        Args:
            group: The param group.
            state: The optimizer's state.
        """
        states = self.states
        if not (
            len(self.w) == len(group["params"])
            and all(map(operator.is_, self.w, group["params"]))
            and all(map(operator.is_, states, map(state.get, self.w)))
        ):
            return False
        first = "exp_avg" if "betas" in group else "momentum_buffer"
        columns = ((self.v, "v"), (self.m, first), (self.s, "exp_avg_sq"))
        counters = [name for name in ("n", "g", "step") if name in states[0]]
        if group["plan"] and self.tables.has_own_thresholds:
            counters.remove("g")
        return (
            PLAIN.issuperset(map(type, self.grads))
            and {torch.strided}.issuperset(map(_layout, self.grads))
            and all(len(set(map(operator.itemgetter(name), states))) == 1 for name in counters)
            and (self.v[0] is not None or not (group["plan"] or group["c"] or states[0]["g"]))
            and (self.m[0] is not None or not group.get("momentum"))
            and all(
                all(map(operator.is_, column, map(dict.get, states, repeat(name))))
                for column, name in columns
                if column[0] is not None
            )
            and self.tables.are_of(self.w, self.v, self.m, self.s)
            and (not isinstance(self.tables, Arrays) or self.tables.take(self.grads))
        )

    def remember(self) -> None:
        """Record the versions of the tensors; on a GPU a step compares all weights."""
        if isinstance(self.tables, Arrays):
            self.tables.remember(self.w, self.v)

    def rows(self) -> list[Row]:
        """The rows with their gradients."""
        return list(map(Row, self.w, self.v, self.grads, self.m, self.s))
