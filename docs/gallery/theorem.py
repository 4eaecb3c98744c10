r"""The theorem of directional pruning, seen: where gRDA goes, and what keeps it from there.

    python docs/gallery/theorem.py [PAGE.html]

Chao et al. (2020) show that at small rates gRDA ends where directional pruning would take SGD's
solution w, with the threshold g as lambda:

    w_gRDA(t)  ~  sign(w_j) [ |w_j| - lambda s_j ]_+ ,   lambda = c sqrt(gamma) t^mu .

Linear models with more weights than data let us watch: the flat directions are the null space of
X, exactly. Both optimizers see the same batches, so noise cancels. We measure the distance from
w_gRDA to the directional pruning of w, in units of what pruning moves, and find that it has
exactly three parts.

1. Weights near a kink. Directional pruning is the first-order answer, in lambda, to what gRDA
   really comes to on a flat valley floor (see `valley_minimum`). The two differ once a weight
   reaches zero, because then the others have to make up for it. On random problems some weights
   always lie within lambda of zero, in a number proportional to lambda, and this part falls like
   gamma^(1/4) on average; on one given problem it vanishes once lambda is small enough.
2. Finite time. The threshold still grows, and along a sharp direction of curvature h that pushes
   w off the floor by about g'(t) / h. This part falls like 1 / t and does not depend on gamma.
3. Noise in the batches shakes that last part by a share proportional to sqrt(gamma).

Signs that flip on the way leave nothing behind: SGD's gradients, and with them everything that
gRDA does differently, stay in the row space of X, so that the flat part of w_gRDA - w is
-g P0 sign(v), with the signs of *now*. What a flip does in sharp directions is forgotten.
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
"""As many problems are solved at once, each a row of one parameter."""
RATES = [0.04, 0.02, 0.01]
TIMES = [7.5, 15.0, 30.0]


# --- Problems


@dataclass(frozen=True)
class Problem:
    """Linear models, one a seed, whose data can be met exactly."""

    x: Tensor
    """With shape (seeds, rows, columns)."""
    y: Tensor
    """With shape (seeds, rows)."""
    start: Tensor
    """Where both optimizers begin, with shape (seeds, columns)."""
    basis: Tensor
    """An orthonormal basis of the row space of x, with shape (seeds, rows, columns)."""
    logistic: bool
    unit: float
    """The size of a weight; thresholds are in this unit."""
    pace: float
    """How much flatter the loss is than that of least squares; rates and times are in this."""

    def outputs(self, x: Tensor, w: Tensor) -> Tensor:
        """The model's means, with shape (seeds, rows)."""
        z = (x @ w.unsqueeze(-1)).squeeze(-1)
        return z.sigmoid() if self.logistic else z

    def gradient(self, w: Tensor, rows: Tensor) -> Tensor:
        """The gradient of the mean loss on a batch of each problem."""
        index = torch.arange(len(rows)).unsqueeze(1)
        x, y = self.x[index, rows], self.y[index, rows]
        return back(x, self.outputs(x, w) - y) / rows.shape[1]

    def curve(self, w: Tensor, z: Tensor) -> Tensor:
        """The Hessian of the mean loss at w, times z."""
        moved = (self.x @ z.unsqueeze(-1)).squeeze(-1)
        if self.logistic:
            p = self.outputs(self.x, w)
            moved = moved * p * (1 - p)
        return back(self.x, moved) / ROWS

    def flat(self, z: Tensor) -> Tensor:
        """P0 z."""
        return z - back(self.basis, (self.basis @ z.unsqueeze(-1)).squeeze(-1))


def back(x: Tensor, residual: Tensor) -> Tensor:
    """Return x' residual, for each seed."""
    return (residual.unsqueeze(1) @ x).squeeze(1)


