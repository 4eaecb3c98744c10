"""Image files are read as an image viewer shows them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dirprune.data import class_folders, read_image

RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (0, 0, 255)


def seen(path: Path) -> np.ndarray:
    image = read_image(str(path))
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["x.png", "x.tiff"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, name: str) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / name)
    assert np.abs(seen(tmp_path / name) - (ramp / 257.0)[..., None]).max() <= 0.5


def test_a_dark_image_of_sixteen_bits_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "x.png")
    assert seen(tmp_path / "x.png").max() <= 1


def test_a_float_image_between_0_and_1_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "x.tiff")
    assert seen(tmp_path / "x.tiff")[0, :, 0].tolist() == [0, 128, 255]


def test_transparent_pixels_are_white_and_half_transparent_ones_lighter(tmp_path: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0] = [(9, 99, 199, 0), (255, 0, 0, 255), (255, 0, 0, 128)]
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = seen(tmp_path / "x.png")
    assert found[0, :2].tolist() == [[*WHITE], [*RED]]
    assert np.abs(found[0, 2] - [255, 127, 127]).max() <= 1


def save_palette(path: Path, **options: object) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(path, **options)


def test_palettes_with_and_without_a_transparent_colour(tmp_path: Path) -> None:
    save_palette(tmp_path / "a.png")
    assert seen(tmp_path / "a.png").tolist() == [[[*RED], [*BLUE]]]
    for name in ("b.png", "b.gif"):
        save_palette(tmp_path / name, transparency=0)
        assert seen(tmp_path / name).tolist() == [[[*WHITE], [*BLUE]]]


@pytest.mark.parametrize(("mode", "dark", "light"), [("1", 0, 1), ("L", 0, 255)])
def test_grey_and_bilevel(tmp_path: Path, mode: str, dark: int, light: int) -> None:
    image = Image.new(mode, (2, 1), dark)
    image.putpixel((1, 0), light)
    image.save(tmp_path / "x.png")
    assert seen(tmp_path / "x.png")[0, :, 0].tolist() == [0, 255]


def test_transparent_grey_and_a_transparent_rgb_colour(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (2, 1), 7), Image.new("L", (2, 1), 0)]).save(
        tmp_path / "a.png"
    )
    assert seen(tmp_path / "a.png").min() == 255
    Image.new("RGB", (2, 1), RED).save(tmp_path / "b.png", transparency=RED)
    assert seen(tmp_path / "b.png").min() == 255
    Image.fromarray(np.array([[500, 65535]], np.uint16)).save(tmp_path / "c.png", transparency=500)
    assert seen(tmp_path / "c.png").min() == 255


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert np.abs(seen(tmp_path / "x.jpg") - RED).max() <= 3


def test_the_rotation_of_a_photo_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), WHITE)
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    image.save(tmp_path / "x.png", exif=exif)
    found = seen(tmp_path / "x.png")
    assert found.shape == (3, 2, 3)
    assert found[0, 1].tolist() == [*RED]
    deep = Image.fromarray(np.array([[65535, 0, 0], [0, 0, 0]], np.uint16))
    deep.save(tmp_path / "y.png", exif=exif)
    assert seen(tmp_path / "y.png")[..., 0].tolist() == [[0, 255], [0, 0], [0, 0]]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), RED).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert seen(tmp_path / "x.jpg").shape == (2, 3, 3)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_the_first_frame_of_an_animation(tmp_path: Path, name: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE))
    red.save(tmp_path / name, save_all=True, append_images=[blue], lossless=True)
    assert np.abs(seen(tmp_path / name) - RED).max() <= 8


def test_the_still_picture_of_an_animated_png_is_not_its_first_frame(tmp_path: Path) -> None:
    red, blue, white = (Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE))
    white.save(tmp_path / "x.png", save_all=True, append_images=[red, blue], default_image=True)
    assert seen(tmp_path / "x.png")[0, 0].tolist() == [*RED]


def test_hidden_folders_and_files_are_ignored(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    hidden = ("train/.ipynb_checkpoints/1.png", "train/__MACOSX/cat/1.png", "train/cat/._1.png")
    nested = ("train/cat/.ipynb_checkpoints/1-checkpoint.png", "train/cat/in/2.png")
    visible = ("train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    for name in (*hidden, *nested, *visible, "test/.cache/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    (tmp_path / "train" / ".empty").mkdir()
    classes, (train, test) = class_folders(str(tmp_path), ["train", "test"])
    assert classes == ["cat", "dog"]
    names = [Path(path).relative_to(tmp_path).as_posix() for path in train[0]]
    assert names == ["train/cat/1.png", "train/cat/in/2.png", "train/dog/1.png"]
    assert train[1].tolist() == [0, 0, 1]
    assert len(test[0]) == 2


def test_hidden_parents_do_not_hide_the_data(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "data"
    for name in ("train/a/1.png", "train/b/1.png"):
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name)
    classes, _ = class_folders(str(root), ["train"])
    assert classes == ["a", "b"]
