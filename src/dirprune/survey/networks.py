"""The subject of a survey: networks from run folders or checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune._support.checkpoint import list_checkpoints, load_checkpoint
from dirprune._support.memory_format import fastest_layout
from dirprune.data.loading import Dataset, load
from dirprune.data.sources import num_batches
from dirprune.landscape import FrozenData, ParameterLayout, Point
from dirprune.landscape.objectives.weights import Loss
from dirprune.models import build
from dirprune.survey.config import SurveyConfig
from dirprune.survey.data import TrainingBatches, frozen_data
from dirprune.train.config import TrainConfig
from dirprune.train.runs import RunFolder
from dirprune.train.trained import read_trained_config
from dirprune.train.weights import model_tensors, read_weights


@dataclass(frozen=True)
class Network:
    """A network of the survey.

    Attributes:
        name: Unique in the survey.
        role: dense (the first), sparse (the second), run, or control (made by the survey).
        point: Its weights and buffers.
        path: Run folder or checkpoint, None for a control.
        config: Config of its run, None for controls and plain checkpoints.
    """

    name: str
    role: str
    point: Point
    path: Path | None = None
    config: TrainConfig | None = None

    @property
    def zeros(self) -> float:
        """Share of weights that are zero."""
        return int((self.point.w == 0).sum()) / len(self.point.w)


@dataclass(frozen=True)
class Moment:
    """A checkpoint of a run; it stays on disk, because all of a run may not fit into memory.

    Attributes:
        step: Number of optimizer steps.
        epoch: The same in epochs.
        file: The checkpoint.
    """

    step: int
    epoch: float
    file: Path


@dataclass(frozen=True)
class Subject:
    """The networks and the data of a survey.

    Attributes:
        model: The module of all networks, on the device; its own weights are not used.
        layout: Layout of its weights in one vector.
        loss: Cross-entropy.
        networks: The runs, dense and sparse first.
        source: The data set.
        training: Batches on which curves are fitted.
        data: Frozen data by name: train, test, and augmented if training augments.
        memory_format: Memory format of images and convolutions.
    """

    model: nn.Module
    layout: ParameterLayout
    loss: Loss
    networks: list[Network]
    source: Dataset
    training: TrainingBatches
    data: dict[str, FrozenData]
    memory_format: torch.memory_format

    @property
    def dense(self) -> Network:
        """The first network."""
        return self.networks[0]

    @property
    def sparse(self) -> Network:
        """The second network."""
        return self.networks[1]

    @property
    def has_batchnorm(self) -> bool:
        """Whether any network has running statistics."""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules())

    def model_at(self, point: Point) -> nn.Module:
        """Load a point into the module."""
        self.model.load_state_dict(self.layout.state(point))
        return self.model

    def moments(self, network: Network) -> list[Moment]:
        """Return a run's saved checkpoints, the oldest first."""
        if network.path is None or network.config is None:
            return []
        per_epoch = num_batches(len(self.source.train), network.config.batch_size)
        files = list_checkpoints(RunFolder(network.path).checkpoints)
        steps = [int(file.stem.rpartition("-")[2]) for file in files]
        return [Moment(n, n / per_epoch, file) for n, file in zip(steps, files)]

    def point_of(self, moment: Moment) -> Point:
        """Read a checkpoint's weights and buffers."""
        tensors, _ = load_checkpoint(moment.file)
        return self.layout.point(model_tensors(tensors), str(moment.file))


