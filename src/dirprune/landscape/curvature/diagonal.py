"""Diagonals of curvature matrices, from products or from gradients."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune._support.precision import true_float32
from dirprune.landscape.curvature.krylov import LinearOperator
from dirprune.landscape.objectives.inputs import Inputs, apply
from dirprune.landscape.objectives.loss_calls import LossCalls, position_masses
from dirprune.landscape.objectives.objective import Objective


@true_float32()
def hessian_diagonal(op: LinearOperator, samples: int | None = None, seed: int = 0) -> Tensor:
    r"""Compute the diagonal of a symmetric operator.

    It is exact, from d products, or Hutchinson's estimate from random signs z,

    .. math:: \hat h = \frac1m \sum_{i=1}^m z_i \odot A z_i, \qquad
        \operatorname{Var} \hat h_j = \frac1m \sum_{i \ne j} A_{ij}^2

    Args:
        op: The operator, such as a Hessian.
        samples: m, at least 1; None computes the exact diagonal.
        seed: Seed of the signs.

    Returns:
        With shape (d,).

    Raises:
        ValueError: If samples is below 1.

    References:
        An estimator for the diagonal of a matrix (Bekas et al., 2007)

    Example:
        >>> from dirprune.landscape import MatrixOperator
        >>> hessian_diagonal(MatrixOperator(torch.tensor([[2.0, 1.0], [1.0, 5.0]])))
        tensor([2., 5.])
    """
    found = torch.zeros(op.dimension, dtype=op.dtype, device=op.device)
    if samples is None:
        unit = torch.zeros_like(found)
        for j in range(op.dimension):
            unit[j] = 1
            found[j] = op(unit)[j]
            unit[j] = 0
        return found
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}; None is exact")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(samples):
        signs = torch.randint(0, 2, (op.dimension,), generator=generator).to(found) * 2 - 1
        found += signs * op(signs)
    return found / samples


@true_float32()
def gauss_newton_diagonal(
    objective: Objective, probes: int, seed: int, progress: Callable[[int, int], None]
) -> Tensor:
    r"""Estimate the diagonal of the Gauss-Newton matrix of the mean cross-entropy.

    With labels drawn from the network's own probabilities, :math:`\hat y \sim p`, gradients of
    different samples are independent with mean zero, so that over batches of sums

    .. math:: \operatorname{diag} G = \frac{1}{\sum_i m_i}\,\mathbb E
        \sum_b \Big(\sum_{i \in b} \sqrt{m_i}\,\nabla \ell(f(x_i), \hat y_i)\Big)^2

    where :math:`m_i` is the weight of target i: 1, its class weight, or 0 if it is ignored. For
    a loss that is a multiple of the cross-entropy, or divides by other weights (class weights with
    label smoothing or probabilities as targets), the factor is that of the loss. No estimate is
    negative, unlike those from products with the Hessian.

    Args:
        objective: Its loss is :func:`torch.nn.functional.cross_entropy` (or ``nll_loss`` of
            ``log_softmax``), or a multiple of it.
        probes: Number of times that labels are drawn.
        seed: Seed of the draws.
        progress: Called after every draw with the number of draws done and their total.

    Returns:
        With shape (d,).

    Raises:
        ValueError: If the loss is anything else.

    References:
        New Insights and Perspectives on the Natural Gradient Method (Martens, 2020), section 9;
        Optimal Brain Damage (LeCun, Denker and Solla, 1989)

    Example:
        >>> from dirprune.landscape import Objective
        >>> model = torch.nn.Linear(1, 2, bias=False)
        >>> _ = torch.nn.init.zeros_(model.weight)
        >>> data = [(torch.ones(1, 1), torch.zeros(1).long())]
        >>> objective = Objective(model, F.cross_entropy, data)
        >>> gauss_newton_diagonal(objective, 1, 0, lambda done, total: None)
        tensor([0.2500, 0.2500], dtype=torch.float64)
    """
    model = objective.model
    own = dict(model.named_parameters())
    parameters = [own[name] for name in objective.layout.shapes]
    total = torch.zeros(objective.layout.size, dtype=torch.float64, device=parameters[0].device)
    generator = torch.Generator(parameters[0].device).manual_seed(seed)
    for done in range(1, probes + 1):
        for (inputs, targets), share in zip(objective.batches(), objective.weights()):
            if share == 0:
                continue  # all of its targets are ignored
            logits, masses, divisor = _logits(objective, inputs, targets)
            answers = logits.detach().softmax(1)
            labels = answers.multinomial(1, generator=generator).squeeze(1)
            losses = F.cross_entropy(logits, labels, reduction="none")
            loss = losses.sum() if bool((masses == 1).all()) else losses @ masses.sqrt()
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            gradient = torch.cat([g.reshape(-1) for g in gradients])
            total += gradient.double().square() * (share / divisor)
        progress(done, probes)
    return total.div_(probes * math.fsum(objective.weights()))


def _logits(objective: Objective, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor, float]:
    """The logits of M targets with shape (M, C), their weights, and the divisor of the loss."""
    with LossCalls() as calls:
        value = objective.loss(apply(objective.model, inputs), targets)
    call = calls.classification()
    divisor = calls.classification_divisor(value)
    if call is None or divisor is None:
        raise ValueError(
            "the Gauss-Newton diagonal needs a cross-entropy: give a loss that calls "
            "torch.nn.functional.cross_entropy once, and returns the result or a multiple of it"
        )
    logits = call["input"].movedim(1, -1).flatten(0, -2)
    return logits, position_masses(call).reshape(-1), divisor
