"""From a source's images to checked splits that never share an image."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.host import available_bytes
from search.errors import InputError
from search.inputs.data.encoded import broken_note
from search.inputs.data.grouping import groups_of
from search.inputs.data.photo import SQUASHED, Resize
from search.inputs.data.raw import BrokenImagesError, Pixels, RawData, RawSplit, SplitName
from search.inputs.data.splitting import (
    CALIBRATION_IMAGES,
    group_duplicates,
    joined,
    missing_shares,
    split_groups,
    split_indices,
)
from search.task import Metric, Split
from search.training.augment import VIEWS

SKEW = 3.0  # largest class over smallest, from which plain accuracy hides a class
SHARE_OF_MEMORY = 2 / 3  # for images; the rest is for the libraries and what training computes


def check_source(raw: RawData, metric: Metric) -> None:
    """Checks what must hold before images are decoded.

    Raises:
        InputError: there are no labels or fewer than two classes.
    """
    if metric == "agreement":
        return
    if any(split.labels is None for split in raw.splits.values()):
        raise InputError(
            f"images must have labels, but {raw.name!r} has none; sort them into one folder per "
            f"class (or give `labels`), or use --metric agreement with --weights"
        )
    if len(raw.classes) < 2:
        raise InputError(
            f"there must be at least two classes, but {raw.name!r} has {len(raw.classes)} "
            f"({', '.join(raw.classes)}); add the images of another class"
        )


def assemble(
    raw: RawData,
    size: tuple[int, int],
    channels: int,
    seed: int,
    resize: Resize = SQUASHED,
    groups: str | None = None,
) -> tuple[dict[SplitName, Split], list[str]]:
    """The three splits at ``size``, gray repeated where the network takes 3 channels; and notes.

    Where some images are gray and others color, all become color.

    Splits that the source lacks are made from its ``train``. Images without labels get label 0.
    ``groups`` names the images that are kept in one split, as ``grouping`` says.

    Raises:
        InputError: the images don't fit into memory, one can't be decoded, or groups can't be
            told.
    """
    _check_memory(raw, size, channels)
    together = groups_of(raw, groups) if groups else {}
    given: dict[SplitName, Split] = {}
    copies: dict[SplitName, NDArray[np.int64]] = {}
    most = max(split.images.channels for split in raw.splits.values())
    decoded: dict[SplitName, Pixels] = {}
    labeled: dict[SplitName, NDArray[np.int64] | None] = {}
    broken: list[str] = []
    for name, split in raw.splits.items():
        pixels, labeled[name], names, passed = _decoded(split, size, resize)
        if groups:
            together[name] = np.delete(together[name], passed)
        decoded[name] = _repeat(pixels, most)
        broken += names
    numbers = group_duplicates(chain.from_iterable(decoded.values()))
    for name, pixels in decoded.items():
        copies[name], numbers = numbers[: len(pixels)], numbers[len(pixels) :]
        labels = labeled[name]
        if labels is None:
            labels = np.zeros(len(pixels), np.int64)
        given[name] = Split(_repeat(pixels, channels), labels, together.get(name))
    notes = _mixed(raw) + _shared(copies) + _leaking(together)
    if broken:
        notes.append(broken_note(broken))
    whole = given["train"]
    shares = missing_shares(list(given))
    if whole.groups is None:
        parts = split_indices(whole.labels, copies["train"], shares, seed)
    else:
        parts = split_groups(whole.labels, joined(whole.groups, copies["train"]), shares, seed)
    made: Mapping[SplitName, Split] = {
        name: whole.take(indices) for name, indices in parts.items()
    }
    return {**given, **made}, notes


def _decoded(
    split: RawSplit, size: tuple[int, int], resize: Resize
) -> tuple[Pixels, NDArray[np.int64] | None, list[str], list[int]]:
    """Pixels and labels of a split, and the names and indices of images that are passed over."""
    try:
        return split.images.pixels(size, resize), split.labels, [], []
    except BrokenImagesError as error:
        labels = None if split.labels is None else np.delete(split.labels, error.indices)
        return error.others, labels, error.names, error.indices


def check_splits(
    splits: Mapping[SplitName, Split], classes: tuple[str, ...], metric: Metric
) -> list[str]:
    """Notes on the splits, such as skewed classes.

    Raises:
        InputError: a split is empty or, with labels, has fewer images than there are classes or
            the images of one class only.
    """
    for name, split in splits.items():
        least = 1 if metric == "agreement" else len(classes)
        if len(split) < least:
            raise InputError(
                f"each split must have at least as many images as classes, {least}, but {name} "
                f"has {len(split)}; add images, or name folders with --train, --val and --test"
            )
        present = np.unique(split.labels)
        if metric != "agreement" and len(present) < 2:
            raise InputError(
                f"each split must have images of at least two classes, but {name} has only "
                f"{classes[present[0]]!r}; add images of the others"
            )
    counts = np.bincount(splits["train"].labels, minlength=len(classes))
    if metric == "accuracy" and counts.max() > SKEW * counts.min():
        return [
            f"the classes are skewed ({counts.min()} to {counts.max()} training images): "
            f"consider --metric balanced_accuracy or f1"
        ]
    return []


def _repeat(pixels: Pixels, channels: int) -> Pixels:
    return pixels if pixels.shape[1] == channels else np.repeat(pixels, channels, axis=1)


def _mixed(raw: RawData) -> list[str]:
    """A note where gray images are among color ones."""
    gray = sum(split.images.gray for split in raw.splits.values())
    count = sum(len(split.images) for split in raw.splits.values())
    if gray in (0, count):
        return []
    return [f"gray among color images: {gray} of {count}; all are read as color"]


def _shared(groups: Mapping[SplitName, NDArray[np.int64]]) -> list[str]:
    """Notes on images of the source's own splits that are in its ``train`` as well."""
    notes = []
    for name, numbers in groups.items():
        count = 0 if name == "train" else int(np.isin(numbers, groups["train"]).sum())
        if count:
            notes.append(
                f"{count} of {len(numbers)} images of the {name} split are in the train split "
                f"too, pixel by pixel: its accuracy is too high"
            )
    return notes


