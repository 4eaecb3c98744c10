"""Distance between gRDA and directional pruning in a small network.

    python results/theorem/network.py

An MLP with 874 weights on scikit-learn's digits, averaged over 2 x 2 pixels, in float64. All seeds
are trained together, each as a row of one parameter. P0 comes from the dense Hessian at SGD's
solution.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dirprune import GRDA, DirectionalPath, FlatProjector

HERE = Path(__file__).parent
SEEDS, BATCH, TRAINING, MU = 3, 32, 1437, 0.55
INPUTS, HIDDEN, CLASSES = 16, 32, 10
SIZES = (HIDDEN * INPUTS, HIDDEN, CLASSES * HIDDEN, CLASSES)
WEIGHTS = sum(SIZES)
RANKS = (0, 5, 10, 20, 50, 100, 200, 300, 400, 600, 800)
CUTS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""An eigenvector is sharp if its eigenvalue is above one of these, divided by the time t."""
LAM = 0.05
"""lambda at rate .1 and time 400; half of the initial weights are below .09."""


@dataclass(frozen=True)
class Setting:
    """One training setting."""

    activation: str
    smoothing: float
    time: float
    rate: float
    lam: float
    """Value at rate .1 and time 400; together with mu it determines c."""

    @property
    def c(self) -> float:
        """The threshold's scale."""
        return float(self.lam / (0.1**0.5 * 400**MU))


KEY = ("activation", "smoothing", "time", "rate", "lam")
SETTINGS = [
    *(Setting("tanh", 0.1, 400.0, rate, LAM) for rate in (0.2, 0.1, 0.05, 0.025)),
    Setting("tanh", 0.1, 100.0, 0.1, LAM),
    *(Setting("tanh", 0.1, 400.0, 0.1, lam) for lam in (LAM / 16, LAM / 4, 4 * LAM)),
    *(Setting("relu", 0.0, 400.0, rate, LAM) for rate in (0.2, 0.1, 0.05)),
    *(Setting("relu", 0.0, 400.0, 0.1, lam) for lam in (LAM / 4, 4 * LAM)),
    Setting("tanh", 0.1, 1600.0, 0.2, LAM),
]


class Digits(NamedTuple):
    """Inputs with shape (n, 16), standardised, and classes."""

    x: Tensor
    y: Tensor


