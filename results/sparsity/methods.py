"""The methods of the comparison: each returns an optimizer that reaches the given sparsity."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dirprune import GRDA, AdamGRDA, SparsityPlan
from dirprune.train.baselines.acdc import ACDC
from dirprune.train.baselines.rigl import RigL

BEGIN, END = 0.1, 0.7
"""Begin and end of the cubic path of every method, as shares of the run."""

DECAY = 0.01
"""Weight decay with Adam's direction."""


def is_planned(parameter: Tensor) -> bool:
    """Weight matrices, filters and embeddings are pruned; vectors stay dense."""
    return parameter.ndim > 1


def groups(model: nn.Module, **dense: Any) -> list[dict[str, Any]]:
    """Parameter groups: the planned parameters, and the others with the options ``dense``."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if is_planned(p)]},
        {"params": [p for p in parameters if not is_planned(p)], **dense},
    ]


def cubic(step: int, steps: int, sparsity: float, begin: float, end: float) -> float:
    """The sparsity of gradual magnitude pruning after a step (Zhu & Gupta, 2017, equation 1)."""
    progress = min(1.0, max(0.0, (step / steps - begin) / (end - begin)))
    return sparsity * (1 - (1 - progress) ** 3)


def smallest(values: Tensor, share: float) -> Tensor:
    """Mask of the smallest entries of a flat tensor."""
    number = round(share * len(values))
    mask = torch.zeros(len(values), dtype=torch.bool)
    return mask.index_fill_(0, values.topk(number, largest=False).indices, True)


def prune_gradually(
    optimizer: Optimizer, steps: int, sparsity: float, begin: float, end: float, every: int = 10
) -> Optimizer:
    """Add gradual magnitude pruning to an optimizer; pruned weights stay zero."""
    weights = optimizer.param_groups[0]["params"]
    masks = [torch.zeros_like(w, dtype=torch.bool) for w in weights]
    count = 0

    @torch.no_grad()
    def after_step(*_: object) -> None:
        nonlocal count, masks
        count += 1
        if (count % every == 0 and count / steps <= end) or count == round(end * steps):
            flat = torch.cat(
                [w.abs().masked_fill(m, -1).flatten() for w, m in zip(weights, masks)]
            )
            chosen = smallest(flat, cubic(count, steps, sparsity, begin, end))
            parts = chosen.split([w.numel() for w in weights])
            masks = [part.view_as(w) for part, w in zip(parts, weights, strict=True)]
        for w, mask in zip(weights, masks, strict=True):
            w.masked_fill_(mask, 0.0)

    optimizer.register_step_post_hook(after_step)
    return optimizer


class AdaBreg(Optimizer):
    r"""AdaBreg (Bungert et al., 2022); a controller of its l1 weight follows the cubic path.

    The dual variable accumulates Adam's direction, and the weights are its soft threshold:
    :math:`v \leftarrow v - \gamma\, \hat m / (\sqrt{\hat s} + \epsilon)`,
    :math:`w = S_\lambda(v)`. It starts almost empty (1 % of the weights), as the paper advises.
    :math:`\lambda` is multiplied by :math:`e^{\pm 0.02}` a step, towards the sparsity of the path
    that falls from 99 % to the target: an adaptive regularisation in the sense of later work.
    """

    def __init__(self, model: nn.Module, lr: float, steps: int, sparsity: float) -> None:
        super().__init__(groups(model), {"lr": lr})
        self.count, self.steps, self.sparsity = 0, steps, sparsity
        planned = torch.cat([p.detach().abs().flatten() for p in self.param_groups[0]["params"]])
        self.level = float(planned.kthvalue(max(1, round(0.99 * len(planned)))).values)
        for group, level in zip(self.param_groups, (self.level, 0.0), strict=True):
            for p in group["params"]:
                state = self.state[p]
                state["v"] = p.detach().clone()
                state["m"], state["s"] = torch.zeros_like(p), torch.zeros_like(p)
                with torch.no_grad():
                    p.copy_(state["v"] - state["v"].clamp(-level, level))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with the current gradients."""
        self.count += 1
        n = self.count
        planned = self.param_groups[0]["params"]
        zeros = sum(int((p == 0).sum()) for p in planned) / sum(p.numel() for p in planned)
        wanted = 0.99 + (self.sparsity - 0.99) * min(1.0, n / self.steps / END)
        self.level *= math.exp(0.02 if zeros < wanted else -0.02)
        for group, level in zip(self.param_groups, (self.level, 0.0), strict=True):
            for p in group["params"]:
                state, d = self.state[p], p.grad
                state["m"].lerp_(d, 0.1)
                state["s"].lerp_(d * d, 0.001)
                m, s = state["m"] / (1 - 0.9**n), state["s"] / (1 - 0.999**n)
                state["v"].addcdiv_(m, s.sqrt_().add_(1e-8), value=-group["lr"])
                p.copy_(state["v"] - state["v"].clamp(-level, level))


Maker = Callable[[nn.Module, float, int, float], Optimizer]
"""Maps a model, the learning rate, the steps of the run and the sparsity to an optimizer."""


def _adam_grda(power: float, end: float = END, decay: float = DECAY) -> Maker:
    def make(model: nn.Module, lr: float, steps: int, sparsity: float) -> AdamGRDA:
        plan = SparsityPlan(sparsity, steps, begin=BEGIN, end=end)
        both = groups(model, plan=None)
        return AdamGRDA(both, lr=lr, weight_decay=decay, plan=plan, power=power)

    return make


