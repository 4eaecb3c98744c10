"""One step of many tensors in one Triton launch, over tables of their addresses.

The addresses of weights, accumulators and moments stay from step to step, so their tables are
built once. Gradients may move: their table is written anew, by kernels that carry the addresses
as arguments, when one has moved. A step copies nothing from the host and waits for nothing.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.autograd.graph import increment_version

from dirprune.kernels.rows import PLAIN, Adam, Gradient, Row, Scalar

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
    r"""Step many tensors at once, if one launch can take them.

    .. math:: v \leftarrow v - \gamma d, \qquad w \leftarrow T_p(v, g)

    Before that, v is set from the weights where they are not :math:`T_p(v, g_\text{before})`,
    which is what the last step left. Without v, :math:`w \leftarrow w - \gamma d`. Without a rule,
    v stays and no gradients are needed.

    Args:
        rows: Weights, v, gradients and moments; v is None for all rows or for none, as are the
            moments. v and the moments are float32, of float64 weights float64.
        rule: The direction and its options, or None.
        g: The threshold of this step; a number, or a 0-dimensional tensor on the device, as are
            ``g_before``, ``lr`` and ``n``. If one of them is a tensor, the step can be captured
            in a CUDA graph, after a first step outside. Or one threshold a row, float64.
        g_before: The threshold of the step before, in the same form.
        power: p of the threshold function, at least 1; infinity is the hard threshold.

    Returns:
        Whether the step was taken. It was not where :func:`prepare` finds no way, or a gradient
        is not a dense floating-point tensor in the order of its weight.
    """
    if not rows:
        return False
    w, v, grads, m, s = zip(*rows)
    tables = prepare(w, v, m, s)
    return tables is not None and tables.step(w, grads, rule, g, g_before, power)


def prepare(w: TensorColumn, v: TensorColumn, m: TensorColumn, s: TensorColumn) -> "Tables | None":
    """The tables of these tensors, from a cache, since they are a pure function of the addresses.

    Args:
        w: Weights.
        v: Their accumulators, or None for all.
        m: First moments, or None for all.
        s: Second moments, or None for all.

    Returns:
        None where there is no Triton, or where the tensors are not plain dense floating-point
        tensors on one CUDA device (on any device in Triton's interpreter), those of a row in the
        same order in memory.

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
            "the first step of these tensors lies inside a CUDA graph's capture: take at least "
            "one step before the capture, as with every optimizer that keeps a state"
        )
    tables = _TABLES[key] = Tables(w, v, m, s, module) if _fit(w, state) else None
    while len(_TABLES) > MAX_TABLES:
        _TABLES.popitem(last=False)
    return tables


@cache
def kernels() -> ModuleType | None:
    """The Triton kernels, or None where there is no Triton."""
    try:
        from dirprune.kernels import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def _numbers(rule: Gradient | Adam | None, g: Scalar, g_before: Scalar) -> tuple[Scalar, ...]:
    """Rate, thresholds, rate with the first moment's bias corrected, the second's correction."""
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

    def __init__(
        self, w: TensorColumn, v: TensorColumn, m: TensorColumn, s: TensorColumn, module: Any
    ) -> None:
        self._module = module
        self._weights = list(map(Tensor.data_ptr, w))
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
        self._orders = [_order(t) for t in w]
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

    def are_of(self, w: TensorColumn) -> bool:
        """Whether weights still lie where they did."""
        return list(map(Tensor.data_ptr, w)) == self._weights

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
        """Step as :func:`step` does.

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
            return True  # no tensor has an element
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
        """The table of the gradients' addresses; None if they cannot be stepped."""
        captured = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if captured:
            _CAPTURED[id(self)] = self
        if grads is None:
            return self._none
        strides = list(map(Tensor.stride, grads))
        if strides != self._strides:
            if [_order(t) for t in grads] != self._orders:
                return None
            self._strides = strides
        dtypes = set(map(_dtype, grads))
        if len(dtypes) > 1 or not dtypes <= FLOATS or any(map(Tensor.is_neg, grads)):
            return None  # the memory of a negative view holds the opposite
        addresses = list(map(Tensor.data_ptr, grads))
        if captured:
            # a graph keeps a table of its own, which later steps outside do not change
            own = torch.zeros_like(self._grads)
            torch._foreach_add_(own.unbind(), addresses)
            self._captured.append(own)
            return own
        if addresses != self._addresses:
            self._grads.zero_()
            torch._foreach_add_(self._views, addresses)
            self._addresses = addresses
        return self._grads


_TABLES: OrderedDict[Any, Tables | None] = OrderedDict()
_CAPTURED: dict[int, Tables] = {}  # graphs hold their addresses: never freed


def _fit(w: TensorColumn, state: Sequence[TensorColumn]) -> bool:
    """Whether weights and state are dense arrays, those of a row in the same order."""
    dtype = torch.float64 if w[0].dtype == torch.float64 else torch.float32
    return (
        w[0].dtype in FLOATS
        and all(t.device == w[0].device and t.dtype == w[0].dtype for t in w)
        and all(is_non_overlapping_and_dense_or_false(t) for t in w)
        and all(
            type(t) in PLAIN
            and t.dtype == dtype
            and t.device == w[0].device
            and _order(t) == _order(p)
            for column in state
            for p, t in zip(w, column)
        )
    )


def _order(t: Tensor) -> list[tuple[int, int]]:
    """The strides of the dimensions that have any."""
    return [(stride, size) for stride, size in zip(t.stride(), t.shape) if size > 1]
