"""The loss landscape of trained networks: points, curves, planes and curvature, of any module.

Importing this package imports nothing; each public name imports its module on first use.
"""

from typing import TYPE_CHECKING

from dirprune._support.lazy import lazy

if TYPE_CHECKING:
    from dirprune.directional import FlatProjector as FlatProjector
    from dirprune.landscape.connectivity.bezier import Fit as Fit
    from dirprune.landscape.connectivity.bezier import fit_bezier as fit_bezier
    from dirprune.landscape.connectivity.curve import Curve as Curve
    from dirprune.landscape.connectivity.curve import straight_line as straight_line
    from dirprune.landscape.connectivity.paths import PathFigures as PathFigures
    from dirprune.landscape.connectivity.paths import path as path
    from dirprune.landscape.connectivity.planes import PlaneFigures as PlaneFigures
    from dirprune.landscape.connectivity.planes import plane as plane
    from dirprune.landscape.connectivity.planes import plane_along as plane_along
    from dirprune.landscape.curvature.density import DirectionalDensity as DirectionalDensity
    from dirprune.landscape.curvature.density import SpectralDensity as SpectralDensity
    from dirprune.landscape.curvature.density import directional_density as directional_density
    from dirprune.landscape.curvature.density import rayleigh_quotient as rayleigh_quotient
    from dirprune.landscape.curvature.density import spectral_density as spectral_density
    from dirprune.landscape.curvature.diagonal import (
        gauss_newton_diagonal as gauss_newton_diagonal,
    )
    from dirprune.landscape.curvature.diagonal import hessian_diagonal as hessian_diagonal
    from dirprune.landscape.curvature.hessian import GaussNewton as GaussNewton
    from dirprune.landscape.curvature.hessian import Hessian as Hessian
    from dirprune.landscape.curvature.krylov import LinearOperator as LinearOperator
    from dirprune.landscape.curvature.krylov import MatrixOperator as MatrixOperator
    from dirprune.landscape.curvature.lanczos import top_eigenpairs as top_eigenpairs
    from dirprune.landscape.curvature.search import Eigenpairs as Eigenpairs
    from dirprune.landscape.curvature.search import LanczosProgress as LanczosProgress
    from dirprune.landscape.curvature.selection import Check as Check
    from dirprune.landscape.objectives.data import FrozenData as FrozenData
    from dirprune.landscape.objectives.frame import Frame as Frame
    from dirprune.landscape.objectives.frame import filter_normalised as filter_normalised
    from dirprune.landscape.objectives.objective import Measured as Measured
    from dirprune.landscape.objectives.objective import Objective as Objective
    from dirprune.landscape.objectives.points import ParameterLayout as ParameterLayout
    from dirprune.landscape.objectives.points import Point as Point
    from dirprune.landscape.one_shot import PrunedWeights as PrunedWeights
    from dirprune.landscape.one_shot import magnitude_prune as magnitude_prune
    from dirprune.landscape.one_shot import obd_prune as obd_prune
    from dirprune.landscape.one_shot import prune_once as prune_once

_HOME = {
    # what a landscape is of
    "ParameterLayout": "dirprune.landscape.objectives.points",
    "Point": "dirprune.landscape.objectives.points",
    "FrozenData": "dirprune.landscape.objectives.data",
    "Objective": "dirprune.landscape.objectives.objective",
    "Measured": "dirprune.landscape.objectives.objective",
    # connectivity
    "Curve": "dirprune.landscape.connectivity.curve",
    "straight_line": "dirprune.landscape.connectivity.curve",
    "Fit": "dirprune.landscape.connectivity.bezier",
    "fit_bezier": "dirprune.landscape.connectivity.bezier",
    "PathFigures": "dirprune.landscape.connectivity.paths",
    "path": "dirprune.landscape.connectivity.paths",
    # curvature
    "Hessian": "dirprune.landscape.curvature.hessian",
    "GaussNewton": "dirprune.landscape.curvature.hessian",
    "Check": "dirprune.landscape.curvature.selection",
    "LinearOperator": "dirprune.landscape.curvature.krylov",
    "MatrixOperator": "dirprune.landscape.curvature.krylov",
    "top_eigenpairs": "dirprune.landscape.curvature.lanczos",
    "Eigenpairs": "dirprune.landscape.curvature.search",
    "LanczosProgress": "dirprune.landscape.curvature.search",
    "spectral_density": "dirprune.landscape.curvature.density",
    "SpectralDensity": "dirprune.landscape.curvature.density",
    "directional_density": "dirprune.landscape.curvature.density",
    "DirectionalDensity": "dirprune.landscape.curvature.density",
    "rayleigh_quotient": "dirprune.landscape.curvature.density",
    "FlatProjector": "dirprune.directional",
    # planes
    "Frame": "dirprune.landscape.objectives.frame",
    "filter_normalised": "dirprune.landscape.objectives.frame",
    "PlaneFigures": "dirprune.landscape.connectivity.planes",
    "plane": "dirprune.landscape.connectivity.planes",
    "plane_along": "dirprune.landscape.connectivity.planes",
    # one-shot pruning of a dense network
    "prune_once": "dirprune.landscape.one_shot",
    "PrunedWeights": "dirprune.landscape.one_shot",
    "magnitude_prune": "dirprune.landscape.one_shot",
    "obd_prune": "dirprune.landscape.one_shot",
    "hessian_diagonal": "dirprune.landscape.curvature.diagonal",
    "gauss_newton_diagonal": "dirprune.landscape.curvature.diagonal",
}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