def problem(separated: bool, logistic: bool = False, seeds: int = SEEDS) -> Problem:
    """Draw data, a solution and a start.

    Args:
        separated: Whether SGD's solution keeps every weight away from zero, as the theorem asks
            from some time on. It is known beforehand: SGD moves in the row space only, so it ends
            in the solution that we start from but for a step in that space.
        logistic: Whether labels are probabilities. They lie inside (0, 1): hard ones could be
            separated, which drives weights to infinity and the Hessian to zero.
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
    start = solution + back(basis, (basis @ aside.unsqueeze(-1)).squeeze(-1))
    z = (x @ solution.unsqueeze(-1)).squeeze(-1)
    return Problem(x, z.sigmoid() if logistic else z, start, basis, logistic, unit, pace)


# --- What happens, and what is foretold


@dataclass(frozen=True)
class Ends:
    """Where a pair of runs ends; every tensor has shape (seeds, columns)."""

    sgd: Tensor
    grda: Tensor
    foretold: Tensor
    """SGD's end and the way from there in the given time; see `run`."""
    lam: float
    problem: Problem

    def pruned(self) -> Tensor:
        """The directional pruning of SGD's solution."""
        projectors = map(FlatProjector, self.problem.basis)
        return torch.stack(
            [directional_prune(w, self.lam, flat) for w, flat in zip(self.sgd, projectors)]
        )

    def distances(self, there: Tensor, among: Tensor | None = None) -> Tensor:
        """From gRDA's ends, in units of what directional pruning moves, with shape (seeds,)."""
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
    r"""Run SGD and gRDA on the same batches for `time`, and foretell the outcome on the way.

    Let z = w_gRDA - w_SGD. Where no weight is at zero, w_gRDA = v - g sign(v), so to first order

        dz = -H(w(t)) z dt - d( g(t) sign(w(t)) ) .

    The last term holds g' sign(w) dt and, at each flip of a sign, a jump by 2 g. In flat
    directions H is zero and z = -g P0 sign(w): directional pruning. In sharp ones z forgets.

    c is such that lambda is .02 (of the unit of weights) at the rate .001 and the time 60.
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
            z -= rate * given.curve(dense, z)
            for w, stepper in pair:
                w.grad = given.gradient(w, rows)
                stepper.step()
            lam = c * rate**0.5 * (n * rate) ** MU
            now = lam * dense.sign()
            z -= now - before
            before = now
    w = dense.detach()
    foretold = w + z
    # Past zero, a weight would have stopped there.
    return Ends(w, sparse.detach(), foretold * (foretold * w > 0), lam, given)


def valley_minimum(ends: Ends, rounds: int = 3000) -> Tensor:
    r"""Where gRDA would be on the valley floor, weights at zero included.

        argmin_x  1/2 ||x - w||^2 + g ||x||_1   subject to  x - w flat

    Its optimality conditions are v = x + g d||x||_1, and v - w without a flat part: gRDA at rest.
    Directional pruning is its first-order expansion in g. Found by ADMM.
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


def falls_like_the_root(noise: list[float]) -> bool:
    """Whether noise over RATES has the exponent 1/2; rates this coarse steepen it a little."""
    return 0.45 < slope(RATES, noise) < 0.75


# --- What it comes to


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

    # Random problems: somewhere a weight lies within lambda of zero.
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

    # Separated ones, over gamma: what is left does not depend on it, but for the noise.
    apart = [run(problem(separated=True), rate, TIMES[1]) for rate in RATES]
    left = [e.distance(e.pruned()) for e in apart]
    noise = [e.distance(e.foretold) for e in apart]
    exponent = slope(RATES, noise)
    draw(2, "to directional pruning", RATES, left)
    draw(2, "to what finite time foretells", RATES, noise)

    # ... and over time, at one rate.
    early, late = (run(problem(separated=True), RATES[1], time) for time in TIMES[::2])
    waits = [early, apart[1], late]
    in_time = [e.distance(e.pruned()) for e in waits]
    decay = slope(TIMES[1:], in_time[1:])
    draw(3, "to directional pruning", TIMES, in_time)
    draw(3, "to what finite time foretells", TIMES, [e.distance(e.foretold) for e in waits])

    figure.update_xaxes(type="log", title="gamma")
    figure.update_xaxes(title="time t", row=1, col=3)
    figure.update_yaxes(type="log", dtick=1)
    figure.update_yaxes(title="distance of w_gRDA / what pruning moves", row=1, col=1)
    title = (
        "gRDA against directional pruning of SGD's solution<br><sup>what time leaves falls like "
        f"gamma^{exponent:.2f}, time's own part like t^{decay:.2f}</sup>"
    )
    figure.update_layout(title=title, width=1400, height=500)
    page.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(page, include_plotlyjs=True)

    share = (flipped[-1] / pruned[-1]) ** 2
    print(f"weights near zero: {pruned} to directional pruning, {shrunk} to the soft threshold")
    print(f"   {flips:.0%} of the weights flipped; they hold {share:.0%} of the error")
    print(f"   {floor} to the minimum on the valley floor")
    print(f"separated: {left}, of which time foretells all but {noise}, slope {exponent:.2f}")
    print(f"   over time: {in_time}, slope {decay:.2f}")

    # Directional pruning, not the soft threshold, is where gRDA goes;
    assert max(pruned) < 0.15 < 0.9 < min(shrunk)
    # and in flat directions it is there to rounding, at any time and rate.
    for e in apart:
        flat = e.problem.flat
        torch.testing.assert_close(flat(e.grda - e.sgd), flat(e.pruned() - e.sgd))
    # Time's part depends on time alone; without it the square root of gamma is left.
    assert max(left) / min(left) < 1.05
    assert -1.5 < decay < -0.8
    assert falls_like_the_root(noise)
    # Near zero, directional pruning is a first-order answer; on the way to the minimum itself
    # little more than time's part is left.
    assert max(floor) / min(floor) < 1.25
    assert max(floor) < 0.75 * pruned[-1]


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/gallery/theorem.html"))
