"""AdamGRDA against the equations, against torch.optim.AdamW, and resumed."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dirprune import AdamGRDA, SparsityPlan
from reference.dual_averaging import AdamModel, planned_sparsity


@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 1.5, math.inf])
def test_equals_the_reference(power: float, foreach: bool | None) -> None:
    shapes = [(6, 5), (7,), (2, 3, 2)]
    start = torch.linspace(-0.5, 0.6, 49, dtype=torch.float64)
    weights = [nn.Parameter(w.view(s).clone()) for w, s in zip(start.split([30, 7, 12]), shapes)]
    options = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    plan = SparsityPlan(0.8, steps=20, minimum=0)
    optimizer = AdamGRDA(weights, plan=plan, power=power, foreach=foreach, **options)
    model = AdamModel(start.tolist())
    for n in range(1, 25):
        d = torch.randn(49, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        for w, part in zip(weights, d.split([30, 7, 12])):
            w.grad = part.view_as(w)
        lr = 0.05 / n
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        sparsity = planned_sparsity(0.8, n, 20, 0.0, 0.75)
        model.step(d.tolist(), lr=lr, p=power, sparsity=sparsity, **options)
        ours = torch.cat([w.detach().flatten() for w in weights])
        expected = torch.tensor(model.w, dtype=torch.float64)
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)
        assert torch.equal(ours == 0, expected == 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("foreach", [None, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_without_threshold_it_equals_adamw(
    dtype: torch.dtype, foreach: bool | None, maximize: bool, weight_decay: float
) -> None:
    options = {"betas": (0.85, 0.99), "eps": 1e-7, "maximize": maximize}
    options["weight_decay"] = weight_decay
    start = [torch.randn(50, 41, dtype=dtype), torch.randn(3, dtype=dtype)]
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    a = AdamGRDA(ours, lr=0.1, foreach=foreach, **options)
    b = torch.optim.AdamW(theirs, lr=0.1, foreach=False, fused=False, **options)
    for step in range(10):
        for p, q in zip(ours, theirs):
            p.grad = torch.randn(p.shape, dtype=dtype)
            q.grad = p.grad.clone()
        # from zero, as warm-up does
        a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = 0.1 * step / (step + 1)
        a.step()
        b.step()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs))
    assert all("v" not in a.state[p] for p in ours)


def test_the_papers_law_applies_where_c_is_given() -> None:
    w = nn.Parameter(torch.linspace(-1, 1, 50))
    optimizer = AdamGRDA([w], lr=0.01, c=0.2, mu=0.6)
    for _ in range(20):
        w.grad = torch.zeros(50)
        optimizer.step()
    assert optimizer.thresholds() == pytest.approx([0.2 * 0.01**0.5 * (20 * 0.01) ** 0.6])
    g = optimizer.thresholds()[0]
    torch.testing.assert_close(
        w.detach(), torch.nn.functional.softshrink(torch.linspace(-1, 1, 50), g)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("planned", [False, True])
def test_half_precision_keeps_its_state_in_float32(dtype: torch.dtype, planned: bool) -> None:
    half, full = (nn.Parameter(torch.linspace(-1, 1, 64).to(d)) for d in (dtype, torch.float32))
    with torch.no_grad():
        full.copy_(half)
    for w in (half, full):
        plan = SparsityPlan(0.5, steps=6) if planned else None
        optimizer = AdamGRDA([w], lr=1e-3, plan=plan)
        for n in range(6):
            w.grad = torch.sin(torch.arange(64) + n).to(w.dtype)
            optimizer.step()
        state = optimizer.state[w]
        assert all(t.dtype == torch.float32 for t in state.values() if isinstance(t, Tensor))
    torch.testing.assert_close(half.detach().float(), full.detach(), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_resumes_bit_for_bit(dtype: torch.dtype) -> None:
    runs = []
    for _ in range(2):
        w = nn.Parameter(torch.linspace(-1, 1, 64).to(dtype))
        runs.append((w, AdamGRDA([w], lr=0.05, c=0.05)))

    def advance(w: nn.Parameter, optimizer: AdamGRDA, steps: range) -> None:
        for n in steps:
            w.grad = torch.sin(torch.arange(64) + n).to(dtype)
            optimizer.step()

    (a, one), (b, two) = runs
    advance(a, one, range(5))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    b.data.copy_(a.data)
    for (w, optimizer), _ in itertools.product(runs, [0]):
        advance(w, optimizer, range(5, 9))
    assert torch.equal(a, b)
    assert two.state[b]["step"] == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"betas": ("0.9", 0.999)}, "betas must be two numbers"),
        ({"eps": -1.0}, "eps must be at least 0"),
        ({"power": 0.5}, "power must be at least 1"),
        ({"power": math.nan}, "power must be at least 1"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdamGRDA([nn.Parameter(torch.ones(2))], **options)


def test_betas_may_be_any_two_numbers() -> None:
    for betas in ([0.9, 0.99], np.array([0.9, 0.99]), (torch.tensor(0.9), torch.tensor(0.99))):
        w = nn.Parameter(torch.ones(2))
        optimizer = AdamGRDA([w], lr=0.25, betas=betas)
        w.grad = torch.tensor([3.0, -2.0])
        optimizer.step()
        torch.testing.assert_close(w.detach(), torch.tensor([0.75, 1.25]))
