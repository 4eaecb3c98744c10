"""A curve of low loss between two networks, for any module."""

import json
import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dirprune._support.checkpoint import pack, unpack
from dirprune.landscape.connectivity.curve import Curve, bent_line, bernstein
from dirprune.landscape.objectives.data import check_batch
from dirprune.landscape.objectives.inputs import Inputs, apply, map_tensors
from dirprune.landscape.objectives.loss_calls import LossCalls
from dirprune.landscape.objectives.loss_identity import loss_identity
from dirprune.landscape.objectives.model_copy import copy_model, loss_in_dtype
from dirprune.landscape.objectives.points import ParameterLayout, StateDict
from dirprune.landscape.objectives.sweep import (
    SAVE_EVERY,
    ReportProgress,
    digest,
    resumed,
    save_work,
)
from dirprune.landscape.objectives.weights import Loss, check_scalar


class Fit(NamedTuple):
    """A fitted curve.

    Attributes:
        curve: From a to b.
        losses: Mean training loss of every epoch, at random points of the curve.
    """

    curve: Curve
    losses: list[float]


def fit_bezier(
    a: StateDict,
    b: StateDict,
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    epochs: int,
    bends: int = 1,
    lr: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    seed: int = 0,
    save: Path | None = None,
    progress: ReportProgress | None = None,
) -> Fit:
    r"""Bend the straight line between two networks until the loss along it is low.

    SGD on the control points :math:`p_k` between the fixed ends :math:`p_0 = a`, :math:`p_n = b`,

    .. math:: \min_{p_1 \dots p_{n-1}} \mathbb E_{t \sim U(0, 1)} L(w(t)), \qquad
        \nabla_{p_k} L(w(t)) = B_k(t)\,\nabla L(w(t))

    with one t for every batch, starting from the straight line. The model is in training mode:
    BatchNorm normalises by the batch. The rate is ``lr`` for half of the epochs, falls linearly
    to a hundredth at nine tenths, and stays there.

    Args:
        a: State dict of the network at t = 0.
        b: State dict of the network at t = 1.
        model: Their module; it is copied, not changed.
        loss: Mean loss of a batch.
        data: Training batches of (inputs, targets) with a length, such as a shuffling DataLoader.
            Its randomness is seeded through torch.
        epochs: Passes over the data, at least 1.
        bends: Control points between the ends, at least 1; the paper has 1.
        lr: Initial rate.
        momentum: Heavy-ball momentum, in [0, 1).
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Coefficient of the l2 penalty on the bends.
        seed: Seed of the order of the data, t and dropout.
        save: A file to resume from after an interruption; the result is bit-identical.
        progress: Called after every step with the number of steps done and their total.

    Returns:
        The curve and its training losses.

    Raises:
        TypeError: If the data has no length.
        ValueError: If the networks are of different models or identical, an option is out of
            range, the loss becomes infinite or NaN, or ``save`` belongs to another fit.

    References:
        Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs (Garipov et al., 2018),
        https://arxiv.org/abs/1802.10026
        Directional Pruning of Deep Neural Networks (Chao et al., 2020), section 4.2

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> a, b = {"weight": torch.tensor([[-1.0]])}, {"weight": torch.tensor([[1.0]])}
        >>> data = [(torch.ones(1, 1), torch.full((1, 1), 3.0))] * 50
        >>> fit = fit_bezier(a, b, model, nn.functional.mse_loss, data, epochs=4)
        >>> bool(fit.curve.at(0.5) > 0)
        True
    """
    _check(epochs=epochs, lr=lr, momentum=momentum, weight_decay=weight_decay, seed=seed)
    if isinstance(data, Iterator) or not hasattr(data, "__len__") or not len(data):
        raise TypeError("the data needs batches and a length: give a list of them or a DataLoader")
    copy = copy_model(model).train()
    layout = ParameterLayout(copy)
    ends = {"a": layout.point(a, "a"), "b": layout.point(b, "b")}
    layout.check_distinct(ends)
    layout.load(ends["a"], copy)
    start = bent_line(ends["a"], ends["b"], bends)
    control = nn.Parameter(start.bends)
    curve = Curve(start.a, start.b, control.detach())  # shares the bends' memory
    optimizer = torch.optim.SGD([control], lr, momentum, 0.0, weight_decay, nesterov)
    options = (epochs, bends, lr, momentum, nesterov, weight_decay, seed, len(data))
    key = digest(*ends.values(), json.dumps(options))
    loss = loss_in_dtype(loss, layout.dtype)
    fitting = _Fitting(copy, layout, loss, curve, control, optimizer, save, {"key": key})
    fitting.run(data, epochs, lr, seed, progress)
    return Fit(curve, fitting.mean_losses(len(data)))


