"""Functions without an operator of their own, through save and the engine, against torch."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.test_coverage import Written, made, outputs
from dirprune.deploy import Engine, save


def trigonometry(m: Any, x: Tensor) -> Tensor:
    inside = x.tanh()
    return torch.stack([x.atan(), x.tan(), inside.asin(), inside.acos(), x.erfc(),
                        x.sigmoid().logit(), torch.atan2(x, x.flip(1)),
                        torch.atan2(x.relu(), -x.relu())], 1)  # fmt: skip


def hyperbolic(m: Any, x: Tensor) -> Tensor:
    big = 10 ** (3 * x)
    return torch.stack([x.sinh(), x.cosh(), x.asinh(), x.tanh().mul(0.99).atanh(), big.asinh(),
                        (big + 1).acosh()], 1)  # fmt: skip


def missing_numbers(m: Any, x: Tensor) -> Tensor:
    holes, signs = x.log(), (-x.relu()).copysign(x)  # -0 as well
    return torch.stack([torch.fmax(holes, x), torch.fmin(x, holes), x.copysign(signs),
                        (1 / signs).isinf() * x, torch.hypot(x, holes).isnan() * x,
                        1e-30 * torch.hypot(1e30 * x, 1e30 * x.flip(1)),
                        1e30 * torch.hypot(1e-30 * x, 0 * x), torch.hypot(x, torch.ones(9)),
                        torch.hypot(1 / signs, x).isinf() * x], 1)  # fmt: skip


def scans(m: Any, x: Tensor) -> Tensor:
    return (x.cumprod(1) + x.cumprod(-1) + x.cummax(2)[0] + x.cummin(1)[0] + x.logcumsumexp(1)
            + (x - 1e4).logcumsumexp(2))  # fmt: skip


def searches(m: Any, x: Tensor) -> Tensor:
    whole = (2 * x).round()  # ties with the boundaries
    rows = x.sort(2)[0]
    return torch.stack([torch.bucketize(whole, m.edges), torch.searchsorted(rows, x),
                        torch.bucketize(whole, m.edges, right=True),
                        torch.bucketize(x.log(), m.edges),  # NaN
                        torch.searchsorted(rows, x, right=True)], 1)  # fmt: skip


def scattered(m: Any, x: Tensor) -> Tensor:
    zeros, order = torch.zeros(x.shape[0], 4, 7), x.argsort(2)
    few = (x > 0).long()  # many equal places
    parts = [zeros.scatter(2, order, x), zeros.scatter(2, order[:, :, :2], 3.0),
             zeros.scatter(2, few, x), zeros.scatter_add(2, few, x),
             x.scatter(1, x.argsort(1), x.exp()), F.one_hot(x.argmax(2), 7)]  # fmt: skip
    return torch.cat([part.flatten(1) for part in parts], 1)


def written(m: Any, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1] = 2.0
    y[:, :, ::2] *= 3
    y[:, [0, 2]] = x[:, [1, 3]]
    y[y < -0.5] = 0.25
    y[:, torch.tensor([0, 1, 3]), torch.tensor([4, 4, 0])] = 7.0
    y[:, m.rows] = m.values
    return torch.zeros_like(y).index_add(1, m.places, y) + y.index_fill(2, m.rows, 0.5)


def marked(m: Any, x: Tensor) -> Tensor:
    """The first and the last of two rows, as classifiers read the end of a text."""
    mask = x[:, :, 0].argsort(1) < 2
    rows = x[mask, :].view(x.shape[0], -1, x.shape[2])
    return rows[:, -1, :] + 2 * rows[:, 0] + x[mask].reshape_as(rows)[:, 0]


def folded(m: Any, x: Tensor) -> Tensor:
    columns = F.unfold(x, (3, 2), dilation=(1, 2), padding=1, stride=(2, 1))
    y = F.fold(columns, (6, 7), (3, 2), dilation=(1, 2), padding=1, stride=(2, 1))
    patches = x.unfold(2, 2, 2).unfold(3, 3, 2)
    return torch.cat([y.flatten(1), patches.flatten(1), x.diagonal(1, 2, 3).flatten(1),
                      torch.diag_embed(x).sum(-1).flatten(1)], 1)  # fmt: skip


def sampled(m: Any, x: Tensor) -> Tensor:
    grid = 1.4 * m.place(x.flatten(1)).reshape(-1, 4, 5, 2).tanh()
    modes = itertools.product(
        ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection"), (False, True)
    )
    parts = [F.grid_sample(x, grid, *mode) for mode in modes]
    return torch.cat(parts, 1)


def sampled_by_heads(m: Any, x: Tensor) -> Tensor:
    batch, heads = x.shape[0], 3
    value = x.flatten(2).transpose(1, 2).flatten(2).transpose(1, 2)
    value = value.reshape(batch * heads, 2, 6, 7)
    places = m.place(x.flatten(1)).reshape(batch, 5, heads, 2, 2).tanh()
    places = places.transpose(1, 2).flatten(0, 1)
    y = F.grid_sample(value, places, align_corners=False).sum(-1)
    return y.view(batch, heads * 2, 5).transpose(1, 2)


def transformed(m: Any, x: Tensor) -> Tensor:
    theta = m.place(x.flatten(1)).reshape(-1, 2, 3)
    return F.grid_sample(
        x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False
    )


def vectors(m: Any, x: Tensor) -> Tensor:
    return torch.cat([x @ m.right, torch.matmul(m.left, x), torch.einsum("bij,j->bi", x, m.right),
                      x.sum(1) @ m.right[:, None]], 1)  # fmt: skip


def gamma_functions(m: Any, x: Tensor) -> Tensor:
    above = x.abs() + 0.1
    return torch.stack([x.lgamma(), (30 * above).lgamma(), above.digamma(),
                        (above - 3.03).digamma().clamp(-99, 99)], 1)  # fmt: skip


def bits(m: Any, x: Tensor) -> Tensor:
    i, j, some = (300 * x).long(), (9 * x.flip(1)).long(), x > 0
    parts = [i & j, i | j, i ^ j, ~i, i & 7, i | -8, 255 ^ i, some & i, some ^ 3, i << j.abs() % 5,
             i >> j.abs() % 5, i.abs()[:, :1] >> torch.arange(9) & 1]  # fmt: skip
    return torch.cat(parts, 1).float()


def unlimited(m: Any, x: Tensor) -> Tensor:
    inf = float("inf")
    parts = [x.clamp(max=inf), x.clamp(-inf, 1), x.clamp(max=-inf), F.pad(x, (1, 2), value=-inf),
             F.hardtanh(x, -inf, 0.0), x + inf]  # fmt: skip
    return torch.cat(parts, 1).clamp(-9, 9)


def scheduled(m: Any, x: Tensor) -> Tensor:
    """Numbers of buffers, and a number of a buffer for each sample."""
    step = m.steps[1].item()
    own = m.rates.gather(-1, (x[:, 0].sigmoid() * 6).long())[:, None]
    for place in m.steps:
        x = x * m.rates[place] + m.rates[place - 1]
    return own * x / (m.rates[0].item() * 2 + 1) + F.pad(x, (step, 0))[:, :4] * step


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, Case] = {
    "trigonometry": (lambda: Written(trigonometry), (9,)),
    "hyperbolic": (lambda: Written(hyperbolic), (9,)),
    "missing numbers": (lambda: Written(missing_numbers), (9,)),
    "scans": (lambda: Written(scans), (5, 7)),
    "searches": (
        lambda: Written(searches, edges=nn.Buffer(torch.tensor([-2.0, -1, 0, 0, 1]))), (3, 6)
    ),
    "scattered": (lambda: Written(scattered), (4, 5)),
    "written": (
        lambda: Written(written, rows=nn.Buffer(torch.tensor([3])),
                        values=nn.Parameter(torch.randn(1, 5)),
                        places=nn.Buffer(torch.tensor([0, 2, 2, 1]))),
        (4, 5),
    ),
    "marked": (lambda: Written(marked), (5, 7)),
    "folded": (lambda: Written(folded), (3, 6, 7)),
    "sampled by heads": (
        lambda: Written(sampled_by_heads, place=nn.Linear(6 * 6 * 7, 60)), (6, 6, 7)
    ),
    "sampled": (lambda: Written(sampled, place=nn.Linear(3 * 6 * 7, 40)), (3, 6, 7)),
    "transformed": (lambda: Written(transformed, place=nn.Linear(3 * 6 * 7, 6)), (3, 6, 7)),
    "vectors": (
        lambda: Written(vectors, left=nn.Parameter(torch.randn(3)),
                        right=nn.Parameter(torch.randn(5))),
        (3, 5),
    ),
    "transposed volumes": (
        lambda: nn.Sequential(nn.ConvTranspose3d(4, 6, 3, 2, 1, 1, groups=2),
                              nn.ConvTranspose3d(6, 2, (1, 2, 2), (2, 1, 3), (1, 0, 2), (1, 0, 2),
                                                 dilation=(1, 2, 1))),
        (4, 3, 4, 3),
    ),
    "transposed with much padding": (
        lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2, padding=(2, 1)),
                              nn.ConvTranspose2d(4, 2, 1, 3, padding=1, output_padding=2)),
        (3, 5, 6),
    ),
    "instance norm with statistics": (
        lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (3, 4, 5)
    ),
    "gamma functions": (lambda: Written(gamma_functions), (9,)),
    "bits": (lambda: Written(bits), (9,)),
    "unlimited": (lambda: Written(unlimited), (9,)),
    "scheduled": (
        lambda: Written(scheduled, rates=nn.Buffer(torch.linspace(0.9, 0.1, 6)),
                        steps=nn.Buffer(torch.tensor([5, 2, 0]))),
        (4,),
    ),
    "random slopes": (lambda: nn.RReLU(), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_compositions(name: str, tmp_path: Path) -> None:
    model, example, x = made(CASES[name], batch=9)
    expected, found, _ = outputs(model, example, x, tmp_path / "m.dpz")
    torch.testing.assert_close(
        found.float(), expected.float(), rtol=1e-4, atol=1e-5, equal_nan=True
    )


def divided(m: Any, x: Tensor, y: Tensor) -> Tensor:
    whole = (x * 8).long()
    parts = [x // 0.05, x % 0.05, x.fmod(-0.05), x.div(-0.1, rounding_mode="floor"), x // 0.25,
             x % 3, x // y, x % y, x.fmod(y), 1.25 % y, x % m.periods, whole // 7, whole % -7,
             whole // (y.long() + 9)]  # fmt: skip
    return torch.stack([part.float() for part in parts], 1)


def test_quotients_at_multiples_are_those_of_torch(tmp_path: Path) -> None:
    """A quotient just below an integer is rounded to it, as 1.25 / 0.05 is to 25."""
    torch.manual_seed(0)
    y = torch.tensor([0.05, -0.1, 0.7, 3.0, 6.2831853]).repeat(400, 20)
    multiples = torch.randint(-3000, -1, y.shape) * torch.randn(y.shape).sign() * y
    x = torch.stack([multiples.nextafter(multiples + i) for i in (-1, 0, 1)]).flatten(0, 1)
    model = Written(divided, periods=nn.Buffer(y[:1]))
    inputs = (x, y.repeat(3, 1))
    save(model, tmp_path / "m.dpz", example_inputs=tuple(part[:2] for part in inputs))
    found = torch.from_numpy(Engine(tmp_path / "m.dpz", threads=1, tune=False)(*inputs))
    torch.testing.assert_close(found, model(*inputs), rtol=0, atol=0)
