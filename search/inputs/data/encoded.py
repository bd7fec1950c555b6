"""Images in files or in memory as PNG, JPEG and so on: headers are read first, pixels on demand.

They are turned as their EXIF says, and all color where one is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hardware_profiles.regular_files import open_regular
from search.errors import InputError
from search.inputs.data.photo import FORMATS, SQUASHED, Resize, photo_pixels, upright_size
from search.inputs.data.raw import BrokenImagesError, Pixels
from search.inputs.own_code import one_line

GRAY = frozenset({"1", "L", "LA", "La", "I;16", "I;16L", "I;16B"})
COLOR = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"})
SHOWN = 3  # names in a note
BROKEN_SHARE = 0.01  # of a split's images, that are passed over
# Decoding and resizing leave Python's lock, so that threads use every core.
THREADS = 2 * (os.cpu_count() or 1)


@dataclass(frozen=True)
class Encoded:
    """One image, in a file or in memory, with the name that messages give it."""

    name: str
    content: Path | bytes

    @contextmanager
    def open(self) -> Iterator[Image.Image]:
        """The image, its pixels not decoded yet."""
        file = (
            io.BytesIO(self.content)
            if isinstance(self.content, bytes)
            else open_regular(self.content)
        )
        with file, Image.open(file, formats=FORMATS) as image:
            yield image


@dataclass(frozen=True)
class EncodedImages:
    """Images read with one channel count; ``gray`` are so by their headers."""

    items: tuple[Encoded, ...]
    channels: int
    gray: int
    sizes: frozenset[tuple[int, int]]
    passed: int = 0  # images with broken headers beside these

    @property
    def photos(self) -> bool:
        """They may be of any size."""
        return True

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: NDArray[np.int64]) -> EncodedImages:
        """The images at ``indices``."""
        return replace(self, items=tuple(self.items[i] for i in indices))

    def pixels(self, size: tuple[int, int], resize: Resize = SQUASHED) -> Pixels:
        """All images, uint8 (N, C, height, width), brought to ``size`` as ``resize`` says.

        Raises:
            BrokenImagesError: a few images can't be decoded.
            InputError: too many can't.
        """
        result = np.empty((len(self), self.channels, *size), np.uint8)

        def decode(index: int) -> None:
            with self.items[index].open() as image:
                result[index] = photo_pixels(image, self.channels, size, resize)

        failed = failures([item.name for item in self.items], decode)
        broken = passed_over(failed, len(self), self.passed)
        if broken:
            names = [self.items[index].name for index in broken]
            raise BrokenImagesError(broken, names, np.delete(result, broken, 0))
        return result


def scan(items: Sequence[Encoded]) -> tuple[EncodedImages, NDArray[np.intp], list[str]]:
    """Reads the headers; gives the images, their indices in ``items``, and the broken ones' names.

    A lone image that can't be read is passed over, and as many as one in a hundred.

    Raises:
        InputError: more are unreadable; names the first.
    """
    channels = np.zeros(len(items), np.int64)
    sizes: set[tuple[int, int]] = set()

    def read(index: int) -> None:
        with items[index].open() as image:
            channels[index] = channels_of_mode(image.mode)
            sizes.add(upright_size(image))

    broken = passed_over(failures([item.name for item in items], read), len(items))
    kept = np.setdiff1d(np.arange(len(items)), broken)
    gray = int((channels[kept] == 1).sum())
    images = EncodedImages(
        tuple(items[i] for i in kept),
        int(channels[kept].max()),
        gray,
        frozenset(sizes),
        len(broken),
    )
    return images, kept, [items[i].name for i in broken]


def passed_over(failed: Mapping[int, InputError], images: int, before: int = 0) -> list[int]:
    """The indices of broken images that a search does without; it did so with some ``before``.

    Raises:
        InputError: they are more than a lone one and than one in a hundred; the first's error.
    """
    most = max(1, int(BROKEN_SHARE * (images + before)))
    if failed and (len(failed) + before > most or len(failed) == images):
        raise failed[min(failed)]
    return sorted(failed)


def broken_note(names: Sequence[str]) -> str:
    """A sentence on images that are passed over."""
    shown = ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
    return f"{len(names)} broken image(s) passed over: {shown}"


def run_each(names: Sequence[str], work: Callable[[int], None], threads: int = THREADS) -> None:
    """Calls ``work`` with each index, in threads.

    Raises:
        InputError: an image is damaged; names the first.
    """
    failed = failures(names, work, threads)
    if failed:
        raise failed[min(failed)]


def failures(
    names: Sequence[str], work: Callable[[int], None], threads: int = THREADS
) -> dict[int, InputError]:
    """Calls ``work`` with each index, in threads; what is wrong with images, by index."""
    failed: dict[int, InputError] = {}
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, index) for index in range(len(names))]
        for index, future in enumerate(futures):
            try:
                future.result()
            except InputError as error:
                failed[index] = error
            except Exception as error:  # damaged bytes make Pillow's readers raise anything
                failed[index] = InputError(
                    f"an image must be readable, but {names[index]!r} is not "
                    f"({one_line(error)[:120]}); replace or delete it"
                )
    return failed


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
