"""A text that identifies a loss function, the same in every process."""

import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dirprune._support.hashing import hash_tensor

_PLAIN = (bool, int, float, str)


def loss_identity(loss: Any, seen: set[int] | None = None) -> str:
    """Return a text that differs if two losses differ in their code or in their values.

    Args:
        loss: A function, a module, a ``functools.partial`` or any other callable. The values are
            a module's or object's tensors and attributes, a partial's arguments, and the
            variables that a function uses from the enclosing scope and from its module.
        seen: The ids of the objects that are identified already, because objects may refer to
            each other.

    Example:
        >>> loss_identity(nn.CrossEntropyLoss()) == loss_identity(nn.CrossEntropyLoss())
        True
        >>> loss_identity(lambda x, y: 2 * x) == loss_identity(lambda x, y: 3 * x)
        False
    """
    if isinstance(loss, np.ndarray):
        loss = torch.from_numpy(loss) if loss.dtype.kind in "biuf" else loss.tolist()
    if isinstance(loss, Tensor):
        hashed = hashlib.sha256()
        hash_tensor(hashed, loss)
        return hashed.hexdigest()
    if loss is None or isinstance(loss, (*_PLAIN, np.number, torch.dtype, torch.device)):
        return repr(loss)
    seen = set() if seen is None else seen
    if isinstance(loss, dict):
        loss = list(loss.items())
    if isinstance(loss, (tuple, list)):
        return f"({', '.join(loss_identity(part, seen) for part in loss)})"
    if isinstance(loss, (set, frozenset)):
        return f"{{{', '.join(sorted(loss_identity(part, seen) for part in loss))}}}"
    name = str(getattr(loss, "__qualname__", type(loss).__qualname__))
    if id(loss) in seen:
        return name
    seen.add(id(loss))
    return f"{name}{loss_identity(_values(loss), seen)}"


def _values(loss: Any) -> list[Any]:
    """The values that a callable uses besides its arguments."""
    if isinstance(loss, functools.partial):
        return [loss.func, *loss.args, loss.keywords]
    if isinstance(loss, MethodType):
        return [loss.__self__, loss.__func__]
    if isinstance(loss, nn.Module):
        plain = {k: v for k, v in vars(loss).items() if isinstance(v, _PLAIN)}
        values = [plain, dict(loss.state_dict())]
        return [*values, *loss.children()] if _is_library(type(loss)) else [*values, *_own(loss)]
    if isinstance(loss, FunctionType):
        return _function_values(loss)
    return [] if isinstance(loss, type) or _is_library(type(loss)) else _own(loss)


def _own(value: Any) -> list[Any]:
    """The attributes of an object, and the code that is called."""
    method = getattr(type(value), "forward" if isinstance(value, nn.Module) else "__call__", None)
    hidden = ("_parameters", "_buffers", "_modules") if isinstance(value, nn.Module) else ()
    attributes = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in hidden}
    children = [*value.children()] if isinstance(value, nn.Module) else []
    return [attributes, method, *children]


def _function_values(function: FunctionType) -> list[Any]:
    code = function.__code__
    outer = list(inspect.getclosurevars(function).nonlocals.items())
    values = [*_code_values(code), function.__defaults__, outer]
    if _is_library(function):
        return values
    inner = list(_nested(code))
    names = sorted({name for part in (code, *inner) for name in part.co_names})
    used = {n: function.__globals__[n] for n in names if n in function.__globals__}
    pairs = [(n, v) for n, v in used.items() if not inspect.ismodule(v)]
    tuples = [c for part in (code, *inner) for c in part.co_consts if isinstance(c, tuple)]
    return [
        *values,
        function.__kwdefaults__,
        [_code_values(part) for part in inner],
        pairs,
        tuples,
    ]


def _code_values(code: CodeType) -> list[Any]:
    constants = [c for c in code.co_consts if isinstance(c, _PLAIN)]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _nested(code: CodeType) -> Iterator[CodeType]:
    """The code of the functions that are defined inside of a function."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _is_library(value: Any) -> bool:
    """Whether a function or class belongs to torch, NumPy or Python itself."""
    top = str(getattr(value, "__module__", "")).partition(".")[0]
    return top in ("torch", "numpy") or (top in sys.stdlib_module_names and top != "__main__")
