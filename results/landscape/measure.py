"""The loss landscape between SGD's and gRDA's solutions: paths and the Hessian's spectrum.

    python results/landscape/measure.py [FOLDER [PART ...]]

Trains the missing runs in FOLDER (runs/landscape by default), measures them as
`dirprune landscape` does, and writes one CSV file for each PART: seeds, variants, training,
planes, projections and edges (by default, these six). A row is a network compared with SGD's, an
epoch, a point of a plane, a projection onto a plane, or an edge of a plane's triangle. The parts
vgg16 and vgg16_bn run only on request: they need images of CIFAR-10 in DATA/train and DATA/test,
one folder per class. For vgg16, DATA is FOLDER/cifar10-part, with the first 1,000 and 200 images
of every class; for vgg16_bn it is FOLDER/cifar10, with all of them.
"""

import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from dirprune import threshold_path
from dirprune._support.environment import environment
from dirprune._support.files import read_json, write_json
from dirprune.data.loading import load
from dirprune.landscape import path, straight_line
from dirprune.survey.config import SurveyConfig
from dirprune.survey.networks import open_subject
from dirprune.survey.survey import survey
from dirprune.train.config import TrainConfig
from dirprune.train.display import Displays
from dirprune.train.loop import train
from dirprune.train.runs import RunFolder
from dirprune.train.schedule import learning_rates

HERE = Path(__file__).parent
SEEDS = (1, 2, 3)
OTHER_BATCHES = 1000
"""Added to the seed for another order of the batches."""
# c was chosen for 90 % zeros with seed 1.
DIGITS = TrainConfig(device="cpu", keep_checkpoints=1)
NETWORKS = {
    "mlp": replace(DIGITS, model="mlp", c=0.015),
    "convnet": replace(DIGITS, model="convnet", width=0.25, epochs=30, c=0.022),
}
SURVEY = SurveyConfig(what="hessian,curve", eigenvectors=30, curve_momentum=0.9)
VARIANT = replace(SURVEY, eigenvectors=10)
# A plane needs only the Hessian's top eigenvectors, for directional pruning.
PLANE = replace(SURVEY, what="hessian,plane", steps=10, probes=1)
# Images, without BatchNorm and with it.
IMAGES = TrainConfig(device="cpu", keep_checkpoints=1, width=0.25)
# gRDA's run determines c for 90 % zeros. Without augmentation, because it trains far faster.
VGG16 = replace(IMAGES, model="vgg16", batch_size=32, epochs=25, augment=False)
FIRST_EPOCHS = 10
"""Epochs of SGD before the runs of vgg16 begin. Without BatchNorm the loss starts on a plateau,
and from random weights gRDA's threshold prunes the network before it leaves the plateau."""
VGG16_SURVEY = SurveyConfig(
    what="hessian,curve", samples=500, test_samples=500, probes=1, points=31,
    curve_epochs=6, curve_momentum=0.9,
)  # fmt: skip
VGG16_BN = replace(IMAGES, model="vgg16_bn", batch_size=128, epochs=12, c=0.01, mu=0.6)
VGG16_BN_CURVES = SurveyConfig(
    what="curve", samples=1000, test_samples=2000, points=31, curve_epochs=6, curve_momentum=0.9
)
VGG16_BN_HESSIAN = replace(VGG16_SURVEY, what="hessian")
THIRDS = ("other batches", "other seed")
"""The second SGD run: its solution, the first run's and gRDA's span a plane."""


