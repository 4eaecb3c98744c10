"""The configuration of a training run. The command line generates its options from it."""

import math
from dataclasses import dataclass
from typing import Literal

TECHNICAL = ("threads", "workers")
"""Fields that may differ when a run is resumed."""

MOST_EPOCHS = 10**6

Schedule = Literal["constant", "piecewise", "steps", "cosine"]
Precision = Literal["float64", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainConfig:
    """All settings that determine the weights of a run, with their meanings and ranges.

    Attributes:
        data: digits, fashion-mnist[:FOLDER], cifar10[:FOLDER], cifar100[:FOLDER],
            imagefolder:FOLDER or imagenet:FOLDER; an optional FOLDER defaults to
            ~/.cache/dirprune.
        model: mlp, convnet, resnet20, vgg16, vgg16_bn, wrn28x10, a torchvision classifier such as
            resnet50, timm:NAME, or module.path:callable for your own model.
        width: Factor on every hidden width of dirprune's own models.
        start_from: A safetensors file of initial weights, such as a run's model.safetensors; by
            default the initial weights are random.
        method: sgd, sgd_momentum, adamw, grda, grda_momentum, adam_grda, prox_sgd, rda, gmp,
            gmp_momentum, hard, rigl, acdc, magnitude_finetune or random.
        epochs: Passes over the training data.
        batch_size: Images per optimizer step, over all processes together.
        lr: Initial learning rate, the paper's gamma. adamw and adam_grda need a much smaller one
            than the default: about 1e-3 and 3e-3.
        c: Scale of the threshold of gRDA and rda, l1 weight of prox_sgd; a larger value gives more
            zeros; 0 gives SGD.
        mu: Growth exponent of gRDA's threshold, in (0, 1]; a larger value gives more zeros.
        momentum: Heavy-ball momentum in [0, 1), for grda_momentum, sgd_momentum, gmp_momentum,
            hard, rigl and acdc.
        nesterov: Use Nesterov momentum.
        weight_decay: Coefficient of the l2 penalty.
        prune: all parameters as in the paper, or only weights (no biases, no normalisation).
        sparsity: Final share of zeros among all trainable parameters, in [0, 1), for the methods
            gmp, gmp_momentum, hard, rigl, acdc, magnitude_finetune and random; 0.9 if not
            given. For gRDA see target_sparsity.
        target_sparsity: Final share of zeros among all trainable parameters, in (0, 1), for grda,
            grda_momentum and adam_grda: the threshold follows a plan, and c and mu are not used.
        power: Exponent of the threshold function, at least 1: 1 is the soft threshold of the
            paper, inf the hard threshold. By default 1, or 2 with a target_sparsity.
        plan_begin: Share of the steps after which the plan's first zeros appear, in [0, 1).
        plan_end: Share of the steps after which target_sparsity is reached, in (plan_begin, 1].
        schedule: constant; piecewise, the paper's (constant up to half of the epochs, then linear
            to 1 % at 90 %); steps, divided by ten at each of lr_steps; cosine to zero.
        lr_steps: Positions of the drops of the schedule steps, as shares of all epochs.
        warmup_epochs: Epochs of linear warm-up of the learning rate.
        seed: Seed of initial weights, batches, augmentation and dropout.
        batch_seed: Seed of batches, augmentation and dropout; by default seed. A different value
            gives a second run from the same initial weights, as a control in comparisons.
        validation: Share of the training data held out for validation; 0 trains on all data.
        augment: Whether training images are augmented as usual for the data set (digits: never).
        precision: Arithmetic of the forward pass; the half precisions use automatic mixed
            precision.
        device: auto, cpu, cuda or mps.
        channels_last: Memory format of convolutions. By default channels last on CPU and CUDA,
            except for a few narrow networks that would crash torch on a CPU.
        compile: Compile the model with torch.compile.
        accumulation: Number of micro-batches into which a batch is split, to save memory.
        refresh_batchnorm: Re-estimate BatchNorm statistics before the final evaluation; off in the
            paper.
        keep_checkpoints: Number of latest checkpoints that stay on disk, at least 1.
        threads: CPU threads of the training process. By default a small network gets two, because
            more threads would mostly wait; larger networks get all CPUs of this process.
        workers: Processes that decode streamed images; 0 decodes in the training process. By
            default one for each CPU of this process, at most 8.

    Raises:
        ValueError: If a value is out of its range; the message names the field and the range.

    Example:
        >>> TrainConfig(epochs=3).model
        'convnet'
        >>> TrainConfig(mu=1.5)
        Traceback (most recent call last):
        ValueError: mu must lie in (0, 1], got 1.5
    """

    data: str = "digits"
    model: str = "convnet"
    width: float = 1.0
    start_from: str | None = None
    method: str = "grda"
    epochs: int = 60
    batch_size: int = 32
    lr: float = 0.1
    c: float = 0.005
    mu: float = 0.7
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    prune: Literal["all", "weights"] = "all"
    sparsity: float | None = None
    target_sparsity: float | None = None
    power: float | None = None
    plan_begin: float = 0.0
    plan_end: float = 0.75
    schedule: Schedule = "piecewise"
    lr_steps: tuple[float, ...] = (1 / 3, 2 / 3)
    warmup_epochs: float = 0.0
    seed: int = 1
    batch_seed: int | None = None
    validation: float = 0.0
    augment: bool = True
    precision: Precision = "float32"
    device: str = "auto"
    channels_last: bool | None = None
    compile: bool = False
    accumulation: int = 1
    refresh_batchnorm: bool = False
    keep_checkpoints: int = 2
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        """Check the range of every field."""
        require = self._require
        require("width", 0 < self.width <= 100, "above 0, at most 100")
        require("epochs", 1 <= self.epochs <= MOST_EPOCHS, f"in [1, {MOST_EPOCHS}]")
        require("batch_size", self.batch_size >= 1, "at least 1")
        require("lr", 0 < self.lr < math.inf, "positive and finite")
        require("c", 0 <= self.c < math.inf, "at least 0 and finite")
        if not 0 < self.mu <= 1:
            raise ValueError(f"mu must lie in (0, 1], got {self.mu}")
        require("momentum", 0 <= self.momentum < 1, "in [0, 1)")
        require("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        require("sparsity", self.sparsity is None or 0 <= self.sparsity < 1, "in [0, 1)")
        target = self.target_sparsity
        require("target_sparsity", target is None or 0 < target < 1, "in (0, 1)")
        require("power", self.power is None or self.power >= 1, "at least 1")
        require("plan_begin", 0 <= self.plan_begin < 1, "in [0, 1)")
        require("plan_end", self.plan_begin < self.plan_end <= 1, "in (plan_begin, 1]")
        require("lr_steps", all(0 < s < 1 for s in self.lr_steps), "in (0, 1)")
        require("warmup_epochs", 0 <= self.warmup_epochs <= MOST_EPOCHS, f"in [0, {MOST_EPOCHS}]")
        require("seed", 0 <= self.seed < 2**32, "in [0, 2**32)")
        require("batch_seed", 0 <= self.seed_of_batches < 2**32, "in [0, 2**32)")
        require("validation", 0 <= self.validation < 1, "in [0, 1)")
        require("accumulation", self.accumulation >= 1, "at least 1")
        require("keep_checkpoints", self.keep_checkpoints >= 1, ">= 1")
        require("threads", self.threads is None or 1 <= self.threads <= 1024, "in [1, 1024]")
        require("workers", self.workers is None or 0 <= self.workers <= 1024, "in [0, 1024]")

    def _require(self, name: str, holds: bool, needed: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {needed}, got {getattr(self, name)}")

    @property
    def seed_of_batches(self) -> int:
        """``batch_seed`` if given, otherwise ``seed``."""
        return self.seed if self.batch_seed is None else self.batch_seed

    @property
    def mask_sparsity(self) -> float:
        """``sparsity`` if given, otherwise 0.9."""
        return 0.9 if self.sparsity is None else self.sparsity
