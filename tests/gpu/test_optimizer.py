"""GRDA on a CUDA device: compared with float64 on the CPU, with GradScaler, compile and graphs."""

import copy

import pytest
import torch
from torch import nn

from dirprune import GRDA, AdamGRDA, SparsityPlan

OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "maximize": True},
    {"foreach": True},
    {"foreach": False, "fused": False},
]


def network(device: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 31), nn.Tanh(), nn.Linear(31, 5)).double()
    return copy.deepcopy(model).to(device, dtype)


def give_gradients(model: nn.Module, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    for p in model.parameters():
        grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = grad.to(p.device, torch.bfloat16 if p.dtype == torch.bfloat16 else p.dtype)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_steps_agree_with_float64_on_the_cpu(dtype: torch.dtype, options: dict) -> None:
    ours, reference = network("cuda", dtype), network("cpu", dtype).double()
    a = GRDA(ours.parameters(), lr=0.1, c=0.1, **options)
    b = GRDA(reference.parameters(), lr=0.1, c=0.1, **{**options, "foreach": None, "fused": None})
    for n in range(6):
        give_gradients(ours, n)
        for p, q in zip(ours.parameters(), reference.parameters()):
            q.grad = p.grad.double().cpu()
        a.step()
        b.step()
    eps = torch.finfo(dtype).eps
    for p, q in zip(ours.parameters(), reference.parameters()):
        v, exact = a.state[p]["v"].double().cpu(), b.state[q]["v"]
        # weight decay uses the rounded weights
        decays = 0.05 * eps if options.get("weight_decay") else 0.0
        torch.testing.assert_close(v, exact, rtol=1e-6, atol=1e-6 + decays)
        w = p.detach().double().cpu()
        torch.testing.assert_close(w, q.detach(), rtol=2 * eps, atol=1e-6 + decays)
        assert ((w == 0) == (q == 0)).all() or decays > 1e-6
        assert not p[p == 0].signbit().any()
    assert any((p == 0).any() for p in ours.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_without_a_threshold_the_bits_are_those_of_sgd(dtype: torch.dtype, options: dict) -> None:
    ours, theirs = network("cuda", dtype), network("cuda", dtype)
    a = GRDA(ours.parameters(), lr=0.1, c=0.0, **options)
    b = torch.optim.SGD(theirs.parameters(), lr=0.1, foreach=False, **options)
    for n in range(5):
        give_gradients(ours, n)
        give_gradients(theirs, n)
        a.step()
        b.step()
    assert all(p.equal(q) for p, q in zip(ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("options", [OPTIONS[0], *OPTIONS[3:]], ids=str)
def test_outside_changes_are_adopted(options: dict) -> None:
    model = network("cuda", torch.float32)
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.1, **options)
    give_gradients(model, 0)
    optimizer.step()
    before = [optimizer.state[p]["v"].clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.data[0] = 2.0
            p.grad.zero_()
    optimizer.step()
    for p, v in zip(model.parameters(), before):
        growth = optimizer.state[p]["g"]
        assert optimizer.state[p]["v"][1:].equal(v[1:])
        assert (p[0] > 2.0 - growth).all()
        assert (p[0] <= 2.0).all()


def test_skipped_steps_of_a_grad_scaler_do_not_count() -> None:
    model = network("cuda", torch.float32)
    optimizer = GRDA(model.parameters(), lr=0.1, c=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0)
    for n in range(3):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = model(torch.ones(4, 20, device="cuda")).square().mean()
        scaler.scale(loss).backward()
        if n == 1:
            next(model.parameters()).grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
    assert {state["n"] for state in optimizer.state.values()} == {2}
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of TorchScript, in torch itself
def test_a_compiled_step_agrees_with_an_eager_one() -> None:
    eager, compiled = network("cuda", torch.float32), network("cuda", torch.float32)
    a = GRDA(eager.parameters(), lr=0.1, c=0.1, momentum=0.9)
    b = GRDA(compiled.parameters(), lr=0.1, c=0.1, momentum=0.9)
    step = torch.compile(b.step)
    for n in range(4):
        give_gradients(eager, n)
        give_gradients(compiled, n)
        a.step()
        step()
    for p, q in zip(eager.parameters(), compiled.parameters()):
        torch.testing.assert_close(p, q)
        assert ((p == 0) == (q == 0)).all()


@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_a_state_moves_between_devices(first: str, second: str) -> None:
    uninterrupted, before = network("cpu", torch.float32), network(first, torch.float32)
    a = GRDA(uninterrupted.parameters(), lr=0.1, c=0.1, momentum=0.9)
    b = GRDA(before.parameters(), lr=0.1, c=0.1, momentum=0.9)
    for n in range(3):
        for model, optimizer in ((uninterrupted, a), (before, b)):
            give_gradients(model, n)
            optimizer.step()
    after = copy.deepcopy(before).to(second)
    c = GRDA(after.parameters(), lr=0.1, c=0.1, momentum=0.9)
    c.load_state_dict(b.state_dict())
    for n in range(3, 6):
        for model, optimizer in ((uninterrupted, a), (after, c)):
            give_gradients(model, n)
            optimizer.step()
    assert c.thresholds() == a.thresholds()
    for p, q in zip(uninterrupted.parameters(), after.parameters()):
        torch.testing.assert_close(p, q.cpu())


MAKERS = {
    "law": lambda p, **o: GRDA(p, lr=0.1, c=0.3, mu=0.6, momentum=0.9, **o),
    "plan": lambda p, **o: GRDA(p, lr=0.1, plan=SparsityPlan(0.9, steps=8), **o),
    "adam": lambda p, **o: AdamGRDA(p, lr=0.01, plan=SparsityPlan(0.8, steps=8), **o),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_step_in_a_graph_equals_an_eager_one(name: str) -> None:
    eager, captured = network("cuda", torch.float32), network("cuda", torch.float32)
    a = MAKERS[name](eager.parameters())
    b = MAKERS[name](captured.parameters(), capturable=True)
    give_gradients(captured, 0)
    b.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        b.step()  # recorded, not taken
    for n in range(8):
        give_gradients(eager, n)
        a.step()
        if n:
            for p, q in zip(captured.parameters(), eager.parameters()):
                p.grad.copy_(q.grad)
            graph.replay()
    for p, q in zip(captured.parameters(), eager.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-3)
        assert ((p == 0) == (q == 0)).all()


def test_a_plan_is_exact_and_its_quantile_is_that_of_a_sort() -> None:
    from dirprune.quantile import count_above, kth_magnitude, kth_magnitude_of_vector

    generator = torch.Generator("cuda").manual_seed(0)
    tensors = [
        torch.randn(shape, generator=generator, device="cuda") for shape in ((300, 40), (7,), (0,))
    ]
    everything = torch.cat([t.flatten() for t in tensors]).abs().sort().values
    for k in (1, 17, 6000, len(everything)):
        found = kth_magnitude(tensors, torch.tensor(k, device="cuda"))
        assert found == everything[k - 1]
        joined = torch.cat([t.flatten() for t in tensors]).repeat(100)
        assert kth_magnitude_of_vector(joined, 100 * k) == everything[k - 1]
        expected = [int((t.abs() > found).sum()) for t in tensors]
        assert count_above(tensors, found).tolist() == expected
