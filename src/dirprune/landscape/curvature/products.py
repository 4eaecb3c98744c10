"""Products of a curvature matrix with vectors, over all data."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable
from copy import copy
from itertools import islice
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dirprune._support.hashing import hash_tensor
from dirprune._support.memory import available_memory
from dirprune._support.precision import true_float32
from dirprune._support.processes import rank_and_world
from dirprune.landscape.curvature.autograd import (
    ForwardOverReverse,
    GaussNewtonByAutograd,
    ProductEngine,
    ReverseOverReverse,
    WeightedBatches,
    twice_differentiable,
)
from dirprune.landscape.curvature.captured.capture import Uncaptured, capture
from dirprune.landscape.curvature.captured.engine import GraphEngine
from dirprune.landscape.curvature.selection import Check, compare, fastest
from dirprune.landscape.objectives.inputs import Inputs, apply, cut, map_tensors
from dirprune.landscape.objectives.loss_identity import loss_identity
from dirprune.landscape.objectives.objective import Objective
from dirprune.landscape.objectives.outputs import flatten
from dirprune.landscape.objectives.points import NamedTensors, unwrapped_name
from dirprune.landscape.objectives.weights import Loss

Mode = Literal["auto", "graph", "reverse-over-reverse", "forward-over-reverse"]
Parameters = Iterable[str] | Callable[[str, nn.Parameter], bool]
# Number of samples on which the methods are compared and timed.
_TRIAL = 32


class CurvatureProducts:
    """The base class of :class:`Hessian` and :class:`GaussNewton`."""

    _gauss_newton: bool

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: Any,
        *,
        batchnorm: Literal["eval", "batch"] = "eval",
        parameters: Parameters | None = None,
        dtype: torch.dtype | None = None,
        mode: Mode = "auto",
        keep: float | None = None,
    ) -> None:
        if batchnorm not in ("eval", "batch"):
            raise ValueError(f"batchnorm must be eval or batch, got {batchnorm!r}")
        self._objective = Objective(model, loss, data, dtype=dtype)
        if batchnorm == "batch":
            _normalise_by_batch(self._objective)
        with torch.no_grad(), true_float32():
            _make_out_of_place(self._objective.model, self._trial()[0][0])
        self._own = {n: p.detach() for n, p in self._objective.model.named_parameters()}
        self._mode, self._ready = mode, False
        self._engine: ProductEngine | None = None
        self.device = next(iter(self._own.values())).device
        self.dtype = self._objective.layout.dtype
        room = available_memory(self.device)
        self._keep = room / 4 if keep is None else min(keep, room)
        self._batchnorm = batchnorm
        self.loss = math.nan
        self.timings: dict[str, float] = {}
        self._select(parameters)

    def _select(self, parameters: Parameters | None) -> None:
        shapes = self._objective.layout.shapes
        if parameters is None:
            names = list(shapes)
        elif callable(parameters):
            own = dict(self._objective.model.named_parameters())
            names = [n for n in shapes if parameters(n, own[n])]
        else:
            asked = [parameters] if isinstance(parameters, str) else list(parameters)
            asked = [n if n in shapes else unwrapped_name(n) for n in asked]
            if unknown := [n for n in asked if n not in shapes]:
                raise ValueError(
                    f"{unknown[0]} is not a trainable parameter: use some of {', '.join(shapes)}"
                )
            names = [n for n in shapes if n in asked]
        if not names:
            raise ValueError("no parameter is selected: select at least one parameter")
        self.shapes = {n: shapes[n] for n in names}
        self.dimension = sum(shape.numel() for shape in self.shapes.values())
        self.products = 0

    def restricted(self, parameters: Parameters) -> Any:
        """Return the block of some parameters; both share model and data.

        Args:
            parameters: Names, or a predicate of name and parameter.
        """
        block = copy(self)
        block._select(parameters)
        if not isinstance(self._engine, GraphEngine):
            block._engine, block._ready = None, False
        return block

    def layers(self) -> dict[str, Any]:
        """Return the blocks on the diagonal by names of layers."""
        names: dict[str, list[str]] = {}
        for name in self.shapes:
            names.setdefault(name.rpartition(".")[0], []).append(name)
        return {layer: self.restricted(own) for layer, own in names.items()}

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply a vector with shape (d,), in the order of ``model.parameters()``.

        Raises:
            ValueError: If the vector does not fit, or the loss is not finite somewhere.
            TypeError: If the module cannot be differentiated twice.
        """
        if v.shape != (self.dimension,) or v.dtype != self.dtype:
            raise ValueError(
                f"the curvature has {self.dimension:,} dimensions in {self.dtype}, the vector has "
                f"shape {tuple(v.shape)} in {v.dtype}"
            )
        with true_float32(), twice_differentiable():
            engine = self._prepared()
            self.products += 1
            return self._multiply(engine, v, self._batches())

    @property
    def fingerprint(self) -> str:
        """A name for this matrix: a hash of weights, buffers, data, loss and selection."""
        hashed = hashlib.sha256(
            f"{type(self).__qualname__} {loss_identity(self._objective.loss)} {self._batchnorm} "
            f"{self._objective.data.digest} {[*self.shapes]}".encode()
        )
        for tensor in self._objective.model.state_dict().values():
            hash_tensor(hashed, tensor)
        return hashed.hexdigest()

    def check(self, seed: int = 0) -> Check:
        """Multiply three times over all the data, and compare the products."""
        u, v = self._drawn(seed)
        return compare(u, v, self(v), self(v), self(u))

    def _drawn(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(2, self.dimension, generator=generator).to(self.device, self.dtype)

    def _batches(self) -> WeightedBatches:
        """All batches in a single process, otherwise the share of this process."""
        rank, world = rank_and_world()
        weights = self._objective.weights()
        total = math.fsum(weights)
        pairs = zip(self._objective.batches(), weights)
        weighted = ((x, y, weight / total) for (x, y), weight in pairs if weight > 0)
        yield from islice(weighted, rank, None, world)

    @torch.no_grad()
    def _trial(self) -> list[tuple[Inputs, Tensor, float]]:
        """Return the first samples on which the loss is finite: not all targets are ignored."""
        model, loss = self._objective.model, self._objective.loss
        first = None
        for inputs, targets in self._objective.batches():
            for start in range(0, len(targets), _TRIAL):
                x, y = cut(inputs, start, start + _TRIAL), targets[start : start + _TRIAL]
                first = first or [(x, y, 1.0)]
                if bool(loss(apply(model, x), y).isfinite()):
                    return [(x, y, 1.0)]
        return first or []

    def _multiply(
        self, engine: ProductEngine, v: Tensor, batches: WeightedBatches, alone: bool = False
    ) -> Tensor:
        tangent: NamedTensors = {}
        start = 0
        for name, p in self._own.items():
            if name in self.shapes:
                tangent[name] = v[start : start + p.numel()].view(p.shape)
                start += p.numel()
            else:
                tangent[name] = torch.zeros_like(p)
        parts = engine.product(tangent, batches)
        # A process without batches contributes zero.
        flat = torch.cat(
            [
                parts.get(n, torch.zeros(s, device=self.device)).double().reshape(-1)
                for n, s in self.shapes.items()
            ]
        )
        if not alone and rank_and_world()[1] > 1:
            dist.all_reduce(flat)
        return flat.to(self.dtype)

    def _prepared(self) -> ProductEngine:
        if self._engine is None:
            self._engine = self._chosen()
        if not self._ready:
            mean = torch.tensor(self._engine.prepare(self._batches()), dtype=torch.float64)
            if rank_and_world()[1] > 1:
                dist.all_reduce(mean)
            self.loss = float(mean)
            if not math.isfinite(self.loss):
                raise ValueError(
                    f"the mean loss is {self.loss}: check the data for NaN and the weights for a "
                    "diverged run"
                )
            self._ready = True
        return self._engine

    def _chosen(self) -> ProductEngine:
        """Choose the fastest method: a captured network if possible, otherwise autograd."""
        try:
            captured = self._captured()
            if captured:
                return self._fastest(captured)
        except Exception:  # autograd may support what the captured network does not
            if self._mode == "graph":
                raise
        return self._fastest(self._plain())

    def _fastest(self, candidates: dict[str, ProductEngine]) -> ProductEngine:
        trial = self._trial()

        def multiply(engine: ProductEngine, v: Tensor) -> Tensor:
            return self._multiply(engine, v, trial, alone=True)

        for engine in candidates.values():
            if isinstance(engine, GraphEngine):
                engine.prepare(trial)
        name, self.timings = fastest(candidates, multiply, *self._drawn(0))
        return candidates[name]

    def _plain(self) -> dict[str, ProductEngine]:
        """The autograd methods that the mode allows."""
        arguments = (self._objective.model, self._own, [*self.shapes], self._objective.loss)
        plain: dict[str, ProductEngine]
        if self._gauss_newton:
            plain = {"forward-over-reverse": GaussNewtonByAutograd(*arguments)}
        else:
            plain = {
                "reverse-over-reverse": ReverseOverReverse(*arguments),
                "forward-over-reverse": ForwardOverReverse(*arguments),
            }
        if self._mode in plain:
            return {self._mode: plain[self._mode]}
        if self._mode not in ("auto", "graph"):
            known = ", ".join(["auto", "graph", *plain])
            raise ValueError(f"unknown mode {self._mode!r} for this curvature: use one of {known}")
        return plain

    def _captured(self) -> dict[str, ProductEngine]:
        """The methods over a captured network; empty if the captured network is not correct."""
        reference = next(iter(self._plain().values()))
        if self._mode not in ("auto", "graph"):
            return {}
        ((x, _, _),) = self._trial()
        if not isinstance(x, Tensor):
            if self._mode == "graph":
                raise TypeError("a network with several inputs is not captured: use mode auto")
            return {}
        try:
            graph = capture(self._objective.model, x[:8])
        except Uncaptured as error:
            if self._mode == "graph":
                raise TypeError(f"{error}: use mode auto") from error
            return {}
        formats = {"": torch.contiguous_format, ", channels last": torch.channels_last}
        images = any(p.dim() == 4 for p in self._own.values())
        captured: dict[str, ProductEngine] = {
            f"graph{suffix}": GraphEngine(
                *(graph, self._own, self._objective.loss),
                gauss_newton=self._gauss_newton,
                memory_format=formats[suffix],
                keep=self._keep / rank_and_world()[1],
            )
            for suffix in list(formats)[: 2 if images else 1]
        }
        if self._mode == "graph" or self._agree(captured["graph"], reference):
            return captured
        return {}

    def _agree(self, engine: ProductEngine, reference: ProductEngine) -> bool:
        """Whether the captured network is the one that autograd differentiates."""
        trial = [(cut(x, 0, 8), y[:8], 1.0) for x, y, _ in self._trial()]
        v = self._drawn(0)[0]
        engine.prepare(trial)
        found = self._multiply(engine, v, trial, alone=True)
        try:
            expected = self._multiply(reference, v, trial, alone=True)
        except Exception:  # autograd lacks a second derivative that the graph does not need
            return True
        error = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
        if error <= 10 * torch.finfo(self.dtype).eps ** 0.5:
            return True
        warnings.warn(
            f"the captured network differs from the model by {error:.1e} of a product: products "
            "are taken by autograd, which is slower",
            stacklevel=2,
        )
        return False


def _make_out_of_place(model: nn.Module, x: Inputs) -> None:
    """Turn ``inplace`` off if the output stays the same; in-place steps break some derivatives."""
    inplace = [m for m in model.modules() if getattr(m, "inplace", False) is True]
    if not inplace:
        return
    before = flatten(apply(model, map_tensors(Tensor.clone, x)))[0]
    for module in inplace:
        module.inplace = False  # type: ignore[assignment]
    after = flatten(apply(model, map_tensors(Tensor.clone, x)))[0]
    if not all(torch.equal(a, b) for a, b in zip(before, after)):  # a later step reads the change
        for module in inplace:
            module.inplace = True  # type: ignore[assignment]


def _normalise_by_batch(objective: Objective) -> None:
    """Make every BatchNorm use batch statistics in evaluation mode too."""
    for module in objective.model.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    for x, y in objective.batches():
        if len(y) == 1:
            try:
                with torch.no_grad():
                    apply(objective.model, x)
            except ValueError as error:
                raise ValueError(
                    f"a batch of one sample cannot be normalised ({error}): choose a "
                    "batch size that leaves no single sample, or batchnorm='eval'"
                ) from error
