"""What GRDA and AdamGRDA share: the state, the thresholds and the order of a step."""

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import ParamsT

from dirprune.kernels.together import Together
from dirprune.optimizer.options import check_group, check_options, power_of
from dirprune.optimizer.state import COUNTERS, ExactState, all_plans
from dirprune.plan import SparsityPlan
from dirprune.prox import invert_threshold, power_threshold
from dirprune.quantile import is_sharded, local_part
from dirprune.threshold import threshold_increment
from dirprune.update import (
    Batch,
    Group,
    Row,
    adopt,
    find_changed,
    may_use_triton,
    state_dtype,
    threshold,
    update,
)


class DualAveraging(ExactState):
    """An optimizer whose weights are the threshold of an accumulator that follows the gradients.

    The state of a parameter: n, its steps with a gradient at a rate above 0; g, its threshold; v,
    the accumulator, unless it is dense; and what the direction needs.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._left: dict[int, tuple[int, int]] = {}
        """Version and address of every weight as the last step left it."""
        self._phase = 0
        self._together: dict[int, Together] = {}
        """Groups on a GPU whose parameters all took the last step together."""

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, with the constructor's options where it names none.

        Args:
            param_group: ``{"params": ..., option: value, ...}``. With ``c=0`` and without a plan
                of its own it is dense.

        Raises:
            ValueError: If an option is out of its range.
            TypeError: If a parameter is complex.
        """
        if param_group.get("c") == 0:
            param_group.setdefault("plan", None)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_group(group, type(self).__name__)
            self._check_direction(group)
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
            closure: Evaluates the model again and returns the loss.

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
        batches, plans = self._advance(not torch.compiler.is_compiling())
        for batch in batches:
            update(batch)
        for plan in plans:
            self._renew(plan)
        if not all(batch.together for batch in batches):
            self._remember()
        return loss

    def thresholds(self) -> list[float]:
        """Return each param group's largest threshold g so far, 0 before its first step."""
        return [
            max((float(self.state.get(p, {}).get("g", 0.0)) for p in group["params"]), default=0.0)
            for group in self.param_groups
        ]

    @torch.no_grad()
    def reset_from_weights(self) -> None:
        r"""Adopt weights that were changed from outside, keeping n, g and the direction's state.

        Call it after loading a checkpoint into the model only, swapping in averaged weights, or
        masking by hand. v moves to the nearest point whose threshold is w:

        .. math::
            v \leftarrow \operatorname{sign}(w)\,(|w|^p + g^p)^{1/p}
                \;\text{ where } w \ne 0, \qquad
            v \leftarrow \operatorname{clip}(v, -g, g) \;\text{ where } w = 0

        A weight that is tiny beside g (about 1e-7 g at p = 1, 3e-4 g at p = 2) is absorbed by the
        rounding of v and becomes zero. NaN in v becomes 0, as does what is not finite in the
        momentum or the moments, so that good weights can be put back after a divergence.

        Example:
            >>> from dirprune import GRDA
            >>> w = torch.nn.Parameter(torch.ones(2))
            >>> optimizer = GRDA([w], lr=1.0, c=0.5, mu=0.5)
            >>> w.grad = torch.zeros(2)
            >>> optimizer.step()
            >>> with torch.no_grad(): _ = w.copy_(torch.tensor([-3.0, 0.0]))
            >>> optimizer.reset_from_weights()
            >>> optimizer.state[w]["v"]
            tensor([-3.5000,  0.5000])
        """
        for group in self.param_groups:
            for p in group["params"]:
                for name, value in self.state.get(p, {}).items():
                    if name == "v":
                        g, power = self.state[p]["g"], power_of(group)
                        value.copy_(invert_threshold(p.to(value.dtype), value, g, power))
                    elif isinstance(value, Tensor) and name not in COUNTERS:
                        value.nan_to_num_(0.0, 0.0, 0.0)

    def threshold_values(self, accumulators: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """Threshold other values of the accumulators as the current ones are.

        Args:
            accumulators: Parameters to values of v.

        Returns:
            Parameters to weights, in the values' dtype; those without an accumulator are left
            out.
        """
        weights = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p in accumulators and "v" in self.state.get(p, {}):
                    g = self.state[p]["g"]
                    weights[p] = power_threshold(accumulators[p], g, power_of(group))
        for plan in all_plans(self.param_groups):
            if plan.structure != "elements":
                pairs = [(p, accumulators[p]) for p, _ in self._planned(plan) if p in accumulators]
                new = plan.structured_weights(pairs, self._power_of(plan))
                weights |= {p: w for (p, _), w in zip(pairs, new)}
        return weights

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle or a deep copy; which weights are known is forgotten."""
        super().__setstate__(state)
        self._left, self._phase, self._together = {}, 0, {}

    # What a direction adds

    def _effective_lr(self, group: Group) -> float:
        """The rate by which the paper's threshold grows."""
        return float(group["lr"])

    def _check_direction(self, group: Group) -> None:
        """Check the options of the direction."""
        raise NotImplementedError

    def _direction_state(self, p: Tensor, group: Group, state: dict[str, Any]) -> None:
        """Make the direction's state where it is missing; a "step" in it is counted."""
        raise NotImplementedError

    # The order of a step

    @_disable_dynamo  # as on torch's own Optimizer.zero_grad: bookkeeping stays eager
    def _advance(self, eager: bool) -> tuple[list[Batch], list[SparsityPlan]]:
        """Advance counters and thresholds and sort the parameters into batches.

        Args:
            eager: Whether the step is not a compiled one.

        Returns:
            The batches, and the plans that renew their threshold after the step.
        """
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            self._check_capturable()
        moving: list[tuple[Group, list[tuple[Tensor, Tensor]], Together | None]] = []
        for group in self.param_groups:
            check_options(group)
            self._check_direction(group)
            together = self._all_together(group) if eager else None
            moving.append((group, [] if together else self._gradients(group), together))
        active = [(group, pairs or together) for group, pairs, together in moving]
        plans = all_plans(group for group, some in active if some and _is_moving(group))
        structured = [
            plan
            for plan in all_plans(group for group, some in active if some)
            if plan.structure != "elements"
        ]
        for plan in structured:
            plan.adopt_structure(self._planned(plan), self._power_of(plan))
        batches: list[Batch] = []
        for group, pairs, together in moving:
            if together:
                batches.append(self._advance_together(group, together))
            elif group["capturable"]:
                batches += self._advance_on_device(group, pairs)
            else:
                own = list(self._advance_group(group, pairs))
                self._note_together(group, own)
                batches += own
        for batch in batches:
            self._adopt(batch)
        due = [plan for plan in plans if self._advance_plan(plan)]
        return batches, due + [plan for plan in structured if plan not in due]

    def _advance_plan(self, plan: SparsityPlan) -> bool:
        """Count a step of the plan; return whether its threshold is renewed."""
        group = next(group for group in self.param_groups if group["plan"] is plan)
        if not group["capturable"]:
            return plan.advance()
        device = next(p.device for p in group["params"])
        plan.advance_on_device(_lr_on(group, device) > 0)
        return True

    def _advance_on_device(
        self, group: Group, pairs: list[tuple[Tensor, Tensor]]
    ) -> Iterable[Batch]:
        """Advance with all scalars on the device, so that a CUDA graph can repeat it.

        Parameters in lockstep share the tensors of their counters, so there are few of them.
        """
        plan, mu = group["plan"], group["mu"]
        places: dict[tuple[Any, ...], dict[str, Tensor]] = {}
        advanced: dict[int, tuple[Tensor, Tensor]] = {}
        batches: dict[tuple[Any, ...], Batch] = {}
        for p, grad in pairs:
            state = self.state[p]
            self._direction_state(p, group, state)
            if not isinstance(state.get("n"), Tensor):
                self._place_counters(p, group, places)
            n, g, step = state["n"], state["g"], state.get("step", state["n"])
            if "v" not in state and (plan or group["c"] > 0):
                state["v"] = p.detach().to(state_dtype(p), copy=True)
            lr = _lr_on(group, p.device)
            if id(n) not in advanced:
                advanced[id(n)] = lr, g.clone()
                if step is not n:
                    step += 1
                growth = (n + 1) ** mu - n**mu
                if not plan:
                    rate = lr * (self._effective_lr({**group, "lr": 1.0}))
                    g += group["c"] * rate ** (mu + 0.5) * growth
                n += lr > 0
            lr, g_before = advanced[id(n)]
            row = _row(p, grad, state)
            key = id(n), id(g), p.dtype, row.v is None
            if key not in batches:
                before = g if plan else g_before
                batches[key] = Batch(group, lr, g, before, step, power_of(group), [])
            batches[key].rows.append(row)
        return batches.values()

    def _place_counters(
        self, p: Tensor, group: Group, places: dict[tuple[Any, ...], dict[str, Tensor]]
    ) -> None:
        """Move n, g and Adam's step to the device, shared by parameters with the same ones."""
        state, plan = self.state[p], group["plan"]
        values = {name: float(state.get(name, 0)) for name in COUNTERS if name in state}
        values = {"n": 0.0, "g": float(plan.threshold) if plan else 0.0} | values
        # a plan gives every tensor a threshold of its own
        key = (*values.items(), p.device, id(p) if plan else None)
        if key not in places:
            places[key] = {
                name: torch.full((), value, dtype=torch.float64, device=p.device)
                for name, value in values.items()
            }
        state |= places[key]

    def _check_capturable(self) -> None:
        if not all(group["capturable"] for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}.step() inside the capture of a CUDA graph would freeze "
                "the threshold in the graph; make the optimizer with capturable=True"
            )

    def _advance_group(self, group: Group, pairs: list[tuple[Tensor, Tensor]]) -> Iterable[Batch]:
        lr, power, plan = float(group["lr"]), power_of(group), group["plan"]
        rate, c, mu = self._effective_lr(group), group["c"], group["mu"]
        if structured := plan is not None and plan.structure != "elements":
            power = 1.0  # the step leaves w = v, and the structure thresholds it
        grown: dict[tuple[int, float], tuple[int, float]] = {}
        batches: dict[tuple[Any, ...], Batch] = {}
        for p, grad in pairs:
            state = self.state[p]
            before = state.get("n", 0), state.get("g", 0.0)
            after = grown.get(before)
            if after is None:
                after = grown[before] = _grown(*before, rate, 0.0 if plan else c, mu)
            state["n"], state["g"] = after
            if plan and "v" not in state:
                state["g"] = plan.threshold  # at which the others are
            if "v" not in state and (plan or c > 0 or state["g"] > 0):
                state["v"] = p.detach().to(state_dtype(p), copy=True)
                before = 0, 0.0
            self._direction_state(p, group, state)
            if "step" in state:
                state["step"] += 1
            step = state.get("step", 0)
            row = _row(p, grad, state)
            g, g_before = (0.0, math.nan) if structured else (state["g"], before[1])
            key = g, g_before, step, p.dtype, p.device, row.v is None
            batch = batches.get(key)
            if batch is None:
                batch = Batch.empty(group, lr, g, g_before, step, power)
                batches[key] = batch
            batch.rows.append(row)
        return batches.values()

    def _planned(self, plan: SparsityPlan) -> list[tuple[Tensor, Tensor]]:
        """Every parameter of a plan that may change, with its v."""
        return [
            (p, self.state[p]["v"])
            for group in self.param_groups
            if group["plan"] is plan
            for p in group["params"]
            if p.requires_grad and "v" in self.state.get(p, {})
        ]

    def _power_of(self, plan: SparsityPlan) -> float:
        return next(power_of(group) for group in self.param_groups if group["plan"] is plan)

    def _all_together(self, group: Group) -> Together | None:
        """The parameters with their gradients, if all take this step as they took the last."""
        together = self._together.get(id(group))
        if together is None or len(together.w) != len(group["params"]):
            return None
        together = together._replace(grads=tuple(p.grad for p in together.w))
        return together if together.is_current(group) else None

    def _advance_together(self, group: Group, together: Together) -> Batch:
        """Advance parameters that share n, g and step: a short way past :meth:`_advance_group`."""
        states, plan = together.states, group["plan"]
        rate, c = self._effective_lr(group), 0.0 if plan else group["c"]
        n, g = _grown(states[0]["n"], before := states[0]["g"], rate, c, group["mu"])
        for state in states:
            state["n"], state["g"] = n, g
        step = 0
        if "step" in states[0]:
            step = states[0]["step"] + 1
            for state in states:
                state["step"] = step
        batch = Batch.empty(group, float(group["lr"]), g, before, step, power_of(group))
        return batch._replace(together=together)

    def _note_together(self, group: Group, batches: list[Batch]) -> None:
        """Remember that a group has taken this step in one batch on a GPU."""
        self._together.pop(id(group), None)
        rows = batches[0].rows if len(batches) == 1 else []
        if len(rows) != len(group["params"]) or not rows or not may_use_triton(group, rows[0].w):
            return
        if group["plan"] and group["plan"].structure != "elements":
            return
        if all(map(operator.is_, (row.w for row in rows), group["params"])):
            together = Together.of(rows, [self.state[p] for p in group["params"]])
            if together is not None:
                self._together[id(group)] = together

    def _renew(self, plan: SparsityPlan) -> None:
        """Choose a plan's thresholds from all its accumulators and apply them."""
        if plan.structure != "elements":
            plan.apply_structure(self._planned(plan), self._power_of(plan))
            for p, _ in self._planned(plan):
                self.state[p]["g"] = float(plan.threshold)
            return
        for batch in self._replan(plan):
            threshold(batch)

    @_disable_dynamo
    def _replan(self, plan: SparsityPlan) -> list[Batch]:
        members = [
            (group, i, p)
            for group in self.param_groups
            if group["plan"] is plan
            for i, p in enumerate(group["params"])
            if p.requires_grad and "v" in self.state.get(p, {})
        ]
        for group, _, p in members:
            if p.grad is None:
                g = float(self.state[p]["g"])
                batch = Batch.empty(group, 0.0, g, g, 0, power_of(group))
                batch.rows.append(_row(p, None, self.state[p]))
                self._adopt(batch)
                if p.is_cuda:
                    adopt(batch)
        accumulators = [self.state[p]["v"] for _, _, p in members]
        if members and members[0][0]["capturable"]:
            batches_ = []
            for (group, _, p), level in zip(members, plan.choose_on_device(accumulators)):
                g = self.state[p]["g"]
                g.copy_(level)
                row = _row(p, None, self.state[p])
                batches_.append(Batch(group, g, g, g, g, power_of(group), [row]))
            return batches_
        levels = plan.choose(accumulators, [_name(*member) for member in members])
        batches: dict[tuple[Any, ...], Batch] = {}
        for (group, _, p), g in zip(members, levels):
            self.state[p]["g"] = g
            key = id(group), g, p.dtype, p.device
            if key not in batches:
                batches[key] = Batch.empty(group, 0.0, g, g, 0, power_of(group))
            batches[key].rows.append(_row(p, None, self.state[p]))
        return list(batches.values())

    # Weights that were changed from outside

    def _adopt(self, batch: Batch) -> None:
        """Adopt the weights of the rows on the CPU that were changed since the last step.

        Assigning to a weight or copying into it moves its version counter or its storage; a write
        through ``.data`` does not, so the others are compared on a sample.
        """
        if batch.together:
            return
        first = batch.rows[0]
        if first.v is None or not first.w.is_cpu or batch.group["capturable"]:
            return
        if batch.g_before.isnan():
            return
        changed = [row for row in batch.rows if self._left.get(id(row.w)) != _identity(row.w)]
        known = {id(row.w) for row in changed}
        rest = [row for row in batch.rows if id(row.w) not in known]
        if rest:
            self._phase += 1
            changed += find_changed(batch._replace(rows=rest), self._phase)
        if changed:
            adopt(batch._replace(rows=changed))

    @_disable_dynamo
    def _remember(self) -> None:
        """Note what identifies the weights as this step leaves them."""
        self._left = {
            id(p): _identity(p)
            for p, state in self.state.items()
            if "v" in state and not is_sharded(type(p))
        }

    def _gradients(self, group: Group) -> list[tuple[Tensor, Tensor]]:
        """The parameters that have a gradient, with it."""
        pairs = [(p, grad) for p in group["params"] if (grad := p.grad) is not None]
        for p, grad in pairs:
            if grad.layout is not torch.strided:
                raise TypeError(
                    f"{type(self).__name__} needs dense gradients, got {grad.layout} for a "
                    f"parameter of shape {tuple(p.shape)}; use sparse=False in the embedding"
                )
        return pairs


