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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.autograd.graph import increment_version

# w, v (None: dense), gradient, first moment or None, second moment or None
Row = tuple[Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]
Column = Sequence[Any]
Number = float | Tensor

FLOATS = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})
PLAIN = frozenset({Tensor, nn.Parameter})
_dtype = attrgetter("dtype")
MAX_TABLES = 64


class Gradient(NamedTuple):
    r"""SGD's direction: :math:`m \leftarrow \beta m + \nabla f + \lambda w`."""

    lr: Number
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False


class Adam(NamedTuple):
    """Adam's direction at its n-th step, with decoupled weight decay."""

    lr: Number
    n: Number
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False


@torch.no_grad()
def step(
    rows: Sequence[Row],
    rule: Gradient | Adam,
    g: Number = 0.0,
    g_before: Number = 0.0,
    power: float = 1.0,
) -> bool:
    r"""Step many tensors at once, if one launch can take them.

    .. math:: v \leftarrow v - \gamma d, \qquad w \leftarrow T_p(v, g)

    Before that, v is set from the weights where they are not :math:`T_p(v, g_\text{before})`,
    which is what the last step left. Without v, :math:`w \leftarrow w - \gamma d`.

    Args:
        rows: Weights, v, gradients and moments; v is None for all rows or for none, as are the
            moments. v and the moments are float32, of float64 weights float64.
        rule: The direction and its options.
        g: The threshold of this step; a number, or a 0-dimensional tensor on the device, as are
            ``g_before``, ``lr`` and ``n``. If one of them is a tensor, the step can be captured
            in a CUDA graph, after a first step outside.
        g_before: The threshold of the step before.
        power: p of the threshold function, at least 1; infinity is the hard threshold.

    Returns:
        Whether the step was taken. It was not where there is no Triton, or where the tensors are
        not plain dense floating-point tensors on one CUDA device (on any device in Triton's
        interpreter), those of a row in the same order in memory.
    """
    module: Any = kernels()
    columns: list[Column] = list(zip(*rows))
    if module is None or not rows or not (rows[0][0].is_cuda or module.INTERPRETED):
        return False
    table = _table(columns) if PLAIN.issuperset(map(type, columns[0])) else None
    grads = table.grads_at(columns[2]) if table else None
    if table is None or grads is None:
        return False
    if not table.count:
        return True  # no tensor has an element
    adam = isinstance(rule, Adam)
    lr, size, correction = _adam_factors(rule) if isinstance(rule, Adam) else (rule.lr, 0.0, 1.0)
    numbers = (lr, g, g_before, size, correction)
    on_device = any(isinstance(x, Tensor) for x in numbers)
    scalars = _on_device(numbers, table.rows.device) if on_device else table.rows
    with torch.cuda.device_of(table.rows):  # type: ignore[no-untyped-call]
        module.step[(table.count,)](
            table.rows, grads, table.blocks, scalars,
            *((0.0,) * 5 if on_device else map(float, numbers)),
            rule.weight_decay,
            1 - rule.betas[0] if isinstance(rule, Adam) else rule.momentum,
            rule.betas[1] if isinstance(rule, Adam) else 0.0,
            rule.eps if isinstance(rule, Adam) else 0.0,
            RULE=module.adam_step if adam else module.gradient_step,
            POWER=float(power), SPARSE=columns[1][0] is not None,
            MOMENTUM=columns[3][0] is not None,
            NESTEROV=isinstance(rule, Gradient) and rule.nesterov,
            DECAY=rule.weight_decay > 0, MAXIMIZE=rule.maximize,
            WEIGHT=module.DTYPES[columns[0][0].dtype], GRAD=module.DTYPES[columns[2][0].dtype],
            STATE=module.DTYPES[table.state], ON_DEVICE=on_device,
            BLOCK=module.BLOCK, COLUMNS=module.COLUMNS,
            num_warps=module.WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    increment_version(columns[0])  # so that autograd sees a change that went past torch
    return True


@cache
def kernels() -> ModuleType | None:
    """The Triton kernels, or None where there is no Triton."""
    try:
        from dirprune import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def _adam_factors(rule: Adam) -> tuple[Number, Number, Number]:
    """The rate, the rate with the first moment's bias corrected, the second's correction."""
    first, second = rule.betas
    if isinstance(rule.n, Tensor):
        n = rule.n.double()
        return rule.lr, rule.lr / (1 - first**n), (1 - second**n).sqrt()
    return rule.lr, rule.lr / (1 - first**rule.n), math.sqrt(1 - second**rule.n)


def _on_device(numbers: Sequence[Number], device: torch.device) -> Tensor:
    return torch.stack(
        [
            x.reshape(()).double()
            if isinstance(x, Tensor)
            else torch.full((), x, dtype=torch.float64, device=device)
            for x in numbers
        ]
    )


class _Table:
    """The addresses of one set of tensors, on their device."""

    def __init__(self, columns: Sequence[Column], block: int) -> None:
        w, v, _, m, s = columns
        self.device = w[0].device
        self.state = torch.float64 if w[0].dtype == torch.float64 else torch.float32
        self.orders = [_order(t) for t in w]
        addresses = [
            [*(0 if t is None else t.data_ptr() for t in row), row[0].numel()]
            for row in zip(w, v, m, s)
        ]
        lengths = torch.tensor([-(-t.numel() // block) for t in w])
        starts = lengths.cumsum(0) - lengths
        row = torch.arange(len(w)).repeat_interleave(lengths)
        blocks = torch.stack([row, torch.arange(len(row)) - starts[row]], 1)
        self.rows = torch.tensor(addresses).to(self.device)  # int64 (tensors, 5)
        self.blocks = blocks.to(self.device, torch.int32)  # (blocks, 2): a row, an ordinal in it
        self.count = len(blocks)
        self._grads = self.rows.new_zeros(len(w))
        self._views = list(self._grads.unbind())
        self._addresses: list[int] = []
        self._strides: list[tuple[int, ...]] = []
        self._captured: list[Tensor] = []

    def grads_at(self, grads: Column) -> Tensor | None:
        """The table of the gradients' addresses; None if they cannot be stepped."""
        strides = list(map(Tensor.stride, grads))
        if strides != self._strides:
            if [_order(t) for t in grads] != self.orders:
                return None
            self._strides = strides
        dtypes = set(map(_dtype, grads))
        if len(dtypes) > 1 or not dtypes <= FLOATS or any(map(Tensor.is_neg, grads)):
            return None  # the memory of a negative view holds the opposite
        addresses = list(map(Tensor.data_ptr, grads))
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            # a graph keeps a table of its own, which later steps outside do not change
            own = torch.zeros_like(self._grads)
            torch._foreach_add_(own.unbind(), addresses)
            self._captured.append(own)
            _CAPTURED[id(self)] = self
            return own
        if addresses != self._addresses:
            self._grads.zero_()
            torch._foreach_add_(self._views, addresses)
            self._addresses = addresses
        return self._grads


_TABLES: OrderedDict[Any, _Table | None] = OrderedDict()
_CAPTURED: dict[int, _Table] = {}  # graphs hold their addresses: never freed


def _table(columns: Sequence[Column]) -> _Table | None:
    """The table of w, v and moments, None where a launch cannot take them."""
    w = columns[0]
    state = [c for c in (columns[1], *columns[3:]) if c[0] is not None]
    key = (
        w[0].device,
        w[0].dtype,
        columns[1][0] is None,
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
    module: Any = kernels()
    table = _TABLES[key] = _Table(columns, module.BLOCK) if _fit(w, state) else None
    while len(_TABLES) > MAX_TABLES:
        _TABLES.popitem(last=False)
    return table


def _fit(w: Column, state: Sequence[Column]) -> bool:
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
