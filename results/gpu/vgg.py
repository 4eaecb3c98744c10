"""The paper's VGG16: gRDA and two SGD runs from the same start; the second is a control."""

import time

from between import measure_between
from training import Settings, Slot
from visit import Visit

from dirprune import threshold_path
from dirprune.train.config import TrainConfig
from dirprune.train.schedule import learning_rates

LR, C, MU = 0.1, 5e-4, 0.6
EPOCHS = 600
METHODS = ("sgd", "grda", "sgd, other batches")
LANDSCAPE = 95.0
"""Seconds kept for the landscape."""


def train_vgg(visit: Visit) -> None:
    """Train all from one start, then measure what lies between their ends."""
    epochs = 1 if visit.dry else _affordable(visit)
    if epochs < (1 if visit.dry else 20):
        visit.say("no time for VGG16")
        return
    slots = _slots(visit, epochs)
    folder = f"vgg16/{epochs}-epochs"
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
                visit.append(f"{folder}/vgg16.csv", row)
            visit.say(f"epoch {epoch + 1}: {row}")
        for slot in slots.values():
            slot.loss.zero_()
        if visit.left() < LANDSCAPE / 3:
            break
    visit.wait()
    measure_between(visit, folder, {method: slot.state() for method, slot in slots.items()})


def _slots(visit: Visit, epochs: int) -> dict[str, Slot]:
    settings = Settings("vgg16", 0.03 if visit.dry else 1.0, epochs, 32 if visit.dry else 128,
                        0.0, 0.0, "piecewise", True)  # fmt: skip
    slots = {m: Slot(m, settings, visit.train, visit.all) for m in METHODS}
    config = TrainConfig(lr=LR, epochs=epochs, schedule="piecewise")
    rates = learning_rates(config, slots["sgd"].steps_per_epoch)
    for method, slot in slots.items():
        law = threshold_path(C if method == "grda" else 0.0, MU, rates)
        slot.begin(LR, 1, law=law, batches=2 if method == METHODS[2] else None)
    return slots


def _affordable(visit: Visit) -> int:
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
    visit.say(f"{epoch:.2f} s an epoch of all")
    return min(EPOCHS, int((visit.left() - LANDSCAPE - 10) / epoch * 0.95))
