"""A text that identifies a loss function, the same in every process."""

import functools
import hashlib
import inspect
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from dirprune._support.hashing import hash_tensor


def loss_identity(loss: Any, within: frozenset[int] = frozenset()) -> str:
    """Return a text that differs if two losses differ in their code or in their values.

    Args:
        loss: A function, a module, a ``functools.partial`` or any other callable. The values are
            a module's tensors and plain attributes, a partial's arguments, and the variables that
            a function uses from the enclosing scope.
        within: The ids of the functions that are being identified, because a function may refer
            to itself.

    Example:
        >>> loss_identity(nn.CrossEntropyLoss()) == loss_identity(nn.CrossEntropyLoss())
        True
        >>> loss_identity(lambda x, y: 2 * x) == loss_identity(lambda x, y: 3 * x)
        False
    """
    if isinstance(loss, Tensor):
        hashed = hashlib.sha256()
        hash_tensor(hashed, loss)
        return hashed.hexdigest()
    if loss is None or isinstance(loss, (bool, int, float, str)):
        return repr(loss)
    if isinstance(loss, dict):
        loss = list(loss.items())
    if isinstance(loss, (tuple, list)):
        return f"({', '.join(loss_identity(part, within) for part in loss)})"
    name = str(getattr(loss, "__qualname__", type(loss).__qualname__))
    if id(loss) in within:
        return name
    return f"{name}{loss_identity(_values(loss), within | {id(loss)})}"


def _values(loss: Any) -> list[Any]:
    """The values that a callable uses besides its arguments."""
    if isinstance(loss, functools.partial):
        return [loss.func, *loss.args, loss.keywords]
    if isinstance(loss, MethodType):
        return [loss.__self__, loss.__func__]
    if isinstance(loss, nn.Module):
        plain = {k: v for k, v in vars(loss).items() if isinstance(v, (bool, int, float, str))}
        return [plain, dict(loss.state_dict())]
    if isinstance(loss, FunctionType):
        code = loss.__code__
        constants = [c for c in code.co_consts if isinstance(c, (bool, int, float, str))]
        outer = list(inspect.getclosurevars(loss).nonlocals.items())
        return [code.co_code.hex(), constants, list(code.co_names), loss.__defaults__, outer]
    return []
