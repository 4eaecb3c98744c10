r"""The theorem of directional pruning in numbers: where gRDA converges, and how far it is off.

    python docs/gallery/theorem.py [PAGE.html]

Chao et al. (2020) show that at small rates gRDA ends at the directional pruning of SGD's solution
w, with the threshold g as lambda:

    w_gRDA(t)  ~  sign(w_j) [ |w_j| - lambda s_j ]_+ ,   lambda = c sqrt(gamma) t^mu .

We test this on linear models with more weights than data: their flat directions are exactly the
null space of X. Both optimizers use the same batches, so noise cancels. We measure the distance
from w_gRDA to the directional pruning of w, divided by the length of the directional-pruning step.
It has exactly three parts.

1. Weights near zero. On a flat valley floor gRDA converges to a minimum (see `valley_minimum`),
   and directional pruning is its first-order approximation in lambda. The two differ once a weight
   reaches zero, because then the other weights compensate for it. On random problems some weights
   always lie within lambda of zero, their number is proportional to lambda, and this part falls
   like gamma^(1/4) on average; on one given problem it vanishes once lambda is small enough.
2. Finite time. The threshold still grows, and along a sharp direction of curvature h this pushes
   w off the floor by about g'(t) / h. This part falls like 1 / t and does not depend on gamma.
3. Noise in the batches perturbs the second part by a share proportional to sqrt(gamma).

Weights that change sign during training have no lasting effect: all gradients lie in the row space
of X, so the flat part of w_gRDA - w is -g P0 sign(v) with the *current* signs. In sharp directions
the effect of an earlier change of sign decays.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import torch
from plotly.colors import DEFAULT_PLOTLY_COLORS
from plotly.subplots import make_subplots
from torch import Tensor, nn
from torch.optim import Optimizer

from dirprune import GRDA, FlatProjector, directional_prune, soft_threshold

ROWS, COLUMNS, BATCH = 60, 120, 10
MU = 0.55
SEEDS = 8
"""Number of problems; they are solved together, each as a row of one parameter."""
RATES = [0.04, 0.02, 0.01]
TIMES = [7.5, 15.0, 30.0]


# --- Problems


@dataclass(frozen=True)
class Problem:
    """Linear models, one per seed, that can fit their data exactly."""

    x: Tensor
    """With shape (seeds, rows, columns)."""
    y: Tensor
    """With shape (seeds, rows)."""
    start: Tensor
    """Initial weights of both optimizers, with shape (seeds, columns)."""
    basis: Tensor
    """An orthonormal basis of the row space of x, with shape (seeds, rows, columns)."""
    logistic: bool
    unit: float
    """The scale of the weights; thresholds are multiples of it."""
    pace: float
    """Curvature of least squares over that of this loss; rates and times are multiples of it."""

    def outputs(self, x: Tensor, w: Tensor) -> Tensor:
        """The model's means, with shape (seeds, rows)."""
        z = (x @ w.unsqueeze(-1)).squeeze(-1)
        return z.sigmoid() if self.logistic else z

    def gradient(self, w: Tensor, rows: Tensor) -> Tensor:
        """The gradient of the mean loss on a batch of each problem."""
        index = torch.arange(len(rows)).unsqueeze(1)
        x, y = self.x[index, rows], self.y[index, rows]
        return transposed_product(x, self.outputs(x, w) - y) / rows.shape[1]

    def hessian_product(self, w: Tensor, z: Tensor) -> Tensor:
        """The Hessian of the mean loss at w, times z."""
        tangent = (self.x @ z.unsqueeze(-1)).squeeze(-1)
        if self.logistic:
            p = self.outputs(self.x, w)
            tangent = tangent * p * (1 - p)
        return transposed_product(self.x, tangent) / ROWS

    def flat(self, z: Tensor) -> Tensor:
        """P0 z."""
        return z - transposed_product(self.basis, (self.basis @ z.unsqueeze(-1)).squeeze(-1))


def transposed_product(x: Tensor, residual: Tensor) -> Tensor:
    """Return x' residual, for each seed."""
    return (residual.unsqueeze(1) @ x).squeeze(1)


