"""Compare the engine's outputs on real images with torch's.

    python benchmarks/agreement.py photographs FOLDER_OF_IMAGES [--json FILE.json]
    python benchmarks/agreement.py run RUN [--json FILE.json]

``photographs``: ResNet-50 with random weights and the paper's share of zeros in every layer.
BatchNorm is re-estimated on the photographs, so that activations have the scale of those in a
trained network. A random network gives nearly the same output for all images, so the mean over
images is subtracted from the outputs before they are compared. ``run``: a network trained by
``dirprune train``, on its test images.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import datasets, transforms

from dirprune import refresh_batchnorm
from dirprune._support.files import read_json
from dirprune.data.loading import IMAGENET_STATISTICS, load
from dirprune.deploy import Engine, save
from dirprune.train.config import TrainConfig
from dirprune.train.trained import trained_network
from machine import write
from sparse_networks import paper_resnet50

BATCH = 50


def photographs(folder: Path) -> Iterator[Tensor]:
    """Normalised batches of images, resized and cropped as usual for ImageNet."""
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET_STATISTICS),
        ]
    )
    images = datasets.ImageFolder(str(folder), transform)
    for x, _ in torch.utils.data.DataLoader(images, BATCH):
        yield x


def test_images(run: Path) -> Iterator[Tensor]:
    """Batches of a run's test images, as the run evaluated them."""
    config = TrainConfig(**read_json(run / "config.json")["config"])
    for x, _ in load(
        config.data, validation=config.validation, seed=config.seed, augment=config.augment
    ).test.batches(BATCH):
        yield x


@torch.no_grad()
def compared(net: nn.Module, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Return the largest difference relative to the largest centred output, and equal classes."""
    by_torch, by_engine = [], []
    with tempfile.TemporaryDirectory() as folder:
        engine = None
        for x in batches:
            x = x.contiguous()
            if engine is None:
                print(save(net, f"{folder}/model.dpz", x[:2]))
                engine = Engine(f"{folder}/model.dpz", threads=torch.get_num_threads())
            by_torch.append(net(x))
            by_engine.append(torch.from_numpy(engine(x.numpy())))
    expected, found = torch.cat(by_torch), torch.cat(by_engine)
    mean = expected.mean(0)
    expected, found = expected - mean, found - mean
    return {
        "images": len(expected),
        "difference": float((expected - found).abs().max() / expected.abs().max()),
        "same class": int((expected.argmax(1) == found.argmax(1)).sum()),
        "distinct classes": len(expected.argmax(1).unique()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("photographs", "run"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.what == "photographs":
        net = paper_resnet50()
        refresh_batchnorm(net, photographs(options.path))
        figures = compared(net, photographs(options.path))
    else:
        net, _ = trained_network(options.path)
        figures = compared(net, test_images(options.path))
    print(figures)
    write(options.json, {"what": options.what, **figures})
    if figures["difference"] > 1e-4 or figures["same class"] < figures["images"]:
        raise SystemExit("the engine's outputs differ from torch's")


if __name__ == "__main__":
    main()
