"""What a comparison consists of: the config of every run, and the files about all of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dirprune._support.files import read_json, write_json
from dirprune.threshold import effective_lr
from dirprune.train.config import TrainConfig
from dirprune.train.names import CALIBRATED, COMPARABLE, DENSE, MASKED, REFERENCES, TOLD


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        config: What all runs share; its method and seed are not read.
        methods: Names in `COMPARABLE`.
        seeds: Each decides initial weights, batches and augmentation of one run per method.
        lrs: The grid of learning rates, the same for every method.

    Raises:
        ValueError: If there is nothing to compare, a name is unknown or given twice, or a method
            lacks what it needs.
    """

    config: TrainConfig
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    lrs: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check before anything is trained."""
        for name in ("methods", "seeds", "lrs"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be one or more, none of them twice, got {values}")
        if unknown := [m for m in self.methods if m not in COMPARABLE]:
            raise ValueError(f"unknown method {unknown[0]!r}: there are {', '.join(COMPARABLE)}")
        if "magnitude" in self.methods and not set(DENSE) & set(self.methods):
            raise ValueError("magnitude prunes finished dense runs: add sgd or sgd_momentum")
        if self.config.batch_seed is not None:
            raise ValueError("in a comparison every seed decides its own batches: no batch_seed")
        heavy = [m for m in self.methods if m.endswith("_momentum")]
        if heavy and not self.config.momentum:
            raise ValueError(
                f"{heavy[0]} needs momentum above 0, such as 0.9 (and weight_decay, such as 5e-4):"
                " methods without momentum in their name ignore both"
            )
        if self.config.target_sparsity and not self.reference:
            raise ValueError(
                "target_sparsity is for gRDA, to which the others are brought: add grda or "
                "grda_momentum"
            )
        needing_c = [m for m in self.methods if m in (*REFERENCES, *CALIBRATED)]
        if needing_c and not self.config.c:
            raise ValueError(f"{needing_c[0]} needs c above 0, got 0: it would be SGD")
        for seed in self.seeds:
            for lr in self.lrs:
                replace(self.config, seed=seed, lr=lr)

    @property
    def reference(self) -> str | None:
        """The method whose sparsity the others are brought to, if any."""
        return next((m for m in REFERENCES if m in self.methods), None)

    def as_json(self) -> dict[str, Any]:
        """Return what a folder remembers of it."""
        config = asdict(self.config)
        del config["method"], config["seed"]
        record = {
            "config": config,
            "methods": self.methods,
            "seeds": self.seeds,
            "lrs": self.lrs,
        }
        read_back: dict[str, Any] = json.loads(json.dumps(record))
        return read_back


def method_config(
    config: TrainConfig,
    method: str,
    lr: float,
    *,
    seed: int,
    c: float | None = None,
    sparsity: float | None = None,
) -> TrainConfig:
    r"""Make the config of one run.

    Momentum, weight decay and Nesterov's form go to the methods that are named after momentum,
    the others have none of them; a target is for gRDA, to which the others are brought. gRDA's
    threshold shall not depend on the grid: at the effective rate
    :math:`\gamma' = \gamma / (1 - \beta)` its scale is

    .. math:: c' = c\,(\gamma_0 / \gamma')^{\mu + 1/2}

    where ``config.c`` belongs to :math:`\gamma_0` = ``config.lr``, so that every gRDA run of a
    comparison, with momentum or without, follows one and the same path of g.

    Args:
        config: What all runs share.
        method: The method.
        lr: From the grid.
        seed: Of the run.
        c: Of a calibrated method; those without a threshold have 0.
        sparsity: Of a method that is told how sparse to become.

    Returns:
        A config whose every field is what the run does.

    Example:
        >>> method_config(TrainConfig(lr=0.1, c=0.01, mu=0.5), "grda", 0.05, seed=1).c
        0.02
    """
    if not method.endswith("_momentum"):
        config = replace(config, momentum=0.0, nesterov=False, weight_decay=0.0)
    if method in REFERENCES:
        c = rescaled(config.c, config.mu + 0.5, config.lr, effective_lr(lr, config.momentum))
    else:
        target = sparsity if method not in MASKED else None
        config = replace(config, target_sparsity=target, power=None)
        c = config.c if method in CALIBRATED and c is None else c or 0.0
    return replace(
        config,
        method=method,
        lr=lr,
        seed=seed,
        c=c,
        mu=1.0 if method == "rda" else config.mu,
        sparsity=sparsity if method in MASKED else None,
    )


def rescaled(c: float, power: float, lr: float, new_lr: float) -> float:
    """Return the strength that shrinks weights as much at another rate, to 4 digits.

    Args:
        c: Strength that belongs to ``lr``.
        power: Shrinkage grows with this power of the rate: mu + 1/2 for gRDA, 1 for the prox.
        lr: The rate that it belongs to.
        new_lr: The rate that it is wanted for.
    """
    return c if new_lr == lr else float(f"{c * (lr / new_lr) ** power:.4g}")


def run_name(config: TrainConfig, plan: Plan) -> str:
    """Name the folder of a run by what distinguishes it in its comparison.

    Example:
        >>> plan = Plan(TrainConfig(), ("sgd", "gmp"), (1, 2), (0.1,))
        >>> run_name(method_config(plan.config, "gmp", 0.1, seed=2, sparsity=0.9), plan)
        'gmp/lr0.1-sparsity0.9-seed2'
    """
    method = config.method
    parts = [f"lr{config.lr:g}"]
    parts += [f"c{config.c:g}"] if method in CALIBRATED else []
    told = method in TOLD or method.startswith("magnitude")
    parts += [f"sparsity{config.target_sparsity or config.mask_sparsity:g}"] if told else []
    parts += [f"validation{config.validation:g}"] * (config.validation != plan.config.validation)
    return f"{method}/{'-'.join(parts)}-seed{config.seed}"


def finished_runs(out: Path) -> list[str]:
    """Return the runs of a comparison's table that have finished, as folders below its own."""
    runs: list[str] = read_json(out / "comparison.json")["runs"]
    return [r for r in runs if read_json(out / r / "summary.json")["status"] == "finished"]


