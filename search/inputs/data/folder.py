"""A folder of images with one subfolder per class (torchvision's ImageFolder layout).

Where the folder holds ``train`` and perhaps ``val`` and ``test`` folders of that layout, these are
the splits. Images that lie in no class folder are read too, without labels. What is not read is
counted, and said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from search.errors import InputError
from search.inputs.data.encoded import Encoded, broken_note, scan
from search.inputs.data.raw import SPLIT_NAMES, RawData, RawSplit, SplitName

PREFIX = "folder"
USAGE = "folder:PATH"
LAYOUT = "one folder per class with its images inside"
ENDINGS = frozenset(
    (
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    )
)
# What archives and editors leave behind, beside what is hidden.
LITTER = frozenset({"__MACOSX", "__pycache__", "lost+found", "$RECYCLE.BIN"})


def suggests(spec: str) -> bool:
    """Whether that is a folder."""
    return _is_folder(Path(spec))


def check(argument: str) -> None:
    """Raises InputError when there is no such folder, or nothing in it."""
    root = Path(argument)
    if not argument or not _is_folder(root):
        raise InputError(f"folder: must name a folder, but {argument!r} is none; check the path")
    _check_not_empty(root)


def check_splits(folders: Mapping[SplitName, Path]) -> None:
    """Raises InputError when one of the splits' folders isn't there, or empty."""
    for split, folder in folders.items():
        if not _is_folder(folder):
            raise InputError(
                f"the {split} split must be a folder, but {str(folder)!r} is none; check the path"
            )
        _check_not_empty(folder)


def load(argument: str) -> RawData:
    """The images of a folder.

    Raises:
        InputError: no such folder, no images, no classes, two folders for one split, or too many
            unreadable images.
    """
    check(argument)
    root = Path(argument)
    folders = _folders(root)
    splits = _splits(folders)
    if splits is None:
        return load_splits({"train": root})
    others = sorted(path.name for path in folders if path not in splits.values())
    raw = load_splits(splits)
    if not others:
        return raw
    note = (
        f"{argument!r} holds the splits {', '.join(p.name for p in splits.values())}; left out, "
        f"since they are none: {', '.join(map(repr, others))}"
    )
    return replace(raw, name=root.resolve().name, notes=(note, *raw.notes))


def load_splits(folders: Mapping[SplitName, Path]) -> RawData:
    """The images of one folder for each split; the classes are those of ``train``.

    Raises:
        InputError: no such folder, no images, no classes, or too many unreadable images.
    """
    check_splits(folders)
    classes = tuple(path.name for path in _folders(folders["train"]))
    for name in classes:
        if not name.isprintable():
            raise InputError(
                f"a class folder's name must be printable UTF-8, but {name!r} is not; rename it"
            )
    left_out = _LeftOut()
    loaded = {split: _load_split(folder, classes, left_out) for split, folder in folders.items()}
    splits = {split: raw for split, (raw, _) in loaded.items()}
    unlabeled = [split for split, raw in splits.items() if raw.labels is None]
    if unlabeled and len(unlabeled) < len(splits):
        raise InputError(
            f"splits must have labels all or none, but {', '.join(unlabeled)} has none; "
            f"use {LAYOUT} in each"
        )
    parents = {folder.resolve().parent for folder in folders.values()}
    name = folders["train"].resolve().name
    if len(folders) > 1 and len(parents) == 1:
        name = parents.pop().name
    names = {
        split: tuple(os.path.relpath(path, folders[split]) for path in paths)
        for split, (_, paths) in loaded.items()
    }
    return RawData(name, splits, classes, notes=left_out.notes(), names=names)


@dataclass
class _LeftOut:
    """Files that are not read, by the reason in words."""

    kinds: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.kinds:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
            notes.append(f"{self.kinds.total()} files were not read: {kinds}")
        if self.broken:
            notes.append(broken_note(self.broken))
        return tuple(notes)


def _splits(folders: Sequence[Path]) -> dict[SplitName, Path] | None:
    """The folders of the splits; None where the folders are classes.

    Two that are named like splits are some; so is a lone ``train`` that holds folders of images.

    Raises:
        InputError: two folders are the same split.
    """
    named = [path for path in folders if path.name.lower() in SPLIT_NAMES]
    splits = {SPLIT_NAMES[path.name.lower()]: path for path in named}
    if "train" not in splits:
        return None
    if len(splits) < 2 and len(folders) > 1 and not _folders(splits["train"]):
        return None
    if len(splits) < len(named):
        raise InputError(
            f"each split must be one folder, but there are {', '.join(p.name for p in named)}; "
            f"name them with --train, --val and --test"
        )
    return splits


def _load_split(
    folder: Path, classes: Sequence[str], left_out: _LeftOut
) -> tuple[RawSplit, list[str]]:
    """The split, and its images' paths in their order."""
    class_folders = _folders(folder)
    if not class_folders:
        images, _, broken = scan(_images(folder, left_out))
        left_out.broken += broken
        return RawSplit(images, None), [item.name for item in images.items]
    unknown = sorted({path.name for path in class_folders} - set(classes))
    if unknown:
        raise InputError(
            f"every class must be in the train split, but {unknown[0]!r} is only in "
            f"{str(folder)!r}; the classes are {', '.join(classes[:10])}"
        )
    items: list[Encoded] = []
    labels: list[int] = []
    for class_folder in class_folders:
        inside = _images(class_folder, left_out)
        items += inside
        labels += [classes.index(class_folder.name)] * len(inside)
    loose = [path for path in folder.iterdir() if not path.is_dir()]
    for path in loose:
        left_out.kinds["outside of the class folders"] += not path.name.startswith(".")
    images, kept, broken = scan(items)
    left_out.broken += broken
    left_out.kinds = +left_out.kinds
    names = [item.name for item in images.items]
    return RawSplit(images, np.array(labels, np.int64)[kept]), names


def _check_not_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        raise InputError(f"a folder of images must not be empty, but {str(folder)!r} is; {LAYOUT}")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or has a NUL
        return False


def _folders(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in LITTER
    )


def _images(folder: Path, left_out: _LeftOut) -> list[Encoded]:
    paths = sorted(path for path in _files(folder) if _is_image(path, left_out))
    if not paths:
        raise InputError(
            f"a class folder must hold images ({', '.join(sorted(ENDINGS))}), but {str(folder)!r} "
            f"holds none; expected {LAYOUT}"
        )
    return [Encoded(str(path), path) for path in paths]


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and n not in LITTER]
        yield from (Path(parent, name) for name in names)


def _is_image(path: Path, left_out: _LeftOut) -> bool:
    """Whether a file is to be read; counts it where not."""
    if path.name.startswith("."):
        left_out.kinds["hidden"] += 1
    elif path.suffix.lower() not in ENDINGS:
        left_out.kinds[path.suffix.lower() or "without an ending"] += 1
    elif not path.is_file():
        left_out.kinds["neither files nor links to one"] += 1
    else:
        return True
    return False