@dataclass
class _Fitting:
    """The state of a fit, saved between steps.

    Attributes:
        control: The bends of the curve, which are optimised.
        work: Identifies the fit in the file.
        step: Steps taken so far.
        losses: Sum of the losses of every epoch so far, over the number of its batches.
        skipped: Number of batches of every epoch that were left out.
    """

    model: nn.Module
    layout: ParameterLayout
    loss: Loss
    curve: Curve
    control: nn.Parameter
    optimizer: torch.optim.Optimizer
    save: Path | None
    work: dict[str, Any]
    step: int = 0
    losses: list[float] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def run(
        self, data: Any, epochs: int, lr: float, seed: int, progress: ReportProgress | None
    ) -> None:
        """Take all remaining steps."""
        self.losses, self.skipped = [0.0] * epochs, [0] * epochs
        total = epochs * len(data)
        self._resume()
        saved, complete = time.monotonic(), True
        with torch.random.fork_rng(), closing(_batches(data, seed, self.step, total)) as batches:
            try:
                for batch in batches:
                    complete = False
                    share = (self.step // len(data) + 1) / epochs
                    self.optimizer.param_groups[0]["lr"] = lr * _factor(share)
                    self._descend(batch, seed, len(data))
                    complete = True
                    if time.monotonic() - saved > SAVE_EVERY:
                        self._keep()
                        saved = time.monotonic()
                    if progress is not None:
                        progress(self.step, total)
            finally:
                if complete:
                    self._keep()

    def _descend(self, batch: tuple[Inputs, Tensor], seed: int, batches: int) -> None:
        """Take one step at a random point of the curve."""
        epoch = self.step // batches
        t = float(np.random.default_rng((seed, self.step)).random())
        _seed(seed, self.step, 1, self.layout.device.type)
        inputs, targets = batch
        batch = map_tensors(self.layout.place, inputs), self.layout.place(targets)
        try:
            value, self.control.grad = bend_gradient(
                self.model, self.layout, self.loss, batch, self.curve, t
            )
        except ValueError as error:
            is_single = "more than 1 value per channel" in str(error)
            if not (is_single or isinstance(error, NoTargets)) or batches == 1:
                raise
            self._skip(epoch, batches)
            return
        if not math.isfinite(value):
            raise ValueError(
                f"the loss on the curve is {value} in epoch {epoch + 1}: take a smaller lr"
            )
        self.optimizer.step()
        self.losses[epoch] += value / batches
        self.step += 1

    def _skip(self, epoch: int, batches: int) -> None:
        """Leave a batch out: BatchNorm cannot normalise one sample, or no target counts."""
        self.skipped[epoch] += 1
        if self.skipped[epoch] == batches:
            raise ValueError(
                "every batch has a single sample, which BatchNorm cannot normalise, or only "
                "ignored targets: give larger batches"
            )
        self.step += 1

    def mean_losses(self, batches: int) -> list[float]:
        """Return the mean loss of every epoch over the batches that are not left out."""
        return [
            loss * batches / (batches - count) if count else loss
            for loss, count in zip(self.losses, self.skipped)
        ]

    def _resume(self) -> None:
        if self.save is not None and self.save.exists():
            tensors, meta = resumed(self.save, self.work)
            # Files of dirprune 0.1 do not name their loss.
            if meta.get("loss", identity := loss_identity(self.loss)) != identity:
                raise ValueError(
                    f"{self.save} belongs to a fit with another loss: choose another file, or "
                    "delete it"
                )
            self.control.data.copy_(tensors.pop("bends"))
            self.optimizer.load_state_dict(unpack(meta["optimizer"], tensors))
            self.step, self.losses = meta["step"], meta["losses"]
            self.skipped = meta.get("skipped", self.skipped)

    def _keep(self) -> None:
        if self.save is not None:
            packed, tensors = pack(self.optimizer.state_dict(), "optimizer")
            progress = {"step": self.step, "losses": self.losses, "skipped": self.skipped}
            state = {**progress, "optimizer": packed, "loss": loss_identity(self.loss)}
            save_work(self.save, tensors | {"bends": self.control}, self.work | state)


class NoTargets(ValueError):
    """A batch has no target that counts in the mean."""


def bend_gradient(
    model: nn.Module,
    layout: ParameterLayout,
    loss: Loss,
    batch: tuple[Inputs, Tensor],
    curve: Curve,
    t: float,
) -> tuple[float, Tensor]:
    r"""Return the loss of a batch at one point of a curve and its gradient in the bends.

    .. math:: \nabla_{p_k} L(w(t)) = B_k(t)\,\nabla L(w(t)), \qquad k = 1 \dots n - 1

    Args:
        model: The module; its weights are overwritten.
        layout: Layout of the model's weights.
        loss: Mean loss of a batch.
        batch: Inputs and targets.
        curve: The curve.
        t: In [0, 1].

    Returns:
        The loss, and the gradient with shape (n - 1, d).

    Raises:
        NoTargets: If every target of the batch is ignored.
    """
    own = dict(model.named_parameters())
    parameters = [own[name] for name in layout.shapes]
    with torch.no_grad():
        for p, value in zip(parameters, layout.tensors(curve.at(t)).values()):
            p.copy_(value)
    inputs, targets = batch
    with LossCalls() as calls:
        value = loss(apply(model, inputs), targets)
    check_scalar(value)
    if calls.weight(value) == 0:
        raise NoTargets("every target of the batch is ignored: give a batch with others")
    gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
    flat = torch.cat([g.reshape(-1) for g in gradients])
    weights = torch.tensor(bernstein(curve.degree, t)[1:-1], dtype=torch.float64).to(flat)
    return value.item(), torch.outer(weights, flat)


def _batches(
    data: Any, seed: int, start: int, total: int
) -> Generator[tuple[Inputs, Tensor], None, None]:
    """The batches of all epochs from step ``start`` on; each depends only on seed and step."""
    first = start - start % len(data)
    for epoch_start in range(first, total, len(data)):
        _seed(seed, epoch_start, 2)
        stream = iter(data)
        for step in range(epoch_start, epoch_start + len(data)):
            _seed(seed, step, 0)
            batch = next(stream)
            check_batch(batch, step - epoch_start)
            if step >= start:
                yield batch


def _seed(seed: int, step: int, purpose: int, device: str = "cpu") -> None:
    number = int(np.random.SeedSequence((seed, step, purpose)).generate_state(1)[0])
    # torch.manual_seed would also queue a call for devices that are not initialised.
    torch.default_generator.manual_seed(number)
    if device != "cpu":
        torch.get_device_module(device).manual_seed(number)


def _factor(share: float) -> float:
    return 1.0 if share <= 0.5 else max(0.01, 1 - 0.99 * (share - 0.5) / 0.4)


def _check(*, epochs: int, lr: float, momentum: float, weight_decay: float, seed: int) -> None:
    for name, number, least in (("epochs", epochs, 1), ("seed", seed, 0)):
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
        if number != int(number):
            raise ValueError(f"{name} must be an integer, got {number}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite, got {lr}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, got {weight_decay}")
