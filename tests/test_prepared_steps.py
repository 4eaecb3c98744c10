"""Steps of prepared arrays notice everything that other code changes between two steps.

The twin takes the same steps without the extension, for which nothing is prepared.
"""

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from dirprune import GRDA, AdamGRDA, SparsityPlan
from dirprune._support import native
from dirprune.kernels.arrays import Arrays

pytestmark = pytest.mark.skipif(native.extension() is None, reason="without the C++ extension")

Event = Callable[[torch.optim.Optimizer], object]


def parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return optimizer.param_groups[0]["params"]


def states(optimizer: torch.optim.Optimizer) -> list[dict]:
    return [optimizer.state[p] for p in parameters(optimizer)]


def clear_state(optimizer: torch.optim.Optimizer) -> None:
    optimizer.state = defaultdict(dict)


def move_memory(optimizer: torch.optim.Optimizer) -> None:
    """As code does that keeps the state elsewhere between two steps."""
    for state in states(optimizer):
        for value in state.values():
            if isinstance(value, torch.Tensor):
                old, value.data = value.data, value.data.clone()
                old.fill_(float("nan"))


def replace_state(optimizer: torch.optim.Optimizer) -> None:
    for state in states(optimizer):
        state["v"] = 2 * state["v"]


def replace_parameter(optimizer: torch.optim.Optimizer) -> None:
    parameters(optimizer)[1] = nn.Parameter(torch.linspace(-1, 1, 7))


def add_parameter(optimizer: torch.optim.Optimizer) -> None:
    parameters(optimizer).append(nn.Parameter(torch.linspace(-1, 1, 7)))


def reload_state(optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def write_weights(optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        parameters(optimizer)[0].mul_(0.5)
    parameters(optimizer)[1].data.mul_(3.0)


def set_options(**options: object) -> Event:
    return lambda optimizer: optimizer.param_groups[0].update(options)


EVENTS: dict[str, Event] = {
    "nothing": lambda optimizer: None,
    "state cleared": clear_state,
    "state moved": move_memory,
    "v replaced": replace_state,
    "state reloaded": reload_state,
    "parameter replaced": replace_parameter,
    "parameter added": add_parameter,
    "weights written": write_weights,
    "rate": set_options(lr=0.01),
    "growth": set_options(c=0.0),
    "decay": set_options(weight_decay=0.1),
    "maximize": set_options(maximize=True),
    "power 2": set_options(power=2.0),
    "power 3": set_options(power=3.0),
    "foreach": set_options(foreach=True),
    "capturable": set_options(capturable=True),
}
MAKERS = {
    "grda": lambda w, **k: GRDA(w, lr=0.1, c=0.1, **k),
    "momentum": lambda w, **k: GRDA(w, lr=0.1, c=0.1, momentum=0.9, **k),
    "adam": lambda w, **k: AdamGRDA(w, lr=0.1, c=0.1, **k),
    "plan": lambda w, **k: GRDA(w, lr=0.1, plan=SparsityPlan(0.6, steps=6), **k),
}


def weights_after(make: Callable, event: Event, **options: object) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 4, 3, 3), (5000,), ()
    start = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
    start[0] = start[0].to(memory_format=torch.channels_last)
    optimizer = make([nn.Parameter(w) for w in start], **options)
    for n in range(8):
        if n == 4:
            event(optimizer)
        for i, p in enumerate(parameters(optimizer)):
            own = torch.Generator().manual_seed(10 * n + i)
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=own))
        optimizer.step()
    return parameters(optimizer)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("method", MAKERS)
def test_prepared_steps_equal_unprepared_ones(method: str, event: str) -> None:
    found = weights_after(MAKERS[method], EVENTS[event])
    expected = weights_after(MAKERS[method], EVENTS[event], fused=False)
    for w, other in zip(found, expected, strict=True):
        torch.testing.assert_close(w, other, rtol=1e-5, atol=1e-6)
        assert torch.equal(w == 0, other == 0)


def test_gradients_that_do_not_fit_are_stepped_by_other_code() -> None:
    results = []
    for options in ({}, {"fused": False}):
        w = nn.Parameter(torch.ones(2, 3, 4, 4))
        optimizer = GRDA([w], lr=0.1, c=0.1, **options)
        gradient = torch.linspace(-1, 1, 96).view(2, 3, 4, 4)
        channels_last = gradient.to(memory_format=torch.channels_last)
        for grad in (gradient, gradient, channels_last, None, gradient, -gradient):
            w.grad = grad
            optimizer.step()
        results.append(w.detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("method", MAKERS)
def test_a_group_is_prepared_once(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []
    of = Arrays.of
    monkeypatch.setattr(Arrays, "of", lambda *args: prepared.append(1) or of(*args))
    weights_after(MAKERS[method], EVENTS["nothing"])
    assert len(prepared) == 1


def test_strides_of_single_channels_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    w = nn.Parameter(torch.ones(4, 3, 1, 1))
    w.grad = torch.as_strided(torch.linspace(-1, 1, 12), (4, 3, 1, 1), (3, 1, 3, 3))
    assert w.grad.stride() != w.stride()
    optimizer = GRDA([w], lr=0.1, c=0.1)
    calls = []
    monkeypatch.setattr(Arrays, "step", lambda *args: calls.append(1) or [])
    for _ in range(3):
        optimizer.step()
    assert len(calls) == 2
