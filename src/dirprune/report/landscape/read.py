"""``landscape.json`` as frozen dataclasses; entries that are not measured yet are None."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dirprune._support.decode import build
from dirprune._support.files import read_json
from dirprune.report.shared.numbers import Number

Numbers = tuple[Number, ...]
Grid = tuple[Numbers, ...]
SECTIONS = ("hessian", "directional", "curve", "plane", "along", "training")


@dataclass(frozen=True)
class MeasuredRecord:
    """Mean loss, and error in [0, 1], over one data set."""

    loss: Number = None
    error: Number = None


@dataclass(frozen=True)
class NetworkRecord:
    """A network: a given run, or a control."""

    name: str
    role: str
    method: str | None = None
    seed: int | None = None
    batch_seed: int | None = None
    zeros: Number = None
    norm: Number = None
    distance: Number = None
    stored: Mapping[str, MeasuredRecord] | None = None
    measured: Mapping[str, MeasuredRecord] | None = None


@dataclass(frozen=True)
class Density:
    """Quadratures of the spectrum, one per probe."""

    nodes: Grid
    weights: Grid


@dataclass(frozen=True)
class Top:
    """The largest eigenvalues, descending."""

    values: Numbers


@dataclass(frozen=True)
class DirectionSpectrum:
    """Energy of one direction in the spectrum; ``below`` has bounds of its energy up to ``t``."""

    ratios: Numbers | None = None
    rayleigh: Number = None
    t: Numbers | None = None
    below: tuple[Numbers, ...] | None = None


@dataclass(frozen=True)
class Spectrum:
    """Section "hessian"."""

    top: Top | None = None
    density: Density | None = None
    chance: Numbers | None = None
    of: Mapping[str, DirectionSpectrum] = field(default_factory=dict)
    weights_ratios: Mapping[str, Numbers] = field(default_factory=dict)
    top_of: Mapping[str, Numbers] = field(default_factory=dict)

    @property
    def eigenvalues(self) -> Numbers | None:
        """The largest eigenvalues at D, if they are known."""
        return self.top.values if self.top else None


@dataclass(frozen=True)
class MomentRecord:
    """A checkpoint: the largest eigenvalues at D, and the projection ratios of the others."""

    epoch: float
    values: Numbers
    ratios: Mapping[str, Number]


@dataclass(frozen=True)
class Sample:
    """Magnitudes of some weights, and their scores."""

    w: Numbers
    s: Numbers


@dataclass(frozen=True)
class Sharp:
    """Scores with all known sharp directions protected."""

    sample: Sample | None = None


@dataclass(frozen=True)
class Pruned:
    """One network pruned without training."""

    method: str
    k: int | None = None
    sparsity: Number = None
    overlap: Number = None
    clipped: Number = None
    off_flat: Number = None
    train: MeasuredRecord | None = None
    test: MeasuredRecord | None = None
    refreshed: Mapping[str, MeasuredRecord] | None = None


@dataclass(frozen=True)
class Directional:
    """Section "directional"."""

    sharp: Sharp | None = None
    table: Mapping[str, tuple[Pruned, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Pruned, ...]:
        """All pruned networks, by increasing sparsity."""
        rows = [row for rows in self.table.values() for row in rows]
        return tuple(sorted(rows, key=lambda row: row.sparsity or 0.0))


@dataclass(frozen=True)
class Largest:
    """Position and value of the maximum of a profile."""

    t: Number
    value: Number


@dataclass(frozen=True)
class ProfileRecord:
    """Values along a path."""

    values: Numbers
    largest: Largest
    barrier: Number


@dataclass(frozen=True)
class PathRecord:
    """Measurements on the path from a network (t = 0) to the dense network (t = 1)."""

    t: Numbers
    length: Number
    distance: Number
    loss: Mapping[str, ProfileRecord]
    error: Mapping[str, ProfileRecord]
    zeros: Numbers
    off_face: Numbers | None


@dataclass(frozen=True)
class PathsToDense:
    """The straight line, and the fitted curve."""

    line: PathRecord | None = None
    bezier: PathRecord | None = None


@dataclass(frozen=True)
class Trajectory:
    """Checkpoints of a run, as x, y and the distance from the plane."""

    at: tuple[Numbers, ...]
    epoch: Numbers | None = None


@dataclass(frozen=True)
class CurveRecord:
    """A path on the plane."""

    at: tuple[Numbers, ...]


@dataclass(frozen=True)
class PrunedPath:
    """Directional pruning of the dense network, for increasing lambda."""

    sparsity: Numbers
    at: tuple[Numbers, ...]


@dataclass(frozen=True)
class Plane:
    """Loss and error at every x, for every y."""

    x: Numbers
    y: Numbers
    loss: Mapping[str, Grid]
    error: Mapping[str, Grid]
    third: str | None = None
    known: tuple[Numbers, ...] = ()
    networks: Mapping[str, Numbers] = field(default_factory=dict)
    curve: CurveRecord | None = None
    line: CurveRecord | None = None
    trajectories: Mapping[str, Trajectory] = field(default_factory=dict)
    directional: PrunedPath | None = None

    def __post_init__(self) -> None:
        """Check that there is a row for every y with a value for every x."""
        for name, grid in [*self.loss.items(), *self.error.items()]:
            if len(grid) != len(self.y) or any(len(row) != len(self.x) for row in grid):
                raise ValueError(
                    f"the plane's {name!r} needs {len(self.y)} rows of {len(self.x)} values:"
                    " the file is damaged"
                )


@dataclass(frozen=True)
class Landscape:
    """All figures of one folder."""

    status: str
    networks: tuple[NetworkRecord, ...] = ()
    dimension: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, Number] = field(default_factory=dict)
    hessian: Spectrum | None = None
    training: Mapping[str, MomentRecord] = field(default_factory=dict)
    directional: Directional | None = None
    curve: Mapping[str, PathsToDense] = field(default_factory=dict)
    plane: Plane | None = None
    along: Plane | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dense(self) -> NetworkRecord:
        """The reference, D."""
        return self.networks[0]

    @property
    def sparse(self) -> NetworkRecord:
        """The sparse network, G."""
        return self.networks[1]


def read_landscape(folder: Path) -> Landscape:
    """Read a landscape, finished or not.

    Returns:
        The landscape; sections that are not measured yet are None or empty mappings.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it was not written by ``dirprune landscape``.
    """
    path = folder / "landscape.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no landscape.json: give a folder that dirprune landscape wrote"
        )
    record = read_json(path)
    if record.get("format") != "dirprune-landscape":
        raise ValueError(f"{path} is not a landscape of dirprune: give another folder")
    if record.get("version") != 1:
        raise ValueError(
            f"{path} has version {record.get('version')!r}, but this dirprune reads version 1: "
            "run dirprune landscape again"
        )
    known = {*Landscape.__dataclass_fields__, "format", "version"}
    rest = {key: value for key, value in record.items() if key not in known}
    planes: dict[str, Any] = {
        name: _plane(record[name]) for name in ("plane", "along") if name in record
    }
    sections: dict[str, Any] = record | planes | {"rest": rest}
    landscape = build(Landscape, sections, str(path))
    if len(landscape.networks) == 1:
        raise ValueError(f"{path} has a single network: a landscape needs two")
    return landscape


def _plane(section: Any) -> Any:
    """The measured plane with its projections, or None if it is not measured yet."""
    measured = section.get("measured") if isinstance(section, dict) else section
    if not isinstance(measured, dict):
        return measured
    figures = measured.get("figures", measured)
    return {**section, "third": measured.get("third"), **figures}