@dataclass(frozen=True)
class Variant:
    """A change of settings.

    Attributes:
        changes: Config fields and their values, for SGD and gRDA.
        factor: Final threshold relative to that without the changes; determines c.
        alone: Whether the change affects only gRDA, so that SGD's run is reused.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    factor: float = 1.0
    alone: bool = True


VARIANTS = {
    "mu .51": Variant({"mu": 0.51}),
    "mu .9": Variant({"mu": 0.9}),
    "c / 2": Variant(factor=0.5),
    "c x 2": Variant(factor=2.0),
    "lr / 2": Variant({"lr": 0.05}, alone=False),
    "epochs x 3": Variant({"epochs": 180}, alone=False),
}
FLOORS = (1e-1, 1e-2, 1e-3)
"""Eigenvalues relative to the largest; the share of a difference above each is measured."""


def threshold(config: TrainConfig) -> float:
    """The final threshold of a gRDA run."""
    steps = -(
        -len(
            load(
                config.data, validation=config.validation, seed=config.seed, augment=config.augment
            ).train
        )
        // config.batch_size
    )
    return float(threshold_path(config.c, config.mu, learning_rates(config, steps))[-1])


def varied(config: TrainConfig, variant: Variant) -> TrainConfig:
    """Apply a variant. c is such that the final threshold is ``factor`` times that of config."""
    changed = replace(config, **variant.changes)
    return replace(changed, c=changed.c * variant.factor * threshold(config) / threshold(changed))


def trained(folder: Path, config: TrainConfig) -> Path:
    """Train a network unless its run has finished."""
    if (RunFolder(folder).read_summary() or {}).get("status") != "finished":
        print(folder, flush=True)
        train(config, folder, resume=(folder / "config.json").exists(), display=Displays())
    return folder


def family(runs: Path, config: TrainConfig) -> dict[str, Path]:
    """SGD and gRDA with the same start and batches, then both with another order of batches."""
    found = {}
    for order, batches in (("", None), (", other batches", config.seed + OTHER_BATCHES)):
        for method in ("sgd", "grda"):
            label = method + order
            folder = runs / f"{label.replace(', ', '-').replace(' ', '-')}-{config.seed}"
            settings = replace(config, method=method, batch_seed=batches)
            found[label] = trained(folder, settings)
    return found


def surveyed(
    paths: dict[str, Path], configs: tuple[SurveyConfig, ...], out: Path, head: dict[str, Any]
) -> list[dict[str, Any]]:
    """Measure the landscape around the first network; return a row per network.

    Losses are those of the first config; the others add what it does not measure.
    """
    figures: dict[str, Any] = {}
    for config in configs:
        folder = out / config.what.replace(",", "-")
        figures = survey(list(paths.values()), config, folder) | figures
    labels = dict(zip([n["name"] for n in figures["networks"]], paths))
    return [head | line(figures, n, labels.get(n["name"])) for n in figures["networks"][1:]]


def line(figures: dict[str, Any], network: dict[str, Any], label: str | None) -> dict[str, Any]:
    """The row of one network, from landscape.json."""
    name, hessian = network["name"], figures["hessian"]
    of, top = hessian["of"][name], hessian["top"]["values"][0]
    found = {"network": label or name, "zeros": network["zeros"], "distance": network["distance"]}
    found |= {
        "dimension": figures["dimension"],
        "dense_loss": figures["networks"][0]["measured"]["train"]["loss"],
        "loss": network["measured"]["train"]["loss"],
        "dense_test_error": figures["networks"][0]["measured"]["test"]["error"],
        "test_error": network["measured"]["test"]["error"],
        "top": top,
        "tenth": hessian["top"]["values"][9],
        "own_top": hessian.get("top_of", {}).get(name, [None])[0],
        "trace": hessian["density"]["trace"][0],
        "residual": max(hessian["top"]["residuals"]),
        "rayleigh": of["rayleigh"],
        "noise": of["noise"],
        "chance_10": hessian["chance"][9],
        "ratio_1": of["ratios"][0],
        "ratio_10": of["ratios"][9],
        "ratio_30": of["ratios"][29] if len(of["ratios"]) >= 30 else None,
        "weights_ratio_10": hessian["weights_ratios"][name][9],
        "dense_weights_ratio_10": hessian["weights_ratios"][figures["networks"][0]["name"]][9],
    }
    for floor in FLOORS:
        low, high = energy_above(of, floor * top)
        found |= {f"above_{floor:g}_low": low, f"above_{floor:g}_high": high}
    for kind in ("line", "bezier"):
        path = figures["curve"][name][kind]
        loss, error = path["loss"], path["error"]
        found |= {
            f"{kind}_length": path["length"],
            f"{kind}_max": loss["train"]["largest"]["value"],
            f"{kind}_at": loss["train"]["largest"]["t"],
            f"{kind}_rise": loss["train"]["rise"],
            f"{kind}_barrier": loss["train"]["barrier"],
            f"{kind}_test_rise": loss["test"]["rise"],
            f"{kind}_test_error_rise": error["test"]["rise"],
        }
    return found


def energy_above(of: dict[str, Any], t: float) -> tuple[float, float]:
    """Bounds of the share of a difference above the threshold nearest to t."""
    at = min(range(len(of["t"])), key=lambda k: abs(of["t"][k] - t))
    low, high = of["below"][at]
    return 1 - high, 1 - low


def seeds(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """Every network with every seed, and SGD from another seed."""
    for name, config in NETWORKS.items():
        starts = {s: family(runs / name, replace(config, seed=s)) for s in SEEDS}
        for seed, paths in starts.items():
            other = starts[SEEDS[SEEDS.index(seed) - 1]]["sgd"]
            head = {"model": name, "variant": "", "seed": seed, "mu": config.mu, "c": config.c}
            out = runs / name / f"landscape-{seed}"
            yield surveyed(paths | {"sgd, other seed": other}, (SURVEY,), out, head)


def variants(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """One network and one seed with other settings."""
    name, seed = "mlp", SEEDS[0]
    for title, variant in VARIANTS.items():
        config = varied(replace(NETWORKS[name], seed=seed), variant)
        folder = runs / name
        short = title.replace(" ", "").replace("/", "by").replace(".", "")
        sgd = folder / ("sgd" if variant.alone else f"{short}-sgd")
        paths = {
            "sgd": trained(sgd.with_name(f"{sgd.name}-{seed}"), replace(config, method="sgd")),
            "grda": trained(folder / f"{short}-grda-{seed}", config),
        }
        head = {"model": name, "variant": title, "seed": seed}
        head |= {"mu": config.mu, "c": round(config.c, 6)}
        yield surveyed(paths, (VARIANT,), folder / f"landscape-{short}", head)


def training(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """Projection ratios at the checkpoint of every epoch, as in the paper's figure 6."""
    config = replace(NETWORKS["mlp"], keep_checkpoints=1000)
    folder = runs / "mlp-checkpoints"
    paths = family(folder, config)
    figures = survey(list(paths.values()), replace(VARIANT, what="training"), folder / "landscape")
    labels = dict(zip([n["name"] for n in figures["networks"]], paths))
    chance = (VARIANT.eigenvectors / figures["dimension"]) ** 0.5
    yield [
        {"epoch": f"{at['epoch']:g}", "top": at["values"][0], "tenth": at["values"][-1]}
        | {"chance": chance}
        | {labels.get(name, name): ratio for name, ratio in at["ratios"].items()}
        for at in figures["training"].values()
    ]


