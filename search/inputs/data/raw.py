"""What a source of data hands over: images that are not resized yet, labels, given splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.inputs.data.photo import SQUASHED, Resize, framed

SplitName = Literal["train", "validation", "test"]
Pixels = NDArray[np.uint8]
# What folders, arrays and files of the splits are called.
SPLIT_NAMES: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class BrokenImagesError(Exception):
    """A few images can't be decoded: their ``indices`` and ``names``; ``others`` are the rest."""

    def __init__(self, indices: list[int], names: list[str], others: Pixels) -> None:
        super().__init__(f"{len(indices)} images can't be decoded")
        self.indices, self.names, self.others = indices, names, others


class Images(Protocol):
    """Images of one channel count, resized when asked for."""

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (red, green, blue)."""

    @property
    def gray(self) -> int:
        """How many are gray, which among color ones are read as color."""

    @property
    def photos(self) -> bool:
        """Whether they may be of any size, unlike arrays, which somebody has prepared."""

    @property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """The different (height, width) among the images."""

    def __len__(self) -> int: ...

    def take(self, indices: NDArray[np.int64]) -> Images:
        """The images at ``indices``, not decoded yet."""

    def pixels(self, size: tuple[int, int], resize: Resize = SQUASHED) -> Pixels:
        """All images, uint8 (N, C, height, width), brought to ``size`` as ``resize`` says.

        Raises:
            BrokenImagesError: a few can't be decoded.
            InputError: too many can't be decoded.
        """


@dataclass(frozen=True)
class RawSplit:
    """Images and their classes, int64 (N,); no labels where the source has none."""

    images: Images
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class RawData:
    """What a source gives: splits of its own, or ``train`` alone, from which all are made.

    ``names`` are those of image files, relative to the split's folder. ``column`` gives what else
    the source knows of each image, by the column's name; it raises InputError where there is none.
    Both are in the order of the images.
    """

    name: str
    splits: Mapping[SplitName, RawSplit]
    classes: tuple[str, ...]  # empty where the source has no labels
    size: tuple[int, int] | None = None  # of the stored images, where the source prefers one
    notes: tuple[str, ...] = ()
    names: Mapping[SplitName, tuple[str, ...]] = field(default_factory=dict)
    column: Callable[[str], Mapping[SplitName, NDArray[Any]]] | None = None


@dataclass(frozen=True)
class ArrayImages:
    """Images that are in memory already, uint8 (N, C, H, W)."""

    array: Pixels

    @property
    def channels(self) -> int:
        """1 (gray) or 3 (red, green, blue)."""
        return int(self.array.shape[1])

    @property
    def gray(self) -> int:
        """All or none."""
        return len(self) if self.channels == 1 else 0

    @property
    def photos(self) -> bool:
        """They were prepared."""
        return False

    @property
    def sizes(self) -> frozenset[tuple[int, int]]:
        """The one (height, width) of the array."""
        return frozenset({(self.array.shape[2], self.array.shape[3])})

    def __len__(self) -> int:
        return len(self.array)

    def take(self, indices: NDArray[np.int64]) -> ArrayImages:
        """Copies of the images at ``indices``."""
        return ArrayImages(self.array[indices])

    def pixels(self, size: tuple[int, int], resize: Resize = SQUASHED) -> Pixels:
        """All images, uint8 (N, C, height, width), brought to ``size`` as ``resize`` says."""
        height, width = self.array.shape[2:]
        if size == (height, width) == resize.sides_of(size, size):
            return self.array
        result = np.empty((*self.array.shape[:2], *size), np.uint8)
        for source, target in zip(self.array, result, strict=True):
            for plane, resized in zip(source, target, strict=True):
                image = framed(Image.fromarray(plane), (height, width), size, resize)
                resized[:] = np.asarray(image)
        return result
