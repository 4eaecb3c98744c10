"""gRDA in timm: ``--opt grda`` and ``--opt adamgrda``."""

from collections.abc import Iterable
from typing import Any

from timm.optim._optim_factory import OptimInfo, default_registry
from torch import Tensor

from dirprune.adam_grda import AdamGRDA
from dirprune.grda import GRDA


def register() -> None:
    """Register ``grda`` and ``adamgrda`` for timm's ``create_optimizer_v2``.

    Parameter groups without weight decay stay dense. By timm's rules these are biases,
    normalisation parameters and what ``model.no_weight_decay()`` names. If the weight decay is 0,
    vectors and parameters whose first dimension is 1 (tokens, positions) stay dense instead.

    Example:
        >>> import timm
        >>> from dirprune import SparsityPlan
        >>> register()
        >>> model = timm.create_model("resnet18", num_classes=10)
        >>> plan = SparsityPlan(0.9, steps=1000)
        >>> optimizer = timm.optim.create_optimizer_v2(
        ...     model, "grda", lr=0.1, weight_decay=5e-4, momentum=0.9, plan=plan
        ... )
        >>> [group["plan"] is not None for group in optimizer.param_groups]
        [False, True]
    """
    kinds: dict[str, dict[str, Any]] = {
        "grda": {"opt_class": _grda, "has_eps": False, "has_momentum": True},
        "adamgrda": {"opt_class": _adam_grda, "has_betas": True},
    }
    for name, options in kinds.items():
        if name in default_registry.list_optimizers():
            continue  # a second time, timm would warn
        default_registry.register(OptimInfo(name, description="trains sparse", **options))


def _grda(params: Iterable[Any], **options: Any) -> GRDA:
    return GRDA(_undecayed_dense(params), **options)


def _adam_grda(params: Iterable[Any], **options: Any) -> AdamGRDA:
    return AdamGRDA(_undecayed_dense(params), **options)


def _undecayed_dense(params: Iterable[Any]) -> list[Any]:
    """Make the groups without weight decay dense; without any weight decay, vectors and tables."""
    dense = {"c": 0.0, "plan": None}
    groups = list(params)
    if all(isinstance(group, dict) and group.get("weight_decay") == 0 for group in groups):
        split: list[Any] = []
        for group in groups:
            kernels = [p for p in group["params"] if _is_kernel(p)]
            rest = [p for p in group["params"] if not _is_kernel(p)]
            split += [{**group, "params": kernels}, {**group, "params": rest, **dense}]
        return [group for group in split if group["params"]]
    return [
        {**group, **dense} if isinstance(group, dict) and group.get("weight_decay") == 0 else group
        for group in groups
    ]


def _is_kernel(p: Tensor) -> bool:
    return p.shape[:1] != (1,) and sum(size != 1 for size in p.shape) > 1