def problem(separated: bool, logistic: bool = False, seeds: int = SEEDS) -> Problem:
    """Draw data, a solution and a start.

    Args:
        separated: Whether every weight of SGD's solution is away from zero, as the theorem
            requires. The solution is known beforehand: the start differs from it only in the row
            space of x, and SGD moves only in that space.
        logistic: Whether the model is logistic; its labels are probabilities inside (0, 1). Hard
            labels could be separated, which drives weights to infinity and the Hessian to zero.
        seeds: Number of problems.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(seeds, *shape, generator=generator, dtype=torch.float64)

    x, solution = normal(ROWS, COLUMNS), normal(COLUMNS)
    unit, pace = (0.1, 6.0) if logistic else (1.0, 1.0)
    if separated:
        solution = solution + 0.3 * solution.sign()
    solution = unit * solution
    basis = torch.linalg.svd(x, full_matrices=False).Vh
    aside = unit * normal(COLUMNS)
    start = solution + transposed_product(basis, (basis @ aside.unsqueeze(-1)).squeeze(-1))
    z = (x @ solution.unsqueeze(-1)).squeeze(-1)
    return Problem(x, z.sigmoid() if logistic else z, start, basis, logistic, unit, pace)


# --- Runs, and the linearised prediction


@dataclass(frozen=True)
class Ends:
    """The final weights of a pair of runs; every tensor has shape (seeds, columns)."""

    sgd: Tensor
    grda: Tensor
    linearised: Tensor
    """SGD's solution plus the linearised step to gRDA's; see `run`."""
    lam: float
    problem: Problem

    def pruned(self) -> Tensor:
        """The directional pruning of SGD's solution."""
        projectors = map(FlatProjector, self.problem.basis)
        return torch.stack(
            [directional_prune(w, self.lam, flat) for w, flat in zip(self.sgd, projectors)]
        )

    def distances(self, there: Tensor, among: Tensor | None = None) -> Tensor:
        """From gRDA's solutions, over the length of the pruning step, with shape (seeds,)."""
        gap = self.grda - there
        if among is not None:
            gap = gap * among
        return gap.norm(dim=1) / (self.pruned() - self.sgd).norm(dim=1)

    def distance(self, there: Tensor, among: Tensor | None = None) -> float:
        """Return the root mean square of :meth:`distances`."""
        return float(self.distances(there, among).square().mean().sqrt())


def run(
    given: Problem, rate: float, time: float, optimizer: Callable[..., Optimizer] = GRDA
) -> Ends:
    r"""Run SGD and gRDA on the same batches for `time`, and integrate the linearised difference.

    Let z = w_gRDA - w_SGD. Where no weight is at zero, w_gRDA = v - g sign(v), so to first order

        dz = -H(w(t)) z dt - d( g(t) sign(w(t)) ) .

    The last term consists of g' sign(w) dt and a jump by 2 g at each change of a sign. In flat
    directions H is zero and z = -g P0 sign(w): directional pruning. In sharp directions z decays.

    c is chosen so that lambda is .02 (times the unit of weights) at rate .001 and time 60.
    """
    rate, time = rate * given.pace, time * given.pace
    c = 0.02 * given.unit / ((0.001 * given.pace) ** 0.5 * (60 * given.pace) ** MU)
    sparse, dense = nn.Parameter(given.start.clone()), nn.Parameter(given.start.clone())
    pair = (sparse, optimizer([sparse], rate, c, MU)), (dense, torch.optim.SGD([dense], rate))
    generator = torch.Generator().manual_seed(1)
    z, before, lam = torch.zeros_like(given.start), torch.zeros_like(given.start), 0.0
    with torch.no_grad():
        for n in range(1, round(time / rate) + 1):
            rows = torch.randint(ROWS, (len(given.x), BATCH), generator=generator)
            z -= rate * given.hessian_product(dense, z)
            for w, stepper in pair:
                w.grad = given.gradient(w, rows)
                stepper.step()
            lam = c * rate**0.5 * (n * rate) ** MU
            now = lam * dense.sign()
            z -= now - before
            before = now
    w = dense.detach()
    linearised = w + z
    # A weight that would cross zero stops at zero.
    return Ends(w, sparse.detach(), linearised * (linearised * w > 0), lam, given)


def valley_minimum(ends: Ends, rounds: int = 3000) -> Tensor:
    r"""The point of the valley floor to which gRDA converges, with weights at zero.

        argmin_x  1/2 ||x - w||^2 + g ||x||_1   subject to  x - w flat

    Its optimality conditions are v = x + g d||x||_1, and v - w has no flat part: a fixed point of
    gRDA. Directional pruning is its first-order expansion in g. Computed by ADMM.
    """
    w, flat = ends.sgd, ends.problem.flat
    x, dual = w.clone(), torch.zeros_like(w)
    for _ in range(rounds):
        on_floor = w + flat(x - dual - w) / 2
        x = soft_threshold(on_floor + dual, ends.lam)
        dual += on_floor - x
    return x


def slope(xs: list[float], ys: list[float]) -> float:
    """The exponent a of y ~ x^a, by least squares in logarithms."""
    lx, ly = (torch.tensor(v, dtype=torch.float64).log() for v in (xs, ys))
    lx = lx - lx.mean()
    return float((lx * ly).sum() / (lx * lx).sum())


