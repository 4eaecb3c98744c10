"""A training run as one CUDA graph: batch, gradients, step and threshold, repeated by replaying.

All state lies in fixed tensors, so one graph serves for all runs of a method: `begin` writes new
weights, schedules and orders of the images into them. On a CPU the same step runs eagerly.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from images import Images
from methods import METHODS, Masked
from torch import Tensor, nn

from dirprune import SparsityPlan
from dirprune.kernels import triton_step
from dirprune.kernels.rows import Gradient
from dirprune.models import build
from dirprune.prox import power_threshold
from dirprune.train.config import TrainConfig
from dirprune.train.schedule import learning_rates


class Settings(NamedTuple):
    """What all runs of a slot share."""

    network: str
    width: float
    epochs: int
    batch: int
    momentum: float
    decay: float
    schedule: str
    prune_all: bool


class Flat:
    """Parameters as views of one float32 vector, and of a bfloat16 copy that is computed with."""

    def __init__(self, parameters: Sequence[nn.Parameter], half: bool) -> None:
        self.numel = sum(p.numel() for p in parameters)
        device = parameters[0].device if parameters else torch.device("cpu")
        self.w = torch.zeros(self.numel, device=device)
        self.used = self.w.bfloat16() if half else self.w
        self.grad = torch.zeros_like(self.used)
        self.m = torch.zeros_like(self.w)
        self.parameters, self.views = list(parameters), []
        for p, part in zip(parameters, self.used.split([p.numel() for p in parameters])):
            p.data = _shaped(part, p.shape)
        for p, part in zip(parameters, self.w.split([p.numel() for p in parameters])):
            self.views.append(_shaped(part, p.shape))

    def gather(self, grads: Sequence[Tensor]) -> None:
        """Write gradients into one vector, in the order of the weights' memory."""
        if grads:
            torch.cat([_flattened(g) for g in grads], out=self.grad)


def _shaped(part: Tensor, shape: torch.Size) -> Tensor:
    """A view in channels-last order of a convolution's weights."""
    if len(shape) != 4:
        return part.view(shape)
    o, i, h, w = shape
    return part.view(o, h, w, i).permute(0, 3, 1, 2)


def _flattened(g: Tensor) -> Tensor:
    return (g.permute(0, 2, 3, 1) if g.dim() == 4 else g).reshape(-1)


