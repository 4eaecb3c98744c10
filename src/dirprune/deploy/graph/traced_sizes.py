"""Numbers that follow from sizes, for tracing code that computes with sizes."""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dirprune.deploy.graph.sizes import FUNCTIONS, LARGEST_SIZE, Expression, SizeRange

_SAMPLES = 1024
"""Most combinations of sizes on which all arithmetic is done."""


@dataclass(eq=False)
class SizeSpace:
    """All combinations of sizes, represented by samples.

    Args:
        ranges: The sizes.
        first: The combination that comes first among the samples.
    """

    ranges: Sequence[SizeRange]
    first: Sequence[int]
    disagreements: list[NDArray[np.bool_]] = field(default_factory=list)
    """Where two sizes were compared that are equal in some samples only."""

    def __post_init__(self) -> None:
        self.samples = _samples(self.ranges, self.first)
        self._known: dict[bytes, Size] = {}
        self.symbols = [self.known(r.name, self.samples[:, i]) for i, r in enumerate(self.ranges)]

    def known(self, expression: Expression, values: NDArray[Any]) -> Any:
        """A number, or the size with these values, as it was first written."""
        if (values == values[0]).all():
            return values[0].item()
        key = values.dtype.kind.encode() + values.tobytes()
        return self._known.setdefault(key, Size(self, expression, np.array(values)))

    def apply(self, name: str, *operands: Any) -> Any:
        """Apply a function of the table to sizes and numbers."""
        values = [np.asarray(_values(x)) for x in operands]
        if name in ("//", "%", "/") and not np.all(values[1]):
            raise ValueError("it divides by a size that can be 0")
        with np.errstate(all="ignore"):
            large = np.abs(FUNCTIONS[name].many(*(v.astype(float) for v in values)))
            if not (large < LARGEST_SIZE).all():
                raise ValueError("it computes a size that is out of range")
            result = FUNCTIONS[name].many(*values)
        written = [x.expression if isinstance(x, Size) else x for x in operands]
        return self.known([name, *written], np.broadcast_to(result, (len(self.samples),)))

    def hint(self) -> str:
        """Bounds for which sizes that are equal for some would be so for all."""
        steps: dict[str, int] = {}
        for same in self.disagreements:
            for i, r in enumerate(self.ranges):
                column = self.samples[:, i]
                found = (n for n in range(1, 257) if same[column % n == 0].all())
                step = next((n for n in found if (column % n == 0).any()), 1)
                steps[r.name] = math.lcm(steps.get(r.name, 1), step)
        ranges = {r.name: r for r in self.ranges}
        lines = []
        for name, step in steps.items():
            low, high = -(-ranges[name].low // step) * step, ranges[name].high // step * step
            if step > 1 and low <= high:
                lines.append(f"{name}: ({low}, {high}, {step})")
        return f"bounds with a step may be needed: {', '.join(lines)}" if lines else ""


class Size:
    """A number that follows from sizes, for tracing: arithmetic gives sizes.

    A comparison is true or false for all sizes, or refused. Two sizes are equal if they are so in
    every sample.
    """

    __slots__ = ("expression", "space", "values")

    def __init__(self, space: SizeSpace, expression: Expression, values: NDArray[Any]) -> None:
        self.space, self.expression, self.values = space, expression, values

    def __repr__(self) -> str:
        return f"<{written(self.expression)}>"

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float | Size):
            return NotImplemented
        same = self.values == _values(other)
        if 1 < same.sum() < len(same):
            self.space.disagreements.append(same)
        return bool(same.all())

    def _compared(self, other: Any, how: Callable[[Any, Any], Any]) -> bool:
        found = how(self.values, _values(other))
        if found.all() or not found.any():
            return bool(found[0])
        raise ValueError(f"it acts differently for {self!r} on both sides of {other!r}")

    def __lt__(self, other: Any) -> bool:
        return self._compared(other, operator.lt)

    def __le__(self, other: Any) -> bool:
        return self._compared(other, operator.le)

    def __gt__(self, other: Any) -> bool:
        return self._compared(other, operator.gt)

    def __ge__(self, other: Any) -> bool:
        return self._compared(other, operator.ge)

    def __bool__(self) -> bool:
        return self._compared(0, operator.ne)

    def __add__(self, other: Any) -> Any:
        return self.space.apply("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.space.apply("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.space.apply("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.space.apply("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.space.apply("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.space.apply("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return self.space.apply("//", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self.space.apply("//", other, self)

    def __mod__(self, other: Any) -> Any:
        return self.space.apply("%", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self.space.apply("%", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.space.apply("/", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.space.apply("/", other, self)

    def __neg__(self) -> Any:
        return self.space.apply("-", 0, self)

    def __abs__(self) -> Any:
        return self.space.apply("max", self, -self)

    def __index__(self) -> int:
        raise ValueError(f"it needs a fixed size, got {self!r}")

    __int__ = __float__ = __index__


def compute(name: str, *operands: Any) -> Any:
    """Apply a function of expressions to sizes and numbers."""
    size = next((x for x in operands if isinstance(x, Size)), None)
    return FUNCTIONS[name].one(*operands) if size is None else size.space.apply(name, *operands)


def traced(expression: Expression, known: Mapping[str, Any]) -> Any:
    """An expression as a size or number, given the sizes by name."""
    if type(expression) is str:
        return known[expression]
    if type(expression) is not list:
        return expression
    name, *operands = expression
    return compute(name, *(traced(operand, known) for operand in operands))


def is_number(x: object) -> bool:
    """Whether something is a number, or follows from sizes."""
    return isinstance(x, int | float | Size)


def is_finite(x: object) -> bool:
    """Whether something is a finite number, or follows from sizes."""
    return isinstance(x, Size) or (isinstance(x, int | float) and math.isfinite(x))


def real(x: Any) -> Any:
    """A float; what follows from sizes stays as it is."""
    return x if isinstance(x, Size) else float(x)


def slice_bounds(start: Any, end: Any, step: int, size: Any) -> tuple[Any, Any, int]:
    """The bounds of ``x[start:end:step]`` within a dimension, as ``slice.indices`` gives them."""
    if not any(isinstance(x, Size) for x in (start, end, size)):
        return slice(start, end, step).indices(max(size, 0))
    start, end = (
        default if x is None or x is default else least(x + size if x < 0 else x, size)
        for x, default in ((start, 0), (end, size))
    )
    return start, end, 1 if step is None else step


def varies(x: Any) -> bool:
    """Whether a number, or one of a tuple, follows from sizes."""
    return any(map(varies, x)) if isinstance(x, tuple) else isinstance(x, Size)


def first(x: Any) -> Any:
    """The numbers in the first sample."""
    if isinstance(x, tuple):
        return tuple(map(first, x))
    return x.values[0].item() if isinstance(x, Size) else x


def expression_of(x: Any) -> Expression:
    """The expression of a number, or those of a tuple."""
    if isinstance(x, tuple):
        return list(map(expression_of, x))
    return x.expression if isinstance(x, Size) else x


def largest(x: Any) -> int:
    """The largest value that a size takes in the samples."""
    return int(x.values.max()) if isinstance(x, Size) else x


def least(a: Any, b: Any) -> Any:
    """The smaller of two numbers or sizes."""
    return compute("min", a, b)


def greatest(a: Any, b: Any) -> Any:
    """The larger of two numbers or sizes."""
    return compute("max", a, b)


def _values(x: Any) -> Any:
    return x.values if isinstance(x, Size) else x


def written(expression: Expression) -> str:
    """An expression as text, such as ``(x.2 + 1) // 2``."""
    if not isinstance(expression, list):
        return str(expression)
    name, *operands = expression
    parts = [f"({written(x)})" if isinstance(x, list) else written(x) for x in operands]
    return f" {name} ".join(parts) if len(parts) == 2 else f"{name}({parts[0]})"


def _samples(ranges: Sequence[SizeRange], first: Sequence[int]) -> NDArray[np.int64]:
    """All combinations if they are few, else the corners and combinations drawn at random."""
    count = math.prod(len(r.sizes) for r in ranges)
    if count <= _SAMPLES:
        rows: Iterable[tuple[int, ...]] = itertools.product(*(r.sizes for r in ranges))
    else:
        ends = [{r.sizes[0], r.sizes[-1]} for r in ranges]
        corners = itertools.islice(itertools.product(*ends), _SAMPLES // 4)
        rng = np.random.default_rng(0)
        more = _SAMPLES - _SAMPLES // 4
        columns = [
            np.array([r.sizes[int(i)] for i in _spread(rng, len(r.sizes), more)]) for r in ranges
        ]
        rows = itertools.chain(corners, zip(*columns))
    return np.array([tuple(first), *rows], np.int64)


def _spread(rng: np.random.Generator, count: int, samples: int) -> NDArray[np.int64]:
    """Indices below ``count``: all of them, if there are enough samples."""
    if count > samples:
        return rng.integers(count, size=samples)
    return np.concatenate([rng.permutation(count) for _ in range(-(-samples // count))])[:samples]
