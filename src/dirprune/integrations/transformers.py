"""A callback for Hugging Face's Trainer that logs sparsity and stops a run that diverges."""

import math
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dirprune.sparsity import sparsity_report


class SparsityCallback(TrainerCallback):
    """Log ``sparsity`` with the loss; stop when loss or weights are no longer finite.

    ``sparsity`` is the share of zeros among all trainable parameters. It goes to
    ``trainer.state.log_history`` and to the callbacks after this one.
    """

    def __init__(self) -> None:
        self.diverged = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the share of zeros to the logs, and check that loss and weights are finite."""
        if logs is None or model is None:
            return
        report = sparsity_report(model)
        logs["sparsity"] = report.sparsity
        state.log_history[-1]["sparsity"] = logs["sparsity"]
        # the Trainer's logging_nan_inf_filter hides losses that are not finite
        if not math.isfinite(logs.get("loss", 0.0) + report.l1):
            self.diverged = control.should_training_stop = True
