"""RigL and AC/DC, compared with slow references of the papers' algorithms."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dirprune.train.baselines.acdc import ACDC
from dirprune.train.baselines.rigl import RigL, erdos_renyi_kernel

Array = np.ndarray[Any, np.dtype[np.float64]]
STEPS, RATE, MOMENTUM, DECAY = 40, 0.05, 0.8, 0.01


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 7, generator=torch.Generator().manual_seed(3)).double())


def gradient(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(6, 7, generator=generator).double()


def take(optimizer: torch.optim.Optimizer, w: nn.Parameter) -> list[Array]:
    path = []
    for step in range(STEPS):
        w.grad = gradient(step)
        optimizer.step()
        path.append(w.detach().numpy().copy())
    return path


def test_rigl_follows_its_algorithm() -> None:
    w = parameter()
    options: dict[str, Any] = {"momentum": MOMENTUM, "weight_decay": DECAY}
    optimizer = RigL([w], RATE, 30, STEPS, every=5, alpha=0.4, end=0.75, **options)
    optimizer._every = 5  # a run as short as this would change its places more often
    x: Array = w.detach().numpy().copy().ravel()
    active = x != 0
    assert active.sum() == 12
    m, first, moved = np.zeros(42), True, 0
    for step, found in enumerate(take(optimizer, w), start=1):
        g = gradient(step - 1).numpy().ravel()
        if step % 5 == 0 and step < 30:
            k = int(0.4 / 2 * (1 + math.cos(math.pi * step / 30)) * 12)
            by_size = [i for i in np.argsort(np.abs(x), kind="stable") if active[i]]
            kept = set(by_size[k:])
            candidates = [i for i in range(42) if i not in kept]
            grown = sorted(candidates, key=lambda i: -abs(g[i]))[:k]
            x[grown], m[grown] = 0.0, 0.0
            active = np.array([i in kept or i in grown for i in range(42)])
            moved += k
        else:
            d = g + DECAY * x
            m = d if first else MOMENTUM * m + d
            first = False
            x = x - RATE * m
        x, m = x * active, m * active
        np.testing.assert_allclose(found.ravel(), x, atol=1e-12)
        assert np.count_nonzero(x) <= 12
    assert moved > 5


def test_acdc_follows_its_phases() -> None:
    w = parameter()
    optimizer = ACDC([w], RATE, 30, STEPS, momentum=MOMENTUM, weight_decay=DECAY)
    phases = "".join("c" if _compressed(step) else "d" for step in range(STEPS))
    x: Array = w.detach().numpy().copy().ravel()
    m: Array | None = None
    mask = np.ones(42)
    for step, found in enumerate(take(optimizer, w)):
        if phases[step] == "c" and phases[step - 1 : step] != "c":
            mask = np.ones(42)
            mask[np.argsort(np.abs(x), kind="stable")[:30]] = 0
            x, m = x * mask, None if m is None else m * mask
        elif phases[step] == "d" and phases[step - 1 : step] == "c":
            mask = np.ones(42)
            m = None if m is None else 0 * m
        d = gradient(step).numpy().ravel() + DECAY * x
        m = d if m is None else MOMENTUM * m + d
        x = (x - RATE * m) * mask
        m = m * mask
        np.testing.assert_allclose(found.ravel(), x, atol=1e-12)
        assert np.count_nonzero(x) == (12 if phases[step] == "c" else 42)
    assert phases.startswith("ddddccdd")
    assert phases.endswith("ddddcccccc")


def _compressed(step: int) -> bool:
    percent = 100 * step / STEPS
    return percent >= 85 or (10 <= percent < 75 and percent % 10 < 5)


@given(
    st.lists(
        st.lists(st.integers(1, 12), min_size=2, max_size=4).map(tuple), min_size=1, max_size=6
    ),
    st.floats(0, 1),
)
def test_erdos_renyi_kernel_is_exact_and_favours_small_layers(
    shapes: list[tuple[int, ...]], share: float
) -> None:
    sizes = [math.prod(shape) for shape in shapes]
    zeros = int(share * sum(sizes))
    counts = erdos_renyi_kernel(shapes, zeros)
    assert sum(counts) == sum(sizes) - zeros
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    ratios = [sum(shape) / size for shape, size in zip(shapes, sizes, strict=True)]
    for a, size_a, count_a in zip(ratios, sizes, counts, strict=True):
        for b, size_b, count_b in zip(ratios, sizes, counts, strict=True):
            if a > b and count_a < size_a:  # up to the rounding to whole weights
                slack = len(sizes) / size_a + len(sizes) / size_b
                assert count_a / size_a >= count_b / size_b - slack


def test_too_many_zeros_are_refused() -> None:
    for make in (RigL, ACDC):
        with pytest.raises(ValueError, match="sparsity needs 50 zeros, but only 42"):
            make([parameter()], RATE, 50, STEPS)
