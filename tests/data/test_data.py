"""Data sets by name: reading, splitting, and errors."""

import gzip
import hashlib
import pickle
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from dirprune.data import datasets as standard
from dirprune.data import folders
from dirprune.data.augment import CropFlip
from dirprune.data.loading import Dataset, channel_statistics, load
from dirprune.data.sources import MemorySource, Source
from dirprune.data.stream import StreamSource

# --- Reading ---


def test_digits_equal_scikit_learns() -> None:
    data = load("digits")
    assert (len(data.train), len(data.test), data.num_classes) == (1437, 360, 10)
    assert (data.channels, data.size, data.augment) == (1, (8, 8), False)
    parts = (data.train, data.test)
    stored = torch.cat([part.images for part in parts if isinstance(part, MemorySource)])
    back = np.rint(stored[:, 0].numpy() / 255 * 16)
    original = load_digits().images
    assert {image.tobytes() for image in back} == {image.tobytes() for image in original}
    for part in parts:
        share = np.bincount(part.labels.numpy()) / len(part)
        assert share == pytest.approx(np.bincount(load_digits().target) / 1797, abs=0.003)


def test_training_images_are_normalised() -> None:
    data = load("digits")
    images, _ = next(data.train.batches(len(data.train)))
    assert images.dtype == torch.float32
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-3)


