"""Shrinking modules of torch: every family, another tool's counts, and what can be done after."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deploy.networks import NETWORKS, difference, inputs, sparsify
from dirprune import sparsity_report
from dirprune.deploy import shrink
from dirprune.deploy.shrinking import network as shrinking
from dirprune.deploy.shrinking.minimal import minimize


def silence(model: nn.Module, share: float = 0.4) -> nn.Module:
    """Make filters and BatchNorm's gammas zero, and most but not all biases with them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight[torch.rand(len(module.weight)) < share] = 0
                if module.bias is not None:
                    module.bias[torch.rand(len(module.bias)) < 0.5] = 0
            elif isinstance(module, _BatchNorm):
                dead = torch.rand(len(module.weight)) < share
                module.weight[dead] = 0
                module.bias[torch.rand(len(module.bias)) < 0.8] = 0
    return model


FAMILIES = ("resnet", "resnext", "vgg", "mobilenet_v2", "efficientnet", "densenet", "shufflenet",
            "squeezenet", "convnext", "our vgg16_bn", "our wrn28x10")  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_shrinks_with_the_same_outputs(name: str) -> None:
    model = silence(sparsify(NETWORKS[name][0](), 0.5)).train()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    small = shrink(model, inputs(name, 2))
    assert model.training
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert small.report.error <= 1e-12
    before, after = small.report.parameters
    assert before == sum(p.numel() for p in model.parameters())
    assert after == sum(p.numel() for p in small.parameters())
    assert after < 0.9 * before
    assert small.report.macs[1] < 0.9 * small.report.macs[0]
    x = inputs(name, 3)
    with torch.no_grad():
        assert difference(model.eval()(x), small(x)) < 1e-5
    assert minimize(small.graph).network.graph.nodes == small.graph.nodes


def block(dead: list[int], width: int = 8) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, with channels whose gamma and beta are both zero."""
    layers = nn.Sequential(nn.LazyConv2d(width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    layers[1].running_mean.normal_()
    with torch.no_grad():
        layers[1].bias.normal_()
        layers[1].weight[dead] = layers[1].bias[dead] = 0
    return layers


class Residual(nn.Module):
    """A stem and two blocks that add to it."""

    def __init__(self, dead: list[int], inner: list[int]) -> None:
        super().__init__()
        self.stem = block(dead)
        self.first = nn.Sequential(block(inner), block(dead))
        self.second = nn.Sequential(block(inner), block(dead))
        self.head = nn.Linear(8, 5)
        self(torch.zeros(2, 3, 8, 8))  # makes the lazy layers

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x)
        x = x + self.second(x)
        return self.head(x.mean(dim=(2, 3)))


def test_another_tool_agrees_on_the_same_channels() -> None:
    pruning = pytest.importorskip("torch_pruning", reason="pip install torch-pruning")
    x = torch.randn(2, 3, 8, 8)
    dead, inner = [1, 4, 5], [0, 7]
    model = Residual(dead, inner).eval()
    with torch.no_grad():
        expected = model(x)
    small = shrink(model, x)
    graph = pruning.DependencyGraph().build_dependency(model, x)
    for layer, channels in ((model.stem[0], dead), (model.first[0][0], inner),
                            (model.second[0][0], inner)):  # fmt: skip
        graph.get_pruning_group(layer, pruning.prune_conv_out_channels, channels).prune()
    with torch.no_grad():
        assert difference(expected, model(x)) < 1e-6
    assert sum(p.numel() for p in model.parameters()) == small.report.parameters[1]
    operations, _ = pruning.utils.count_ops_and_params(model, x)
    assert small.report.macs[1] <= operations  # theirs counts BatchNorm too
    assert {tuple(p.shape) for p in model.parameters()} == {
        tuple(p.shape) for p in small.parameters()
    }


def test_channels_of_a_residual_network_by_hand() -> None:
    small = shrink(Residual([1, 4, 5], [0, 7]), torch.randn(2, 3, 8, 8))
    assert [layer.after.outputs for layer in small.report.layers] == [5, 6, 5, 6, 5, 5]
    assert small.report.idle == {}
    again = shrink(small, torch.randn(2, 3, 8, 8)).report
    assert again.parameters == small.report.parameters[1:] * 2
    assert again.macs == small.report.macs[1:] * 2


@pytest.fixture
def small() -> shrinking.ShrunkNet:
    return shrink(silence(Residual([1, 4], [0, 7])), torch.randn(2, 3, 8, 8))


def test_the_smaller_network_trains_on(small: shrinking.ShrunkNet) -> None:
    x, y = torch.randn(16, 3, 8, 8), torch.randint(5, (16,))
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    small.train()
    statistics = small.get_buffer("stem.1.running_mean").clone()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(small(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert not torch.equal(statistics, small.get_buffer("stem.1.running_mean"))
    assert sparsity_report(small).total == small.report.parameters[1]


def test_the_smaller_network_is_saved_and_loaded(
    small: shrinking.ShrunkNet, tmp_path: Path
) -> None:
    x = torch.randn(4, 3, 8, 8)
    torch.save(small.state_dict(), tmp_path / "state.pt")
    other = shrinking.ShrunkNet(small.graph, small.report)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(x), small(x))


def test_the_smaller_network_is_exported(small: shrinking.ShrunkNet) -> None:
    x = torch.randn(4, 3, 8, 8)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(small, (x,), dynamic_shapes=batch).module()
    torch.testing.assert_close(program(x[:3]), small(x[:3]))


def test_weights_that_are_not_finite_are_refused() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[1, 1] = torch.inf
    with pytest.raises(ValueError, match="weight holds NaN or infinity"):
        shrink(model, torch.ones(2, 3))
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    with torch.no_grad():
        model[0].parametrizations.weight.original1[1] = 0
    with pytest.raises(ValueError, match=r"constant.0 \(of 0, computed .* holds NaN or infinity"):
        shrink(model, torch.ones(2, 3))


def test_a_bug_raises_instead_of_returning(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_small(graph: object, nodes: object, tensors: dict[str, object]) -> object:
        return rebuild(graph, nodes, {name: t * 1.001 for name, t in tensors.items()})

    rebuild = shrinking.minimize.__globals__["rebuild"]
    monkeypatch.setitem(shrinking.minimize.__globals__, "rebuild", too_small)
    with pytest.raises(RuntimeError, match=r"differ by .* bug"):
        shrink(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 3))
