"""The plan of a comparison, the config of every run, and the check of its folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dirprune._support.files import read_json, write_json
from dirprune.threshold import effective_lr
from dirprune.train.config import TrainConfig
from dirprune.train.names import CALIBRATED, COMPARABLE, DENSE, MASKED, REFERENCES, TARGETED
from dirprune.train.runs import check_contents


@dataclass(frozen=True)
class Plan:
    """The methods, seeds and learning rates of a comparison.

    Attributes:
        config: Settings of all runs; its method and seed are not used.
        methods: Names in `COMPARABLE`.
        seeds: Seeds of initial weights, batches and augmentation; one run per method and seed.
        lrs: The grid of learning rates, the same for every method.

    Raises:
        ValueError: If a list is empty or has duplicates, a name is unknown, or a method lacks an
            option that it needs.
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
                raise ValueError(f"{name} must be one or more different values, got {values}")
        if unknown := [m for m in self.methods if m not in COMPARABLE]:
            raise ValueError(f"unknown method {unknown[0]!r}: use one of {', '.join(COMPARABLE)}")
        if "magnitude" in self.methods and not set(DENSE) & set(self.methods):
            raise ValueError("magnitude prunes finished dense runs: add sgd or sgd_momentum")
        if self.config.batch_seed is not None:
            raise ValueError(
                f"batch_seed is {self.config.batch_seed}, but in a comparison the batches follow "
                "from each run's seed: remove batch_seed"
            )
        heavy = [m for m in self.methods if m.endswith("_momentum")]
        if heavy and not self.config.momentum:
            raise ValueError(
                f"{heavy[0]} needs momentum above 0, such as 0.9 (and weight_decay, such as 5e-4):"
                " methods without momentum in their name ignore both"
            )
        if self.config.target_sparsity and not self.reference:
            raise ValueError(
                "target_sparsity sets gRDA's sparsity, which the other methods then get: add grda "
                "or grda_momentum"
            )
        if self.config.sparsity is not None and self.reference:
            raise ValueError(
                f"sparsity is {self.config.sparsity}, but {self.reference} sets the sparsity of "
                "all methods: use target_sparsity instead"
            )
        by_law = () if self.config.target_sparsity else REFERENCES  # a target needs no c
        needing_c = [m for m in self.methods if m in (*by_law, *CALIBRATED)]
        if needing_c and not self.config.c:
            raise ValueError(
                f"{needing_c[0]} with c = 0 is SGD: give a c above 0, or leave the method out"
            )
        for seed in self.seeds:
            for lr in self.lrs:
                replace(self.config, seed=seed, lr=lr)

    @property
    def reference(self) -> str | None:
        """The method whose sparsity the other methods get, if any."""
        return next((m for m in REFERENCES if m in self.methods), None)

    def number(self, config: TrainConfig) -> int:
        """Return the number of a run's method and seed, by which parts share the runs."""
        method = "magnitude" if config.method.startswith("magnitude") else config.method
        return self.methods.index(method) * len(self.seeds) + self.seeds.index(config.seed)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as it is written to the folder."""
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

    Momentum, weight decay and Nesterov momentum apply only to the methods named after momentum.
    ``target_sparsity`` applies to gRDA; the other methods get gRDA's sparsity. gRDA's threshold
    does not depend on the learning rate of the grid: at the effective rate
    :math:`\gamma' = \gamma / (1 - \beta)` its scale is

    .. math:: c' = c\,(\gamma_0 / \gamma')^{\mu + 1/2}

    where ``config.c`` belongs to :math:`\gamma_0` = ``config.lr``. So all gRDA runs of a
    comparison, with or without momentum, have the same threshold path g.

    Args:
        config: Settings of all runs.
        method: The method.
        lr: The learning rate, from the grid.
        seed: Seed of the run.
        c: For a calibrated method: its c. Methods without a threshold have 0.
        sparsity: For a method in `TARGETED`: its final sparsity.

    Returns:
        The complete config of the run.

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
    """Return the strength that gives the same shrinkage at another rate, to 4 digits.

    Args:
        c: Strength at the rate ``lr``.
        power: Power of the rate that the shrinkage is proportional to: mu + 1/2 for gRDA, 1 for
            the prox.
        lr: The rate of ``c``.
        new_lr: The rate of the result.
    """
    return c if new_lr == lr else float(f"{c * (lr / new_lr) ** power:.4g}")


def run_name(config: TrainConfig, plan: Plan) -> str:
    """Name the folder of a run by the settings that differ within its comparison.

    Example:
        >>> plan = Plan(TrainConfig(), ("sgd", "gmp"), (1, 2), (0.1,))
        >>> run_name(method_config(plan.config, "gmp", 0.1, seed=2, sparsity=0.9), plan)
        'gmp/lr0.1-sparsity0.9-seed2'
    """
    method = config.method
    parts = [f"lr{config.lr:g}"]
    parts += [f"c{config.c:g}"] if method in CALIBRATED else []
    has_target = method in TARGETED or method.startswith("magnitude")
    parts += [f"sparsity{config.target_sparsity or config.mask_sparsity:g}"] if has_target else []
    parts += [f"validation{config.validation:g}"] * (config.validation != plan.config.validation)
    return f"{method}/{'-'.join(parts)}-seed{config.seed}"


def finished_runs(out: Path) -> list[str]:
    """Return the finished runs of a comparison's table, relative to the comparison's folder."""
    runs: list[str] = read_json(out / "comparison.json")["runs"]
    return [r for r in runs if read_json(out / r / "summary.json")["status"] == "finished"]


def has_missing_runs(out: Path) -> bool:
    """Return whether a comparison that ran in parts is not finished yet."""
    return bool(read_json(out / "comparison.json").get("missing"))


def claim_folder(out: Path, plan: Plan) -> None:
    """Check that a folder holds this comparison, a part of it, or nothing.

    Methods and seeds can be added to a comparison later, except before its first seed. Finished
    runs are kept; methods that depend on gRDA's sparsity run again if its mean changes.

    Args:
        out: The folder; its comparison.json is written if it does not exist.
        plan: The plan of the comparison.

    Raises:
        ValueError: If the folder holds another comparison, or something else.
    """
    check_contents(out, own="comparison.json")
    path = out / "comparison.json"
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
                f"{out} holds another comparison{differing}: give the options that it was started "
                "with, or another folder"
            )
    elif runs:
        raise ValueError(
            f"{out} holds runs that do not belong to a comparison: choose another folder"
        )
    write_json(path, {"plan": plan.as_json(), "runs": []})


def _is_part(saved: Any, now: Mapping[str, Any]) -> bool:
    """Whether a saved plan is a part of another: they differ only in added methods and seeds."""
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