def test_channel_statistics_are_the_moments() -> None:
    images = torch.randint(0, 256, (5, 3, 7, 6), dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = channel_statistics(images)
    expected = images.double().div(255)
    assert mean == pytest.approx(expected.mean(dim=(0, 2, 3)).tolist())
    deviations = expected[:, :2].std(dim=(0, 2, 3), correction=0).tolist()
    assert std == pytest.approx([*deviations, 1.0])  # a constant channel is not divided by 0


def test_validation_is_stratified_disjoint_and_decided_by_the_seed() -> None:
    def parts(seed: int) -> tuple[Dataset, set[bytes], set[bytes]]:
        data = load("digits", validation=0.2, seed=seed)
        assert isinstance(data.train, MemorySource)
        assert isinstance(data.validation, MemorySource)
        train, held_out = data.train.images, data.validation.images
        return data, {x.numpy().tobytes() for x in train}, {x.numpy().tobytes() for x in held_out}

    data, train, held_out = parts(1)
    assert not train & held_out
    assert len(train | held_out) == 1437
    assert data.validation is not None
    shares = [np.bincount(p.labels.numpy()) / len(p) for p in (data.train, data.validation)]
    assert shares[0] == pytest.approx(shares[1], abs=0.005)
    assert parts(1)[2] == held_out
    assert parts(2)[2] != held_out
    original = load("digits")
    assert original.validation is None
    assert torch.equal(original.test.labels, data.test.labels)


def write_idx(path: Path, array: np.ndarray, packed: bool) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    data = header + array.astype(np.uint8).tobytes()
    name = path.name + (".gz" if packed else "")
    path.with_name(name).write_bytes(gzip.compress(data) if packed else data)


def write_fashion(
    folder: Path, *, packed: bool = False, largest: int = 9
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 30), ("t10k", 20)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(256, size=(n, 28, 28))
        arrays[f"{part}-labels-idx1-ubyte"] = np.arange(n) % (largest + 1)
    for name, array in arrays.items():
        write_idx(folder / name, array, packed)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_its_original_files(tmp_path: Path, packed: bool) -> None:
    arrays = write_fashion(tmp_path, packed=packed)
    data = load(f"fashion-mnist:{tmp_path}")
    assert (data.num_classes, data.channels, data.size, data.augment) == (10, 1, (28, 28), True)
    assert isinstance(data.test, MemorySource)
    assert np.array_equal(data.test.images[:, 0], arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(data.train.labels, arrays["train-labels-idx1-ubyte"])


def test_fashion_mnist_where_debian_or_torchvision_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "cache" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    write_fashion(raw)
    monkeypatch.setattr(standard, "DEBIAN_FASHION_MNIST", tmp_path / "none")
    monkeypatch.setattr(standard, "CACHE", tmp_path / "cache")
    assert len(load("fashion-mnist").train) == 30
    debian = tmp_path / "debian"
    debian.mkdir()
    write_fashion(debian, packed=True, largest=4)
    monkeypatch.setattr(standard, "DEBIAN_FASHION_MNIST", debian)
    assert load("fashion-mnist").train.labels.max() == 4


def test_cifar_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(6, 3, 32, 32)).astype(np.uint8)

    def write(name: str, content: object) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    batch = {"data": pixels.reshape(6, -1), "labels": [9, 1, 2, 3, 4, 5]}
    name, digest = write("batches.meta", {"label_names": list("abcdefghij")})
    meta = {"filename": name, "md5": digest, "key": "label_names"}
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", batch)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch)])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    data = load(f"cifar10:{tmp_path}")
    assert isinstance(data.train, MemorySource)
    assert np.array_equal(data.train.images, pixels)
    assert data.train.labels.tolist() == [9, 1, 2, 3, 4, 5]
    assert data.train.augmentation == CropFlip(4, "constant")
    assert data.mean == (0.4914, 0.4822, 0.4465)


def image_folder(
    root: Path,
    *,
    size: tuple[int, int] = (32, 30),
    parts: tuple[str, ...] = ("train", "val"),
    classes: tuple[str, ...] = ("cat", "dog", "emu"),
    per_class: int = 5,
) -> Path:
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                pixels = rng.integers(256, size=(*size, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def test_small_images_of_a_folder_are_kept_in_memory(tmp_path: Path) -> None:
    data = load(f"imagefolder:{image_folder(tmp_path)}")
    assert (data.num_classes, data.channels, data.size, data.augment) == (3, 3, (32, 30), True)
    assert isinstance(data.train, MemorySource)
    assert data.train.augmentation == CropFlip(4, "reflect")
    assert data.validation is None
    stored = data.train.images[data.train.labels == 1][2]
    original = np.asarray(Image.open(tmp_path / "train" / "dog" / "2.png"))
    assert np.array_equal(stored.permute(1, 2, 0), original)
    plain = load(f"imagefolder:{tmp_path}", augment=False)
    assert not plain.augment


def in_process(source: Source) -> Source:
    assert isinstance(source, StreamSource)
    return replace(source, workers=0)


@pytest.mark.parametrize("why", ["large", "mixed", "many"])
def test_other_images_of_a_folder_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    image_folder(tmp_path, size=(66, 60) if why == "large" else (32, 32))
    if why == "mixed":
        Image.new("L", (33, 32)).save(tmp_path / "val" / "emu" / "4.png")
    if why == "many":
        monkeypatch.setattr(folders, "MEMORY_BYTES", 30 * 3 * 32 * 32 - 1)
    data = load(f"imagefolder:{tmp_path}", validation=0.2)
    assert isinstance(data.train, StreamSource)
    assert (data.size, data.augment) == ((224, 224), True)
    assert data.validation is not None
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 3, 15)
    images, labels = next(in_process(data.test).batches(15))
    assert images.shape == (15, 3, 224, 224)
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_a_photo_keeps_its_centre(tmp_path: Path) -> None:
    pixels = np.zeros((256, 400, 3), np.uint8)
    pixels[16:240, 88:312] = 255  # the centre of 224x224
    for name in ("a", "b"):
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    data = load(f"imagenet:{tmp_path}")
    images, _ = next(in_process(data.test).batches(2))
    white = (1 - torch.tensor(data.mean)) / torch.tensor(data.std)
    torch.testing.assert_close(images, white.view(1, 3, 1, 1).expand(2, 3, 224, 224))


@pytest.mark.parametrize(
    ("share", "validation", "train"), [(0.0, 15, 15), (0.2, 3, 12)], ids=["val folder", "share"]
)
def test_a_folder_with_test_and_val(
    tmp_path: Path, share: float, validation: int, train: int
) -> None:
    image_folder(tmp_path, parts=("train", "val", "test"))
    data = load(f"imagefolder:{tmp_path}", validation=share)
    assert data.validation is not None
    assert (len(data.validation), len(data.train), len(data.test)) == (validation, train, 15)


def test_labels_of_other_parts_are_those_of_the_same_class_in_training(tmp_path: Path) -> None:
    image_folder(tmp_path, parts=("train",))
    image_folder(tmp_path, parts=("test",), classes=("cat", "emu"))
    data = load(f"imagefolder:{tmp_path}")
    assert set(data.test.labels.tolist()) == {0, 2}


# --- Errors ---


def no_training_images(root: Path) -> None:
    for path in (root / "train").glob("*/*"):
        path.unlink()


def cut_off(root: Path) -> None:
    path = root / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:200])


def no_image(root: Path) -> None:
    (root / "val" / "emu" / "1.png").write_text("not a picture")


def unknown_class(root: Path) -> None:
    (root / "val" / "dog").rename(root / "val" / "fox")


def one_class(root: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).rename(root / f"{part}-{name}")


def no_parts(root: Path) -> None:
    (root / "val").rename(root / "cats")


