"""Model, optimizer, data and device of a run, and its state as a checkpoint."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.accelerator import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Optimizer

from dirprune._support.checkpoint import (
    DamagedCheckpoint,
    list_checkpoints,
    load_checkpoint,
    pack,
    unpack,
)
from dirprune._support.memory_format import fastest_layout
from dirprune._support.processes import connect_after_restart, disconnect_at_exit, rank_and_world
from dirprune.data.loading import Dataset, load
from dirprune.data.sources import num_batches
from dirprune.models import build
from dirprune.models.factory import check_trainable
from dirprune.train.config import TrainConfig
from dirprune.train.methods import build_optimizer
from dirprune.train.runs import check_same_config
from dirprune.train.schedule import learning_rates
from dirprune.train.tracking import check_tracker
from dirprune.train.weights import load_weights, model_tensors, read_weights

_log = logging.getLogger(__name__)

_MIXED = {"float64": "no", "float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Session:
    """The objects of a run, made from its config.

    Attributes:
        config: Config of the run.
        data: Training, validation and test images.
        accelerator: Device, precision and processes.
        net: The model itself, for saving, counting and evaluating.
        model: The model for training; it averages gradients over all processes.
        optimizer: The optimizer of the method.
        lrs: Learning rate of every step.
        memory_format: Memory format of images and convolutions.
    """

    config: TrainConfig
    data: Dataset
    accelerator: Any  # accelerate has no types
    net: nn.Module
    model: nn.Module
    optimizer: Optimizer
    lrs: list[float]
    memory_format: torch.memory_format

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def rank(self) -> int:
        """Number of this process."""
        return int(self.accelerator.process_index)

    @property
    def world(self) -> int:
        """Number of processes."""
        return int(self.accelerator.num_processes)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return len(self.lrs) // self.config.epochs

    def place(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Move a batch to the device, in the model's precision and memory format."""
        dtype = torch.float64 if self.config.precision == "float64" else torch.float32
        images = images.to(self.device, dtype, non_blocking=True, memory_format=self.memory_format)
        return images, labels.to(self.device, non_blocking=True)

    def zero_totals(self) -> Tensor:
        """Return zeros for summed loss, number of correct answers and number of images."""
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(3, dtype=precise, device=self.device)

    def seed_step(self, step: int) -> None:
        """Seed dropout from seed, step and process, so that there is no state to save."""
        stream = np.random.SeedSequence((self.config.seed_of_batches, step, self.rank))
        seed = int(stream.generate_state(1)[0])
        # torch.manual_seed would also queue a call for devices that are not initialised.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        total: Tensor = self.accelerator.reduce(value, reduction="sum")
        return total


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        totals: Summed loss, number of correct answers and of images of the epoch so far, in this
            process.
        step: Optimizer steps taken.
        seconds: Training time of the epoch so far.
        best: Epoch, step and validation accuracy of the best epoch so far.
        peak_memory_mib: Peak memory so far, including earlier starts of the run.
    """

    totals: Tensor
    step: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    peak_memory_mib: float = 0.0


def open_accelerator(config: TrainConfig, track: str | None = None, folder: Path = Path()) -> Any:
    """Choose the device and connect to the other processes.

    Raises:
        ValueError: If this machine lacks the device or the precision, or the tracker is unknown.
        ImportError: If the package of the tracker is missing.
    """
    check_tracker(track)
    device = _device_type(config)
    if _was_meant_to_be_several():
        _log.warning(
            "accelerate launch --cpu starts one process, whatever --num_processes says: use "
            "torchrun --nproc_per_node N for several processes on CPUs"
        )
    connected = rank_and_world()[1] > 1
    connect_after_restart("nccl" if device == "cuda" else "gloo")
    # Without this, accelerate refuses a second run with another device in the same process.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        mixed_precision=_MIXED[config.precision],
        cpu=device == "cpu",
        log_with=track,
        project_dir=folder,
    )
    if accelerator.num_processes > 1 and not connected:
        disconnect_at_exit()
    return accelerator


def _was_meant_to_be_several() -> bool:
    """Whether accelerate's launcher was given several processes on the CPU and started one.

    It then names the address of a process group without its size; MPI would set the size.
    """
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    return on_cpu and "MASTER_PORT" in os.environ and not any(s in os.environ for s in sizes)


def open_session(config: TrainConfig, accelerator: Any = None) -> Session:
    """Load the data and build the model and the optimizer of a run, before its first step.

    Raises:
        ValueError: If the config is not possible on this machine or with this data.
        OSError: If the data or the initial weights cannot be read.
    """
    accelerator = accelerator or open_accelerator(config)
    data = load(
        config.data,
        validation=config.validation,
        seed=config.seed,
        augment=config.augment,
        workers=config.workers,
    )
    _check_slices(len(data.train), config.batch_size, int(accelerator.num_processes))
    torch.manual_seed(config.seed)
    net = build(
        config.model,
        num_classes=data.num_classes,
        channels=data.channels,
        size=data.size,
        width=config.width,
    )
    check_trainable(net, config.model, data.channels, data.size)
    if config.start_from is not None:
        load_weights(net, read_weights(Path(config.start_from)), config.start_from)
    net = net.double() if config.precision == "float64" else net.float()
    memory_format = _memory_format(config, accelerator.device, net)
    net = net.to(accelerator.device).to(memory_format=memory_format)
    if config.compile:
        net.compile()
    lrs = learning_rates(config, num_batches(len(data.train), config.batch_size))
    optimizer = build_optimizer(config, net, len(lrs))
    model = accelerator.prepare(net)
    return Session(config, data, accelerator, net, model, optimizer, lrs, memory_format)


def snapshot(session: Session, progress: Progress) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the metadata of a checkpoint.

    It has no state of random number generators, because every step seeds them.
    """
    optimizer, tensors = pack(session.optimizer.state_dict(), "optimizer")
    tensors |= {f"model.{name}": tensor for name, tensor in session.net.state_dict().items()}
    scaler = session.accelerator.scaler
    return tensors, {
        "config": asdict(session.config),
        "step": progress.step,
        "totals": progress.totals.tolist(),
        "seconds": progress.seconds,
        "best": progress.best,
        "peak_memory_mib": progress.peak_memory_mib,
        "optimizer": optimizer,
        "scaler": None if scaler is None else scaler.state_dict(),
    }


