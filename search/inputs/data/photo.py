"""From a photo to stored pixels: upright, gray or color, resized, its center cut out.

Loading and a bundle's ``example.py`` share this file: a bundle holds a copy, for which Python 3.9,
Pillow and NumPy are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

Mode = Literal["squash", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Resize:
    """How an image of any size comes to the size of the stored pixels.

    ``squash`` makes it ``sides`` (height, width) whatever its proportions; ``crop`` keeps them, so
    that it just covers ``sides``. Then the center is cut out, with black where it is too small.
    Without ``sides`` they are those of the stored pixels, of which nothing is cut off then.
    """

    mode: Mode = "squash"
    sides: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def sides_of(self, before: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image of ``before`` that is resized, not cut to ``size`` yet.

        As torchvision's ``Resize``, which drops the fraction of the longer side.
        """
        height, width = self.sides or size
        if self.mode == "squash":
            return height, width
        if before[1] * height >= before[0] * width:
            return height, before[1] * height // before[0]
        return before[0] * width // before[1], width


SQUASHED = Resize()
# Pillow would try all it knows on any content, whatever the file's name: PostScript starts gs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width as the image is to be seen; its pixels need not be decoded."""
    height, width = image.height, image.width
    return (width, height) if _lies_on_its_side(image) else (height, width)


def photo_pixels(image: Image.Image, channels: int, size: tuple[int, int], resize: Resize) -> Any:
    """One image, uint8 (C, height, width); of 16-bit gray the upper 8 bits."""
    mode = "L" if channels == 1 else "RGB"
    before = upright_size(image)
    # JPEG only, which can leave out detail while decoding: at least twice what is needed stays.
    height, width = resize.sides_of(before, size)
    enough = (2 * height, 2 * width) if _lies_on_its_side(image) else (2 * width, 2 * height)
    image.draft(mode, enough)
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    image = framed(image.convert(mode), before, size, resize)
    array = np.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def framed(
    image: Image.Image, before: tuple[int, int], size: tuple[int, int], resize: Resize
) -> Image.Image:
    """The image at ``size``; ``before`` is its height and width as it was stored."""
    height, width = resize.sides_of(before, size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[resize.interpolation.upper()])
    if size == (height, width):
        return image
    top, left = _margin(height, size[0]), _margin(width, size[1])
    return image.crop((left, top, left + size[1], top + size[0]))


def _margin(side: int, kept: int) -> int:
    """What is cut off before the center, negative where black is added: as torchvision rounds."""
    return round((side - kept) / 2) if side >= kept else -((kept - side) // 2)


def _orientation(image: Image.Image) -> Any:
    """As EXIF has it: 1 for upright, 2 to 8 for mirrored and turned.

    PNG's own method would decode the pixels, and look behind them. TIFF is turned by its reader.
    """
    if hasattr(image, "tag_v2"):
        return 1
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in (2, 3, 4, 5, 6, 7, 8) else 1


def _lies_on_its_side(image: Image.Image) -> bool:
    return _orientation(image) in (5, 6, 7, 8)
