"""gRDA with Adam's direction in the accumulator, for transformers and other models for Adam."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from dirprune.batch import Group, state_dtype
from dirprune.optimizer.dual_averaging import DualAveraging
from dirprune.optimizer.options import check_numbers
from dirprune.plan import SparsityPlan


class AdamGRDA(DualAveraging):
    r"""Dual averaging with Adam's direction: AdamW that trains a sparse network.

    .. math::
        m_n &= \beta_1 m_{n-1} + (1 - \beta_1)\,\nabla f(w_{n-1}), \qquad
        s_n = \beta_2 s_{n-1} + (1 - \beta_2)\,\nabla f(w_{n-1})^2 \\
        v_n &= v_{n-1} - \gamma_n \Bigl(\lambda\,w_{n-1} +
               \frac{m_n / (1 - \beta_1^n)}{\sqrt{s_n / (1 - \beta_2^n)} + \epsilon}\Bigr) \\
        w_n &= T_p(v_n, g_n) = \operatorname{sign}(v_n)\,[\,|v_n|^p - g_n^p\,]_+^{1/p}

    where g follows a plan, or the paper's law if ``c`` is above 0. A param group without a plan
    and with ``c=0`` is bit-identical to ``torch.optim.AdamW`` (in float32 and float64, with lr as
    a number) and stores no accumulator.

    Args:
        params: Parameters, or param groups, each with its own options.
        lr: Learning rate :math:`\gamma \ge 0`. With a plan it should be two to eight times the
            best rate for AdamW: two to four at the default power, four to eight at ``power=1``,
            because the threshold shrinks the weights that it keeps. The default is three times
            AdamW's.
        betas: Decay rates of the moments, each in [0, 1).
        eps: Added to the denominator, at least 0.
        weight_decay: Decoupled decay :math:`\lambda \ge 0` of w (not of v).
        plan: A :class:`dirprune.SparsityPlan`, which chooses g.
        power: Exponent :math:`p \ge 1` of the threshold function, by default 1 without a plan and
            2 with one; ``math.inf`` is the hard threshold.
        c: Scale of the paper's threshold, at least 0; not used with a plan.
        mu: Growth exponent of the paper's threshold, in (0, 1].
        maximize: Ascend instead of descend.
        foreach: Threshold many tensors per call; by default only on CUDA.
        fused: As in :class:`dirprune.GRDA`.
        capturable: As in :class:`dirprune.GRDA`.

    Raises:
        ValueError: If an option is out of its range (also when a scheduler sets it later).
        TypeError: If a parameter is complex or a gradient sparse.

    Note:
        There is no convergence proof for this method. Related methods: AdaBreg has the same
        accumulator with a constant soft threshold, which later work adapts to a target sparsity.
        RAMDA averages gradients with increasing weights; there is a proof that its set of zeros
        becomes constant. Feather thresholds a dense copy with p = 3, with a straight-through
        gradient.

        State per float32 weight: 12 bytes (v and both moments), 8 bytes in dense groups.

    References:
        A Bregman Learning Framework for Sparse Neural Networks (Bungert et al., 2022),
        https://arxiv.org/abs/2105.04319;
        Adaptive Regularization for Sparsity Control in Bregman-Based Optimizers (2026),
        https://arxiv.org/abs/2605.07892;
        Regularized Adaptive Momentum Dual Averaging (Huang et al., 2024),
        https://arxiv.org/abs/2403.14398;
        Feather: An Elegant Solution to Effective DNN Sparsification (Glentis Georgoulakis et al.,
        2023), https://arxiv.org/abs/2310.02448

    Example:
        >>> from dirprune import SparsityPlan
        >>> w = torch.nn.Parameter(torch.linspace(-1, 1, 20))
        >>> optimizer = AdamGRDA([w], lr=0.01, plan=SparsityPlan(0.5, steps=20))
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     (w - 1).square().sum().backward()
        ...     optimizer.step()
        >>> int((w == 0).sum())
        10
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        plan: SparsityPlan | None = None,
        power: float | None = None,
        c: float = 0.0,
        mu: float = 0.51,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "plan": plan,
            "power": power,
            "c": c,
            "mu": mu,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _check_direction(self, group: Group) -> None:
        check_numbers(group, "eps")
        betas = group["betas"]
        try:
            pair = [float(beta) for beta in betas if not isinstance(beta, str)]
        except TypeError:
            pair = []
        if len(pair) != 2 or not all(0 <= beta < 1 for beta in pair):
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas}")

    def _direction_state(self, p: Tensor, group: Group, state: dict[str, Any]) -> None:
        if "exp_avg" not in state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(p, dtype=state_dtype(p))
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=state_dtype(p))