class Slot:
    """Fixed tensors and the graph of one method's step."""

    def __init__(self, method: str, settings: Settings, data: Images, places: Tensor) -> None:
        self.method, self.settings, self.data, self.places = method, settings, data, places
        self.device, self.cuda = places.device, places.is_cuda
        self.model = self._fresh(0).to(self.device, memory_format=torch.channels_last)
        parameters = list(self.model.parameters())
        planned = [p for p in parameters if settings.prune_all or p.dim() > 1]
        dense = [p for p in parameters if not (settings.prune_all or p.dim() > 1)]
        self.planned, self.dense = Flat(planned, half=self.cuda), Flat(dense, half=False)
        self.v, self.mask = self.planned.w.clone(), torch.ones_like(self.planned.w)
        self.steps_per_epoch = len(places) // settings.batch
        self.steps = settings.epochs * self.steps_per_epoch
        new = lambda *size, **o: torch.zeros(*size, device=self.device, **o)  # noqa: E731
        self.lrs, self.levels = (new(self.steps + 1, dtype=torch.float64) for _ in range(2))
        self.zeros = new(self.steps + 1, dtype=torch.int64)
        self.g, self.g_before = new((), dtype=torch.float64), new((), dtype=torch.float64)
        self.count, self.loss = new((), dtype=torch.int64), new(())
        self.order = [new(len(places), dtype=torch.int64) for _ in range(4)]
        self.stream = torch.cuda.Stream() if self.cuda else None
        self.graph: Any = None

    def _fresh(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        s = self.settings
        return build(s.network, num_classes=10, width=s.width)

    def begin(
        self,
        lr: float,
        seed: int,
        sparsity: float = 0.0,
        law: Tensor | None = None,
        batches: int | None = None,
    ) -> None:
        """Make ready for a run.

        Args:
            lr: The peak learning rate.
            seed: Of the initial weights and the order of the images.
            sparsity: The target of the methods with a plan.
            law: gRDA's threshold after every step.
            batches: Another seed for the order of the images.
        """
        s = self.settings
        fresh = self._fresh(seed)
        start = dict(zip(self.model.parameters(), fresh.parameters()))
        for flat in (self.planned, self.dense):
            for p, view in zip(flat.parameters, flat.views):
                view.copy_(start[p].detach())
            flat.m.zero_()
        self.model.load_state_dict(dict(fresh.named_buffers()), strict=False)
        self.v.copy_(self.planned.w)
        self.mask.fill_(1.0)
        config = TrainConfig(lr=lr, epochs=s.epochs, schedule=s.schedule)
        rates = learning_rates(config, self.steps_per_epoch)
        self.lrs[:-1].copy_(torch.tensor(rates, dtype=torch.float64))
        if law is not None:
            self.levels[:-1].copy_(law)
        plan = SparsityPlan(sparsity, self.steps)
        total = self.planned.numel
        numbers = [round(plan.sparsity_at(n + 1) * total) for n in range(self.steps)]
        self.zeros[:-1].copy_(torch.tensor(numbers))
        for t in (self.g, self.g_before, self.count, self.loss):
            t.zero_()
        self.generator = torch.Generator(self.device).manual_seed(
            seed if batches is None else batches
        )
        self.done = 0
        shapes = [tuple(p.shape) for p in self.planned.parameters]
        self.masked = Masked(
            self.planned.w, self.planned.m, self.planned.grad, self.mask, shapes, sparsity,
            self.steps, self.generator,
        )  # fmt: skip
        if self.cuda:
            torch.cuda.synchronize()  # the graph's stream must see what was written on this one

    def advance(self) -> None:
        """One step, with what lies between steps."""
        if self.cuda and self.stream is not None:
            with torch.cuda.stream(self.stream):
                self._advance()
        else:
            self._advance()

    @torch.no_grad()
    def _advance(self) -> None:
        if self.done % self.steps_per_epoch == 0:
            self._shuffle()
        change = METHODS[self.method].change if self.method in METHODS else None
        if change is not None:
            change(self.masked, self.done)
        if self.cuda:
            if self.graph is None:
                self._capture()
            self.graph.replay()
        else:
            self._step()
        self.done += 1

    def _shuffle(self) -> None:
        n, generator = len(self.places), self.generator
        draw = lambda high: torch.randint(  # noqa: E731
            high, (n,), device=self.device, generator=generator
        )
        self.order[0].copy_(torch.randperm(n, device=self.device, generator=generator))
        for t, high in zip(self.order[1:], (9, 9, 2)):
            t.copy_(draw(high))

    def _capture(self) -> None:
        state = [self.planned.w, self.planned.m, self.dense.w, self.dense.m, self.v, self.mask]
        state += [self.g, self.g_before, self.count, self.loss, *self.model.buffers()]
        saved = [t.clone() for t in state]
        for _ in range(3):
            self._step()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._step()
        for t, value in zip(state, saved):
            t.copy_(value)

    def _step(self) -> None:
        batch = self.settings.batch
        start = (self.count % self.steps_per_epoch) * batch
        chosen = start + torch.arange(batch, device=self.device)
        places, dx, dy, flip = (t.index_select(0, chosen) for t in self.order)
        places = self.places.index_select(0, places)
        x = self.data.batch(places, dx, dy, flip > 0)
        y = self.data.labels.index_select(0, places)
        if self.cuda:
            self.planned.used.copy_(self.planned.w)
        parameters = self.planned.parameters + self.dense.parameters
        with torch.enable_grad(), self._autocast():
            loss = F.cross_entropy(self.model(x).float(), y)
            grads = torch.autograd.grad(loss, parameters)
        self.planned.gather(grads[: len(self.planned.parameters)])
        self.dense.gather(grads[len(self.planned.parameters) :])
        self._descend()
        self.loss += loss.detach()
        self.count += 1

    def _autocast(self) -> Any:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.cuda, cache_enabled=False
        )

    def _descend(self) -> None:
        """SGD on the dense vector; on the planned one with a threshold or a mask."""
        lr = self.lrs.index_select(0, self.count.reshape(1)).reshape(())
        planned, power = self.planned, self._power()
        if power is None:
            self._sgd(planned, None, lr, 1.0)
            planned.w.mul_(self.mask)
            planned.m.mul_(self.mask)
        elif self.settings.prune_all:
            level = self.levels.index_select(0, self.count.reshape(1)).reshape(())
            self._sgd(planned, level, lr, power)
            self.g.copy_(level)
        else:
            self._sgd(planned, self.g, lr, power)
            k = self.zeros.index_select(0, self.count.reshape(1))
            g = self.v.abs().sort().values.index_select(0, (k - 1).clamp(min=0))
            self.g.copy_(torch.where(k > 0, g, 0.0).reshape(()))
            self._threshold(power)
        if self.dense.numel:
            self._sgd(self.dense, None, lr, 1.0)

    def _power(self) -> float | None:
        return METHODS[self.method].power if self.method in METHODS else 1.0

    def _sgd(self, flat: Flat, level: Tensor | None, lr: Tensor, power: float) -> None:
        s, v = self.settings, None if level is None else self.v
        nesterov = s.momentum > 0
        g = self.g if level is None else level
        if self.cuda:
            m = flat.m if s.momentum else None
            rule = Gradient(lr, s.momentum, nesterov, s.decay)
            stepped = triton_step.step([(flat.w, v, flat.grad, m, None)], rule, g, self.g, power)
            if not stepped:
                raise RuntimeError("the Triton step did not take a flat vector")
            return
        d = flat.grad.float() + s.decay * flat.w
        if s.momentum:
            flat.m.mul_(s.momentum).add_(d)
            d = d + s.momentum * flat.m
        x = flat.w if v is None else v
        x -= lr.float() * d
        if v is not None:
            flat.w.copy_(power_threshold(v, g.float(), power))

    def _threshold(self, power: float) -> None:
        if self.cuda:
            triton_step.step(
                [(self.planned.w, self.v, None, None, None)], None, self.g, self.g, power
            )
        else:
            self.planned.w.copy_(power_threshold(self.v, self.g.float(), power))

    @torch.no_grad()
    def accuracy(self, data: Images, places: Tensor | None = None) -> float:
        """Share of right answers, in evaluation mode, with bfloat16 on a GPU."""
        self.planned.used.copy_(self.planned.w)
        self.model.eval()
        right = torch.zeros((), device=self.device)
        every = torch.arange(len(data), device=self.device) if places is None else places
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        with self._autocast():
            for chunk in every.split(1000):
                middle = zero.expand(len(chunk)) + 4
                x = data.batch(chunk, middle, middle, middle < 0)
                right += (self.model(x).argmax(1) == data.labels[chunk]).sum()
        self.model.train()
        return float(right) / len(every)

    def sparsity_now(self) -> float:
        """Share of zeros in the planned vector."""
        return float((self.planned.w == 0).double().mean())

    def is_finite(self) -> bool:
        """Whether the weights are numbers."""
        return bool(self.planned.w.isfinite().all()) and math.isfinite(float(self.loss))

    def state(self) -> dict[str, Tensor]:
        """The weights in float32, as a plain model's state."""
        own = {id(p): view for f in (self.planned, self.dense)
               for p, view in zip(f.parameters, f.views)}  # fmt: skip
        found = {
            name: own[id(p)].clone().contiguous() for name, p in self.model.named_parameters()
        }
        return found | {name: b.clone() for name, b in self.model.named_buffers()}