def _leaking(together: Mapping[SplitName, NDArray[np.int64]]) -> list[str]:
    """Notes on groups of the source's own splits that are in its ``train`` as well."""
    notes = []
    for name, numbers in together.items():
        count = 0 if name == "train" else len(np.intersect1d(numbers, together["train"]))
        if count:
            notes.append(
                f"{count} of {len(np.unique(numbers))} groups of the {name} split have images in "
                f"the train split, too: its accuracy is too high"
            )
    return notes


def needed_bytes(counts: Mapping[SplitName, int], image_bytes: int) -> int:
    """What a search holds of the images at once; ``image_bytes`` is one as 8-bit pixels.

    All as pixels and those of the training as views, too; as 32-bit numbers what is evaluated,
    the test split only at the end, and the calibration images, which are also pixels once more.
    """
    train = counts["train"]
    evaluated = counts["validation"] + counts["test"]
    calibration = min(CALIBRATION_IMAGES, train)
    images = train + evaluated + VIEWS * train + 4 * evaluated + (4 + 1) * calibration
    return images * image_bytes


def planned_counts(raw: RawData) -> dict[SplitName, int]:
    """How many images each split will have, those that are made from ``train`` included."""
    given = {name: len(split.images) for name, split in raw.splits.items()}
    shares = missing_shares(list(given))
    whole, total = given["train"], sum(shares.values())
    return {**given, **{name: round(share / total * whole) for name, share in shares.items()}}


def _check_memory(raw: RawData, size: tuple[int, int], channels: int) -> None:
    needed = needed_bytes(planned_counts(raw), channels * size[0] * size[1])
    there = available_bytes()
    if needed > SHARE_OF_MEMORY * there:
        count = sum(len(split.images) for split in raw.splits.values())
        raise InputError(
            f"images must fit into two thirds of the memory, {SHARE_OF_MEMORY * there / 1e9:.1f} "
            f"GB, but {count} images of {size[0]}x{size[1]} need {needed / 1e9:.1f} GB in a "
            f"search; give a smaller --image-size or fewer images"
        )
