"""The base class of GRDA and AdamGRDA: state, thresholds and the steps of an update."""

import operator
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.optim.optimizer import ParamsT

from dirprune.batch import Group, ParameterBatch
from dirprune.changes import LastWeights
from dirprune.kernels.prepared_group import PreparedGroup
from dirprune.optimizer.advance import (
    Pairs,
    advance_group,
    advance_on_device,
    advance_prepared,
    kind_of_tables,
    prepare_group,
)
from dirprune.optimizer.options import check_group, check_options, power_of
from dirprune.optimizer.planned import Planned
from dirprune.optimizer.state import COUNTERS, ExactState, all_plans
from dirprune.plan import SparsityPlan
from dirprune.prox import invert_threshold, power_threshold
from dirprune.update import update


class DualAveraging(ExactState):
    """An optimizer whose weights are a thresholded accumulator of the gradients.

    The state of a parameter: n, the number of its steps with a gradient and a rate above 0; g, its
    threshold; v, the accumulator, unless it is dense; and the state of the direction.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._identity = object()
        """Identifies this optimizer in its plans."""
        self._own_plans: dict[int, tuple[SparsityPlan, SparsityPlan]] = {}
        """Given plans by their ids, with the plans that are used."""
        super().__init__(params, defaults)
        self._last = LastWeights()
        self._prepared: dict[int, PreparedGroup | None] = {}
        """Groups whose parameters all took the last step together."""

    def add_param_group(self, param_group: Group) -> None:
        """Add a param group; options that it does not name are those of the constructor.

        Args:
            param_group: ``{"params": ..., option: value, ...}``. With ``c=0`` and without its own
                plan it is dense.

        Raises:
            ValueError: If an option is out of its range.
            TypeError: If a parameter is complex.
        """
        if param_group.get("c") == 0:
            param_group.setdefault("plan", None)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if isinstance(plan := group["plan"], SparsityPlan):
            group["plan"] = self._own(plan)
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
        """Take one step with the current gradients.

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
        batches, due = self._advance(not torch.compiler.is_compiling())
        for batch in batches:
            update(batch)
        for planned in due:
            planned.renew(self._last)
        if due or not all(batch.prepared or batch.rows[0].v is None for batch in batches):
            self._last.remember(self.state)
            for key in {id(batch.group) for batch in batches}:
                if prepared := self._prepared.get(key):
                    prepared.remember()
        return loss

    def thresholds(self) -> list[float]:
        """Return the largest current threshold g of each param group, 0 before its first step."""
        return [
            max((float(self.state.get(p, {}).get("g", 0.0)) for p in group["params"]), default=0.0)
            for group in self.param_groups
        ]

    @torch.no_grad()
    def reset_from_weights(self) -> None:
        r"""Adopt weights that were changed from outside, keeping n, g and the direction's state.

        Call it after loading a checkpoint into the model but not into the optimizer, after
        replacing weights by averages, or after masking by hand. v is set to the nearest point
        whose threshold is w:

        .. math::
            v \leftarrow \operatorname{sign}(w)\,(|w|^p + g^p)^{1/p}
                \;\text{ where } w \ne 0, \qquad
            v \leftarrow \operatorname{clip}(v, -g, g) \;\text{ where } w = 0

        A weight that is much smaller than g (about 1e-7 g at p = 1, 3e-4 g at p = 2) is lost in
        the rounding of v and becomes zero. NaN in v and non-finite momenta and moments become 0,
        so that training can continue from good weights after a divergence.

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
        """Apply the current thresholds to other values of the accumulators.

        Args:
            accumulators: Maps parameters to values of v.

        Returns:
            Maps parameters to weights, in the dtype of the values. Parameters without an
            accumulator are skipped.
        """
        weights = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p in accumulators and "v" in self.state.get(p, {}):
                    g = self.state[p]["g"]
                    weights[p] = power_threshold(accumulators[p], g, power_of(group))
        for planned in self._planned(self.param_groups):
            if planned.is_structured:
                weights |= planned.structured_weights(accumulators)
        return weights

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore from a pickle or a deep copy, without the identities of the weights."""
        super().__setstate__(state)
        self._last, self._prepared = LastWeights(), {}
        self.__dict__.setdefault("_identity", object())  # a loaded state keeps it, a copy has none
        self._own_plans = {}
        for plan in all_plans(self.param_groups):
            if isinstance(plan, SparsityPlan):  # load_state_dict passes plain dictionaries
                plan.taken_by(self._identity)

    # Methods of a direction

    def _effective_lr(self, group: Group) -> float:
        """The learning rate for the growth of the paper's threshold."""
        return float(group["lr"])

    def _check_direction(self, group: Group) -> None:
        """Check the options of the direction."""
        raise NotImplementedError

    def _direction_state(self, p: Tensor, group: Group, state: dict[str, Any]) -> None:
        """Create the direction's state if it is missing; a "step" in it is counted."""
        raise NotImplementedError

    # The steps of an update

    @_disable_dynamo  # as on torch's Optimizer.zero_grad: bookkeeping is not compiled
    def _advance(self, eager: bool) -> tuple[list[ParameterBatch], list[Planned]]:
        """Advance counters and thresholds, and group the parameters into batches.

        Returns:
            The batches, and the plans that renew their threshold after the step.
        """
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            self._check_capturable()
        moving: list[tuple[Group, Pairs, PreparedGroup | None]] = []
        for group in self.param_groups:
            check_options(group)
            self._check_direction(group)
            prepared = self._prepared_group(group) if eager else None
            moving.append((group, [] if prepared else self._gradients(group), prepared))
        active = [group for group, pairs, prepared in moving if pairs or prepared]
        plans = self._planned(group for group in active if _is_moving(group))
        structured = [planned for planned in self._planned(active) if planned.is_structured]
        for planned in structured:
            planned.adopt_structure()
        batches = [batch for entry in moving for batch in self._advance_group(*entry)]
        for batch in batches:
            self._last.adopt_changed(batch)
        due = [planned for planned in plans if planned.advance()]
        known = {id(planned.plan) for planned in due}
        return batches, due + [planned for planned in structured if id(planned.plan) not in known]

    def _advance_group(
        self, group: Group, pairs: Pairs, prepared: PreparedGroup | None
    ) -> list[ParameterBatch]:
        if prepared:
            return [advance_prepared(group, prepared, self._effective_lr(group))]
        for p, _ in pairs:
            self._direction_state(p, group, self.state[p])
        if group["capturable"]:
            factor = self._effective_lr({**group, "lr": 1.0})
            return advance_on_device(self.state, group, pairs, factor)
        batches = advance_group(self.state, group, pairs, self._effective_lr(group))
        self._prepared[id(group)] = prepare_group(self.state, group, batches)
        return batches

    def _own(self, plan: SparsityPlan) -> SparsityPlan:
        """The plan, or the same copy of it for all groups if another optimizer has it."""
        if id(plan) not in self._own_plans:
            own = self._own_plans[id(plan)] = plan, plan.owned_by(self._identity)
            if self.defaults["plan"] is plan:  # for groups that are added to a copy of this
                self.defaults["plan"] = own[1]
        return self._own_plans[id(plan)][1]

    def _planned(self, groups: Iterable[Group]) -> list[Planned]:
        """The plans of some param groups, with all their parameters."""
        return [Planned(plan, self.param_groups, self.state) for plan in all_plans(groups)]

    def _check_capturable(self) -> None:
        if not all(group["capturable"] for group in self.param_groups):
            raise RuntimeError(
                f"{type(self).__name__}.step() was captured in a CUDA graph, where the threshold "
                "would be constant: make the optimizer with capturable=True"
            )

    def _prepared_group(self, group: Group) -> PreparedGroup | None:
        """All parameters with their gradients, if they can be stepped like at the last step."""
        prepared = self._prepared.get(id(group))
        if prepared is None or type(prepared.tables) is not kind_of_tables(group, prepared.w[0]):
            return None
        prepared = prepared._replace(grads=tuple(map(_grad, prepared.w)))
        return prepared if prepared.is_current(group, self.state) else None

    def _gradients(self, group: Group) -> list[tuple[Tensor, Tensor]]:
        """The parameters with a gradient, and their gradients."""
        pairs = [(p, grad) for p in group["params"] if (grad := p.grad) is not None]
        for p, grad in pairs:
            if grad.layout is not torch.strided:
                raise TypeError(
                    f"{type(self).__name__} needs dense gradients, got {grad.layout} for a "
                    f"parameter of shape {tuple(p.shape)}; use sparse=False in the embedding"
                )
        return pairs


_grad = operator.attrgetter("grad")  # by map, a third of a loop's time


def _is_moving(group: Group) -> bool:
    """Whether the rate is above 0; with ``capturable`` this is decided on the device."""
    return group["capturable"] or float(group["lr"]) > 0
