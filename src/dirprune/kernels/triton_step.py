"""One step of many tensors in one Triton launch, over tables of their addresses.

The addresses of weights, accumulators and moments do not change between steps, so their tables are
built once. Gradients may move: then their table is rewritten by kernels that get the addresses as
arguments. A step does not copy from the host and does not synchronise.
"""

import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cache
from operator import attrgetter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.autograd.graph import increment_version

from dirprune.kernels.rows import PLAIN, Adam, Gradient, Row, Scalar, addresses_of, order

TensorColumn = Sequence[Any]

FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
_dtype = attrgetter("dtype")
MAX_TABLES = 64


def step(
    rows: Sequence[Row],
    rule: Gradient | Adam | None,
    g: Scalar = 0.0,
    g_before: Scalar = 0.0,
    power: float = 1.0,
) -> bool:
    r"""Step many tensors in one launch, if that is possible.

    .. math:: v \leftarrow v - \gamma d, \qquad w \leftarrow T_p(v, g)

    Before that, v is set from the weights that differ from :math:`T_p(v, g_\text{before})`, the
    result of the last step. Without v, :math:`w \leftarrow w - \gamma d`. Without a rule, v does
    not change and no gradients are needed.

    Args:
        rows: Weights, v, gradients and moments. v is None for all rows or for none, and so are
            the moments. v and the moments are float32, or float64 for float64 weights.
        rule: The direction and its options, or None.
        g: The threshold of this step: a number, or a 0-dimensional tensor on the device, like
            ``g_before``, ``lr`` and ``n``. If one of them is a tensor, the step can be captured
            in a CUDA graph, after a first step outside. Or one threshold per row, float64.
        g_before: The threshold of the previous step, in the same form.
        power: p of the threshold function, at least 1; infinity is the hard threshold.

    Returns:
        Whether the step was taken. It is not taken if :func:`prepare` returns None, or if a
        gradient is not a dense floating-point tensor with the memory order of its weight.
    """
    if not rows:
        return False
    w, v, grads, m, s = zip(*rows)
    tables = prepare(w, v, m, s)
    return tables is not None and tables.step(w, grads, rule, g, g_before, power)


def is_chosen(group: Mapping[str, Any], w: Tensor) -> bool:
    """Whether the options and the device leave a step to Triton: CUDA, or its interpreter."""
    on_triton = w.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    return (
        on_triton
        and group["fused"] is not False
        and not group["foreach"]
        and kernels() is not None
    )


def prepare(w: TensorColumn, v: TensorColumn, m: TensorColumn, s: TensorColumn) -> "Tables | None":
    """Return the tables of these tensors, cached by the addresses.

    Args:
        w: Weights.
        v: Accumulators; all of them may be None.
        m: First moments; all of them may be None.
        s: Second moments; all of them may be None.

    Returns:
        The tables. None without Triton, or if the tensors are not plain dense floating-point
        tensors on one CUDA device (any device in Triton's interpreter) with the same memory order
        in each row.

    Raises:
        RuntimeError: If the tensors are new inside the capture of a CUDA graph.
    """
    module: Any = kernels()
    if module is None or not (w[0].is_cuda or module.INTERPRETED):
        return None
    if not PLAIN.issuperset(map(type, w)):
        return None
    state = [column for column in (v, m, s) if column[0] is not None]
    key = (
        w[0].device,
        w[0].dtype,
        v[0] is None,
        tuple(map(Tensor.numel, w)),
        *(tuple(map(Tensor.data_ptr, column)) for column in (w, *state)),
    )
    if key in _TABLES:
        _TABLES.move_to_end(key)
        return _TABLES[key]
    if w[0].is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "the first step of these tensors is inside the capture of a CUDA graph: take at least "
            "one step before the capture, as with every optimizer that has a state"
        )
    tables = _TABLES[key] = Tables(w, v, m, s, module) if _fit(w, state) else None
    while len(_TABLES) > MAX_TABLES:
        _TABLES.popitem(last=False)
    return tables


@cache
def kernels() -> ModuleType | None:
    """Return the Triton kernels, or None without Triton."""
    try:
        from dirprune.kernels import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def _numbers(rule: Gradient | Adam | None, g: Scalar, g_before: Scalar) -> tuple[Scalar, ...]:
    """Rate, thresholds, bias-corrected rate of the first moment, correction of the second."""
    if not isinstance(rule, Adam):
        return rule.lr if rule else 0.0, g, g_before, 0.0, 1.0
    first, second = rule.betas
    if isinstance(rule.n, Tensor):
        n = rule.n.double()
        return rule.lr, g, g_before, rule.lr / (1 - first**n), (1 - second**n).sqrt()
    root = math.sqrt(1 - second**rule.n)
    return rule.lr, g, g_before, rule.lr / (1 - first**rule.n), root


def _on_device(numbers: Sequence[Scalar], device: torch.device) -> Tensor:
    return torch.stack(
        [
            x.reshape(()).double()
            if isinstance(x, Tensor)
            else torch.full((), x, dtype=torch.float64, device=device)
            for x in numbers
        ]
    )


