"""Sources: properties of their batches, in memory or streamed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dirprune.data.augment import CropFlip
from dirprune.data.sources import MemorySource, Source
from dirprune.data.stream import StreamSource

Batch = tuple[Tensor, Tensor]
STATISTICS = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (23, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture
def stream(images: Tensor, tmp_path: Path) -> StreamSource:
    paths = tuple(str(tmp_path / f"{i}.png") for i in range(23))
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return StreamSource(paths, torch.arange(23), *STATISTICS, size=24, workers=0)


@pytest.fixture(params=["memory", "stream"])
def source(request: pytest.FixtureRequest, images: Tensor, stream: StreamSource) -> Source:
    """Twenty-three random images of one class each, so that a label names its image."""
    if request.param == "stream":
        return stream
    return MemorySource(images, torch.arange(23), *STATISTICS, CropFlip(4))


def read(source: Source, **options: Any) -> list[Batch]:
    chosen: dict[str, Any] = {"seed": 5, "epoch": 2, "shuffle": True, "augment": True}
    return list(source.batches(4, **(chosen | options)))


def equal(a: list[Batch], b: list[Batch]) -> bool:
    pairs = [(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_batches_are_a_function_of_seed_and_epoch(source: Source) -> None:
    first = read(source)
    state = torch.get_rng_state()
    torch.rand(3)
    np.random.default_rng().random()
    assert equal(read(source), first)
    for other in ({"epoch": 3}, {"seed": 6}):
        changed = read(source, **other)
        assert not torch.equal(changed[0][1], first[0][1])
    assert not torch.equal(torch.get_rng_state(), state)


def test_reading_does_not_change_the_random_state(source: Source) -> None:
    state = torch.get_rng_state()
    read(source)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_image_comes_once_per_epoch(source: Source) -> None:
    batches = read(source)
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 4, 4, 3]
    assert torch.cat([labels for _, labels in batches]).sort().values.tolist() == [*range(23)]
    assert equal(read(source, drop_last=True), batches[:5])


def test_images_and_labels_stay_together(source: Source) -> None:
    stored = next(source.batches(23))[0]
    for images, labels in read(source, augment=False):
        assert torch.equal(images, stored[labels])


def test_starting_later_gives_the_remaining_batches(source: Source) -> None:
    batches = read(source)
    for start in (0, 3, 5, 6):
        assert equal(read(source, start=start), batches[start:])


@pytest.mark.parametrize("world", [2, 3, 4])
def test_slices_of_the_processes_form_the_batch(source: Source, world: int) -> None:
    parts = [read(source, rank=rank, world=world) for rank in range(world)]
    joined = [
        (torch.cat([x for x, _ in slices]), torch.cat([y for _, y in slices]))
        for slices in zip(*parts, strict=True)
    ]
    assert equal(joined, read(source))


def test_augmentation_changes_from_epoch_to_epoch_and_image_to_image(source: Source) -> None:
    once, twice = (read(source, shuffle=False, epoch=epoch) for epoch in (0, 1))
    same = [
        torch.equal(x, y)
        for (a, _), (b, _) in zip(once, twice, strict=True)
        for x, y in zip(a, b, strict=True)
    ]
    assert sum(same) <= 3  # a crop and flip is met again with probability 1/162


def test_random_batches_without_a_seed_are_refused(source: Source) -> None:
    with pytest.raises(ValueError, match="need a seed"):
        next(source.batches(4, shuffle=True))
    with pytest.raises(ValueError, match="need a seed"):
        next(source.batches(4, augment=True))
    with pytest.raises(ValueError, match="seed must be at least 0"):
        next(source.batches(4, shuffle=True, seed=-1))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        next(source.batches(0))


def test_take_returns_the_requested_images(source: Source) -> None:
    indices = torch.tensor([7, 3, 20])
    (images, labels), *rest = source.take(indices).batches(9)
    assert not rest
    assert torch.equal(labels, indices)
    assert torch.equal(images, next(source.batches(23))[0][indices])


# torch warns if fewer processors are usable than workers are requested
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")
# Forking a process that has threads, as PyTorch's loader does, warns from Python 3.12 on.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_worker_processes_change_nothing(stream: StreamSource) -> None:
    state = torch.get_rng_state()
    several = read(replace(stream, workers=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(several, read(stream))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_gives_one_line_with_its_file(stream: StreamSource, workers: int) -> None:
    path = Path(stream.paths[9])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"broken image .*9\.png \(.*\): replace") as caught:
        read(replace(stream, workers=workers))
    assert "\n" not in str(caught.value)
