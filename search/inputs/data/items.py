"""A map-style data set, such as torch's: ``data[i]`` is an image and its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.errors import InputError
from search.inputs.data import arrays
from search.inputs.data.arrays import class_names, to_labels
from search.inputs.data.encoded import channels_of_mode, run_each
from search.inputs.data.photo import SQUASHED, Resize, photo_pixels, upright_size
from search.inputs.data.raw import ArrayImages, Pixels, RawData, RawSplit, SplitName


class Items(Protocol):
    """What is read of a data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class _Chosen:
    """Some of a data set's items."""

    items: Items
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Any:
        return self.items[self.indices[index]]


@dataclass(frozen=True)
class ItemImages:
    """The images of a data set, fetched anew for each use: they may be files."""

    items: Items
    channels: int
    gray: int
    photos: bool
    sizes: frozenset[tuple[int, int]]
    name: str
    threads: int

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: NDArray[np.int64]) -> ItemImages:
        """The images at ``indices``."""
        return replace(self, items=_Chosen(self.items, indices.tolist()))

    def pixels(self, size: tuple[int, int], resize: Resize = SQUASHED) -> Pixels:
        """All images, uint8 (N, C, height, width), brought to ``size`` as ``resize`` says.

        Raises:
            InputError: an image can't be decoded.
        """
        result = np.empty((len(self), self.channels, *size), np.uint8)

        def fetch(index: int) -> None:
            image = self.items[index][0]
            if isinstance(image, Image.Image):
                result[index] = photo_pixels(image, self.channels, size, resize)
            else:
                pixels = arrays.to_pixels(np.asarray(image)[None], f"{self.name}[{index}]")
                result[index] = ArrayImages(pixels).pixels(size, resize)[0]

        run_each([f"{self.name}[{index}]" for index in range(len(self))], fetch, self.threads)
        return result


def from_items(
    name: str, data_sets: Mapping[SplitName, Items], origin: str, threads: int = 1
) -> RawData:
    """The splits in data sets; the names of the classes are their ``classes``, if they have any.

    One thread is for data sets that may not be safe with more, such as a person's own.

    Raises:
        InputError: there is no ``train``, a data set is empty, or its items are not images and
            labels.
    """
    if "train" not in data_sets:
        raise InputError(
            f"data must have a train split, but {origin} has {', '.join(data_sets)}; add one"
        )
    splits = {
        split: _read(items, origin if len(data_sets) == 1 else f"{origin} ({split})", threads)
        for split, items in data_sets.items()
    }
    labels = [split.labels for split in splits.values() if split.labels is not None]
    named = getattr(data_sets["train"], "classes", None)
    names = [str(label) for label in named] if isinstance(named, Sequence) else None
    return RawData(name, splits, tuple(class_names(labels, names, origin)))


def _read(items: Items, name: str, threads: int) -> RawSplit:
    count = len(items)
    if not count:
        raise InputError(f"a data set must hold images, but {name} is empty; check its source")
    names = [f"{name}[{index}]" for index in range(count)]
    channels = [0] * count
    photos = [False] * count
    labels: list[Any] = [None] * count
    sizes: set[tuple[int, int]] = set()

    def read(index: int) -> None:
        item = items[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                f"an item must be an image and its label, but {names[index]} is a "
                f"{type(item).__name__}; return (image, label)"
            )
        image, labels[index] = item
        if isinstance(image, Image.Image):
            channels[index], photos[index] = channels_of_mode(image.mode), True
            sizes.add(upright_size(image))
        else:
            pixels = arrays.to_pixels(np.asarray(image)[None], names[index])
            channels[index] = pixels.shape[1]
            sizes.add((pixels.shape[2], pixels.shape[3]))

    run_each(names, read, threads)
    images = ItemImages(
        items,
        max(channels),
        channels.count(1),
        any(photos),
        frozenset(sizes),
        name,
        threads,
    )
    return RawSplit(images, _labels(labels, name))


def _labels(labels: list[Any], name: str) -> Any:
    try:
        array = np.array([np.asarray(label) for label in labels])
    except ValueError:  # of different lengths
        array = np.array([], object)
    return to_labels(array, f"the labels of {name}")