def scales_like_sqrt(noise: list[float]) -> bool:
    """Whether noise over RATES has the exponent 1/2; these large rates increase it slightly."""
    return 0.45 < slope(RATES, noise) < 0.75


# --- Results


def main(page: Path) -> None:
    """Measure the three parts, draw them, and check them."""
    titles = (
        "weights near zero, over gamma",
        "separated weights, over gamma",
        "... and over time",
    )
    figure = make_subplots(rows=1, cols=3, subplot_titles=titles, shared_yaxes=True)
    shown: dict[str, str] = {}

    def draw(column: int, name: str, xs: list[float], ys: list[float]) -> None:
        color = shown.get(name) or DEFAULT_PLOTLY_COLORS[len(shown)]
        line = go.Scatter(x=xs, y=ys, name=name, mode="lines+markers", line_color=color)
        figure.add_trace(line.update(showlegend=name not in shown), row=1, col=column)
        figure.update_xaxes(tickvals=xs, row=1, col=column)
        shown[name] = color

    # Random problems: some weights lie within lambda of zero.
    ends = [run(problem(separated=False), rate, TIMES[1]) for rate in RATES]
    shrunk = [e.distance(soft_threshold(e.sgd, e.lam)) for e in ends]
    pruned = [e.distance(e.pruned()) for e in ends]
    floor = [e.distance(valley_minimum(e)) for e in ends]
    flipped = [e.distance(e.pruned(), among=e.sgd * e.problem.start < 0) for e in ends]
    flips = float((ends[-1].sgd * ends[-1].problem.start < 0).double().mean())
    draw(1, "to the soft threshold", RATES, shrunk)
    draw(1, "to directional pruning", RATES, pruned)
    draw(1, "... its part in weights whose sign flipped", RATES, flipped)
    draw(1, "to the minimum on the valley floor", RATES, floor)

    # Separated problems, over gamma: except for the noise, the distance does not depend on gamma.
    apart = [run(problem(separated=True), rate, TIMES[1]) for rate in RATES]
    left = [e.distance(e.pruned()) for e in apart]
    noise = [e.distance(e.linearised) for e in apart]
    exponent = slope(RATES, noise)
    draw(2, "to directional pruning", RATES, left)
    draw(2, "to the linearised solution", RATES, noise)

    # ... and over time, at one rate.
    early, late = (run(problem(separated=True), RATES[1], time) for time in TIMES[::2])
    over_time = [early, apart[1], late]
    in_time = [e.distance(e.pruned()) for e in over_time]
    decay = slope(TIMES[1:], in_time[1:])
    draw(3, "to directional pruning", TIMES, in_time)
    draw(3, "to the linearised solution", TIMES, [e.distance(e.linearised) for e in over_time])

    figure.update_xaxes(type="log", title="gamma")
    figure.update_xaxes(title="time t", row=1, col=3)
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title="distance of w_gRDA / length of pruning step", row=1, col=1)
    title = (
        "gRDA compared with directional pruning of SGD's solution<br><sup>noise scales like "
        f"gamma^{exponent:.2f}, the effect of finite time like t^{decay:.2f}</sup>"
    )
    figure.update_layout(title=title, width=1400, height=500)
    page.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(page, include_plotlyjs=True)

    share = (flipped[-1] / pruned[-1]) ** 2
    print(f"weights near zero: {pruned} to directional pruning, {shrunk} to the soft threshold")
    print(f"   {flips:.0%} of the weights changed sign; they carry {share:.0%} of the error")
    print(f"   {floor} to the minimum on the valley floor")
    print(f"separated: {left}, without finite time {noise}, exponent {exponent:.2f}")
    print(f"   over time: {in_time}, exponent {decay:.2f}")

    # gRDA converges to directional pruning, not to the soft threshold.
    assert max(pruned) < 0.15 < 0.9 < min(shrunk)
    # In flat directions they are equal up to rounding, at any time and rate.
    for e in apart:
        flat = e.problem.flat
        torch.testing.assert_close(flat(e.grda - e.sgd), flat(e.pruned() - e.sgd))
    # The effect of finite time depends only on time; the rest scales like the square root of
    # gamma.
    assert max(left) / min(left) < 1.05
    assert -1.5 < decay < -0.8
    assert scales_like_sqrt(noise)
    # Near zero, directional pruning is only a first-order approximation; the distance to the
    # minimum itself is little more than the effect of finite time.
    assert max(floor) / min(floor) < 1.25
    assert max(floor) < 0.75 * pruned[-1]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gallery/theorem.html"))
