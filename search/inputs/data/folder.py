"""A folder of images with one subfolder per class (torchvision's ImageFolder layout).

Where the folder holds ``train`` and perhaps ``val`` and ``test`` folders of that layout, these are
the splits. Images that lie in no class folder are read too, without labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from search.errors import InputError
from search.inputs.data.encoded import Encoded, scan
from search.inputs.data.raw import SPLIT_NAMES, RawData, RawSplit, SplitName

PREFIX = "folder"
USAGE = "folder:PATH"
LAYOUT = "one folder per class with its images inside"


def suggests(spec: str) -> bool:
    """Whether that is a folder."""
    return Path(spec).is_dir()


def check(argument: str) -> None:
    """Raises InputError when there is no such folder, or nothing in it."""
    root = Path(argument)
    if not argument or not root.is_dir():
        raise InputError(f"folder: must name a folder, but {argument!r} is none; check the path")
    _check_not_empty(root)


def check_splits(folders: Mapping[SplitName, Path]) -> None:
    """Raises InputError when one of the splits' folders isn't there, or empty."""
    for split, folder in folders.items():
        if not folder.is_dir():
            raise InputError(
                f"the {split} split must be a folder, but {str(folder)!r} is none; check the path"
            )
        _check_not_empty(folder)


def load(argument: str) -> RawData:
    """The images of a folder.

    Raises:
        InputError: no such folder, no images, no classes, or an unreadable image.
    """
    check(argument)
    root = Path(argument)
    inside = {path.name: path for path in _folders(root)}
    found = {SPLIT_NAMES[name.lower()]: name for name in inside if name.lower() in SPLIT_NAMES}
    if "train" in found and len(found) == len(inside):
        return load_splits({split: inside[name] for split, name in found.items()})
    return load_splits({"train": root})


def load_splits(folders: Mapping[SplitName, Path]) -> RawData:
    """The images of one folder for each split; the classes are those of ``train``.

    Raises:
        InputError: no such folder, no images, no classes, or an unreadable image.
    """
    check_splits(folders)
    classes = tuple(path.name for path in _folders(folders["train"]))
    splits = {split: _load_split(folder, classes) for split, folder in folders.items()}
    unlabeled = [split for split, raw in splits.items() if raw.labels is None]
    if unlabeled and len(unlabeled) < len(splits):
        raise InputError(
            f"splits must have labels all or none, but {', '.join(unlabeled)} has none; "
            f"use {LAYOUT} in each"
        )
    return RawData(folders["train"].resolve().name, splits, classes)


def _load_split(folder: Path, classes: Sequence[str]) -> RawSplit:
    class_folders = _folders(folder)
    if not class_folders:
        return RawSplit(scan(_images(folder)), None)
    unknown = sorted({path.name for path in class_folders} - set(classes))
    if unknown:
        raise InputError(
            f"every class must be in the train split, but {unknown[0]!r} is only in "
            f"{str(folder)!r}; the classes are {', '.join(classes[:10])}"
        )
    items: list[Encoded] = []
    labels: list[int] = []
    for class_folder in class_folders:
        images = _images(class_folder)
        items += images
        labels += [classes.index(class_folder.name)] * len(images)
    return RawSplit(scan(items), np.array(labels, np.int64))


def _check_not_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        raise InputError(f"a folder of images must not be empty, but {str(folder)!r} is; {LAYOUT}")


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Encoded]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMG_EXTENSIONS]
    if not paths:
        raise InputError(
            f"a class folder must hold images ({', '.join(IMG_EXTENSIONS)}), but {str(folder)!r} "
            f"holds none; expected {LAYOUT}"
        )
    return [Encoded(str(path), path) for path in paths]
