"""The figures of an epoch: means over its training steps, and an evaluation at its end."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune.batchnorm import refresh_batchnorm
from dirprune.data.sources import Source
from dirprune.sparsity import sparsity_report
from dirprune.train.session import Progress, Session
from dirprune.train.summary import largest_threshold


class Evaluation(NamedTuple):
    """The result of an evaluation.

    Attributes:
        loss: Mean cross-entropy.
        accuracy: Share of correct answers.
        varies: Whether the scores depend on the image.
    """

    loss: float
    accuracy: float
    varies: bool


def epoch_record(session: Session, progress: Progress) -> dict[str, Any]:
    """Evaluate, and return the figures of the epoch that has just ended.

    Returns:
        A line of metrics.jsonl, the same in every process. ``varies`` is false if all test
        images get the same scores, because a whole layer is zero.
    """
    loss, right, images = session.sum_over_processes(progress.totals).tolist()
    test = _evaluate(session, session.data.test)
    held_out = session.data.validation
    validation = None if held_out is None else _evaluate(session, held_out)
    report = sparsity_report(session.net)
    return {
        "epoch": progress.step // session.steps_per_epoch,
        "step": progress.step,
        "lr": session.lrs[progress.step - 1],
        "train_loss": loss / images,
        "train_accuracy": right / images,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "validation_loss": validation and validation.loss,
        "validation_accuracy": validation and validation.accuracy,
        "sparsity": report.sparsity,
        "nonzeros": report.nonzeros,
        "threshold": largest_threshold(session.optimizer),
        "l1": report.l1,
        "l2": report.l2,
        "l2_over_l1": report.l2_over_l1,
        "varies": test.varies,
        "seconds": progress.seconds,
    }


@torch.inference_mode()
def _evaluate(session: Session, source: Source) -> Evaluation:
    """Evaluate in evaluation mode, with sums over all processes."""
    session.net.eval()
    totals = session.zero_totals()
    varying, first = torch.zeros_like(totals[0]), None
    # Without gradients, this batch size needs no more memory than training.
    batch_size = max(100, session.config.batch_size // session.config.accumulation)
    for batch in source.batches(batch_size, rank=session.rank, world=session.world):
        images, labels = session.place(*batch)
        if len(labels):
            scores = session.net(images)
            loss = F.cross_entropy(scores, labels, reduction="sum")
            totals += count_answers(scores, loss, labels, totals)
            first = scores[0] if first is None else first
            varying += (scores != first).any()
    loss_sum, right, count = session.sum_over_processes(totals).tolist()
    varies = bool(session.sum_over_processes(varying)) or count < 2
    return Evaluation(loss_sum / count, right / count, varies)


def count_answers(scores: Tensor, loss: Tensor, labels: Tensor, like: Tensor) -> Tensor:
    """Count correct answers without synchronising with the device.

    Args:
        scores: Shape (B, classes).
        loss: Sum over the batch.
        labels: Shape (B,).
        like: A tensor with the dtype of the result.

    Returns:
        Summed loss, number of correct answers and number of images, with shape (3,).
    """
    right = (scores.argmax(dim=1) == labels).sum()
    count = torch.full_like(right, len(labels))
    return torch.stack([loss.to(like.dtype), right.to(like.dtype), count.to(like.dtype)])


def share_buffers(session: Session) -> None:
    """Broadcast the running statistics of the first process, which saves them."""
    if session.world > 1:
        for buffer in session.net.buffers():
            torch.distributed.broadcast(buffer, 0)


def refresh_statistics(session: Session) -> None:
    """Re-estimate BatchNorm's running statistics on the training images, without augmentation."""
    config, train = session.config, session.data.train
    batches = train.batches(
        config.batch_size,
        seed=config.seed,
        epoch=config.epochs,
        shuffle=True,  # images may be stored class by class
        drop_last=len(train) >= config.batch_size,  # all batches have the same weight
    )
    refresh_batchnorm(session.net, (session.place(*batch)[0] for batch in batches))