def digits() -> tuple[Digits, Digits]:
    """Return the training and the test part, the same for every seed."""
    bunch = load_digits()
    images = F.avg_pool2d(torch.tensor(bunch.images).unsqueeze(1), 2).flatten(1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x, y = images[order], torch.tensor(bunch.target)[order]
    x = (x - x[:TRAINING].mean(0)) / x[:TRAINING].std()
    return Digits(x[:TRAINING], y[:TRAINING]), Digits(x[TRAINING:], y[TRAINING:])


def outputs(w: Tensor, x: Tensor, activation: str) -> Tensor:
    """Logits of several networks with weights (k, d) on inputs (k, n, 16)."""
    a, b, c, d = w.split(SIZES, dim=1)
    act = {"tanh": torch.tanh, "relu": torch.relu}[activation]
    hidden = act(x @ a.view(-1, HIDDEN, INPUTS).mT + b.unsqueeze(1))
    return hidden @ c.view(-1, CLASSES, HIDDEN).mT + d.unsqueeze(1)


def losses(w: Tensor, x: Tensor, y: Tensor, setting: Setting) -> Tensor:
    """Mean loss of each network, with shape (k,)."""
    logits = outputs(w, x, setting.activation)
    each = F.cross_entropy(
        logits.flatten(0, 1),
        y.flatten(),
        reduction="none",
        label_smoothing=setting.smoothing,
    )
    return each.view(len(w), -1).mean(1)


def start(seed: int) -> Tensor:
    """PyTorch's default initial weights, as one vector."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)).double()
    return nn.utils.parameters_to_vector(model.parameters()).detach()


class Ends(NamedTuple):
    """The final weights of runs from one start, each with shape (seeds, d)."""

    sgd: Tensor
    grda: Tensor
    other: Tensor
    """SGD with other batches."""
    linearised: Tensor
    """SGD's solution plus the linearised step to gRDA's, on the same batches."""
    lam: float


def train(setting: Setting, data: Digits) -> Ends:
    """Run SGD, gRDA, and SGD on other batches."""
    begin = torch.stack([start(seed) for seed in range(SEEDS)])
    sgd, grda, other = (nn.Parameter(begin.clone()) for _ in range(3))
    c, rate = setting.c, setting.rate
    optimizers = (
        torch.optim.SGD([sgd, other], rate),
        GRDA([grda], rate, c, MU),
    )
    ours, theirs = (torch.Generator().manual_seed(s) for s in (1, 2))
    z = torch.zeros_like(begin)
    before, lam = torch.zeros_like(begin), 0.0
    for n in range(1, round(setting.time / rate) + 1):
        rows, rows2 = (
            torch.randint(TRAINING, (SEEDS, BATCH), generator=g) for g in (ours, theirs)
        )
        both = torch.cat([rows, rows, rows2])
        loss = losses(torch.cat([sgd, grda, other]), data.x[both], data.y[both], setting).sum()
        gradients = torch.autograd.grad(loss, (sgd, grda, other), create_graph=True)
        # dz = -H z dt - d(g sign(w)) along SGD's path; see docs/gallery/theorem.py.
        (curved,) = torch.autograd.grad((gradients[0] * z).sum(), sgd)
        with torch.no_grad():
            for w, gradient in zip((sgd, grda, other), gradients):
                w.grad = gradient.detach()
            for optimizer in optimizers:
                optimizer.step()
            lam = c * rate**0.5 * (n * rate) ** MU
            now = lam * sgd.sign()
            z = z - rate * curved - (now - before)
            before = now
    w = sgd.detach()
    linearised = w + z
    return Ends(w, grda.detach(), other.detach(), linearised * (linearised * w > 0), lam)


def hessian(w: Tensor, data: Digits, setting: Setting) -> Tensor:
    """The dense Hessian of the training loss at one network's w."""

    def loss(v: Tensor) -> Tensor:
        return losses(v.unsqueeze(0), data.x.unsqueeze(0), data.y.unsqueeze(0), setting)[0]

    gradient = torch.func.grad(loss)

    def product(v: Tensor) -> Tensor:
        return torch.func.jvp(gradient, (w,), (v,))[1]

    rows = torch.func.vmap(product, chunk_size=50)(torch.eye(len(w), dtype=w.dtype))
    return (rows + rows.mT) / 2


def candidates(
    ends: Ends, seed: int, values: Tensor, vectors: Tensor, time: float
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield predictions of gRDA's solution: a name, the choice of P0, and the weights."""
    w = ends.sgd[seed]
    magnitude = w.abs().argsort()[: int((ends.grda[seed] == 0).sum())]
    yield "SGD itself", "", w
    yield "SGD, other batches", "", ends.other[seed]
    yield "magnitude, as many zeros", "", w.index_fill(0, magnitude, 0.0)
    yield "linearised", "", ends.linearised[seed]
    for rank in RANKS:
        flat = FlatProjector.from_eigenpairs(values, vectors, rank=rank)
        yield "directional", f"rank {rank}", DirectionalPath(w, flat).weights(ends.lam)
    for cut in CUTS:
        flat = FlatProjector.from_eigenpairs(values, vectors, threshold=cut / time)
        pruned = DirectionalPath(w, flat).weights(ends.lam)
        yield "directional", f"above {cut}/t: rank {len(flat.basis)}", pruned


def measure(setting: Setting, training: Digits, test: Digits) -> list[dict[str, Any]]:
    """Train one setting and compare gRDA's solution with every candidate."""
    ends = train(setting, training)
    rows: list[dict[str, Any]] = []

    def figures(w: Tensor) -> dict[str, str]:
        loss = losses(w[None], training.x[None], training.y[None], setting)
        right = outputs(w[None], test.x[None], setting.activation)[0].argmax(1) == test.y
        return {
            "train_loss": f"{float(loss):.5g}",
            "test_accuracy": f"{float(right.double().mean()):.4f}",
            "zeros": f"{float((w == 0).double().mean()):.4f}",
        }

    for seed in range(SEEDS):
        values, columns = torch.linalg.eigh(hessian(ends.sgd[seed], training, setting))
        w, grda = ends.sgd[seed], ends.grda[seed]
        step = grda - w
        head = {
            "activation": setting.activation,
            "smoothing": setting.smoothing,
            "time": setting.time,
            "rate": setting.rate,
            "lam": setting.lam,
            "reached": f"{ends.lam:.5f}",
            "seed": seed,
        }
        ranked = columns.mT[values.abs().argsort(descending=True)]
        for name, choice, there in candidates(ends, seed, values, columns.mT, setting.time):
            moved = there - w
            cosine = F.cosine_similarity(step, moved, dim=0) if bool(moved.any()) else torch.nan
            rows.append(
                head
                | {"candidate": name, "sharp": choice}
                | {
                    "distance": f"{float((grda - there).norm() / step.norm()):.4f}",
                    "cosine": f"{float(cosine):.4f}",
                    "moved": f"{float(moved.norm() / step.norm()):.4f}",
                    "energy_top10": f"{_energy(moved, ranked[:10]):.3e}",
                    "energy_top100": f"{_energy(moved, ranked[:100]):.3e}",
                    "curvature": f"{_curvature(moved, values, columns):.3e}",
                }
                | figures(there)
            )
        moved = {"distance": "0", "cosine": "1", "moved": "1"}
        rows.append(
            head
            | {"candidate": "gRDA itself", "sharp": ""}
            | moved
            | {
                "energy_top10": f"{_energy(step, ranked[:10]):.3e}",
                "energy_top100": f"{_energy(step, ranked[:100]):.3e}",
                "curvature": f"{_curvature(step, values, columns):.3e}",
            }
            | figures(grda)
        )
    return rows


def _energy(step: Tensor, basis: Tensor) -> float:
    """The share of a step's energy along some directions."""
    return float((basis @ step).square().sum() / step.square().sum())


def _curvature(step: Tensor, values: Tensor, columns: Tensor) -> float:
    """The Rayleigh quotient of the Hessian along a step."""
    parts = (columns.mT @ step).square()
    return float((parts * values).sum() / parts.sum())


def main() -> None:
    """Measure every setting that is not in network.csv yet, and append it."""
    torch.set_num_threads(1)
    path = HERE / "network.csv"
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[name] for name in KEY) for row in rows}
    training, test = digits()
    for setting in SETTINGS:
        if tuple(str(getattr(setting, name)) for name in KEY) in done:
            continue
        rows += measure(setting, training, test)
        print(setting, flush=True)
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
