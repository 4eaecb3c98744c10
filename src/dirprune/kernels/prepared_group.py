"""Parameters that are stepped together on a GPU: prepared once, checked at every step.

For many small tensors, the host needs more time for a step than the GPU. So everything that does
not change between steps is prepared once, and a step only checks that it has not changed.
"""

import operator
from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dirprune.kernels import triton_step
from dirprune.kernels.rows import PLAIN, Row

_layout = operator.attrgetter("layout")


class PreparedGroup(NamedTuple):
    """The parameters of a group, in columns, which are all updated at every step."""

    w: tuple[Tensor, ...]
    v: tuple[Tensor | None, ...]
    m: tuple[Tensor | None, ...]
    s: tuple[Tensor | None, ...]
    states: list[dict[str, Any]]
    tables: triton_step.Tables
    grads: tuple[Any, ...] = ()

    @classmethod
    def of(cls, rows: Sequence[Row], states: list[dict[str, Any]]) -> "PreparedGroup | None":
        """Prepare the rows, if one launch on a GPU can step them."""
        w, v, _, m, s = zip(*rows)
        tables = triton_step.prepare(w, v, m, s)
        return None if tables is None else cls(w, v, m, s, states, tables)

    def is_current(self, group: dict[str, Any]) -> bool:
        """Whether all share the counters, all gradients exist and no tensor was replaced."""
        states = self.states
        first = "exp_avg" if "betas" in group else "momentum_buffer"
        columns = ((self.v, "v"), (self.m, first), (self.s, "exp_avg_sq"))
        counters = [name for name in ("n", "g", "step") if name in states[0]]
        if group["plan"]:
            counters.remove("g")  # of every tensor
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
            and self.tables.are_of(self.w)
        )

    def rows(self) -> list[Row]:
        """The rows with their gradients."""
        return list(map(Row, self.w, self.v, self.grads, self.m, self.s))
