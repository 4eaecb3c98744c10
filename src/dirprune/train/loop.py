"""The training loop, for every method, precision, device and number of processes."""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune._support.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    remove_old_checkpoints,
    save_checkpoint,
)
from dirprune._support.files import write_json
from dirprune._support.memory import peak_memory_mib
from dirprune._support.processes import broadcast_from_rank0, call_on_rank0
from dirprune._support.tensors import write_tensors
from dirprune.train.config import TrainConfig
from dirprune.train.display import Display, Displays, LogDisplay, TensorBoard
from dirprune.train.errors import Diverged, Interrupted
from dirprune.train.evaluation import (
    count_answers,
    epoch_record,
    refresh_statistics,
    share_buffers,
)
from dirprune.train.methods import trainable
from dirprune.train.replaced import abandon, discard_replaced, is_replacing, locked_run
from dirprune.train.resources import limited_threads, naming_out_of_memory
from dirprune.train.runs import RunFolder
from dirprune.train.session import (
    Progress,
    Session,
    open_accelerator,
    open_session,
    restore_latest,
    snapshot,
)
from dirprune.train.single_values import running_statistics_for_single_values
from dirprune.train.stopping import StopSignals
from dirprune.train.summary import Summary, finished_summary, unfinished_summary
from dirprune.train.tracking import FOLDER, Tracking

# Steps between checks of the loss and of stop requests; each check synchronises with the GPU.
CHECK_EVERY = 10

_log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    recipe: Mapping[str, Any] | None = None,
    track: str | None = None,
) -> Summary:
    """Train a network and write config, metrics, weights and summary to a folder.

    Initial weights, batches, augmentation and dropout are functions of ``config`` alone: they are
    the same for every method, and a resumed run is bit-identical to an uninterrupted one. The
    folder is locked while it is written.

    Args:
        config: Settings of the run.
        out: The run's folder.
        resume: Continue the run in ``out``, or start one if there is none. If the run has
            finished, its summary is returned.
        overwrite: Replace the run in ``out`` once the new run has saved something. If the new run
            ends before that, the earlier run is kept.
        display: Where progress is shown; by default in the log, at level INFO.
        recipe: Name and published figures of the paper's experiment, for the report.
        track: A tracker of accelerate, such as wandb or mlflow, which gets the config and the
            figures of every epoch.

    Returns:
        The content of summary.json, in every process.

    Raises:
        ValueError: If the folder holds another run, the config is not possible on this machine
            or with this data, or a checkpoint is damaged or belongs to another run.
        FolderInUse: If another process is writing the run.
        ImportError: If the package of the tracker is missing.
        OSError: If the folder cannot be written, or the data is missing.
        OutOfMemory: If the device or the host has too little memory.
        Diverged: If the loss is not finite, or the network or a whole layer is zero.
        Interrupted: If SIGINT or SIGTERM was received.

    Example:
        >>> import tempfile
        >>> config = TrainConfig(model="mlp", epochs=2, c=0.1)
        >>> summary = train(config, tempfile.mkdtemp(), display=Displays())
        >>> summary["status"], summary["sparsity"] > 0.05
        ('finished', True)
    """
    if resume and overwrite:
        raise ValueError("--resume and --overwrite cannot be combined: give one of them")
    folder = RunFolder(Path(out))
    accelerator = open_accelerator(config, track, folder.path / FOLDER)
    with ExitStack() as stack:
        call_on_rank0(lambda: stack.enter_context(locked_run(folder.path)))
        resuming = call_on_rank0(lambda: _check_folder(folder, config, resume, overwrite))
        summary = folder.read_summary() if resuming else None
        if summary and summary["status"] == "finished":
            return summary
        session = open_session(config, accelerator)
        stack.enter_context(limited_threads(session))
        with naming_out_of_memory(config):
            return _start(session, folder, resuming, recipe, display)


def _check_folder(folder: RunFolder, config: TrainConfig, resume: bool, overwrite: bool) -> bool:
    """Check the folder, and return whether its run is to be resumed."""
    if resume and folder.config.exists():
        folder.check_resumable(config)
        return True
    folder.check_free(overwrite=overwrite)
    return False


