"""dirprune: train sparse with gRDA, the optimizer of directional pruning (NeurIPS 2020).

Importing the package imports no other module; each public name imports its module on first use.
"""

from typing import TYPE_CHECKING

from dirprune._support.lazy import lazy

if TYPE_CHECKING:
    from dirprune.adam_grda import AdamGRDA as AdamGRDA
    from dirprune.averaging import accumulators as accumulators
    from dirprune.averaging import averaged_weights as averaged_weights
    from dirprune.batchnorm import refresh_batchnorm as refresh_batchnorm
    from dirprune.directional import DirectionalPath as DirectionalPath
    from dirprune.directional import FlatProjector as FlatProjector
    from dirprune.directional import directional_prune as directional_prune
    from dirprune.directional import directional_scores as directional_scores
    from dirprune.grda import GRDA as GRDA
    from dirprune.groups import param_groups as param_groups
    from dirprune.plan import SparsityPlan as SparsityPlan
    from dirprune.prox import soft_threshold as soft_threshold
    from dirprune.sparsity import SparsityReport as SparsityReport
    from dirprune.sparsity import sparsity_report as sparsity_report
    from dirprune.threshold import threshold_path as threshold_path

__version__ = "0.2.0"

_HOME = {
    # the optimizer
    "GRDA": "dirprune.grda",
    "AdamGRDA": "dirprune.adam_grda",
    "SparsityPlan": "dirprune.plan",
    "accumulators": "dirprune.averaging",
    "averaged_weights": "dirprune.averaging",
    "param_groups": "dirprune.groups",
    "threshold_path": "dirprune.threshold",
    "soft_threshold": "dirprune.prox",
    # directional pruning itself
    "directional_scores": "dirprune.directional",
    "directional_prune": "dirprune.directional",
    "DirectionalPath": "dirprune.directional",
    "FlatProjector": "dirprune.directional",
    # accounting
    "sparsity_report": "dirprune.sparsity",
    "SparsityReport": "dirprune.sparsity",
    # after a jump in the weights
    "refresh_batchnorm": "dirprune.batchnorm",
}

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
