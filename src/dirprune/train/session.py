"""What a run works with: model, optimizer, data and device; and its state as a checkpoint."""

import math
import os
import sys
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

from dirprune._support.checkpoint import pack, unpack
from dirprune._support.memory_format import fastest_layout
from dirprune.data.loading import Dataset, load
from dirprune.data.sources import num_batches
from dirprune.models import build
from dirprune.train.config import TrainConfig
from dirprune.train.methods import build_optimizer
from dirprune.train.runs import check_same_config
from dirprune.train.schedule import learning_rates
from dirprune.train.weights import load_weights, read_weights

_MIXED = {"float64": "no", "float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Session:
    """Everything a run works with, made from its config.

    Attributes:
        config: Of the run.
        data: What it trains and is evaluated on.
        accelerator: Device, precision and processes.
        net: The bare model: what is saved, counted and evaluated.
        model: The same for training, with gradients averaged over all processes.
        optimizer: The method.
        lrs: Learning rate of every step.
        memory_format: Of images and convolutions.
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
        """Where this process computes."""
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
        """Bring a batch to the device, in the model's precision and memory format."""
        dtype = torch.float64 if self.config.precision == "float64" else torch.float32
        images = images.to(self.device, dtype, non_blocking=True, memory_format=self.memory_format)
        return images, labels.to(self.device, non_blocking=True)

    def zero_totals(self) -> Tensor:
        """Return summed loss, right answers and images, all 0."""
        precise = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(3, dtype=precise, device=self.device)

    def seed_step(self, step: int) -> None:
        """Make dropout a function of seed, step and process, with no state to be saved."""
        stream = np.random.SeedSequence((self.config.seed_of_batches, step, self.rank))
        seed = int(stream.generate_state(1)[0])
        # torch.manual_seed would queue a call for every device there might be one day.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def over_processes(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        total: Tensor = self.accelerator.reduce(value, reduction="sum")
        return total


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        totals: Summed loss, right answers and images of the epoch so far, of this process.
        step: Optimizer steps taken.
        seconds: Training time of the epoch so far.
        best: Epoch, step and validation accuracy of the best epoch so far.
        peak_memory_mib: So far, over all starts of the run.
    """

    totals: Tensor
    step: int = 0
    seconds: float = 0.0
    best: dict[str, Any] | None = None
    peak_memory_mib: float = 0.0


def open_accelerator(config: TrainConfig) -> Any:
    """Find the device and join the other processes.

    Args:
        config: Of the run.

    Raises:
        ValueError: If this machine lacks the device or the precision.
    """
    device = _device_type(config)
    # A second run in one process may have another device or precision, which accelerate refuses.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(mixed_precision=_MIXED[config.precision], cpu=device == "cpu")


def open_session(config: TrainConfig, accelerator: Any = None) -> Session:
    """Make everything a run works with.

    Args:
        config: Of the run.
        accelerator: Of :func:`open_accelerator`; by default a new one.

    Returns:
        The session, before its first step.

    Raises:
        ValueError: If the config cannot be followed on this machine or with this data.
        OSError: If the data or the weights to start from cannot be read.
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

    There is no state of random numbers in it: every step seeds its own.
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
    """Bring a session into the state of a checkpoint.

    Args:
        session: Fresh, of the same config.
        tensors: Of :func:`snapshot`.
        meta: Of :func:`snapshot`.
        origin: Where they come from, for messages.

    Returns:
        How far the run was.

    Raises:
        ValueError: If the checkpoint is of another model or config.
    """
    check_same_config(meta["config"], session.config, origin)
    if meta.get("scales"):
        raise ValueError(
            f"{origin} is of a run whose target dirprune 0.1 approached by changing c: resume it "
            "with dirprune 0.1, or start again with --overwrite (overwrite=True)"
        )
    prefix = "model."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    load_weights(session.net, weights, origin)
    session.optimizer.load_state_dict(unpack(meta["optimizer"], tensors))
    for p, state in session.optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                # Files know no memory format; the optimizer is quick if all of its tensors agree.
                state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
    if meta["scaler"] is not None:
        session.accelerator.scaler.load_state_dict(meta["scaler"])
    totals = session.zero_totals()
    if session.accelerator.is_main_process:  # they are those of all processes
        totals += torch.tensor(meta["totals"], dtype=totals.dtype, device=totals.device)
    return Progress(
        totals,
        meta["step"],
        meta["seconds"],
        meta["best"],
        meta["peak_memory_mib"],
    )


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory of this process so far: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _device_type(config: TrainConfig) -> str:
    here = ["cpu"]
    here += ["cuda"] if torch.cuda.is_available() else []
    # Processes cannot share gradients on MPS.
    here += ["mps"] if torch.backends.mps.is_available() and "LOCAL_RANK" not in os.environ else []
    device = here[-1] if config.device == "auto" else config.device
    if device not in here:
        raise ValueError(
            f"device {config.device!r} is not there: take auto or {' or '.join(here)}"
        )
    if config.precision == "float16" and device == "cpu":
        raise ValueError("precision float16 needs a GPU: take float32 or bfloat16 on the CPU")
    if config.precision == "float64" and device == "mps":
        raise ValueError("precision float64 does not exist on mps: take float32, or device cpu")
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
            f"a batch of {smallest} images cannot be shared by {world} processes: change "
            f"batch_size ({num_images} training images in batches of {batch_size})"
        )
