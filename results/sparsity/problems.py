"""The learning problems of the comparison: data, model, loss and the reported figure."""

import gzip
import math
import os
import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


WARMUP = 0.05


def rate(step: int, steps: int) -> float:
    """Linear warm-up over a twentieth of the run, then a cosine to 0."""
    return min(1.0, (step + 1) / (WARMUP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, dim: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Add attention and MLP to a residual stream with shape (B, T, D)."""
        b, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharTransformer(nn.Module):
    """A causal language model of characters."""

    def __init__(self, vocabulary: int, dim: int = 64, context: int = 64) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, dim)
        self.position = nn.Embedding(context, dim)
        self.blocks = nn.Sequential(Block(dim, 4, True), Block(dim, 4, True))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocabulary)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits with shape (B, T, V) of the next characters."""
        h = self.token(x) + self.position.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(h)))


class PatchTransformer(nn.Module):
    """A small vision transformer: 4x4 patches, two blocks, mean pooling."""

    def __init__(self, dim: int = 64) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, 4, stride=4)
        self.position = nn.Embedding(49, dim)
        self.blocks = nn.Sequential(Block(dim, 4, False), Block(dim, 4, False))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits with shape (B, 10) of images with shape (B, 1, 28, 28)."""
        h = self.patch(x).flatten(2).transpose(1, 2) + self.position.weight
        return self.head(self.norm(self.blocks(h)).mean(1))


def small_cnn(width: int = 32) -> nn.Module:
    """Four 3x3 convolutions with BatchNorm and a linear layer: 60,688 weights at width 32."""

    def unit(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    w = width
    return nn.Sequential(
        *unit(1, w // 2), *unit(w // 2, w), nn.MaxPool2d(2), *unit(w, 2 * w), nn.MaxPool2d(2),
        *unit(2 * w, 2 * w), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * w, 10),
    )  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One learning problem.

    ``batches(seed)`` yields ``steps`` training batches; ``evaluate(model, part)`` returns the
    reported figure on the part "validation" (for choosing rates) or "test" (for reporting).
    """

    steps: int
    build: Callable[[], nn.Module]
    batches: Callable[[int], Iterator[Batch]]
    evaluate: Callable[[nn.Module, str], float]
    figure: str
    lower_is_better: bool
    clip: float = math.inf
    """The largest norm of a gradient."""


@cache
def _text() -> tuple[dict[str, Tensor], int]:
    text = "".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    alphabet = sorted(set(text))
    index = {character: i for i, character in enumerate(alphabet)}
    codes = torch.tensor([index[character] for character in text])
    first, second = int(0.90 * len(codes)), int(0.95 * len(codes))
    parts = {"train": codes[:first], "validation": codes[first:second], "test": codes[second:]}
    return parts, len(alphabet)


def characters(steps: int, clip: float = math.inf) -> Problem:
    """English text that ships with Python, in batches of 16 windows of 64 characters."""

    def batches(seed: int) -> Iterator[Batch]:
        data = _text()[0]["train"]
        generator = torch.Generator().manual_seed(1000 + seed)
        for _ in range(steps):
            start = torch.randint(len(data) - 65, (16,), generator=generator)
            window = data[start[:, None] + torch.arange(65)]
            yield window[:, :-1], window[:, 1:].flatten()

    @torch.no_grad()
    def evaluate(model: nn.Module, part: str) -> float:
        data = _text()[0][part]
        count = (len(data) - 1) // 64
        x, y = data[: 64 * count].view(count, 64), data[1 : 64 * count + 1]
        losses = [
            F.cross_entropy(model(a).flatten(0, 1), b.flatten(), reduction="sum")
            for a, b in zip(x.split(64), y.view(count, 64).split(64), strict=True)
        ]
        return float(torch.stack(losses).sum() / len(y))

    build = lambda: CharTransformer(_text()[1])  # noqa: E731
    return Problem(steps, build, batches, evaluate, "loss", True, clip)


FASHION_MNIST = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
"""The original files: by default where Debian's package dataset-fashion-mnist puts them."""


@cache
def _fashion() -> dict[str, Batch]:
    def read(name: str, header: int) -> Tensor:
        with gzip.open(FASHION_MNIST / name) as file:
            return torch.from_numpy(np.frombuffer(file.read(), np.uint8, offset=header).copy())

    x = read("train-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)
    y = read("train-labels-idx1-ubyte.gz", 8).long()
    test = read("t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28)
    labels = read("t10k-labels-idx1-ubyte.gz", 8).long()
    return {
        "train": (x[:55000], y[:55000]),
        "validation": (x[55000:], y[55000:]),
        "test": (test, labels),
    }


def _normalise(x: Tensor) -> Tensor:
    return (x.float() / 255 - 0.286) / 0.353


def fashion(epochs: int, build: Callable[[], nn.Module]) -> Problem:
    """Fashion-MNIST in batches of 128, without augmentation; 5,000 images for validation."""
    per_epoch = 55000 // 128

    def batches(seed: int) -> Iterator[Batch]:
        x, y = _fashion()["train"]
        generator = torch.Generator().manual_seed(1000 + seed)
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            for i in range(per_epoch):
                chosen = order[128 * i : 128 * (i + 1)]
                yield _normalise(x[chosen]), y[chosen]

    @torch.no_grad()
    def evaluate(model: nn.Module, part: str) -> float:
        x, y = _fashion()[part]
        right = sum(
            int((model(_normalise(a)).argmax(1) == b).sum())
            for a, b in zip(x.split(500), y.split(500), strict=True)
        )
        return 100 * right / len(y)

    return Problem(epochs * per_epoch, build, batches, evaluate, "accuracy", False)


PROBLEMS = {
    "characters": lambda: characters(1200),
    "characters-clipped": lambda: characters(1200, clip=1.0),
    "characters-long": lambda: characters(4800),
    "fashion-cnn": lambda: fashion(4, small_cnn),
    "fashion-vit": lambda: fashion(3, PatchTransformer),
}
