"""Images in files or in memory as PNG, JPEG and so on: headers are read first, pixels on demand.

They are turned as their EXIF says, and all color where one is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from search.errors import InputError
from search.inputs.data.photo import SQUASHED, Resize, photo_pixels, upright_size
from search.inputs.data.raw import Pixels
from search.inputs.own_code import one_line

GRAY = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B"})
COLOR = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"})
# Decoding and resizing leave Python's lock, so that threads use every core.
THREADS = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Encoded:
    """One image, in a file or in memory, with the name that messages give it."""

    name: str
    content: Path | bytes

    def open(self) -> AbstractContextManager[Image.Image]:
        """The image, its pixels not decoded yet."""
        if isinstance(self.content, bytes):
            return Image.open(io.BytesIO(self.content))
        return Image.open(self.content)


@dataclass(frozen=True)
class EncodedImages:
    """Images read with one channel count; ``gray`` are so by their headers."""

    items: tuple[Encoded, ...]
    channels: int
    gray: int
    sizes: frozenset[tuple[int, int]]

    @property
    def photos(self) -> bool:
        """They may be of any size."""
        return True

    def __len__(self) -> int:
        return len(self.items)

    def pixels(self, size: tuple[int, int], resize: Resize = SQUASHED) -> Pixels:
        """All images, uint8 (N, C, height, width), brought to ``size`` as ``resize`` says.

        Raises:
            InputError: an image can't be decoded.
        """
        result = np.empty((len(self), self.channels, *size), np.uint8)

        def decode(index: int) -> None:
            with self.items[index].open() as image:
                result[index] = photo_pixels(image, self.channels, size, resize)

        run_each([item.name for item in self.items], decode)
        return result


def scan(items: Sequence[Encoded]) -> EncodedImages:
    """Reads the headers.

    Raises:
        InputError: an image is unreadable.
    """
    channels = np.zeros(len(items), np.int64)
    sizes: set[tuple[int, int]] = set()

    def read(index: int) -> None:
        with items[index].open() as image:
            channels[index] = channels_of_mode(image.mode)
            sizes.add(upright_size(image))

    run_each([item.name for item in items], read)
    gray = int((channels == 1).sum())
    return EncodedImages(tuple(items), int(channels.max()), gray, frozenset(sizes))


def run_each(names: Sequence[str], work: Callable[[int], None], threads: int = THREADS) -> None:
    """Calls ``work`` with each index, in threads.

    Raises:
        InputError: an image is damaged; names the first.
    """
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, index) for index in range(len(names))]
        for name, future in zip(names, futures, strict=True):
            try:
                future.result()
            except Exception as error:  # damaged bytes make Pillow's readers raise anything
                pool.shutdown(cancel_futures=True)
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"an image must be readable, but {name!r} is not "
                    f"({one_line(error)[:120]}); replace or delete it"
                ) from error


def channels_of_mode(mode: str) -> int:
    """1 for gray, 3 for color (an alpha channel is dropped).

    Raises:
        ValueError: another mode of Pillow's, such as 32-bit gray.
    """
    if mode in GRAY:
        return 1
    if mode in COLOR:
        return 3
    raise ValueError(f"its pixels are of mode {mode!r}; convert it to 8-bit gray or RGB")
