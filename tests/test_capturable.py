"""capturable=True: the same steps with every scalar on the device."""

import copy

import pytest
import torch
from torch import nn

from dirprune import GRDA, AdamGRDA, SparsityPlan

MAKERS = {
    "law": lambda p, **o: GRDA(p, lr=0.1, c=0.3, mu=0.6, momentum=0.9, **o),
    "dense": lambda p, **o: GRDA(p, lr=0.1, c=0.0, weight_decay=0.1, **o),
    "plan": lambda p, **o: GRDA(p, lr=0.1, plan=SparsityPlan(0.9, steps=20), **o),
    "adam": lambda p, **o: AdamGRDA(
        p, lr=0.01, weight_decay=0.1, plan=SparsityPlan(0.8, steps=20, minimum=9), **o
    ),
}


def weights() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(40, 30), (12,), (5, 5, 2)]
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


def run(ws: list[nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    for n in steps:
        for i, w in enumerate(ws):
            generator = torch.Generator().manual_seed(10 * n + i)
            w.grad = torch.randn(w.shape, generator=generator, dtype=torch.float64)
        optimizer.step()


@pytest.mark.parametrize("maker", MAKERS)
def test_equals_the_ordinary_step(maker: str) -> None:
    ours, theirs = weights(), weights()
    a, b = MAKERS[maker](ours, capturable=True), MAKERS[maker](theirs)
    for n in range(24):
        if n == 9:
            for w in (ours[0], theirs[0]):
                w.data[:, 3] = 0.5  # adopted
        run(ours, a, range(n, n + 1))
        run(theirs, b, range(n, n + 1))
        for p, q in zip(ours, theirs):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
            assert torch.equal(p == 0, q == 0)
    assert a.thresholds() == pytest.approx(b.thresholds(), rel=1e-9)


@pytest.mark.parametrize("maker", MAKERS)
def test_resumes_and_moves_to_and_from_ordinary_optimizers(maker: str) -> None:
    ours, theirs = weights(), weights()
    a, b = MAKERS[maker](ours, capturable=True), MAKERS[maker](theirs)
    run(ours, a, range(10))
    state = copy.deepcopy(a.state_dict())
    for group in state["param_groups"]:
        group["capturable"] = False
    b.load_state_dict(state)
    for p, q in zip(ours, theirs):
        q.data.copy_(p)
    c_weights = [nn.Parameter(p.detach().clone()) for p in ours]
    c = MAKERS[maker](c_weights, capturable=True)
    c.load_state_dict(copy.deepcopy(a.state_dict()))
    for ws, optimizer in ((ours, a), (theirs, b), (c_weights, c)):
        run(ws, optimizer, range(10, 20))
    for p, q, r in zip(ours, theirs, c_weights):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
        assert torch.equal(p, r)


def test_a_rate_of_zero_in_a_tensor_does_not_advance() -> None:
    lr = torch.tensor(0.0)
    w = nn.Parameter(torch.linspace(-1, 1, 20))
    optimizer = GRDA([w], lr=lr, plan=SparsityPlan(0.5, steps=4), capturable=True)
    w.grad = torch.zeros(20)
    optimizer.step()
    assert (optimizer.state[w]["n"], optimizer.param_groups[0]["plan"].step) == (0, 0)
    lr.fill_(0.1)
    for _ in range(3):
        optimizer.step()
    assert (w == 0).sum() == 10


def test_a_capture_without_capturable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    w = nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    with pytest.raises(RuntimeError, match="capturable=True"):
        GRDA([w]).step()
    assert torch.equal(w.detach(), torch.ones(2))


@pytest.mark.gpu
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("fused", [None, False])
def test_a_cuda_graph_repeats_the_step(maker: str, fused: bool | None) -> None:
    ours, theirs = ([nn.Parameter(w.detach().cuda()) for w in weights()] for _ in range(2))
    a = MAKERS[maker](ours, capturable=True, fused=fused)
    b = MAKERS[maker](theirs, fused=fused)
    grads = [torch.zeros_like(w) for w in ours]
    for p, q, d in zip(ours, theirs, grads):
        p.grad = q.grad = d

    def fill(n: int) -> None:
        for i, d in enumerate(grads):
            d.copy_(torch.randn(d.shape, generator=torch.Generator().manual_seed(10 * n + i)))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for n in range(3):
            fill(n)
            a.step()
            b.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        a.step()
    for n in range(3, 22):
        fill(n)
        graph.replay()
        b.step()
    for p, q in zip(ours, theirs):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert a.thresholds() == pytest.approx(b.thresholds(), rel=1e-6)
