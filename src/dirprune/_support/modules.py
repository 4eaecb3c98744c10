"""The tensors that the layers of a model use, after masks and parametrizations."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from dirprune._support.wrappers import plain_name

_Source = tuple[list[nn.Parameter], Callable[[], Tensor]]


def effective_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, nn.Module]]:
    """Yield name, effective value and layer of each trainable tensor once."""
    seen: set[tuple[object, ...]] = set()
    inside = {
        id(part)
        for module in model.modules()
        for chain in _parametrizations(module).values()
        for part in chain.modules()
    }
    for prefix, module in model.named_modules():
        if id(module) in inside:
            continue
        above = plain_name(f"{prefix}.") if prefix else ""
        for name, (parameters, value) in _tensors_of(module).items():
            if any(is_lazy(parameter) for parameter in parameters):
                raise ValueError(
                    f"{above}{name} has no values yet: pass one batch through the model first"
                )
            keys = {_memory(parameter) for parameter in parameters}
            if any(parameter.requires_grad for parameter in parameters) and not keys <= seen:
                yield above + name, value(), module
            seen |= keys


def _tensors_of(module: nn.Module) -> dict[str, _Source]:
    """The tensors that a module itself uses: name -> underlying parameters, and value."""
    found: dict[str, _Source] = {}
    for name, chain in _parametrizations(module).items():
        found[name] = (list(chain.parameters()), partial(_parametrized, chain))
    for name, parameter in module.named_parameters(recurse=False):
        found[name] = ([parameter], partial(getattr, module, name))
    hooks = list(module._forward_pre_hooks.values())
    holder = SimpleNamespace(**module._parameters, **module._buffers)
    for hook in hooks:  # masks first: a norm may be computed from a masked tensor
        if isinstance(hook, BasePruningMethod):
            _replace(found, holder, hook._tensor_name, ("_orig",), hook.apply_mask)
    for hook in hooks:
        if isinstance(hook, WeightNorm):
            _replace(found, holder, hook.name, ("_g", "_v"), hook.compute_weight)
        elif isinstance(hook, SpectralNorm):
            compute = partial(hook.compute_weight, do_power_iteration=False)
            _replace(found, holder, hook.name, ("_orig",), compute)
    return found


def _parametrizations(module: nn.Module) -> dict[str, ParametrizationList]:
    chains = getattr(module, "parametrizations", None) if is_parametrized(module) else None
    return dict(chains.items()) if isinstance(chains, nn.ModuleDict) else {}  # type: ignore[arg-type]


def _replace(
    found: dict[str, _Source],
    holder: SimpleNamespace,
    name: str,
    endings: tuple[str, ...],
    compute: Callable[..., Tensor],
) -> None:
    """Replace parameters by the tensor that a hook computes from them."""
    behind = [parameter for end in endings for parameter in found.pop(name + end)[0]]
    value = compute(holder)
    setattr(holder, name, value)
    found[name] = (behind, lambda: value)


def _parametrized(chain: ParametrizationList) -> Tensor:
    """Compute a parametrized tensor on a copy, because computing it may change buffers."""
    devices = {parameter.device for parameter in chain.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices):
        value: Tensor = copy.deepcopy(chain).eval()()
    return value


def _memory(parameter: Tensor) -> tuple[object, ...]:
    """A key that is equal for parameters that share all of their memory."""
    is_plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided
    if is_plain and parameter.data_ptr():
        return parameter.device, parameter.data_ptr(), parameter.numel()
    return (id(parameter),)
