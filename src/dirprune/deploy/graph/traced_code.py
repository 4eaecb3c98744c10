"""Conditions under which the code of a network is traced, so that sizes can vary."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode


@contextmanager
def traceable(network: nn.Module) -> Iterator["VaryingSizes"]:
    """Trace without code that only checks values or optimises for the sizes of the example.

    These are the arguments' checks of ``torch.distributions``, and whether the mask of a
    ``nn.TransformerDecoder`` is the causal one, which read values. ``len(x)`` in the modules of
    the network's classes is ``x.shape[0]``, and ``nn.CrossMapLRN2d`` uses no storage of its own.

    Yields:
        What rewrites functions.
    """
    validates = Distribution._validate_args
    replaced = [(transformer, "_detect_is_causal_mask", _is_causal),
                (nn.CrossMapLRN2d, "forward", _cross_map_norm)]  # fmt: skip
    names = {type(m).__module__ for m in network.modules()}
    own = [sys.modules.get(name) for name in names if name.partition(".")[0] != "torch"]
    with ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        for module in own:
            if module is not None and not hasattr(module, "len"):
                stack.enter_context(mock.patch.object(module, "len", _length, create=True))
        stack.callback(Distribution.set_default_validate_args, validates)
        Distribution.set_default_validate_args(False)
        yield stack.enter_context(VaryingSizes())


class VaryingSizes(TorchFunctionMode):
    """Rewrites functions that make plain integers of sizes.

    Where sizes vary, these are ``torch.linspace`` and pooling with a window of the size of the
    input; always, ``torch.take_along_dim``, and ``torch.einsum``, which orders its products by the
    sizes. ``x.data``, which the exporter cannot follow, is ``x.detach()``. Attention has as many
    keys as values, which torch's does not tell the exporter. Packed sequences are refused.

    Attributes:
        takes_gradients: Whether a gradient was asked for.
    """

    takes_gradients = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, or what is equal to it."""
        if func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0].detach()
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            raise ValueError(
                "forward assigns to x.data, but a graph keeps no state: compute a new tensor"
            )
        self.takes_gradients |= func in (torch.autograd.grad, Tensor.backward)
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        rewrite = _REWRITTEN.get(name)
        if rewrite is None and any(map(_varies, (*args, *kwargs.values()))):
            rewrite = _REWRITTEN_WHERE_SIZES_VARY.get(name)
        result = None if rewrite is None else rewrite(*args, **kwargs)
        return func(*args, **kwargs) if result is None else result


def _is_causal(mask: Any, is_causal: Any = None, size: Any = None) -> bool:
    return bool(is_causal)


def _length(x: Any) -> Any:
    """``len(x)``, which Python makes an integer, so that it would not vary."""
    varies = isinstance(x, Tensor) and x.dim() and isinstance(x.shape[0], torch.SymInt)
    return x.shape[0] if varies else len(x)


def _cross_map_norm(layer: nn.CrossMapLRN2d, x: Tensor) -> Tensor:
    """Return x / (k + alpha / size * s)^beta, where s sums squares of neighbouring channels.

    In torch's code s includes channel 0 everywhere, and of the others those that are less than
    ``reach`` away.
    """
    channel, reach = torch.arange(x.shape[1]), int((layer.size - 1) / 2 + 1)
    apart = channel - channel[:, None]
    added = (apart < reach) & ~((apart <= -reach) & (channel > 0))
    squares = torch.einsum("bchw,dc->bdhw", x * x, added.to(x))
    return x * (layer.k + layer.alpha / layer.size * squares) ** -layer.beta


def _varies(x: Any) -> bool:
    return any(map(_varies, x)) if isinstance(x, list | tuple) else isinstance(x, torch.SymInt)


def _linspace(start: Any, end: Any, steps: Any = None, **options: Any) -> Tensor | None:
    """Equal steps from both ends to the middle, as in torch."""
    if steps is None or steps < 2:
        return None
    place = torch.arange(steps, **options)
    if not place.is_floating_point():
        place = place.to(options.get("dtype") or torch.get_default_dtype())
    step = (end - start) / (steps - 1)
    return torch.where(place < steps // 2, start + place * step, end - (steps - 1 - place) * step)


def _pack(*args: Any, **kwargs: Any) -> None:
    raise ValueError(
        "it packs sequences: pass the padded ones to the recurrent layer, and mask what it "
        "returns at the padding"
    )


def _attend(query: Tensor, key: Tensor, value: Tensor, *more: Any, **options: Any) -> None:
    torch._check(key.shape[-2] == value.shape[-2])


def _einsum(equation: Any, *operands: Any) -> Tensor | None:
    """Multiply from left to right."""
    if not isinstance(equation, str):
        return None
    flat = operands[0] if isinstance(operands[0], list | tuple) else operands
    product: Tensor = torch._VF.einsum(equation, flat)  # type: ignore[attr-defined]
    return product


def _take_along(
    x: Tensor, indices: Tensor | None = None, dim: int | None = None, **given: Any
) -> Tensor | None:
    """Gather, after the other dimensions of size 1 are expanded."""
    if dim is None or indices is None or x.dim() != indices.dim() or given:
        return None
    dim %= x.dim()
    pairs = list(zip(x.shape, indices.shape))
    whole = [n if m == 1 else m for m, n in pairs]
    own, other = ([*whole[:dim], pair, *whole[dim + 1 :]] for pair in pairs[dim])
    return x.expand(own).gather(dim, indices.expand(other))


def _global(reduce: Callable[..., Tensor], dims: int) -> Callable[..., Tensor | None]:
    """Pooling whose window is the whole input, as a reduction."""

    def pool(
        x: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        *more: Any,
        **options: Any,
    ) -> Tensor | None:
        kernel = [*kernel_size] if isinstance(kernel_size, list | tuple) else [kernel_size]
        kernel = kernel * (dims // len(kernel))
        whole = all(k is s or bool(k == s) for k, s in zip(kernel, x.shape[-dims:]))
        return_places = options.get("return_indices")
        if not whole or padding not in (0, (0,) * dims) or return_places:
            return None
        return reduce(x, list(range(-dims, 0)), True)

    return pool


_REWRITTEN: dict[str, Callable[..., Tensor | None]] = {
    "take_along_dim": _take_along,
    "einsum": _einsum,
    "scaled_dot_product_attention": _attend,
    "_pack_padded_sequence": _pack,
}
_REWRITTEN_WHERE_SIZES_VARY: dict[str, Callable[..., Tensor | None]] = {
    "linspace": _linspace,
    **{f"avg_pool{n}d": _global(torch.mean, n) for n in (1, 2, 3)},
    **{f"max_pool{n}d": _global(torch.amax, n) for n in (1, 2, 3)},
}