def no_train(root: Path) -> None:
    (root / "train").rename(root / "training")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (no_training_images, FileNotFoundError, "no images in .*train .*: create one folder of"),
        (cut_off, ValueError, r"broken image .*dog.3\.png \(.*\): replace or delete it"),
        (no_image, ValueError, r"broken image .*emu.1\.png"),
        (unknown_class, ValueError, r"classes that train/ lacks \(fox\)"),
        (one_class, ValueError, "has one class, emu, but training needs at least 2"),
        (no_parts, FileNotFoundError, "has neither test/ nor val/"),
        (no_train, FileNotFoundError, "has no train/: create train/CLASS/ and val/CLASS/"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_image_folder(
    tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    spoil(image_folder(tmp_path))
    with pytest.raises(error, match=message) as caught:
        load(f"imagefolder:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("digit", ValueError, "unknown data 'digit': did you mean digits"),
        ("digits:x", ValueError, "unknown data 'digits:x'"),
        ("zzz", ValueError, "unknown data 'zzz': use one of digits, fashion-mnist"),
        ("imagefolder", ValueError, "needs a folder: use imagefolder:FOLDER"),
        ("imagefolder:{}/none", FileNotFoundError, "no folder .*none: give a folder with"),
        (
            "imagenet:{}/none",
            FileNotFoundError,
            "imagenet:FOLDER needs .* from image-net.org",
        ),
        ("imagefolder:{}/file", NotADirectoryError, "file is a file: give a folder"),
        ("imagefolder:{}", FileNotFoundError, "has neither test/ nor val/"),
        ("imagenet:{}", FileNotFoundError, "has no train/"),
        ("fashion-mnist:{}", FileNotFoundError, "apt install dataset-fashion-mnist, or python -c"),
        ("cifar10:{}", FileNotFoundError, r"no complete cifar-10-batches-py .*CIFAR10\('"),
        ("cifar100:{}", FileNotFoundError, r"no complete cifar-100-python .*CIFAR100\('"),
    ],
)
def test_bad_name_or_path(tmp_path: Path, name: str, error: type[Exception], message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message) as caught:
        load(name.format(tmp_path))
    assert "\n" not in str(caught.value)


def test_damaged_fashion_mnist(tmp_path: Path) -> None:
    write_fashion(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    original = path.read_bytes()
    for content in (original[:1000], b"", b"\x1f\x8b garbage", gzip.compress(b"no IDX at all")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"train-images.* is not a complete IDX file"):
            load(f"fashion-mnist:{tmp_path}")


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    write_fashion(tmp_path, largest=10)
    with pytest.raises(ValueError, match=r"up to 10, but every image needs one label in 0\.\.9"):
        load(f"fashion-mnist:{tmp_path}")
    write_fashion(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(19), packed=False)
    with pytest.raises(ValueError, match=r"labels with shape \(19,\)"):
        load(f"fashion-mnist:{tmp_path}")
    for name, array in (("images-idx3", np.zeros((0, 28, 28))), ("labels-idx1", np.zeros(0))):
        write_idx(tmp_path / f"t10k-{name}-ubyte", array, packed=False)
    with pytest.raises(ValueError, match=r"images with shape \(0, 28, 28\)"):
        load(f"fashion-mnist:{tmp_path}")


def test_a_validation_share_that_leaves_a_class_out(tmp_path: Path) -> None:
    image_folder(tmp_path, per_class=2)
    with pytest.raises(ValueError, match=r"validation=0\.1 of 6 training images cannot keep"):
        load(f"imagefolder:{tmp_path}", validation=0.1)


def test_a_home_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in the list of users."""

    def unknown(*args: object) -> NoReturn:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    runpy.run_path(standard.__file__)
    with pytest.raises(FileNotFoundError, match="~nobody99"):
        load("cifar10:~nobody99/data")


def test_links_are_followed_once(tmp_path: Path) -> None:
    image_folder(tmp_path)
    elsewhere = image_folder(tmp_path / "elsewhere", per_class=1)
    dog, emu = tmp_path / "train" / "dog", tmp_path / "train" / "emu"
    (dog / "more").symlink_to(elsewhere / "train" / "dog")
    (dog / "itself").symlink_to(dog)
    (emu / "other").symlink_to(dog)  # its link to itself must not be followed for ever
    (dog / "other").symlink_to(emu)
    _, (train, _) = folders.class_folders(str(tmp_path), ["train", "val"])
    assert train[1].bincount().tolist() == [5, 11, 11]  # both hold 5 + 1 of dog and 5 of emu
    assert len({Path(path).resolve() for path, label in zip(*train) if label == 1}) == 11


def test_every_common_type_of_image_is_read(tmp_path: Path) -> None:
    image_folder(tmp_path, per_class=1)
    for name, kind in (("a.GIF", "GIF"), ("b.jfif", "JPEG"), ("c.WebP", "WEBP")):
        Image.new("RGB", (32, 30)).save(tmp_path / "train" / "cat" / name, kind)
    assert len(load(f"imagefolder:{tmp_path}").train) == 6


def test_a_class_without_test_images(tmp_path: Path) -> None:
    image_folder(tmp_path)
    for path in (tmp_path / "val" / "dog").iterdir():
        path.unlink()
    data = load(f"imagefolder:{tmp_path}")
    assert data.test.labels.tolist() == [0] * 5 + [2] * 5
    for path in (tmp_path / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no images in .*train \(classes dog\)"):
        load(f"imagefolder:{tmp_path}")
