"""Small networks, their data, and their dense Hessians as reference."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

D = torch.float64


MODES = ["graph", "reverse-over-reverse", "forward-over-reverse"]


class Residual(nn.Module):
    """Sums, a shared layer, BatchNorm before and after convolutions, and global max pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.again = nn.Conv2d(3, 3, 3, padding=1)
        self.before = nn.BatchNorm2d(3)
        self.shortcut = nn.Conv2d(3, 4, 1, 2)
        self.last = nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1)
        self.act, self.dropout = nn.ReLU(), nn.Dropout(0.7)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = x + torch.tanh(self.again(x))
        y = self.again(self.act(self.before(x)))  # the same layer twice
        y = self.last(F.relu(y)) + self.shortcut(x)
        y = F.gelu(y)
        return self.head(self.dropout(torch.flatten(F.relu(y).amax((2, 3), keepdim=True), 1)))


class Traceable(Residual):
    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.mean = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = x + torch.tanh(self.again(x))
        y = self.again(self.act(self.before(x)))
        y = self.last(F.relu(y)) + self.shortcut(x)
        y = self.mean(self.pool(F.gelu(y)))
        return self.head(self.dropout(torch.flatten(y, 1)))


def shaken(model: nn.Module) -> nn.Module:
    """Give BatchNorm random statistics and weights."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model.to(D)


def mlp() -> nn.Module:
    return shaken(
        nn.Sequential(
            *(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4)),
            *(nn.Softplus(), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False)),
        )
    )


def images(n: int = 7) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2, 6, 6, dtype=D), torch.randint(3, (n,))


def rows(n: int = 9) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4, dtype=D), torch.randint(3, (n,))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (mlp, rows),
    "residual": (lambda: shaken(Traceable()), images),
}


def dense(model: nn.Module, loss: Any, x: Tensor, y: Tensor) -> Tensor:
    """The dense Hessian from torch.func.hessian, in the order of parameters()."""
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    own = dict(model.named_parameters())
    sizes = [own[n].numel() for n in names]
    training = model.training
    model.eval()

    def of(w: Tensor) -> Tensor:
        parts = {n: p.view(own[n].shape) for n, p in zip(names, w.split(sizes))}
        value: Tensor = loss(torch.func.functional_call(model, parts, (x,)), y)
        return value

    w = torch.cat([own[n].detach().reshape(-1) for n in names])
    rows = torch.func.jacrev(torch.func.jacrev(of))(w)
    model.train(training)
    return rows


def matrix_of(op: Any) -> Tensor:
    return torch.stack([op(e) for e in torch.eye(op.dimension, dtype=op.dtype)])
