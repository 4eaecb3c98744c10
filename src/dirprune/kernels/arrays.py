"""Float32 arrays on the CPU that the C++ extension steps together, prepared once.

A step only checks what may have changed since the last one. It does so before it writes, because
the pass over all arrays evicts everything else from the cache.
"""

from collections.abc import Sequence
from itertools import repeat
from operator import ne
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version

from dirprune._support import native
from dirprune.kernels.extension import are_float32, arguments, is_dense
from dirprune.kernels.rows import Gradient, addresses_of, order

Column = Sequence[Any]


class Arrays:
    """The addresses of one set of tensors. It does not keep the tensors alive."""

    has_own_thresholds = False
    """Whether every row may have a threshold of its own."""

    def __init__(self, w: Column, v: Column, m: Column, s: Column) -> None:
        self._addresses = addresses_of(w, v, m, s)
        self._lengths = list(map(Tensor.numel, w))
        self._strides = list(map(Tensor.stride, w))
        self._orders = list(map(order, w))
        self._versions: list[int] = []
        self._v_versions: list[int] = []
        self._sample = native.sample()

    @classmethod
    def of(cls, w: Column, v: Column, m: Column, s: Column, grads: Column) -> "Arrays | None":
        """Prepare the tensors, if the extension was built and can step all of them.

        Args:
            w: Weights.
            v: Accumulators; all of them may be None.
            m: First moments; all of them may be None.
            s: Second moments; all of them may be None.
            grads: Gradients.
        """
        if native.grda_step() is None or v[0] is None or w[0].dtype != torch.float32:
            return None
        if not (are_float32(w) and all(map(is_dense, w))):
            return None
        arrays = cls(w, v, m, s)
        others = [column for column in (v, m, s, grads) if column[0] is not None]
        return arrays if all(map(arrays.take, others)) else None

    def are_of(self, *columns: Column) -> bool:
        """Whether weights, v and moments still have these addresses."""
        return addresses_of(*columns) == self._addresses

    def take(self, column: Column) -> bool:
        """Whether the tensors are float32 arrays, each in the order of its weight."""
        strides = list(map(Tensor.stride, column))
        if strides != self._strides:
            # they may differ in dimensions of size 1, which do not matter
            if list(map(order, column)) != self._orders:
                return False
            self._strides = strides
        return are_float32(column)

    def find_rewritten(self, w: Column, v: Column) -> set[int]:
        """Find the weights that torch has written since the last step, by their versions."""
        versions, v_versions = list(map(_version, w)), list(map(_version, v))
        if versions == self._versions and v_versions == self._v_versions:
            return set()
        self._sample.forget()
        known = self._versions or repeat(-1)
        return {i for i, new in enumerate(map(ne, versions, known)) if new}

    @_disable_dynamo  # calls the extension
    def remember(self, w: Column, v: Column) -> None:
        """Record the versions after these tensors were written otherwise than by :meth:`step`."""
        self._record(w, v)
        self._sample.forget()

    def find_changed(self, g: float, power: float) -> set[int]:
        """Compare the weights with those that the last step left, long arrays on a sample.

        Args:
            g: The threshold of the last step.
            power: p, 1 or 2.

        Returns:
            The rows that differ.
        """
        search: Any = native.grda_changed()
        changed: list[int] = search(
            *self._addresses[:2],
            self._lengths,
            g=g,
            root=power == 2,
            sample=self._sample,
            threads=torch.get_num_threads(),
        )
        return set(changed)

    def step(
        self,
        w: Column,
        v: Column,
        grads: Column,
        rule: Gradient | None,
        g: float,
        power: float,
        g_before: float | None = None,
    ) -> list[int]:
        """Descend along SGD's direction and threshold, except where weights were changed.

        Args:
            w: The weights.
            v: Their accumulators.
            grads: Their gradients, if there is a rule.
            rule: The direction and its options; None where v stays.
            g: The threshold.
            power: p, 1 or 2.
            g_before: The threshold of the last step, to compare the weights as
                :meth:`find_changed` does; by default they are not compared.

        Returns:
            The rows that differ and were not stepped.
        """
        options = rule or Gradient(0.0)
        gradients = list(map(Tensor.data_ptr, grads)) if rule else []
        increment_version(w)  # so that autograd sees a change that went past torch
        self._record(w, v)
        step: Any = native.grda_step()
        changed: list[int] = step(
            *self._addresses[:2],
            gradients,
            self._addresses[2] if options.momentum else [],
            self._lengths,
            **arguments(options, g, power),
            g_before=g_before,
            sample=self._sample,
        )
        return changed

    def _record(self, w: Column, v: Column) -> None:
        self._versions, self._v_versions = list(map(_version, w)), list(map(_version, v))


_version = Tensor._version.__get__  # type: ignore[attr-defined]
