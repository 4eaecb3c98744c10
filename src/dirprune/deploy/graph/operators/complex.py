"""Complex numbers, as in rotary position codes: pairs along a last dimension of size 2."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from dirprune.deploy.graph.operators.lazy_torch import torch
from dirprune.deploy.graph.operators.record import Shape

if TYPE_CHECKING:
    from dirprune.deploy.graph.builder import Builder
    from dirprune.deploy.graph.values import Arguments, Value


NOT_COMPLEX = (
    "only products of complex numbers are supported: use two tensors, the real and the imaginary "
    "part, and write a Fourier transform as products with matrices of cosines and sines"
)


class Pairs(NamedTuple):
    """A complex tensor.

    Attributes:
        value: The real and the imaginary parts, along its last dimension.
    """

    value: "Value"


def _parts(b: "Builder", x: Any) -> tuple[Any, Any]:
    """The real and the imaginary part, with a last dimension of size 1; None if it is real."""
    if isinstance(x, Pairs):
        return b.take(x.value, -1, 0, 1), b.take(x.value, -1, 1, 2)
    x = b.operand(x)
    if not hasattr(x, "tensor"):
        return b.reshape(x, (*b.sizes(x), 1)), None
    if not x.tensor.is_complex():
        return b.constant_of(x.tensor[..., None]), None
    pairs = torch.view_as_real(x.tensor.resolve_conj())
    return b.constant_of(pairs[..., :1]), b.constant_of(pairs[..., 1:])


def _joined(b: "Builder", parts: Iterable[Any], sizes: Shape) -> Pairs:
    wide = [b.expand(b.as_value(x), (*sizes, 1)) for x in parts]
    return Pairs(b.join(wide, len(sizes), (*sizes, 2)))


def _capture_mul(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    (p, q), (r, s) = _parts(b, a.self), _parts(b, a.other)

    def product(x: Any, y: Any) -> Any:
        return b.combine("mul", [x, y])

    if q is None or s is None:
        p, r, s = (p, r, s) if q is None else (r, p, q)
        return _joined(b, (product(p, r), product(p, s)), results[0])
    real = b.combine("sub", [product(p, r), product(q, s)])
    imaginary = b.combine("add", [product(p, s), product(q, r)])
    return _joined(b, (real, imaginary), results[0])


def _capture_polar(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    length, angle = (b.as_value(_parts(b, x)[0]) for x in (a.abs, a.angle))
    parts = (b.combine("mul", [length, b.add(op, [angle])]) for op in ("cos", "sin"))
    return _joined(b, parts, results[0])


def _capture_complex(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    return _joined(b, (_parts(b, x)[0] for x in (a.real, a.imag)), results[0])


def _capture_part(place: int) -> Callable[..., Any]:
    def capture(b: "Builder", a: "Arguments", results: Any) -> Any:
        return b.reshape(b.take(a.self.value, -1, place, place + 1), results[0])

    return capture


def _capture_reshape(b: "Builder", a: "Arguments", results: Any) -> Pairs:
    return Pairs(b.reshape(a.self.value, (*results[0], 2)))


COMPLEX: dict[str, Callable[..., Any]] = {
    "view_as_complex": lambda b, a, results: Pairs(a.self),
    "view_as_real": lambda b, a, results: a.self.value,
    "mul": _capture_mul,
    "polar": _capture_polar,
    "complex": _capture_complex,
    "real": _capture_part(0),
    "imag": _capture_part(1),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze"), _capture_reshape),
}
"""The ATen operators on complex tensors, by name."""
