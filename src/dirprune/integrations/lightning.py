"""A Lightning callback that logs sparsity and stops a run that diverges."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from dirprune.sparsity import sparsity_report


class SparsityMonitor(Callback):
    """Log ``sparsity`` after every epoch; stop training when the loss is no longer finite.

    ``sparsity`` is the share of zeros among all trainable parameters.

    Args:
        check_every: Steps between two looks at the loss, at least 1. Each costs one transfer from
            the device.

    Raises:
        ValueError: If ``check_every`` is below 1.
    """

    def __init__(self, check_every: int = 50) -> None:
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {check_every}")
        self.check_every = check_every
        self.diverged = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Check that the loss is finite."""
        # manual optimization may return no loss
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None and batch_idx % self.check_every == 0:
            self.diverged |= not bool(torch.isfinite(loss))
            trainer.should_stop |= self.diverged

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share of zeros."""
        pl_module.log("sparsity", sparsity_report(pl_module).sparsity, rank_zero_only=True)