class Tables:
    """The addresses of one set of tensors, on their device. It does not keep the tensors alive."""

    has_own_thresholds = True
    """Whether every row may have a threshold of its own."""

    def __init__(
        self, w: TensorColumn, v: TensorColumn, m: TensorColumn, s: TensorColumn, module: Any
    ) -> None:
        self._module = module
        self._known = addresses_of(w, v, m, s)
        self.device = w[0].device
        self.state = torch.float64 if w[0].dtype == torch.float64 else torch.float32
        self._kinds = {
            "WEIGHT": module.DTYPES[w[0].dtype],
            "STATE": module.DTYPES[self.state],
            "SPARSE": v[0] is not None,
            "MOMENTUM": m[0] is not None,
            "BLOCK": module.BLOCK,
            "COLUMNS": module.COLUMNS,
            "num_warps": module.WARPS,
            "enable_fp_fusion": False,
        }
        self._orders = [order(t) for t in w]
        addresses = [
            [*(0 if t is None else t.data_ptr() for t in row), row[0].numel()]
            for row in zip(w, v, m, s)
        ]
        lengths = torch.tensor([-(-t.numel() // module.BLOCK) for t in w])
        starts = lengths.cumsum(0) - lengths
        row = torch.arange(len(w)).repeat_interleave(lengths)
        blocks = torch.stack([row, torch.arange(len(row)) - starts[row]], 1)
        self.rows = torch.tensor(addresses).to(self.device)  # int64 (tensors, 5)
        self.blocks = blocks.to(self.device, torch.int32)  # (blocks, 2): a row, an ordinal in it
        self._none = self.rows.new_zeros(len(w))
        self._grads = torch.zeros_like(self._none)
        self._views = list(self._grads.unbind())
        self._addresses: list[int] = []
        self._strides: list[tuple[int, ...]] = []
        self._captured: list[Tensor] = []
        self._values: list[float] = []

    def are_of(self, *columns: TensorColumn) -> bool:
        """Whether weights, v and moments still have the addresses of the tables."""
        return addresses_of(*columns) == self._known

    def thresholds(self, values: list[float]) -> Tensor:
        """One threshold per row, on the device; they are copied there only if they are new."""
        if values != self._values:
            self._values = values
            self._thresholds = torch.tensor(values, dtype=torch.float64).to(self.device)
        return self._thresholds

    @torch.no_grad()
    def step(
        self,
        w: TensorColumn,
        grads: TensorColumn,
        rule: Gradient | Adam | None,
        g: Scalar,
        g_before: Scalar,
        power: float,
    ) -> bool:
        """Step like :func:`step`.

        Args:
            w: The weights.
            grads: Gradients, or None for all without a rule.
            rule: The direction and its options, or None.
            g: The threshold.
            g_before: That of the step before.
            power: p of the threshold function.

        Returns:
            Whether the step was taken.
        """
        table = self._grads_at(grads if rule else None)
        if table is None:
            return False
        if not len(self.blocks):
            return True  # all tensors are empty
        own = isinstance(g, Tensor) and g.dim() > 0
        numbers = _numbers(rule, 0.0 if own else g, 0.0 if own else g_before)
        on_device = any(isinstance(x, Tensor) for x in numbers)
        options: Any = rule or Gradient(0.0)
        adam = isinstance(rule, Adam)
        with torch.cuda.device_of(self.rows):  # type: ignore[no-untyped-call]
            self._module.step[(len(self.blocks),)](
                self.rows, table, self.blocks,
                _on_device(numbers, self.device) if on_device else self.rows,
                *((g, g_before) if own else (self.rows, self.rows)),
                *((0.0,) * 5 if on_device else map(float, numbers)),
                options.weight_decay,
                1 - options.betas[0] if adam else options.momentum,
                options.betas[1] if adam else 0.0,
                options.eps if adam else 0.0,
                RULE=type(rule).__name__, POWER=float(power),
                NESTEROV=not adam and options.nesterov, DECAY=options.weight_decay > 0,
                MAXIMIZE=options.maximize,
                GRAD=self._module.DTYPES[grads[0].dtype if rule else self.state],
                ON_DEVICE=on_device, OWN=own, **self._kinds,
            )  # fmt: skip
        # so that autograd sees a change that went past torch
        increment_version(w)
        return True

    def _grads_at(self, grads: TensorColumn | None) -> Tensor | None:
        """The table of the gradients' addresses, or None if they are not supported."""
        captured = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if captured:
            _CAPTURED[id(self)] = self
        if grads is None:
            return self._none
        strides = list(map(Tensor.stride, grads))
        if strides != self._strides:
            if [order(t) for t in grads] != self._orders:
                return None
            self._strides = strides
        dtypes = set(map(_dtype, grads))
        if len(dtypes) > 1 or not dtypes <= FLOATS:
            return None
        addresses = list(map(Tensor.data_ptr, grads))
        if addresses == self._addresses and not captured:
            return self._grads
        if any(map(Tensor.is_neg, grads)):
            return None  # the memory of a negative view holds the negated values
        if captured:
            # a graph has its own table, which later steps outside do not change
            own = torch.zeros_like(self._grads)
            torch._foreach_add_(own.unbind(), addresses)
            self._captured.append(own)
            return own
        self._grads.zero_()
        torch._foreach_add_(self._views, addresses)
        self._addresses = addresses
        return self._grads


_TABLES: OrderedDict[Any, Tables | None] = OrderedDict()
_CAPTURED: dict[int, Tables] = {}  # never freed, because graphs hold their addresses


def _fit(w: TensorColumn, state: Sequence[TensorColumn]) -> bool:
    """Whether weights and state are dense arrays with the same memory order in each row."""
    dtype = torch.float64 if w[0].dtype == torch.float64 else torch.float32
    return (
        w[0].dtype in FLOATS
        and all(t.device == w[0].device and t.dtype == w[0].dtype for t in w)
        and all(is_non_overlapping_and_dense_or_false(t) for t in w)
        and all(
            type(t) in PLAIN
            and t.dtype == dtype
            and t.device == w[0].device
            and order(t) == order(p)
            for column in state
            for p, t in zip(w, column)
        )
    )
