"""gRDA (Chao et al., 2020): SGD in a dual variable, soft-thresholded at every step."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from dirprune.batch import Group, state_dtype
from dirprune.optimizer.dual_averaging import DualAveraging
from dirprune.optimizer.options import check_numbers
from dirprune.plan import SparsityPlan
from dirprune.threshold import effective_lr


class GRDA(DualAveraging):
    r"""Generalised regularised dual averaging: SGD that trains a sparse network.

    An accumulator :math:`v` starts at the weights and follows SGD. The weights are the
    thresholded accumulator, so zeros are exact, appear during training, and can become nonzero
    again:

    .. math::
        g_n &= g_{n-1} + c\,\gamma_n^{\mu + 1/2}\,(n^\mu - (n-1)^\mu)
               \quad\text{or what a plan chooses} \\
        v_n &= v_{n-1} - \gamma_n \nabla f(w_{n-1}) \\
        w_n &= T_p(v_n, g_n) = \operatorname{sign}(v_n)\,[\,|v_n|^p - g_n^p\,]_+^{1/p}

    Every parameter has its own n and g, which advance only at steps where it has a gradient and
    the learning rate is above 0. A param group without a plan and with ``c=0`` from the start
    follows plain SGD and stores no accumulator. If c becomes 0 later, g stays constant.

    Args:
        params: Parameters, or param groups, each with its own options.
        lr: Learning rate :math:`\gamma \ge 0`. Without a plan, use a rate for SGD without
            momentum; with a plan, a rate for SGD with the same momentum, or up to four times as
            much. Any scheduler may change it: later increments of g use the current rate, earlier
            increments stay.
        c: Scale of the threshold, :math:`c \ge 0`; a larger value gives more zeros, mainly early
            in training. The paper uses 5e-4 (VGG16), 1e-3 (WRN28x10) and 5e-3 (ResNet-50, the
            default).
        mu: Growth exponent in (0, 1]; a larger value gives more zeros. The theory requires
            (1/2, 1); the paper recommends trying .501, .51 (the default) and .55 first; 1 is
            Xiao's l1-RDA.
        plan: A :class:`dirprune.SparsityPlan`, which chooses g; c and mu are then not used.
        power: Exponent :math:`p \ge 1` of the threshold function; 1 is the paper's soft
            threshold, larger values shrink large weights less, ``math.inf`` is the hard threshold.
            By default 1 without a plan and 2 with one.
        momentum: Heavy-ball factor :math:`\beta` in [0, 1).
        nesterov: Whether to use Nesterov momentum.
        weight_decay: Coefficient of an l2 penalty, at least 0.
        maximize: Ascend instead of descend.
        foreach: Update many tensors per call.
        fused: Update in one pass, which is the default where possible: on CUDA with Triton; on
            the CPU with the C++ extension, if it is installed, p is 1 or 2 and the parameters are
            float32. On the CPU the result is bit-identical to the other paths on processors with
            fused multiply-add.
        capturable: Keep n, g and the plan's progress on the device, so that a step does not
            synchronise and can be captured in a CUDA graph. Give lr as a tensor on the device and
            change it in place; a number is constant in the graph. Take a step before the capture.

    Raises:
        ValueError: If an option is out of its range (also when a scheduler sets it later).
        TypeError: If a parameter is complex or a gradient sparse.

    Note:
        Differences from the paper and the authors' code: Plans, powers, momentum, weight decay and
        ``maximize`` are extensions; with momentum the threshold grows with the effective rate
        :math:`\gamma / (1 - \beta)`. Accumulators of bfloat16 and float16 parameters are float32.
        n and g are Python numbers; in the authors' class they are float32 tensors. The authors'
        class overwrites weights that were changed from outside; this class adopts them.

        Changes from outside: if a weight differs from the result of the last step (a reloaded
        checkpoint, averaging, clipping, pruning by hand), v is set from it before the next step,
        as :meth:`reset_from_weights` does. Every assignment and in-place operation is detected. A
        write through ``.data`` is detected on CUDA and, on the CPU, in tensors of up to 4,096
        elements. In larger tensors a different 1/64 of the elements is compared at each step, so
        a change of a few elements may be overwritten: call :meth:`reset_from_weights` after it.

        A gradient of zeros is treated as a gradient, unlike None: with
        ``zero_grad(set_to_none=False)``, n and g of a frozen layer advance and it is pruned
        further.

    References:
        Directional Pruning of Deep Neural Networks (Chao et al., 2020),
        https://arxiv.org/abs/2006.09358

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.05]))
        >>> optimizer = GRDA([w], lr=0.1, c=0.5, mu=0.5)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     (0.5 * (w - torch.tensor([1.0, 0.0])) ** 2).sum().backward()
        ...     optimizer.step()
        >>> w.detach()
        tensor([0.9191, 0.0000])
        >>> optimizer.thresholds()
        [0.1]
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        c: float = 0.005,
        mu: float = 0.51,
        *,
        plan: SparsityPlan | None = None,
        power: float | None = None,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "c": c,
            "mu": mu,
            "plan": plan,
            "power": power,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _effective_lr(self, group: Group) -> float:
        return effective_lr(float(group["lr"]), group["momentum"])

    def _check_direction(self, group: Group) -> None:
        check_numbers(group, "momentum")
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {group['momentum']}")
        if group["nesterov"] and not group["momentum"]:
            raise ValueError(
                f"nesterov needs momentum above 0, got {group['momentum']}: set momentum, or "
                "remove nesterov"
            )

    def _direction_state(self, p: Tensor, group: Group, state: dict[str, Any]) -> None:
        if group["momentum"] and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p, dtype=state_dtype(p))
