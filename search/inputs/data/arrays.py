"""Images and labels as arrays with names, as a .npz file or a function gives them.

``images`` and ``labels`` (or ``x`` and ``y``), or the same for each split: ``train_images`` and
``train_labels``, or ``x_train`` and ``y_train``; also ``val…`` and ``test…``. ``classes`` may hold
the names. Images are (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3, of integers 0..255 or
of floats 0..1; labels are integers from 0, (N,) or (N, 1), and may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError
from search.inputs.data.raw import SPLIT_NAMES, ArrayImages, Pixels, RawData, RawSplit, SplitName

IMAGE_NAMES = ("images", "x")
LABEL_NAMES = ("labels", "y")
NAMES = "images and labels, x and y, train_images and train_labels, or x_train and y_train"


def find_names(names: list[str]) -> dict[SplitName, tuple[str, str | None]]:
    """Which arrays are the images and labels of which split."""
    found: dict[SplitName, tuple[str, str | None]] = {}
    lower = {name.lower(): name for name in names}
    for image_name, label_name in zip(IMAGE_NAMES, LABEL_NAMES, strict=True):
        pairs = {"": (image_name, label_name)} | {
            split: pair
            for split in SPLIT_NAMES
            for pair in (
                (f"{split}_{image_name}", f"{split}_{label_name}"),
                (f"{image_name}_{split}", f"{label_name}_{split}"),
            )
            if pair[0] in lower
        }
        for split, (images, labels) in pairs.items():
            if images in lower:
                found[SPLIT_NAMES.get(split, "train")] = (lower[images], lower.get(labels))
    return found


def from_arrays(
    name: str,
    arrays: Mapping[str, Any],
    origin: str,
    fetch: Callable[[str], Any] | None = None,
) -> RawData:
    """The splits in a mapping of arrays; ``origin`` is what messages call it.

    ``fetch`` gives other arrays of the same origin by name (KeyError where there is none).

    Raises:
        InputError: an array is missing, or of a wrong shape, type or range.
    """
    found = find_names(list(arrays))
    if "train" not in found:
        raise InputError(
            f"the arrays must be named {NAMES}, but {origin} has {', '.join(arrays) or 'none'}; "
            f"rename them"
        )
    splits: dict[SplitName, RawSplit] = {}
    for split, (images_name, labels_name) in found.items():
        pixels = to_pixels(arrays[images_name], f"{images_name!r} of {origin}")
        labels = None
        if labels_name is not None:
            labels = to_labels(arrays[labels_name], f"{labels_name!r} of {origin}")
            if len(labels) != len(pixels):
                raise InputError(
                    f"there must be one label for each image, but {origin} has {len(pixels)} in "
                    f"{images_name!r} and {len(labels)} in {labels_name!r}; make them match"
                )
        splits[split] = RawSplit(ArrayImages(pixels), labels)

    def column(title: str) -> dict[SplitName, NDArray[Any]]:
        get = fetch or arrays.__getitem__
        return {
            split: _column(get, _beside(images, title), len(splits[split].images), origin)
            for split, (images, _) in found.items()
        }

    return RawData(name, splits, _classes(arrays, splits, origin), column=column)


def _beside(images: str, title: str) -> str:
    """The array that says more of ``images``: ``train_patient`` beside ``train_images``."""
    for image_name in IMAGE_NAMES:
        if images.lower() == image_name:
            return title
        for split in SPLIT_NAMES:
            if images.lower() == f"{split}_{image_name}":
                return f"{images[: len(split)]}_{title}"
            if images.lower() == f"{image_name}_{split}":
                return f"{title}_{images[len(image_name) + 1 :]}"
    return title


def _column(get: Callable[[str], Any], title: str, images: int, origin: str) -> NDArray[Any]:
    try:
        values = np.asarray(get(title))
    except KeyError:
        raise InputError(
            f"--groups column: must name an array beside the images, but {origin} has no {title!r}"
        ) from None
    if values.shape != (images,) or values.dtype.kind not in "biufUS":
        raise InputError(
            f"{title!r} of {origin} must hold one number or text for each of {images} images, but "
            f"is {values.dtype} of shape {values.shape}"
        )
    return values


def to_pixels(images: Any, name: str) -> Pixels:
    """Images, uint8 (N, C, H, W), of an array in any of the accepted layouts.

    Raises:
        InputError: a wrong shape, type or range.
    """
    array = np.asarray(images)
    if array.dtype.kind not in "uif":
        raise InputError(
            f"images must be integers 0..255 or floats 0..1, but {name} is of {array.dtype}; "
            f"convert it, such as with .astype('uint8')"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise InputError(
            f"images must be (N, H, W), (N, C, H, W) or (N, H, W, C) with C 1 or 3 and none of "
            f"them 0, but {name} is {np.shape(images)}; reshape it"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).any((1, 2, 3)).sum())
        raise InputError(
            f"pixels must be finite, but {count} image(s) in {name} have NaN or infinity; "
            f"remove or repair them"
        )
    highest = 1 if array.dtype.kind == "f" else 255
    low, high = array.min(), array.max()
    if low < 0 or high > highest:
        raise InputError(
            f"pixels must be integers 0..255 or floats 0..1, but {name} ({array.dtype}) goes "
            f"from {low:g} to {high:g}; rescale it and leave normalization to the project"
        )
    if highest == 1:
        array = np.rint(array * 255)
    return np.ascontiguousarray(array.astype(np.uint8))


def to_labels(labels: Any, name: str) -> NDArray[np.int64]:
    """Labels, int64 (N,).

    Raises:
        InputError: a wrong shape or type, or a negative label.
    """
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise InputError(
            f"labels must be integers of shape (N,), but {name} is {array.dtype} of shape "
            f"{np.shape(labels)}; number the classes from 0, such as with .astype('int64')"
        )
    if len(array) and array.min() < 0:
        raise InputError(
            f"labels must be 0 or more, but {name} has {int(array.min())}; number the classes "
            f"from 0"
        )
    return array.astype(np.int64)


def class_names(
    labels: list[NDArray[np.int64]], names: list[str] | None, origin: str
) -> list[str]:
    """One name for each class.

    Raises:
        InputError: a label has no name, or, without names, a number below the largest is unused.
    """
    used = np.unique(np.concatenate(labels))
    highest = int(used.max(initial=0))
    if names is not None:
        if highest >= len(names):
            raise InputError(
                f"labels must be below the number of classes, {len(names)}, but {origin} has "
                f"label {highest}; correct the labels or the names of the classes"
            )
        return names
    unused = sorted(set(range(min(highest, 100_000))) - set(used.tolist()))
    if unused:
        raise InputError(
            f"labels must be 0, 1, 2 and so on without a gap, but {origin} goes up to {highest} "
            f"and has no {unused[0]}; number the classes from 0, or name them all in `classes`"
        )
    return [str(label) for label in range(highest + 1)]


def _classes(
    arrays: Mapping[str, Any], splits: Mapping[SplitName, RawSplit], origin: str
) -> tuple[str, ...]:
    labels = [split.labels for split in splits.values() if split.labels is not None]
    if len(labels) not in (0, len(splits)):
        raise InputError(
            f"splits must have labels all or none, but {origin} has them for {len(labels)} of "
            f"{len(splits)} splits; add the missing ones"
        )
    if not labels:
        return ()
    names = None
    if "classes" in arrays:
        titles = np.asarray(arrays["classes"])
        if titles.ndim != 1 or titles.dtype.kind not in "USOiu":
            raise InputError(
                f"classes must be names of shape (N,), but {origin} has {titles.dtype} of shape "
                f"{titles.shape}; save a list of names"
            )
        names = [str(name) for name in titles]
    return tuple(class_names(labels, names, origin))
