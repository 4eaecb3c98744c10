"""Diagonals of curvature matrices, from products or from gradients."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dirprune.landscape.curvature.krylov import Operator
from dirprune.landscape.objectives.objective import Objective


def hessian_diagonal(op: Operator, samples: int | None = None, seed: int = 0) -> Tensor:
    r"""Diagonal of a symmetric operator.

    Exactly, from d products; or by Hutchinson's estimate from random signs z,

    .. math:: \hat h = \frac1m \sum_{i=1}^m z_i \odot A z_i, \qquad
        \operatorname{Var} \hat h_j = \frac1m \sum_{i \ne j} A_{ij}^2

    Args:
        op: Such as a Hessian.
        samples: m, at least 1; None is exact.
        seed: Of the signs.

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


def gauss_newton_diagonal(
    objective: Objective, probes: int, seed: int, progress: Callable[[int, int], None]
) -> Tensor:
    r"""Estimate the diagonal of the Gauss-Newton matrix of the mean cross-entropy.

    With labels drawn from the network's own answers, :math:`\hat y \sim p`, gradients of different
    samples are independent with mean zero, so that over batches of sums

    .. math:: \operatorname{diag} G
        = \frac1N\,\mathbb E \sum_b \Big(\sum_{i \in b} \nabla \ell(f(x_i), \hat y_i)\Big)^2

    No estimate is negative, unlike those from products with the Hessian.

    Args:
        objective: At whose private copy's weights.
        probes: How many times labels are drawn.
        seed: Of the draws.
        progress: Is told after every one.

    Returns:
        With shape (d,).

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
        for inputs, _ in objective.batches():
            outputs = model(inputs)
            answers = outputs.detach().softmax(1)
            labels = answers.multinomial(1, generator=generator).squeeze(1)
            loss = F.cross_entropy(outputs, labels, reduction="sum")
            gradients = torch.autograd.grad(loss, parameters)
            total += torch.cat([g.reshape(-1) for g in gradients]).double().square()
        progress(done, probes)
    return total.div_(probes * objective.data.samples)
