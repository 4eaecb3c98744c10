"""Which parameters gRDA thresholds and which follow plain SGD."""

from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def param_groups(
    model: nn.Module,
    prune: Literal["all", "weights"] | Callable[[str, nn.Parameter], bool] = "all",
) -> list[dict[str, Any]]:
    """Split a model's parameters into those that gRDA thresholds and those that follow SGD.

    Args:
        model: Any module; parameters shared between layers count once.
        prune: ``"all"`` thresholds every parameter, as in the paper; ``"weights"`` leaves out
            biases, other vectors and scalars, and normalisation layers; a callable decides by
            name and parameter.

    Returns:
        One or two param groups for :class:`dirprune.GRDA`; the second, if any, has ``c=0``.

    Raises:
        ValueError: If ``prune`` is none of these, or the model has no parameters.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        >>> [(len(group["params"]), group.get("c")) for group in param_groups(model, "weights")]
        [(1, None), (3, 0.0)]
    """
    if prune == "all":
        chosen: Callable[[str, nn.Parameter], bool] = lambda name, parameter: True  # noqa: E731
    elif prune == "weights":
        norms = {id(p) for m in model.modules() if _is_norm(m) for p in m.parameters(False)}
        chosen = lambda name, parameter: parameter.dim() > 1 and id(parameter) not in norms  # noqa: E731
    elif callable(prune):
        chosen = prune
    else:
        raise ValueError(f'prune must be "all", "weights" or a callable, got {prune!r}')
    thresholded: list[nn.Parameter] = []
    dense: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (thresholded if chosen(name, parameter) else dense).append(parameter)
    groups: list[dict[str, Any]] = [{"params": thresholded}, {"params": dense, "c": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(f"{type(model).__name__} has no parameters to optimise")
    return groups


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm)
