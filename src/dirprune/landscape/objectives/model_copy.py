"""Private copies of the user's model and loss, in the precision of the landscape."""

import functools
import logging
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dirprune._support.wrappers import unwrap
from dirprune.landscape.objectives.weights import Loss

_log = logging.getLogger(__name__)


def copy_model(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy a model without its wrappers.

    Sparse gradients of embeddings become dense. A tensor that a module keeps from its last call,
    as under ``torch.nn.utils.prune``, is copied too.

    Args:
        model: Any module.
        dtype: Dtype of the copy; by default the widest dtype of its parameters, but at least
            float32.

    Raises:
        TypeError: If it is not a module, cannot be copied, or has complex parameters.
        ValueError: If a parameter is lazy and has no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be an nn.Module, got a {type(model).__name__}")
    model = unwrap(model)
    _check_parameters(model)
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        copy = deepcopy(model, memo)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"the model cannot be copied ({error}): give one that can") from error
    for module in copy.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False
    found = {p.dtype for p in copy.parameters() if p.is_floating_point()}
    if dtype is None and found:
        dtype = functools.reduce(torch.promote_types, found)
        dtype = dtype if dtype.itemsize >= torch.float32.itemsize else torch.float32
        if found != {dtype}:
            _log.info("the weights are converted to %s, in which the loss is computed", dtype)
    return copy if dtype is None or found == {dtype} else copy.to(dtype)


def loss_in_dtype(loss: Loss, dtype: torch.dtype) -> Loss:
    """Return a loss whose own tensors, such as class weights, have a dtype.

    Args:
        loss: A module or a ``functools.partial`` is copied if it needs a change; any other
            callable is returned as it is.
        dtype: A floating-point dtype.
    """

    def convert(value: Any) -> Any:
        is_real = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if is_real else value

    if isinstance(loss, functools.partial):
        keywords = {name: convert(value) for name, value in loss.keywords.items()}
        return functools.partial(
            loss_in_dtype(loss.func, dtype), *map(convert, loss.args), **keywords
        )
    if isinstance(loss, nn.Module):
        own = [t for t in loss.state_dict().values() if isinstance(t, Tensor)]
        if any(t.is_floating_point() and t.dtype != dtype for t in own):
            return deepcopy(loss).to(dtype)
    return loss


def _check_parameters(model: nn.Module) -> None:
    for name, p in model.named_parameters():
        if is_lazy(p):
            raise ValueError(
                f"{name} has no shape yet: call the model on a batch first, which initialises "
                "lazy modules"
            )
        if p.is_complex():
            raise TypeError(
                f"{name} is complex, but a landscape has real coordinates: store real and "
                "imaginary part in a real parameter (torch.view_as_real), and combine them in "
                "forward"
            )