def begun(folder: Path, config: TrainConfig) -> TrainConfig:
    """Start a run of vgg16 from SGD's weights after ``FIRST_EPOCHS``."""
    first = replace(config, method="sgd", epochs=FIRST_EPOCHS, schedule="constant")
    run = trained(folder / f"first-{config.seed}", first)
    return replace(config, start_from=str(RunFolder(run).weights))


def vgg16(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """A quarter of VGG16 without BatchNorm on a part of CIFAR-10, one seed."""
    folder = runs / "vgg16"
    plain = replace(VGG16, data=f"imagefolder:{runs / 'cifar10-part'}")
    config = begun(folder, plain)
    grda = trained(folder / "grda-1", replace(config, target_sparsity=0.9))
    sgd = replace(config, method="sgd")
    again = replace(sgd, batch_seed=sgd.seed + OTHER_BATCHES)
    other = begun(folder, replace(plain, method="sgd", seed=2))
    paths = {
        "sgd": trained(folder / "sgd-1", sgd),
        "grda": grda,
        "sgd, other batches": trained(folder / "sgd-other-batches-1", again),
        "sgd, other seed": trained(folder / "sgd-2", other),
    }
    head = {"model": "vgg16", "variant": "", "seed": config.seed, "mu": config.mu}
    yield surveyed(paths, (VGG16_SURVEY,), folder / "landscape", head)


def vgg16_bn(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """A quarter of VGG16 with BatchNorm on all of CIFAR-10, every seed."""
    folder = runs / "vgg16_bn"
    plain = replace(VGG16_BN, method="sgd", data=f"imagefolder:{runs / 'cifar10'}")
    for index, seed in enumerate(SEEDS):
        sgd, other = replace(plain, seed=seed), replace(plain, seed=SEEDS[index - 1])
        again = replace(sgd, batch_seed=seed + OTHER_BATCHES)
        paths = {
            "sgd": trained(folder / f"sgd-{seed}", sgd),
            "grda": trained(folder / f"grda-{seed}", replace(sgd, method="grda")),
            "sgd, other batches": trained(folder / f"sgd-other-batches-{seed}", again),
            "sgd, other seed": trained(folder / f"sgd-{other.seed}", other),
        }
        head = {"model": "vgg16_bn", "variant": "", "seed": seed, "mu": sgd.mu, "c": sgd.c}
        configs = (VGG16_BN_CURVES, VGG16_BN_HESSIAN)
        yield surveyed(paths, configs, folder / f"landscape-{seed}", head)


def corners(runs: Path) -> Iterator[tuple[dict[str, str], dict[str, Path], Path]]:
    """Yield the first columns of a row, networks with all their checkpoints, and a folder."""
    for name, plain in NETWORKS.items():
        config, folder = replace(plain, keep_checkpoints=1000), runs / f"{name}-checkpoints"
        paths = family(folder, config)
        other = replace(config, method="sgd", seed=SEEDS[-1])
        paths["sgd, other seed"] = trained(folder / f"sgd-{other.seed}", other)
        for third in THIRDS:
            order = ["sgd", "grda", f"sgd, {third}", *paths]
            head = {"model": name, "third": third}
            out = folder / f"plane-sgd-{third.replace(' ', '-')}"
            yield head, {label: paths[label] for label in order}, out


def planes(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """Loss and error on every plane: SGD at (0, 0), gRDA at (x, 0), the third network above."""
    for head, paths, out in corners(runs):
        found = survey(list(paths.values()), PLANE, out)["plane"]["measured"]["figures"]
        yield [
            head
            | {"x": x, "y": y}
            | {
                f"{on}_{of}": found[of][on][j][i]
                for on in found["loss"]
                for of in ("loss", "error")
            }
            for j, y in enumerate(found["y"])
            for i, x in enumerate(found["x"])
        ]


def projections(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """Project networks, their checkpoints and directional pruning onto every plane."""
    for head, paths, out in corners(runs):
        figures = survey(list(paths.values()), PLANE, out)
        plane, ends = figures["plane"], figures["networks"]
        labels = dict(zip([end["name"] for end in ends], paths))
        rows = [
            ("end", labels.get(name, name), None, at) for name, at in plane["networks"].items()
        ]
        for name in list(labels)[:3]:
            way = plane["trajectories"][name]
            rows += [("epoch", labels[name], n, at) for n, at in zip(way["epoch"], way["at"])]
        way = plane["directional"]
        rows += [("zeros", "directional", n, at) for n, at in zip(way["sparsity"], way["at"])]
        names = ("what", "network", "value", "x", "y", "off")
        yield [head | dict(zip(names, (*row[:3], *row[3]))) for row in rows]


def edges(runs: Path) -> Iterator[list[dict[str, Any]]]:
    """Loss and error along the straight edges of every plane's triangle."""
    for head, paths, _ in corners(runs):
        subject = open_subject(list(paths.values()), PLANE)
        labels = dict(zip([n.name for n in subject.networks], paths))
        rows = []
        for a, b in combinations(subject.networks[:3], 2):
            way = straight_line(a.point, b.point)
            found = path(way, subject.model, subject.loss, subject.data)
            row = head | {"from": labels[a.name], "to": labels[b.name], "length": found.length}
            for on, loss in found.loss.items():
                at, most = loss.largest
                row |= {f"{on}_max": most, f"{on}_at": at, f"{on}_rise": loss.rise}
                row |= {f"{on}_from": loss.values[0], f"{on}_to": loss.values[-1]}
                row[f"{on}_error_max"] = found.error[on].largest[1]
            rows.append(row)
        yield rows


def shown(value: Any) -> Any:
    """Format a figure for a CSV file."""
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else value


def main() -> None:
    """Measure the parts and write their files."""
    torch.set_num_threads(1)
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/landscape")
    parts = {"seeds": seeds, "variants": variants, "training": training}
    parts |= {"planes": planes, "projections": projections, "edges": edges}
    asked = {"vgg16": vgg16, "vgg16_bn": vgg16_bn}
    for part in sys.argv[2:] or parts:
        rows: list[dict[str, Any]] = []
        for more in (parts | asked)[part](runs):
            rows += more
            with (HERE / f"{part}.csv").open("w", newline="") as table:
                writer = csv.DictWriter(table, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows({key: shown(value) for key, value in r.items()} for r in rows)
        known, file = environment("cpu"), HERE / "environment.json"
        kept = {key: known[key] for key in ("versions", "commit", "hardware", "started")}
        write_json(file, (read_json(file) if file.exists() else {}) | {part: kept})


if __name__ == "__main__":
    main()
