"""Wrapper modules around the user's module, which add a prefix to the names of its tensors."""

from torch import nn

_ATTRIBUTES = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
# Wrappers that hold the model as ``module``; by name, because the libraries may be missing.
_HOLDERS = {
    "torch": {"DataParallel", "DistributedDataParallel", "AveragedModel"},
    "deepspeed": {"DeepSpeedEngine"},
    "timm": {"ModelEmaV2", "ModelEmaV3"},
}


def unwrap(model: nn.Module) -> nn.Module:
    """Remove all outer wrappers from a model.

    Wrappers are ``torch.compile``, DataParallel, DistributedDataParallel, AveragedModel, FSDP,
    activation checkpointing, DeepSpeed's engine and timm's ModelEma.

    Raises:
        TypeError: If it is not a module.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(net)) is net
        True
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"the model must be a torch.nn.Module, got {kind}")
    while True:
        parts = dict(model._modules.items())  # of a scripted module, this is no dict
        inner = next((m for name in _ATTRIBUTES if (m := parts.get(name))), None)
        if inner is None and any(map(_is_holder, type(model).__mro__)):
            inner = model.module  # type: ignore[assignment]
        if inner is None:
            return model
        model = inner


def plain_name(name: str) -> str:
    """Return a parameter's name without the parts that wrappers inside the model add.

    Example:
        >>> plain_name("blocks.0._orig_mod.fc.weight")
        'blocks.0.fc.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _ATTRIBUTES)


def _is_holder(kind: type) -> bool:
    return kind.__name__ in _HOLDERS.get(kind.__module__.partition(".")[0], ())
