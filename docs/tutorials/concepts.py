r"""
Concepts: v, g, w, and the valley
=================================

gRDA keeps two copies of every weight: an **accumulator** v, and the **weight** w that the network
uses. The accumulator starts at the initial weight and follows SGD, with gradients that are taken
at w. The weight is the accumulator, shrunk by a **threshold** g that grows slowly:

.. math::

    v_n = v_{n-1} - \gamma \nabla f(w_{n-1}), \qquad
    w_n = \operatorname{sign}(v_n)\,[\,|v_n| - g_n\,]_+, \qquad
    g_n = c\,\gamma^{1/2} (n\gamma)^{\mu}.

So w is exactly zero while :math:`|v| \le g`, and it comes back if the gradients carry v beyond g.
"""

# %%
# Three weights during training
# -----------------------------
#
# Least squares with noisy batches. Only some of the twenty inputs matter.

import matplotlib.pyplot as plt
import torch

from dirprune import GRDA, FlatProjector, directional_prune, directional_scores
from dirprune import soft_threshold

torch.manual_seed(0)
x = torch.randn(2000, 20)
truth = torch.zeros(20)
truth[:4] = torch.tensor([1.5, -1.0, 0.6, 0.3])
y = x @ truth + 0.5 * torch.randn(2000)

w = torch.nn.Parameter(0.3 * torch.randn(20))
optimizer = GRDA([w], lr=0.01, c=0.4, mu=0.6)
path = {"v": [], "g": [], "w": []}
for _ in range(1500):
    batch = torch.randint(2000, (16,))
    optimizer.zero_grad()
    (x[batch] @ w - y[batch]).square().mean().div(2).backward()
    optimizer.step()
    path["v"].append(optimizer.state[w]["v"].clone())
    path["g"].append(optimizer.thresholds()[0])
    path["w"].append(w.detach().clone())
v, ws, g = torch.stack(path["v"]), torch.stack(path["w"]), torch.tensor(path["g"])

figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), sharey=True, layout="constrained")
titles = {0: "a weight that matters", 3: "a small one", 10: "one that does not matter"}
for axis, (j, title) in zip(axes, titles.items()):
    axis.fill_between(range(1500), -g, g, color="0.88", label="|v| ≤ g: zero")
    axis.plot(v[:, j], color="tab:blue", lw=1, label="accumulator v")
    axis.plot(ws[:, j], color="tab:red", lw=1.5, label="weight w")
    axis.set(title=title, xlabel="step")
axes[2].legend(loc="upper right")

# %%
# The important weight stays outside the grey band; the last one stays inside and is 0.0.

assert ws[-1, 0] > 1
assert ws[-1, 10] == 0
assert torch.equal(ws[-1], soft_threshold(v[-1], g[-1]))

# %%
# The valley
# ----------
#
# A network has more weights than its data determines, so its minima form a valley with flat
# directions. The smallest example has two weights and the loss :math:`(w_1 + 2 w_2 - 2)^2 / 2`:
# its valley floor is a line. SGD stops where it meets the floor.
#
# **Directional pruning** (Definition 1.1 of the paper) moves from there towards zeros, but only
# along the floor: with P0 the projection on the flat directions, each weight has a score
# :math:`s_j = \operatorname{sign}(w_j) (P_0 \operatorname{sign}(w))_j`. A positive score shrinks
# the weight; a negative one lets it grow, to compensate.


def loss(w: torch.Tensor) -> torch.Tensor:
    return (w[..., 0] + 2 * w[..., 1] - 2).square() / 2


def train(make) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the points on the way and the final threshold."""
    w = torch.nn.Parameter(torch.tensor([0.6, 1.5]))
    optimizer, points = make([w]), [w.detach().clone()]
    for _ in range(4000):
        optimizer.zero_grad()
        loss(w).backward()
        optimizer.step()
        points.append(w.detach().clone())
    return torch.stack(points), optimizer


sgd, _ = train(lambda p: torch.optim.SGD(p, lr=0.01))
grda, optimizer = train(lambda p: GRDA(p, lr=0.01, c=0.8, mu=0.6))
lam = optimizer.thresholds()[0]

flat = FlatProjector(torch.tensor([[1.0, 2.0]]) / 5**0.5)  # the one direction that is not flat
scores = directional_scores(sgd[-1], flat)
pruned = directional_prune(sgd[-1], lam, flat)
shrunk = soft_threshold(sgd[-1], lam)
print("scores", scores.tolist(), "lambda", round(lam, 3))

figure, axis = plt.subplots(figsize=(6, 4.6), layout="constrained")
grid = torch.stack(
    torch.meshgrid(torch.linspace(-0.3, 0.8, 90), torch.linspace(-0.1, 1.7, 90), indexing="xy"),
    dim=-1,
)
axis.contourf(grid[..., 0], grid[..., 1], loss(grid).sqrt(), levels=14, cmap="Greys")
axis.axline((0, 1), slope=-0.5, color="0.4", ls=":", label="valley floor")
axis.plot(*sgd.T, color="tab:blue", label="SGD")
axis.plot(*grda.T, color="tab:red", label="gRDA")
axis.plot(*pruned, "k*", ms=12, label="directional pruning of SGD's end")
axis.plot(*shrunk, "kx", ms=9, label="soft threshold of SGD's end")
axis.set(xlabel="$w_1$", ylabel="$w_2$", xlim=(-0.3, 0.8), ylim=(-0.1, 1.7))
axis.legend(loc="lower right", fontsize=8)

# %%
# gRDA ends with an exact zero on the floor, where directional pruning of SGD's end lies. The soft
# threshold of SGD's end has the same zero, but lies far up the slope.
#
# In a real network the floor is only nearly flat, the noise of the batches never ends, and the
# theorem holds in a limit. :doc:`Findings </findings>` says what was measured.

assert grda[-1, 0] == pruned[0] == shrunk[0] == 0
assert loss(grda[-1]) < 0.01 < 0.1 < loss(shrunk)
assert torch.allclose(pruned, torch.tensor([0.0, 1.0]), atol=0.1)
