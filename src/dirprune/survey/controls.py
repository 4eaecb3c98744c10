"""Control networks for comparisons with sparse training."""

import torch
from torch import Tensor

from dirprune.directional import DirectionalPath
from dirprune.landscape import Point, magnitude_prune
from dirprune.survey.networks import Network


def controls(dense: Network, sparse: Network, seed: int) -> list[Network]:
    """Make the controls of a sparse network from the dense one.

    Args:
        dense: The network from which the controls are made.
        sparse: The network that sets the number of zeros and the distance of the controls.
        seed: Seed of the random direction.

    Returns:
        ``magnitude`` and ``soft_threshold`` with as many zeros as the sparse network, if it has
        any, and ``random`` at its distance from the dense network; all with the dense network's
        buffers.
    """
    w, rest = dense.point
    made = {"random": w + random_direction(w, float((sparse.point.w - w).norm()), seed)}
    if sparse.zeros > dense.zeros:
        made = pruned(w, sparse.zeros) | made
    return [Network(name, "control", Point(x, rest)) for name, x in made.items()]


def pruned(w: Tensor, sparsity: float) -> dict[str, Tensor]:
    """Set the smallest weights to zero, and keep or shrink the others.

    Returns:
        ``magnitude`` and ``soft_threshold``, with the same zeros.

    Example:
        >>> pruned(torch.tensor([1.0, -3.0]), 0.5)
        {'magnitude': tensor([ 0., -3.]), 'soft_threshold': tensor([ 0., -2.])}
    """
    path = DirectionalPath(w, lambda x: x)  # with everything flat it is the soft threshold
    soft = path.weights(path.lam_for(sparsity))
    return {"magnitude": magnitude_prune(w, sparsity), "soft_threshold": soft}


def random_direction(w: Tensor, length: float, seed: int) -> Tensor:
    """Draw a Gaussian direction with a given length and the shape of w."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(w)
    return drawn.mul_(length / drawn.norm())