def open_subject(paths: Sequence[Path], config: SurveyConfig) -> Subject:
    """Read runs, or plain checkpoints, and freeze data.

    Args:
        paths: At least two; the first is the dense reference, the second the sparse network.
        config: The amount of data and, for plain checkpoints, model and data.

    Raises:
        FileNotFoundError: If a path does not exist or holds no weights.
        ValueError: If there are fewer than two networks, or they differ in model or data, or two
            are identical; or if a run names code of its own and ``trust_model`` is not set.
    """
    if len(paths) < 2:
        raise ValueError(
            f"a landscape needs at least two runs, the dense one first, got {len(paths)}"
        )
    configs = [_run_config(path, trust_model=config.trust_model) for path in paths]
    main = _shared(paths, configs, config)
    source = load(main.data, validation=main.validation, seed=main.seed, augment=main.augment)
    model = build(
        main.model,
        num_classes=source.num_classes,
        channels=source.channels,
        size=source.size,
        width=main.width,
    )
    dtype = torch.float64 if main.precision == "float64" else torch.float32
    device = torch.device(_device(config))
    memory_format = fastest_layout(model, device)
    model = model.to(device, dtype).to(memory_format=memory_format)
    layout = ParameterLayout(model)
    names = _names(paths)
    points = [layout.point(_weights(path), str(path)) for path in paths]
    layout.check_distinct(dict(zip(names, points)))
    roles = ["dense", "sparse"] + ["run"] * (len(paths) - 2)
    networks = [Network(*row) for row in zip(names, roles, points, paths, configs)]
    batches = TrainingBatches(
        source.train, main.batch_size, augment=source.augment, memory_format=memory_format
    )
    data = frozen_data(source, config, memory_format)
    return Subject(model, layout, F.cross_entropy, networks, source, batches, data, memory_format)


def _run_config(path: Path, *, trust_model: bool) -> TrainConfig | None:
    """Return the config of a run folder, None for a plain checkpoint."""
    if not path.exists():
        raise FileNotFoundError(f"no run or checkpoint {path}: give a run folder or .safetensors")
    return None if path.is_file() else read_trained_config(path, trust_model=trust_model)


def _shared(
    paths: Sequence[Path], configs: Sequence[TrainConfig | None], config: SurveyConfig
) -> TrainConfig:
    """The config whose model and data all networks share."""
    runs = [(path, c) for path, c in zip(paths, configs) if c is not None]
    if not runs:
        if config.model is None:
            raise ValueError("plain checkpoints need --model and --data: give their model")
        options: dict[str, Any] = {"batch_size": config.batch_size, "seed": config.seed}
        return TrainConfig(model=config.model, width=config.width, data=config.data, **options)
    if config.model is not None:
        raise ValueError("--model is for plain checkpoints; runs name their model: remove it")
    (first, main), *others = runs
    for path, other in others:
        for name in ("model", "width", "data", "validation"):
            if getattr(main, name) != getattr(other, name):
                raise ValueError(
                    f"{first} and {path} differ in {name}, {getattr(main, name)!r} and "
                    f"{getattr(other, name)!r}: give runs of one model on the same data"
                )
    return replace(main, device="auto")


def _weights(path: Path) -> dict[str, Tensor]:
    file = path if path.is_file() else RunFolder(path).weights
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no weights yet (no {file.name}): let the run finish")
    return read_weights(file)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return unique names made from the folders' names, different from the controls' names."""
    taken = {"magnitude", "soft_threshold", "random"}
    names = []
    for path in paths:
        stem = path.stem if path.is_file() else path.resolve().name
        name, count = stem, 2
        while name in taken:
            name, count = f"{stem}-{count}", count + 1
        taken.add(name)
        names.append(name)
    return names


def _device(config: SurveyConfig) -> str:
    here = "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and here == "cpu":
        raise ValueError("device 'cuda': no CUDA device found; use auto or cpu")
    return here if config.device == "auto" else config.device


def describe(network: Network, dense: Network) -> dict[str, Any]:
    """Return the description of a network in landscape.json."""
    config = network.config
    return {
        "name": network.name,
        "role": network.role,
        "path": None if network.path is None else str(network.path),
        "method": None if config is None else config.method,
        "seed": None if config is None else config.seed,
        "batch_seed": None if config is None else config.seed_of_batches,
        "zeros": network.zeros,
        "norm": float(network.point.w.double().norm()),
        "distance": float((network.point.w.double() - dense.point.w.double()).norm()),
    }