def _is_moving(group: Group) -> bool:
    """Whether the rate is above 0; on the device it is asked there."""
    return group["capturable"] or float(group["lr"]) > 0


def _lr_on(group: Group, device: torch.device) -> Tensor:
    lr = group["lr"]
    if isinstance(lr, Tensor):
        return lr.to(device, torch.float64)
    # filled there: a copy from the host cannot be captured
    return torch.full((), float(lr), dtype=torch.float64, device=device)


def _grown(n: int, g: float, rate: float, c: float, mu: float) -> tuple[int, float]:
    """The counter and the threshold after one more step at a rate."""
    if rate == 0:
        return n, g
    return n + 1, g + threshold_increment(n + 1, rate, c, mu) if c else g


def _identity(p: Tensor) -> tuple[int, int]:
    return p._version, p.data_ptr()


def _row(p: Tensor, grad: Tensor | None, state: dict[str, Any]) -> Row:
    m = state.get("momentum_buffer", state.get("exp_avg"))
    row = Row(p, state.get("v"), grad, m, state.get("exp_avg_sq"))
    if not is_sharded(type(p)):
        return row
    # the shards suffice, since a step is elementwise
    return Row(*(None if t is None else local_part(t) for t in row))


def _name(group: Group, index: int, p: Tensor) -> str:
    """The parameter's name if the optimizer was given names, otherwise its place."""
    if names := group.get("param_names"):
        return str(names[index])
    return f"parameter {index} of its group, of shape {tuple(p.shape)},"