def _start(
    session: Session,
    folder: RunFolder,
    resuming: bool,
    recipe: Mapping[str, Any] | None,
    display: Display | None,
) -> Summary:
    """Start or resume a run, and undo the start if it fails before anything is saved."""
    progress = (
        restore_latest(session, folder.checkpoints)
        if resuming
        else Progress(session.zero_totals())
    )
    session.accelerator.wait_for_everyone()  # all processes read before the main process writes
    main = session.accelerator.is_main_process
    if main and resuming:
        folder.truncate_metrics(progress.step // session.steps_per_epoch)
        folder.summary.unlink(missing_ok=True)
    elif main:
        folder.begin(session.config, recipe, session.device.type, session.data.task)
    displays: list[Display] = [TensorBoard(folder.path), display or LogDisplay()]
    if session.accelerator.log_with:
        images = len(session.data.train)
        displays.append(Tracking(session.accelerator, folder.path, images))
    shown = Displays(*displays) if main else Displays()
    try:
        summary = _train_all(session, progress, folder, shown)
    except BaseException:
        if main and not resuming:
            abandon(folder.path)
        raise
    return broadcast_from_rank0(summary)


def _train_all(
    session: Session, progress: Progress, folder: RunFolder, display: Display
) -> Summary:
    """Train from the current step to the end; only the main process gets a summary."""
    try:
        total = trainable(session.net)
        display.start(session.config, total, session.steps_per_epoch, progress.step)
        with StopSignals() as stop:
            while progress.step < len(session.lrs):
                _train_epoch(session, progress, folder, display, stop)
                _end_epoch(session, progress, folder, display)
                if progress.step < len(session.lrs) and _any_rank(session, stop.received):
                    _interrupt(session, progress, folder)
            main = session.accelerator.is_main_process
            return _finish(session, progress, folder) if main else {}
    finally:
        display.stop()


def _train_epoch(
    session: Session, progress: Progress, folder: RunFolder, display: Display, stop: StopSignals
) -> None:
    """Train from the current step to the end of the epoch."""
    config, data = session.config, session.data
    epoch, start = divmod(progress.step, session.steps_per_epoch)
    began = time.perf_counter() - progress.seconds
    session.model.train()
    for images, labels in data.train.batches(
        config.batch_size,
        seed=config.seed_of_batches,
        epoch=epoch,
        start=start,
        shuffle=True,
        augment=data.augment,
        rank=session.rank,
        world=session.world,
    ):
        _train_step(session, progress, *session.place(images, labels))
        progress.step += 1
        display.step(progress.step)
        over = progress.step % session.steps_per_epoch == 0
        stop_now = session.world == 1 and stop.received
        if over or stop_now or progress.step % CHECK_EVERY == 0:
            progress.seconds = time.perf_counter() - began
            stopped = _check_step(session, progress, folder, stop.received)
            if stopped and not over:
                _interrupt(session, progress, folder)


def _train_step(session: Session, progress: Progress, images: Tensor, labels: Tensor) -> None:
    """Take one optimizer step, with ``config.accumulation`` micro-batches."""
    config, accelerator, step = session.config, session.accelerator, progress.step
    session.seed_step(step)
    for group in session.optimizer.param_groups:
        group["lr"] = session.lrs[step]
    done = step % session.steps_per_epoch * config.batch_size
    batch_size = min(config.batch_size, len(session.data.train) - done)
    # Gradients are averaged over processes, whose slices may differ by one image. Summing the
    # losses and scaling gives the mean over the whole batch.
    scale = session.world / batch_size
    micro_batches = min(config.accumulation, len(labels))
    session.optimizer.zero_grad()
    for i, (x, y) in enumerate(
        zip(images.tensor_split(micro_batches), labels.tensor_split(micro_batches), strict=True),
        start=1,
    ):
        with (
            nullcontext() if i == micro_batches else accelerator.no_sync(session.model),
            running_statistics_for_single_values(session.net, len(y)),
        ):
            scores = session.model(x)
            loss = F.cross_entropy(scores, y, reduction="sum")
            accelerator.backward(loss * scale)
        progress.totals += count_answers(scores.detach(), loss.detach(), y, progress.totals)
    if accelerator.scaler is None:
        session.optimizer.step()
    else:  # skips steps whose float16 gradients overflow
        accelerator.scaler.step(session.optimizer)
        accelerator.scaler.update()


def _end_epoch(session: Session, progress: Progress, folder: RunFolder, display: Display) -> None:
    """Evaluate, record the figures and save."""
    share_buffers(session)
    if progress.step == len(session.lrs) and session.config.refresh_batchnorm:
        refresh_statistics(session)
    record = epoch_record(session, progress)
    if not record["varies"]:
        _diverge(session, progress, folder, "every image gets the same scores")
    if record["validation_accuracy"] is not None:
        best = progress.best or {"validation_accuracy": -math.inf}
        if record["validation_accuracy"] > best["validation_accuracy"]:
            names = ("epoch", "step", "validation_accuracy")
            progress.best = {name: record[name] for name in names}
    progress.totals, progress.seconds = session.zero_totals(), 0.0
    if session.accelerator.is_main_process:
        folder.check_exists()
        folder.append_metrics(record)
        _save(session, progress, folder)
        display.epoch(record)


def _check_step(session: Session, progress: Progress, folder: RunFolder, stop: bool) -> bool:
    """Raise in every process if the run has diverged; return whether any process has to stop.

    It synchronises with the device once.
    """
    flag = torch.full_like(progress.totals[:1], float(stop))
    sums = session.sum_over_processes(torch.cat([progress.totals, flag]))
    trained = [p.detach() for p in session.net.parameters() if p.requires_grad and p.numel()]
    largest = torch.stack([n.to(sums) for n in torch._foreach_norm(trained, math.inf)])
    loss, _, _, stopped, *sizes = torch.cat([sums, largest]).tolist()
    matrices = [size for p, size in zip(trained, sizes, strict=True) if p.dim() > 1]
    if not math.isfinite(loss):
        _diverge(session, progress, folder, "the loss is not finite")
    if not all(map(math.isfinite, sizes)):
        _diverge(session, progress, folder, "a weight is not finite")
    if not any(matrices or sizes):
        _diverge(session, progress, folder, "every weight is zero")
    return bool(stopped)


def _diverge(session: Session, progress: Progress, folder: RunFolder, reason: str) -> NoReturn:
    last = list_checkpoints(folder.checkpoints)
    kept = f"the last good checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
    if is_replacing(folder.path):
        kept = "the earlier run is kept"
    elif session.accelerator.is_main_process:
        _write_unfinished("diverged", progress, folder)
    planned = session.config.target_sparsity is not None
    options = "lr or target_sparsity," if planned else "lr, c, mu or sparsity,"
    raise Diverged(
        f"diverged at step {progress.step}: {reason}; start again with a smaller {options} "
        f"or with warmup_epochs ({kept})"
    )


def _any_rank(session: Session, flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(session.sum_over_processes(torch.tensor(float(flag), device=session.device)) > 0)


def _interrupt(session: Session, progress: Progress, folder: RunFolder) -> None:
    progress.totals = session.sum_over_processes(progress.totals)
    if session.accelerator.is_main_process:
        _save(session, progress, folder)
        _write_unfinished("interrupted", progress, folder)
    raise Interrupted(folder.path, progress.step)


def _write_unfinished(status: str, progress: Progress, folder: RunFolder) -> None:
    write_json(folder.summary, unfinished_summary(status, folder.read_metrics(), progress.best))


def _save(session: Session, progress: Progress, folder: RunFolder) -> None:
    folder.check_exists()
    peak = peak_memory_mib(session.device)
    progress.peak_memory_mib = max(progress.peak_memory_mib, peak)
    path = checkpoint_path(folder.checkpoints, progress.step)
    save_checkpoint(path, *snapshot(session, progress))
    best = progress.best["step"] if progress.best else None
    remove_old_checkpoints(folder.checkpoints, session.config.keep_checkpoints, best)
    discard_replaced(folder.path)


def _finish(session: Session, progress: Progress, folder: RunFolder) -> Summary:
    write_tensors(folder.weights, session.net.state_dict())
    summary = finished_summary(
        session.net,
        session.optimizer,
        session.lrs,
        folder.read_metrics(),
        best=progress.best,
        peak_memory_mib=progress.peak_memory_mib,
        test_images=len(session.data.test),
        weights=folder.weights,
    )
    write_json(folder.summary, summary)
    return summary
