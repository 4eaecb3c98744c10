"""Image files as a viewer shows them: 8-bit RGB, upright, on white."""

import contextlib

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = 65535


def read_image(path: str) -> Image.Image:
    """Decode a file to the RGB image that a viewer shows.

    - 16-bit grey values are scaled to 8 bits.
    - Transparent pixels are drawn on white, which hides their colours.
    - The rotation in the EXIF data is applied.
    - An animation is represented by its first frame.

    Args:
        path: Any format that Pillow reads.

    Returns:
        The image.

    Raises:
        ValueError: If the file is not an image or is damaged; the message names it.
    """
    try:
        with Image.open(path) as image:
            if image.info.get("default_image"):  # an APNG's image for viewers without animations
                image.seek(1)
            image.load()
            return _on_white(_upright(_eight_bits(image)))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"broken image {path} ({reason}): replace or delete it") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey values of more than 8 bits, which Pillow would clip at 255."""
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        largest = 1.0 if values.max(initial=0) <= 1 else 255.0
    else:
        largest = SIXTEEN_BITS if values.max(initial=0) <= SIXTEEN_BITS else 2.0**31 - 1
    grey = np.rint(values.clip(0, largest) * (255 / largest)).astype(np.uint8)
    scaled = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    scaled.info["exif"] = image.info.get("exif", b"")
    if image.mode != "F" and "exif" not in image.info:
        del scaled.info["exif"]
    return scaled


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # damaged EXIF data: viewers ignore them too
        return ImageOps.exif_transpose(image)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
