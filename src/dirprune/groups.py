"""The choice of the parameters that gRDA thresholds; the others follow plain SGD."""

import re
from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dirprune._support.wrappers import plain_name, unwrap

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NAMED_DENSE = re.compile(r"bias|token|position|(?:^|_)(?:emb|(?:pos|rel|relative)(?:_|$))")


def param_groups(
    model: nn.Module,
    prune: Literal["all", "weights"] | Callable[[str, nn.Parameter], bool] = "all",
) -> list[dict[str, Any]]:
    """Split a model's parameters into a group that gRDA thresholds and a group that follows SGD.

    ``"weights"`` thresholds the kernels and matrices of a network. These parameters stay dense:

    - scalars and vectors in any shape, such as biases, layer scales of shape (C, 1, 1), class
      tokens of shape (1, 1, C) and weights of shape (1, C): at most one dimension is larger than
      1;
    - all parameters of normalisation layers: torch's own, and modules with "Norm" in the name of
      their class;
    - tables of positions and tokens: the weights of ``nn.Embedding`` and ``nn.EmbeddingBag``
      (also where an output layer shares them), parameters that are not called "weight" and whose
      first dimension is 1 (they are broadcast over the batch), and parameters whose own name
      contains "bias", "token" or "position", or has a part between underscores that is "pos",
      "rel" or "relative" or starts with "emb";
    - parameters that ``no_weight_decay()`` of the model or of a submodule names, whose names
      contain one of its ``no_weight_decay_keywords()``, or that carry a true attribute
      ``_no_weight_decay``;
    - the underlying parameters of ``weight_norm``, ``spectral_norm`` and every parametrization:
      their zeros are not zeros of the layer, and a zero row of a normalised direction is 0/0.
      (Masks of ``torch.nn.utils.prune`` keep zeros, so masked weights are thresholded.)

    A parameter that several layers share is counted once, and is dense if any of these rules
    applies to one of its uses.

    Args:
        model: Any module, also one inside ``torch.compile`` or ``DistributedDataParallel``.
        prune: ``"all"`` thresholds every parameter, as in the paper; ``"weights"`` applies the
            rules above; a callable receives each parameter's name in the unwrapped model and the
            parameter, and returns whether to threshold it.

    Returns:
        One or two param groups for :class:`dirprune.GRDA`; the second, if any, has ``c=0``.

    Raises:
        ValueError: If ``prune`` has another value, the model has no parameters, or, with
            ``"weights"``, a lazy parameter has no shape yet.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2), nn.LayerNorm(2))
        >>> [(len(group["params"]), group.get("c")) for group in param_groups(model, "weights")]
        [(1, None), (4, 0.0)]
    """
    model = unwrap(model)
    if prune == "all":
        chosen: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True  # noqa: E731
    elif prune == "weights":
        dense_ids = _dense_under_weights(model)
        chosen = lambda name, parameter: id(parameter) not in dense_ids  # noqa: E731
    elif callable(prune):
        chosen = prune
    else:
        raise ValueError(f'prune must be "all", "weights" or a callable, got {prune!r}')
    thresholded: list[nn.Parameter] = []
    dense: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (thresholded if chosen(plain_name(name), parameter) else dense).append(parameter)
    groups: list[dict[str, Any]] = [{"params": thresholded}, {"params": dense, "c": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameters to optimise")
    return groups


def _dense_under_weights(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that ``"weights"`` leaves dense."""
    dense: set[int] = set()
    for prefix, module in model.named_modules():
        hooked = _behind_hooks(module)
        is_table_or_norm = isinstance(module, _EMBEDDINGS) or _is_norm(module)
        for name, parameter in module.named_parameters(recurse=False):
            if is_lazy(parameter):
                raise ValueError(
                    f"{prefix}.{name} has no shape yet, which prune='weights' needs: pass one"
                    " batch through the model first"
                )
            own_name = prefix.rpartition(".")[2] if name.isdigit() else name  # a ParameterList
            if is_table_or_norm or name in hooked or _is_no_kernel(own_name, parameter):
                dense.add(id(parameter))
        if isinstance(module, ParametrizationList):
            dense |= {id(parameter) for parameter in module.parameters()}
        dense |= _exempt_from_weight_decay(module)
    return dense


def _is_no_kernel(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is not a kernel or matrix, by its shape, name or attribute."""
    is_vector = sum(size != 1 for size in parameter.shape) <= 1
    is_broadcast = parameter.shape[:1] == (1,) and not name.startswith("weight")
    is_named = _NAMED_DENSE.search(name) is not None
    return is_vector or is_broadcast or is_named or getattr(parameter, "_no_weight_decay", False)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or "Norm" in type(module).__name__


def _behind_hooks(module: nn.Module) -> set[str]:
    """Names of the parameters from which hooks such as ``weight_norm`` compute weights."""
    names: set[str] = set()
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            names |= {f"{hook.name}_g", f"{hook.name}_v"}
        elif isinstance(hook, SpectralNorm):
            names.add(f"{hook.name}_orig")
    return names


def _exempt_from_weight_decay(module: nn.Module) -> set[int]:
    """Return the ids of the parameters that a module itself exempts from weight decay."""
    names, keywords = (
        tuple(method()) if callable(method := getattr(module, attribute, None)) else ()
        for attribute in ("no_weight_decay", "no_weight_decay_keywords")
    )
    if not names and not keywords:
        return set()
    return {
        id(parameter)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if name in names or any(keyword in name for keyword in keywords)
    }
