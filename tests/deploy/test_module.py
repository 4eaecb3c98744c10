"""A GraphNet is an ordinary module: it trains on, moves, copies and exports as its original."""

import copy

import pytest
import torch
from torch import nn

from deploy.networks import captured, inputs
from dirprune.deploy import Graph, GraphNet, capture


def pair() -> tuple[nn.Module, GraphNet]:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(64, 5), nn.BatchNorm1d(5, affine=False),
    )  # fmt: skip
    return model, GraphNet(capture(model, torch.randn(2, 3, 6, 6)))


def test_it_trains_as_its_original() -> None:
    model, net = pair()
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (model.train(), net.train())]
    for step in range(3):
        x = torch.randn(8, 3, 6, 6)
        for m, optimizer in zip((model, net), optimizers):
            optimizer.zero_grad()
            torch.manual_seed(step)  # the same elements are dropped
            m(x).square().mean().backward()
            optimizer.step()
    state = model.state_dict()
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-5, atol=1e-7)
    assert not torch.equal(state["1.running_mean"], torch.zeros(4))


def test_it_takes_other_precisions_as_the_engine_does() -> None:
    _, net = pair()
    x = torch.randn(2, 3, 6, 6).half()
    torch.testing.assert_close(net.eval()(x), net(x.float()))
    torch.testing.assert_close(net.double()(x), net(x.double()))


def test_precision_without_parameters() -> None:
    x = torch.tensor([[1.0 + 1e-9, 2.0]], dtype=torch.float64)
    scale = nn.BatchNorm1d(2, affine=False, eps=0.0).eval()  # buffers only
    for module in (scale, nn.Softmax(1)):
        net = GraphNet(capture(module, torch.ones(1, 2))).double().eval()
        torch.testing.assert_close(net(x), module.double()(x), rtol=1e-15, atol=0)


def test_its_original_takes_its_state() -> None:
    model, net = pair()
    with torch.no_grad():
        net.get_parameter("0.weight").fill_(0.5)
    model.load_state_dict(net.state_dict())
    x = torch.randn(4, 3, 6, 6)
    assert torch.equal(model.eval()(x), net(x))


def test_it_is_exported_copied_and_moved() -> None:
    _, net = pair()
    x = torch.randn(3, 3, 6, 6)
    again = capture(net, torch.randn(2, 3, 6, 6))
    assert [node.op for node in again.nodes] == [node.op for node in net.graph.nodes]
    assert torch.equal(GraphNet(again)(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert net.double()(x.double()).dtype == torch.float64
    assert net.to("meta").get_parameter("0.weight").is_meta


def test_any_batch_but_no_other_shape() -> None:
    net = GraphNet(captured("resnet")[1])
    assert net(inputs("resnet", 1)).shape == (1, 10)
    assert net(inputs("resnet", 0)).shape == (0, 10)
    with pytest.raises(ValueError, match=r"\(batch, 3, 64, 64\), got \(2, 3, 32, 32\)"):
        net(torch.randn(2, 3, 32, 32))
    with pytest.raises(ValueError, match="takes inputs"):
        net(torch.tensor(0.0))


@pytest.mark.parametrize("names", [("a", "a.b"), ("training",)])
def test_impossible_names(names: tuple[str, ...]) -> None:
    tensors = dict.fromkeys(names, torch.zeros(1).numpy())
    with pytest.raises(ValueError, match="a module cannot have a tensor"):
        GraphNet(Graph((-1, 3), (), 0, tensors))
