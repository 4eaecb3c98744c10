"""Modules around the user's module, which add a prefix to the names of its tensors."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``torch.compile``, DataParallel, DDP and AveragedModel.

    Args:
        model: Any module.

    Returns:
        The module inside, or ``model`` itself.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrap(nn.DataParallel(net)) is net
        True
    """
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel, AveragedModel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner  # of torch.compile
        else:
            return model