def restore(
    session: Session, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], origin: str
) -> Progress:
    """Restore a new session of the same config from what :func:`snapshot` returned.

    Raises:
        ValueError: If the checkpoint belongs to another model or config.
    """
    check_same_config(meta["config"], session.config, origin)
    if meta.get("scales"):
        raise ValueError(
            f"{origin} belongs to a run of dirprune 0.1 that changes c to reach its target: "
            "resume it with dirprune 0.1, or start again with --overwrite (overwrite=True)"
        )
    load_weights(session.net, model_tensors(tensors), origin)
    session.optimizer.load_state_dict(unpack(meta["optimizer"], tensors))
    for p, state in session.optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                # Files do not store the memory format, and the optimizer is faster if all of its
                # tensors have the same one.
                state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
    if meta["scaler"] is not None:
        session.accelerator.scaler.load_state_dict(meta["scaler"])
    totals = session.zero_totals()
    if session.accelerator.is_main_process:  # the saved totals are sums over all processes
        totals += torch.tensor(meta["totals"], dtype=totals.dtype, device=totals.device)
    return Progress(
        totals,
        meta["step"],
        meta["seconds"],
        meta["best"],
        meta["peak_memory_mib"],
    )


def restore_latest(session: Session, checkpoints: Path) -> Progress:
    """Restore the latest undamaged checkpoint; without any checkpoint, start at step 0.

    Raises:
        ValueError: If all checkpoints are damaged, or one belongs to another model or config.
    """
    damaged: list[DamagedCheckpoint] = []
    for path in reversed(list_checkpoints(checkpoints)):
        try:
            checkpoint = load_checkpoint(path)
        except DamagedCheckpoint as error:  # noqa: PERF203
            _log.warning("%s: resuming from the previous checkpoint", error)
            damaged.append(error)
        else:
            return restore(session, *checkpoint, str(path))
    if damaged:
        raise damaged[0]
    return Progress(session.zero_totals())


def _device_type(config: TrainConfig) -> str:
    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    # Processes cannot share gradients on MPS.
    here += ["mps"] if torch.backends.mps.is_available() and "LOCAL_RANK" not in os.environ else []
    device = here[-1] if config.device == "auto" else config.device
    if device not in here:
        raise ValueError(
            f"device {config.device!r} is not available: use auto or {' or '.join(here)}"
        )
    if config.precision == "float16" and device == "cpu":
        raise ValueError("precision float16 needs a GPU: use float32 or bfloat16 on the CPU")
    if config.precision == "float64" and device == "mps":
        raise ValueError("precision float64 is not available on mps: use float32, or device cpu")
    return device


def _memory_format(
    config: TrainConfig, device: torch.device, net: nn.Module
) -> torch.memory_format:
    if config.channels_last is None:
        return fastest_layout(net, device)
    return torch.channels_last if config.channels_last else torch.contiguous_format


def _check_slices(num_images: int, batch_size: int, world: int) -> None:
    smallest = num_images % batch_size or batch_size
    if smallest < world:
        raise ValueError(
            f"a batch of {smallest} images cannot be split over {world} processes: change "
            f"batch_size ({num_images} training images in batches of {batch_size})"
        )
