"""gRDA (Chao et al., 2020): SGD in a dual variable, soft-thresholded at every step."""

import math
import numbers
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import Optimizer, ParamsT

from dirprune._support import native
from dirprune.threshold import threshold_increment
from dirprune.update import Batch, local, state_dtype, update

Group = dict[str, Any]


class GRDA(Optimizer):
    r"""Generalised regularised dual averaging: SGD that trains a sparse network.

    An accumulator :math:`v` starts at the weights and follows SGD; the weights are its soft
    threshold, so zeros are exact, appear during training, and may come back to life:

    .. math::
        g_n &= g_{n-1} + c\,\gamma_n^{\mu + 1/2}\,(n^\mu - (n-1)^\mu) \\
        v_n &= v_{n-1} - \gamma_n \nabla f(w_{n-1}) \\
        w_n &= \operatorname{sign}(v_n)\,[\,|v_n| - g_n\,]_+

    n and g belong to a parameter and advance only at steps at which it has a gradient and the
    rate is above 0. A param group with ``c=0`` from its start follows plain SGD and stores no
    accumulator; where c becomes 0 later, g stays what it is.

    Args:
        params: Parameters, or param groups, each with its own options.
        lr: Learning rate :math:`\gamma \ge 0`; what works for SGD without momentum. Any scheduler
            may change it: later increments of g use the current rate, earlier ones stay.
        c: Scale of the threshold, :math:`c \ge 0`; larger is sparser, mostly early. The paper
            uses 5e-4 (VGG16), 1e-3 (WRN28x10) and 5e-3 (ResNet-50, the default).
        mu: Growth exponent in (0, 1]; larger is sparser. The theory asks for (1/2, 1); the
            paper suggests to try .501, .51 (the default) and .55 first; 1 is Xiao's l1-RDA.
        momentum: Heavy-ball factor :math:`\beta` in [0, 1).
        nesterov: Nesterov's form of momentum.
        weight_decay: Coefficient of an l2 penalty, at least 0.
        maximize: Ascend instead of descend.
        foreach: Update many tensors a call; by default on CUDA only.
        fused: Update in one pass with the C++ extension; by default where it is installed and
            the parameters are float32 on the CPU. The bits are those of the other paths, whose
            multiply-adds torch rounds once on CPUs that can.

    Raises:
        ValueError: If an option is out of its range (also when a scheduler sets it later) or a
            group is empty.
        TypeError: If a parameter is complex or a gradient sparse.

    Note:
        Differences from the paper and its authors' code. Momentum, weight decay and ``maximize``
        are extensions; with momentum the threshold grows with the effective rate
        :math:`\gamma / (1 - \beta)`. Accumulators of bfloat16 and float16 parameters are float32.
        The authors' class keeps n and g in float32 tensors, ours are Python numbers. Weights that
        are changed from outside are overwritten from v at the next step unless
        :meth:`reset_from_weights` is called.

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
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "c": c,
            "mu": mu,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, with the constructor's options where it names none.

        Args:
            param_group: ``{"params": ..., option: value, ...}``.

        Raises:
            ValueError: If an option is out of its range or the group is empty.
            TypeError: If a parameter is complex.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check(group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step with the gradients that are there.

        Args:
            closure: Evaluates the model anew and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            ValueError: If a scheduler has set an option out of its range.
            TypeError: If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for batch, group in self._advance():
            update(batch, group)
        return loss

    def thresholds(self) -> list[float]:
        """Return each param group's largest threshold g so far, 0 before its first step."""
        return [
            max((self.state.get(p, {}).get("g", 0.0) for p in group["params"]), default=0.0)
            for group in self.param_groups
        ]

    @torch.no_grad()
    def reset_from_weights(self) -> None:
        r"""Adopt weights that were changed from outside, keeping n, g and momentum.

        Call it after loading a checkpoint into the model only, swapping in averaged weights, or
        masking by hand. v moves to the nearest point whose soft threshold is w:

        .. math::
            v \leftarrow w + g \operatorname{sign}(w) \;\text{ where } w \ne 0, \qquad
            v \leftarrow \operatorname{clip}(v, -g, g) \;\text{ where } w = 0

        A weight smaller than about 1e-7 g is absorbed by the rounding of v and becomes zero. NaN
        in v becomes 0, as does what is not finite in the momentum, so that good weights can be
        put back after a divergence.

        Example:
            >>> w = torch.nn.Parameter(torch.ones(2))
            >>> optimizer = GRDA([w], lr=1.0, c=0.5, mu=0.5)
            >>> w.grad = torch.zeros(2)
            >>> optimizer.step()
            >>> with torch.no_grad(): _ = w.copy_(torch.tensor([-3.0, 0.0]))
            >>> optimizer.reset_from_weights()
            >>> optimizer.state[w]["v"]
            tensor([-3.5000,  0.5000])
        """
        for p, state in self.state.items():
            if "v" in state:
                v, g = state["v"], state["g"]
                w = p.to(v.dtype)
                v.copy_(torch.where(w == 0, v.nan_to_num(0.0).clamp(-g, g), w + g * w.sign()))
            if "momentum_buffer" in state:
                state["momentum_buffer"].nan_to_num_(0.0, 0.0, 0.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state bit for bit, in the dtypes in which it was saved.

        torch's own method would cast accumulators and momenta to the parameter's dtype, which
        loses the float32 accumulators of half-precision parameters.

        Args:
            state_dict: From :meth:`state_dict` of an optimizer with the same groups.

        Raises:
            ValueError: If the groups or the parameters' shapes differ.
        """
        loaded: dict[str, Any] = {}

        def see(_: Optimizer, processed: dict[str, Any]) -> None:
            loaded.update(processed)
            for p, saved in self._pairs(processed):
                for key, value in saved.items():
                    if isinstance(value, Tensor) and value.shape != p.shape:
                        raise ValueError(
                            f"the saved {key} has shape {tuple(value.shape)}, the parameter "
                            f"{tuple(p.shape)}: load the state of an optimizer of this model"
                        )

        def restore(_: Optimizer) -> None:
            for p, saved in self._pairs(loaded):
                for key, value in saved.items():
                    if isinstance(value, Tensor):
                        self.state[p][key] = torch.empty_like(p, dtype=value.dtype).copy_(value)

        hooks = [
            self.register_load_state_dict_pre_hook(see),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        ]
        try:
            with torch.no_grad():
                super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _pairs(self, state_dict: dict[str, Any]) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Every parameter with its state in the dictionary."""
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        parameters = (p for group in self.param_groups for p in group["params"])
        return ((p, state_dict["state"].get(i, {})) for p, i in zip(parameters, saved))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle or a deep copy."""
        super().__setstate__(state)
        for group in self.param_groups:
            for option, value in self.defaults.items():
                group.setdefault(option, value)

    @_disable_dynamo  # as on torch's own Optimizer.zero_grad: bookkeeping stays eager
    def _advance(self) -> list[tuple[Batch, Group]]:
        """Advance n and g and sort the parameters into batches that share one computation."""
        checked = []
        for group in self.param_groups:
            _check_options(group)
            checked.append((group, _gradients(group)))
        return [
            (batch, group)
            for group, pairs in checked
            for batch in self._advance_group(group, pairs)
        ]

    def _advance_group(self, group: Group, pairs: list[tuple[Tensor, Tensor]]) -> Iterable[Batch]:
        lr, c, mu, momentum = float(group["lr"]), group["c"], group["mu"], group["momentum"]
        grown: dict[tuple[int, float], tuple[int, float]] = {}
        batches: dict[tuple[Any, ...], Batch] = {}
        for p, grad in pairs:
            state = self.state[p]
            before = state.get("n", 0), state.get("g", 0.0)
            after = grown.get(before)
            if after is None:
                after = grown[before] = _grown(*before, lr / (1 - momentum), c, mu)
            state["n"], state["g"] = after
            v, m = state.get("v"), state.get("momentum_buffer")
            if v is None and (c > 0 or after[1] > 0):
                v = state["v"] = p.detach().to(state_dtype(p), copy=True)
            if m is None and momentum:
                m = state["momentum_buffer"] = torch.zeros_like(p, dtype=state_dtype(p))
            key = after[1], p.dtype, p.device, v is None
            batch = batches.get(key)
            if batch is None:
                batch = batches[key] = Batch.empty(lr, after[1])
            row = p, v, grad, m
            batch.rows.append(local(row) if _is_sharded(type(p)) else row)
        return batches.values()


def _grown(n: int, g: float, lr: float, c: float, mu: float) -> tuple[int, float]:
    """The counter and the threshold after one more step at a rate."""
    if lr == 0:
        return n, g
    return n + 1, g + threshold_increment(n + 1, lr, c, mu) if c else g


@cache
def _is_sharded(kind: type) -> bool:
    """Whether tensors of this class are DTensors, without importing them."""
    return hasattr(kind, "to_local")


def _gradients(group: Group) -> list[tuple[Tensor, Tensor]]:
    """The parameters that have a gradient, with it."""
    pairs = [(p, grad) for p in group["params"] if (grad := p.grad) is not None]
    for p, grad in pairs:
        if grad.layout is not torch.strided:
            raise TypeError(
                f"GRDA needs dense gradients, got {grad.layout} for a parameter of shape "
                f"{tuple(p.shape)}; use sparse=False in the embedding"
            )
    return pairs


def _check(group: Group) -> None:
    _check_options(group)
    if not group["params"]:
        raise ValueError("a param group is empty; leave it out or give it parameters")
    for p in group["params"]:
        if p.is_complex():
            raise TypeError(
                f"GRDA needs real parameters, got {p.dtype} of shape {tuple(p.shape)}; "
                "optimise torch.view_as_real of it"
            )


def _check_options(group: Group) -> None:
    for option in ("lr", "c", "mu", "momentum", "weight_decay"):
        value = group[option]
        if not isinstance(value, numbers.Real) and not (
            option == "lr" and isinstance(value, Tensor) and value.numel() == 1
        ):
            raise TypeError(f"{option} must be a number, got {value!r}")
    for option in ("lr", "c", "weight_decay"):
        if not 0 <= group[option] < math.inf:
            raise ValueError(f"{option} must be at least 0 and finite, got {group[option]}")
    if not 0 < group["mu"] <= 1:
        raise ValueError(f"mu must lie in (0, 1], got {group['mu']}")
    if not 0 <= group["momentum"] < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {group['momentum']}")
    if group["nesterov"] and not group["momentum"]:
        raise ValueError("nesterov needs momentum above 0")
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach and fused exclude each other; leave one of them None")
    if group["fused"] and native.grda_step() is None:
        raise ValueError(
            "fused=True needs dirprune's C++ extension, which this installation does not have; "
            "leave fused=None for the fastest path there is"
        )
