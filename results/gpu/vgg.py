"""The paper's VGG16 beside SGD, and the landscape between their ends."""

import math
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from training import Settings, Slot

from dirprune import threshold_path
from dirprune.landscape import ParameterLayout, fit_bezier, path, straight_line
from dirprune.models import build
from dirprune.train.config import TrainConfig
from dirprune.train.schedule import learning_rates

if TYPE_CHECKING:
    from run import Visit

LR, C, MU = 0.1, 5e-4, 0.6
EPOCHS = 600
LANDSCAPE = 45.0
"""Seconds kept for the landscape."""


def train_vgg(visit: "Visit") -> None:
    """Train SGD and gRDA from one start, then measure what lies between their ends."""
    epochs = 1 if visit.dry else _affordable(visit)
    if epochs < (1 if visit.dry else 20):
        visit.say("no time for VGG16")
        return
    slots = _slots(visit, epochs)
    visit.say(f"VGG16, {epochs} epochs")
    begun = time.monotonic()
    per_epoch = slots["sgd"].steps_per_epoch
    for epoch in range(epochs):
        for _ in range(per_epoch):
            for slot in slots.values():
                slot.advance()
        if (epoch + 1) % max(1, epochs // 30) == 0 or epoch == epochs - 1:
            visit.wait()
            for method, slot in slots.items():
                row = {
                    "method": method,
                    "epochs": epochs,
                    "epoch": epoch + 1,
                    "test": slot.accuracy(visit.test),
                    "zeros": slot.sparsity_now(),
                    "loss": float(slot.loss) / per_epoch,
                    "seconds": round(time.monotonic() - begun, 1),
                    "device": visit.name,
                }
                visit.append("vgg16.csv", row)
            visit.say(f"epoch {epoch + 1}: {row}")
        for slot in slots.values():
            slot.loss.zero_()
        if visit.left() < LANDSCAPE / 3:
            break
    visit.wait()
    measure_between(visit, {method: slot.state() for method, slot in slots.items()})


def _slots(visit: "Visit", epochs: int) -> dict[str, Slot]:
    settings = Settings("vgg16", 0.03 if visit.dry else 1.0, epochs, 32 if visit.dry else 128,
                        0.0, 0.0, "piecewise", True)  # fmt: skip
    slots = {m: Slot(m, settings, visit.train, visit.all) for m in ("sgd", "grda")}
    rates = learning_rates(
        TrainConfig(lr=LR, epochs=epochs, schedule="piecewise"), slots["sgd"].steps_per_epoch
    )
    for method, slot in slots.items():
        slot.begin(LR, 1, law=threshold_path(C if method == "grda" else 0.0, MU, rates))
    return slots


def _affordable(visit: "Visit") -> int:
    """As many of the paper's epochs as fit, by a trial of some steps."""
    slots = _slots(visit, 1)
    for _ in range(20):
        for slot in slots.values():
            slot.advance()
    visit.wait()
    begun = time.monotonic()
    for _ in range(100):
        for slot in slots.values():
            slot.advance()
    visit.wait()
    epoch = (time.monotonic() - begun) / 100 * slots["sgd"].steps_per_epoch
    visit.say(f"{epoch:.2f} s an epoch of both")
    return min(EPOCHS, int((visit.left() - LANDSCAPE - 10) / epoch * 0.95))


def measure_between(visit: "Visit", ends: dict[str, dict[str, Tensor]]) -> None:
    """Loss and error along the line and along a fitted curve, in float32."""
    if not all(t.isfinite().all() for end in ends.values() for t in end.values()):
        visit.say("an end is not finite: no landscape")
        return
    model = build("vgg16", num_classes=10, width=0.03 if visit.dry else 1.0).to(visit.device)
    layout = ParameterLayout(model)
    points = {method: layout.point(state) for method, state in ends.items()}
    count = 64 if visit.dry else 5000
    chosen = visit.all[torch.randperm(len(visit.all), generator=torch.Generator().manual_seed(0))]
    chosen = chosen[:count].to(visit.device)
    middle = torch.full_like(chosen, 4)
    x, y = visit.train.batch(chosen, middle, middle, middle < 0), visit.train.labels[chosen]
    data = {"train": list(zip(x.split(1000), y.split(1000)))}
    number = min(count, len(visit.test))
    test = visit.test.plain(0, len(visit.test))
    places = torch.randperm(len(visit.test), generator=torch.Generator().manual_seed(0))[:number]
    places = places.to(visit.device)
    data["test"] = list(zip(test[places].split(1000), visit.test.labels[places].split(1000)))
    number_of_points = 5 if visit.dry else 31
    line = straight_line(points["sgd"], points["grda"])
    write_path(visit, "line", path(line, model, F.cross_entropy, data, points=number_of_points))
    if visit.left() < 15 and not visit.dry:
        return
    batches = list(zip(x.split(128), y.split(128)))
    epochs = 1 if visit.dry else 30
    fit = fit_bezier(
        ends["sgd"], ends["grda"], model, F.cross_entropy, batches, epochs=epochs, lr=0.05,
        momentum=0.9,
    )  # fmt: skip
    visit.say(f"curve: loss {fit.losses[0]:.4f} to {fit.losses[-1]:.4f}")
    write_path(
        visit, "curve", path(fit.curve, model, F.cross_entropy, data, points=number_of_points)
    )


def write_path(visit: "Visit", kind: str, figures: Any) -> None:
    """A line of CSV for each point."""
    for i, t in enumerate(figures.t):
        row = {"path": kind, "t": t, "zeros": figures.zeros[i]}
        for name in ("train", "test"):
            row[f"{name} loss"] = figures.loss[name].values[i]
            row[f"{name} error"] = figures.error[name].values[i]
        visit.append("landscape.csv", row)
    worst = max(v for v in figures.loss["train"].values if math.isfinite(v))
    visit.say(f"{kind}: largest training loss {worst:.4f}")