def claim_folder(out: Path, plan: Plan) -> None:
    """Make sure that a folder holds this comparison, a part of it, or nothing.

    Methods and seeds may be added to a comparison later, after its first seed. What has run is
    kept; methods that were brought to a sparsity are run anew if it is no longer gRDA's mean.

    Args:
        out: The folder; its comparison.json is written if there is none yet.
        plan: What is to be compared.

    Raises:
        ValueError: If the folder holds a run or another comparison.
    """
    path = out / "comparison.json"
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a run: choose another folder for the comparison")
    runs = any(out.glob("*/*/config.json"))
    if path.exists():
        saved = read_json(path).get("plan")
        if saved == plan.as_json():
            return
        if _is_part(saved, plan.as_json()):
            write_json(path, read_json(path) | {"plan": plan.as_json()})
            return
        if runs or not isinstance(saved, dict):
            differing = _differing(saved, plan.as_json()) if isinstance(saved, dict) else ""
            raise ValueError(
                f"{out} holds another comparison{differing}: give what it was started with, or "
                "another folder"
            )
    elif runs:
        raise ValueError(f"{out} holds runs of no comparison: choose another folder")
    write_json(path, {"plan": plan.as_json(), "runs": []})


def _is_part(saved: Any, now: Mapping[str, Any]) -> bool:
    """Whether a plan lacks nothing but methods and seeds of another."""
    grows = ("methods", "seeds")
    return (
        isinstance(saved, dict)
        and saved.keys() == now.keys()
        and all(saved[key] == now[key] for key in now if key not in grows)
        and all(isinstance(saved[key], list) and set(saved[key]) <= set(now[key]) for key in grows)
        and saved["seeds"][:1] == now["seeds"][:1]
    )


def _differing(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = _flat(saved), _flat(now)
    names: Sequence[str] = sorted(n for n in before | after if before.get(n) != after.get(n))
    return f" ({'; '.join(f'{n} was {before.get(n)}, now {after.get(n)}' for n in names)})"


def _flat(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {**plan.get("config", {}), **{k: v for k, v in plan.items() if k != "config"}}
