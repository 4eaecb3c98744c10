"""The loss around trained networks: points, curves, planes and curvature, of any module.

Importing this loads nothing; each public name loads its own module on first use.
"""

from typing import TYPE_CHECKING

from dirprune._lazy import lazy

if TYPE_CHECKING:
    from dirprune.directional import FlatProjector as FlatProjector
    from dirprune.landscape.bezier import Fit as Fit
    from dirprune.landscape.bezier import fit_bezier as fit_bezier
    from dirprune.landscape.curve import Curve as Curve
    from dirprune.landscape.curve import straight_line as straight_line
    from dirprune.landscape.data import FrozenData as FrozenData
    from dirprune.landscape.density import DirectionalDensity as DirectionalDensity
    from dirprune.landscape.density import SpectralDensity as SpectralDensity
    from dirprune.landscape.density import directional_density as directional_density
    from dirprune.landscape.density import rayleigh_quotient as rayleigh_quotient
    from dirprune.landscape.density import spectral_density as spectral_density
    from dirprune.landscape.diagonal import gauss_newton_diagonal as gauss_newton_diagonal
    from dirprune.landscape.diagonal import hessian_diagonal as hessian_diagonal
    from dirprune.landscape.frame import Frame as Frame
    from dirprune.landscape.frame import filter_normalised as filter_normalised
    from dirprune.landscape.hessian import Check as Check
    from dirprune.landscape.hessian import GaussNewton as GaussNewton
    from dirprune.landscape.hessian import Hessian as Hessian
    from dirprune.landscape.krylov import MatrixOperator as MatrixOperator
    from dirprune.landscape.krylov import Operator as Operator
    from dirprune.landscape.lanczos import Eigenpairs as Eigenpairs
    from dirprune.landscape.lanczos import LanczosProgress as LanczosProgress
    from dirprune.landscape.lanczos import top_eigenpairs as top_eigenpairs
    from dirprune.landscape.objective import Measured as Measured
    from dirprune.landscape.objective import Objective as Objective
    from dirprune.landscape.one_shot import Shot as Shot
    from dirprune.landscape.one_shot import magnitude_prune as magnitude_prune
    from dirprune.landscape.one_shot import obd_prune as obd_prune
    from dirprune.landscape.one_shot import prune_once as prune_once
    from dirprune.landscape.paths import PathFigures as PathFigures
    from dirprune.landscape.paths import path as path
    from dirprune.landscape.planes import PlaneFigures as PlaneFigures
    from dirprune.landscape.planes import plane as plane
    from dirprune.landscape.planes import plane_along as plane_along
    from dirprune.landscape.points import Layout as Layout
    from dirprune.landscape.points import Point as Point

_HOME = {
    # what a landscape is of
    "Layout": "dirprune.landscape.points",
    "Point": "dirprune.landscape.points",
    "FrozenData": "dirprune.landscape.data",
    "Objective": "dirprune.landscape.objective",
    "Measured": "dirprune.landscape.objective",
    # connectivity
    "Curve": "dirprune.landscape.curve",
    "straight_line": "dirprune.landscape.curve",
    "Fit": "dirprune.landscape.bezier",
    "fit_bezier": "dirprune.landscape.bezier",
    "PathFigures": "dirprune.landscape.paths",
    "path": "dirprune.landscape.paths",
    # curvature
    "Hessian": "dirprune.landscape.hessian",
    "GaussNewton": "dirprune.landscape.hessian",
    "Check": "dirprune.landscape.hessian",
    "Operator": "dirprune.landscape.krylov",
    "MatrixOperator": "dirprune.landscape.krylov",
    "top_eigenpairs": "dirprune.landscape.lanczos",
    "Eigenpairs": "dirprune.landscape.lanczos",
    "LanczosProgress": "dirprune.landscape.lanczos",
    "spectral_density": "dirprune.landscape.density",
    "SpectralDensity": "dirprune.landscape.density",
    "directional_density": "dirprune.landscape.density",
    "DirectionalDensity": "dirprune.landscape.density",
    "rayleigh_quotient": "dirprune.landscape.density",
    "FlatProjector": "dirprune.directional",
    # planes
    "Frame": "dirprune.landscape.frame",
    "filter_normalised": "dirprune.landscape.frame",
    "PlaneFigures": "dirprune.landscape.planes",
    "plane": "dirprune.landscape.planes",
    "plane_along": "dirprune.landscape.planes",
    # pruning at once what was trained densely
    "prune_once": "dirprune.landscape.one_shot",
    "Shot": "dirprune.landscape.one_shot",
    "magnitude_prune": "dirprune.landscape.one_shot",
    "obd_prune": "dirprune.landscape.one_shot",
    "hessian_diagonal": "dirprune.landscape.diagonal",
    "gauss_newton_diagonal": "dirprune.landscape.diagonal",
}

__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]

__getattr__, __dir__ = lazy(__name__, _HOME, __all__)
