"""The curvature of a loss at a network's weights, as products over all the data."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from copy import copy
from itertools import islice
from typing import Any, Literal, NamedTuple

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dirprune._support.processes import broadcast_from_rank0, rank_and_world
from dirprune.landscape.curvature.engines import (
    Batches,
    Engine,
    ForwardOverReverse,
    GaussNewtonByAutograd,
    GraphEngine,
    NotTwiceDifferentiable,
    ReverseOverReverse,
)
from dirprune.landscape.curvature.graph import Uncaptured, capture
from dirprune.landscape.curvature.pearlmutter import Tensors
from dirprune.landscape.objectives.objective import Loss, Objective

Mode = Literal["auto", "graph", "reverse-over-reverse", "forward-over-reverse"]
Parameters = Iterable[str] | Callable[[str, nn.Parameter], bool]
# Samples on which ways to multiply are compared and timed.
_TRIAL = 32


class Check(NamedTuple):
    r"""How far products are from what they should be, relative to their length.

    Attributes:
        asymmetry: :math:`|u^\top H v - v^\top H u|` over the lengths of u and H v.
        difference: Between two products with the same vector.
    """

    asymmetry: float
    difference: float


class _Curvature:
    """What :class:`Hessian` and :class:`GaussNewton` share."""

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
            _normalise_by_batch(self._objective.model)
        self._own = {n: p.detach() for n, p in self._objective.model.named_parameters()}
        self._mode, self._ready = mode, False
        self._engine: Engine | None = None
        self._keep = psutil.virtual_memory().available / 4 if keep is None else keep  # type: ignore[no-untyped-call]
        self.device = next(iter(self._own.values())).device
        self.dtype = self._objective.layout.dtype
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
            if unknown := [n for n in asked if n not in shapes]:
                raise ValueError(
                    f"{unknown[0]} is no trainable parameter: give some of {', '.join(shapes)}"
                )
            names = [n for n in shapes if n in asked]
        if not names:
            raise ValueError("no parameter is selected: the curvature has no dimension")
        self.shapes = {n: shapes[n] for n in names}
        self.dimension = sum(shape.numel() for shape in self.shapes.values())
        self.products = 0

    def restricted(self, parameters: Parameters) -> Any:
        """Return the block of some parameters; both share model and data.

        Args:
            parameters: Names, or a function of name and parameter that tells whether it belongs.
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
        engine = self._prepared()
        self.products += 1
        return self._multiply(engine, v, self._batches())

    def check(self, seed: int = 0) -> Check:
        """Multiply three times over all the data, and compare what has to be equal."""
        u, v = self._drawn(seed)
        return _compared(u, v, self(v), self(v), self(u))

    def _drawn(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(2, self.dimension, generator=generator).to(self.device, self.dtype)

    def _batches(self) -> Batches:
        """Every batch in one process; else this one's part of them."""
        rank, world = rank_and_world()
        samples = self._objective.data.samples
        for x, y in islice(self._objective.batches(), rank, None, world):
            yield x, y, len(y) / samples

    def _trial(self) -> list[tuple[Tensor, Tensor, float]]:
        x, y = next(self._objective.batches())
        return [(x[:_TRIAL], y[:_TRIAL], 1.0)]

    def _multiply(
        self, engine: Engine, v: Tensor, batches: Batches, alone: bool = False
    ) -> Tensor:
        tangent: Tensors = {}
        start = 0
        for name, p in self._own.items():
            if name in self.shapes:
                tangent[name] = v[start : start + p.numel()].view(p.shape)
                start += p.numel()
            else:
                tangent[name] = torch.zeros_like(p)
        parts = engine.product(tangent, batches)
        # A process without a batch of its own adds nothing.
        flat = torch.cat(
            [
                parts.get(n, torch.zeros(s, device=self.device)).double().reshape(-1)
                for n, s in self.shapes.items()
            ]
        )
        if not alone and rank_and_world()[1] > 1:
            dist.all_reduce(flat)
        return flat.to(self.dtype)

    def _prepared(self) -> Engine:
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

    def _chosen(self) -> Engine:
        """Compare the ways to multiply on part of a batch, and take the fastest."""
        trial, candidates = self._trial(), self._candidates()
        u, v = self._drawn(0)
        twice: dict[str, list[Tensor]] = {}
        failures: list[Exception] = []
        for name, engine in candidates.items():
            try:
                engine.prepare(trial)
                twice[name] = [self._multiply(engine, v, trial, alone=True)]
            except (NotTwiceDifferentiable, RuntimeError) as error:
                failures.append(error)  # torch's forward mode lacks some operations
                continue
            start = time.perf_counter()
            twice[name].append(self._multiply(engine, v, trial, alone=True))
            self.timings[name] = time.perf_counter() - start
        if not self.timings:
            for failure in failures:
                if isinstance(failure, NotTwiceDifferentiable):
                    raise TypeError(str(failure)) from failure
            raise failures[0]
        best = broadcast_from_rank0(min(self.timings, key=lambda name: self.timings[name]))
        engine = candidates[best]
        once, again = twice[best]
        check = _compared(u, v, once, again, self._multiply(engine, u, trial, alone=True))
        rounding = torch.finfo(self.dtype).eps ** 0.5
        if not check.difference <= rounding:
            raise ValueError(
                f"two products with the same vector differ by {check.difference:.1e} of their "
                "length: is there randomness in the model that evaluation mode does not turn off?"
            )
        if not check.asymmetry <= rounding:
            if failures:  # and what is left went wrong without a word
                raise TypeError(str(failures[0])) from failures[0]
            raise ValueError(
                f"the products are not symmetric, u'Hv - v'Hu is {check.asymmetry:.1e} of its "
                "size: does an operation of the model have a wrong or missing second derivative?"
            )
        return engine

    def _candidates(self) -> dict[str, Engine]:
        model, own, loss = self._objective.model, self._own, self._objective.loss
        names, mode = list(self.shapes), self._mode
        if self._gauss_newton:
            plain: dict[str, Engine] = {
                "forward-over-reverse": GaussNewtonByAutograd(model, own, names, loss)
            }
        else:
            plain = {
                "reverse-over-reverse": ReverseOverReverse(model, own, names, loss),
                "forward-over-reverse": ForwardOverReverse(model, own, names, loss),
            }
        if mode in plain:
            return {mode: plain[mode]}
        if mode not in ("auto", "graph"):
            known = ", ".join(["auto", "graph", *plain])
            raise ValueError(f"there is no mode {mode!r} for this curvature: take {known}")
        try:
            graph = capture(model)
            captured: dict[str, Engine] = {}
            images = any(p.dim() == 4 for p in own.values())
            layouts = {"": torch.contiguous_format, ", channels last": torch.channels_last}
            for suffix, layout in list(layouts.items())[: 2 if images else 1]:
                captured[f"graph{suffix}"] = GraphEngine(
                    *(graph, own, loss),
                    gauss_newton=self._gauss_newton,
                    layout=layout,
                    keep=self._keep / rank_and_world()[1],
                )
        except Uncaptured as error:
            if mode == "graph":
                raise TypeError(f"{error}: take mode auto") from error
            return plain
        reference = next(iter(plain.values()))
        if mode == "graph" or self._agree(next(iter(captured.values())), reference):
            return captured
        return plain

    def _agree(self, engine: Engine, reference: Engine) -> bool:
        """Whether what was captured is the network that autograd sees."""
        trial = [(x[:8], y[:8], 1.0) for x, y, _ in self._trial()]
        v = torch.randn(self.dimension, generator=torch.Generator().manual_seed(0))
        v = v.to(self.device, self.dtype)
        engine.prepare(trial)
        found = self._multiply(engine, v, trial, alone=True)
        try:
            expected = self._multiply(reference, v, trial, alone=True)
        except (NotTwiceDifferentiable, RuntimeError):
            return True  # the graph needs no second derivative of torch
        error = float((found - expected).norm() / expected.norm().clamp(min=1e-30))
        if error <= 10 * torch.finfo(self.dtype).eps ** 0.5:
            return True
        warnings.warn(
            f"the captured network differs from the model by {error:.1e} of a product: products "
            "are taken by autograd, which is slower",
            stacklevel=2,
        )
        return False


class Hessian(_Curvature):
    r"""The Hessian of the mean loss by all trainable weights, as products.

    .. math:: H v = \frac1N \sum_{i=1}^N \nabla^2_w \ell(f_w(x_i), y_i)\, v

    over all the data, exact for batches of unequal sizes, summed in float64. Works on a private
    copy in evaluation mode, dropout off. In a process group every process multiplies its share of
    the batches, and all of them have to call.

    If all operations are known, the network is captured as steps, frozen BatchNorm is folded into
    the convolutions before it, and products are Pearlmutter's R-operator; what does not depend on
    the vector is kept between products where memory allows. Otherwise both orders of autograd are
    timed on part of a batch, and the faster is taken.

    Where the network has kinks, ReLU or max-pooling, the Hessian jumps: a unit whose input is
    rounding, about 1e-7 in float32, is on or off as the order of summation decides, which differs
    between memory formats, batch sizes, libraries and float64. One such unit among millions can
    change a product by 1e-3 of its length, and each of them is a Hessian: that of weights which
    differ in the last digit. One object always multiplies by the same; two may not.

    Args:
        model: Any module that maps a batch of inputs to outputs.
        loss: Mean loss of a batch, such as ``F.cross_entropy``.
        data: Frozen and un-augmented: a list of (inputs, targets), a DataLoader without shuffling,
            or two tensors; two passes over it are compared.
        batchnorm: ``eval`` normalises by the running statistics. ``batch`` normalises every batch
            by its own, through which weights act as well; then the batches matter.
        parameters: Names of those to differentiate by, or a function of name and parameter that
            tells; by default all that are trainable.
        dtype: Of the arithmetic, by default the model's own.
        mode: ``auto`` as described, or the way to multiply.
        keep: Bytes for what does not depend on the vector, by default a quarter of the memory that
            is available.

    Raises:
        TypeError: If model, loss or data are not of their kind, or an operation cannot be
            differentiated twice: it is named.
        ValueError: If the data is empty or changes, the loss is not finite, the products are not
            symmetric or not the same twice, or nothing is selected.

    Attributes:
        dimension: d.
        dtype: Of vectors.
        device: Of vectors.
        shapes: Of the selected parameters by name, in the order in which they lie in a vector.
        products: Multiplied so far.
        loss: The mean loss, once a product was taken.
        timings: Seconds that each way took on part of a batch.

    References:
        Fast Exact Multiplication by the Hessian (Pearlmutter, 1994)

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> model = nn.Linear(2, 1, bias=False)
        >>> hessian = Hessian(model, nn.functional.mse_loss, (x, torch.zeros(2, 1)))
        >>> hessian(torch.tensor([1.0, 0.0]))
        tensor([2., 2.])
    """

    _gauss_newton = False


class GaussNewton(_Curvature):
    r"""The generalised Gauss-Newton matrix, which leaves the network's own curvature out.

    .. math:: G = \frac1N \sum_{i=1}^N J_i^\top \, \nabla^2_z \ell(z_i, y_i)\, J_i, \qquad
        J_i = \frac{\partial f_w(x_i)}{\partial w}

    It has no negative eigenvalues where the loss is convex in the outputs, is the Hessian where
    the network is linear in its weights, and for cross-entropy is Fisher's information. Arguments
    and attributes are those of :class:`Hessian`.

    References:
        New Insights and Perspectives on the Natural Gradient Method (Martens, 2020), section 8,
        https://arxiv.org/abs/1412.1193

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
        >>> model = nn.Linear(2, 1, bias=False)
        >>> matrix = GaussNewton(model, nn.functional.mse_loss, (x, torch.zeros(2, 1)))
        >>> matrix(torch.tensor([0.0, 1.0]))
        tensor([2., 4.])
    """

    _gauss_newton = True


def _compared(u: Tensor, v: Tensor, once: Tensor, again: Tensor, other: Tensor) -> Check:
    """Compare two products with v, and them with one with u."""
    length = max(float(once.norm()), float(other.norm()), torch.finfo(v.dtype).tiny)
    asymmetry = abs(float(u @ once - v @ other)) / (length * float(u.norm()))
    return Check(asymmetry, float((once - again).norm()) / length)


def _normalise_by_batch(model: nn.Module) -> None:
    """Make every BatchNorm use its batch in evaluation mode too."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