def _adam_grda_decay_on_v(decay: float) -> Maker:
    """Power 2; the planned accumulators v are multiplied by 1 - lr decay instead of w."""

    def make(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
        optimizer = _adam_grda(2.0, decay=decay)(model, lr, steps, sparsity)
        planned = optimizer.param_groups[0]
        planned["weight_decay"] = 0.0

        @torch.no_grad()
        def before_step(*_: object) -> None:
            weights = planned["params"]
            accumulators = [optimizer.state[p].get("v", p) for p in weights]  # w before step 1
            torch._foreach_mul_(accumulators, 1 - planned["lr"] * decay)
            shrunk = dict(zip(weights, accumulators, strict=True))
            for p, w in optimizer.threshold_values(shrunk).items():
                p.copy_(w)

        optimizer.register_step_pre_hook(before_step)
        return optimizer

    return make


def _adam_pruned(end: float = END, decay: float = DECAY) -> Maker:
    def make(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
        adamw = torch.optim.AdamW(groups(model), lr=lr, weight_decay=decay)
        return prune_gradually(adamw, steps, sparsity, BEGIN, end)

    return make


def _adamw(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=DECAY)


ADAM: dict[str, Maker] = {
    "dense": _adamw,
    "grda p=1": _adam_grda(1.0),
    "grda p=1.5": _adam_grda(1.5),
    "grda p=2": _adam_grda(2.0),
    "grda p=3": _adam_grda(3.0),
    "grda p=5": _adam_grda(5.0),
    "hard": _adam_grda(math.inf),
    "gmp": _adam_pruned(),
    "adabreg": AdaBreg,
    "gmp end=0.5": _adam_pruned(0.5),
    "gmp end=0.85": _adam_pruned(0.85),
    "grda p=2 end=0.5": _adam_grda(2.0, 0.5),
    "grda p=2 end=0.85": _adam_grda(2.0, 0.85),
    "grda p=2 decay on v": _adam_grda_decay_on_v(DECAY),
    "grda p=2 decay 0.1": _adam_grda(2.0, decay=0.1),
    "grda p=2 decay 0.1 on v": _adam_grda_decay_on_v(0.1),
    "gmp decay 0.1": _adam_pruned(decay=0.1),
}
"""For transformers: Adam's direction."""

SGD_OPTIONS = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def _grda(power: float, end: float = 0.75) -> Maker:
    def make(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
        plan = SparsityPlan(sparsity, steps, begin=0.0, end=end)
        return GRDA(groups(model, plan=None, c=0.0), lr=lr, plan=plan, power=power, **SGD_OPTIONS)

    return make


def _grda_decay_on_v(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
    """Power 2; the weight decay of planned parameters is computed from v instead of w."""
    optimizer = _grda(2.0)(model, lr, steps, sparsity)
    planned = optimizer.param_groups[0]
    decay, planned["weight_decay"] = planned["weight_decay"], 0.0

    @torch.no_grad()
    def before_step(*_: object) -> None:
        for p in planned["params"]:
            v = optimizer.state[p].get("v", p)  # equal to w before the first step
            p.grad.add_(v, alpha=decay)

    optimizer.register_step_pre_hook(before_step)
    return optimizer


def _sgd_pruned(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
    return prune_gradually(
        torch.optim.SGD(groups(model), lr=lr, **SGD_OPTIONS), steps, sparsity, 0, 0.75
    )


def _masked(optimizer: type[RigL] | type[ACDC], **options: Any) -> Maker:
    """RigL or AC/DC as in the library, on the planned parameters."""

    def make(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
        both = groups(model, prunable=False)
        zeros = round(sparsity * sum(p.numel() for p in both[0]["params"]))
        return optimizer(both, lr, zeros, steps, **options, **SGD_OPTIONS)

    return make


def _rigl(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
    return _masked(RigL, seed=torch.initial_seed())(model, lr, steps, sparsity)


def _pat(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
    """PAT of torchao: the largest weights of a dense copy, then a fixed mask."""
    from torchao.prototype.pat.optim import PruneOptimizer  # the other methods do not need it

    planned, dense = groups(model)
    planned |= {
        "prox_type": "GlobalMinSparsityConstraint", "group_type": "KElementGrouper", "k": 1,
        "min_sparsity": sparsity, "min_sparsity_schedule": True,
    }  # fmt: skip
    sgd = torch.optim.SGD([planned, dense], lr=lr, **SGD_OPTIONS)
    return PruneOptimizer(sgd, healing_start_step=round(0.75 * steps))


def _sgd(model: nn.Module, lr: float, steps: int, sparsity: float) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, **SGD_OPTIONS)


SGD: dict[str, Maker] = {
    "dense": _sgd,
    "grda p=1": _grda(1.0),
    "grda p=2": _grda(2.0),
    "grda p=3": _grda(3.0),
    "hard": _grda(math.inf),
    "gmp": _sgd_pruned,
    "pat": _pat,
    "grda p=2 decay on v": _grda_decay_on_v,
    "grda p=2 end=0.5": _grda(2.0, 0.5),
    "grda p=2 end=0.9": _grda(2.0, 0.9),
    "rigl": _rigl,
    "acdc": _masked(ACDC),
}
"""For convolutional networks: SGD with Nesterov momentum."""
