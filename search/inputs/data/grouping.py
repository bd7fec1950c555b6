"""Which images belong together: of one patient, module or video, named by ``--groups``."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.regular_files import read_text, shortened
from search.errors import InputError
from search.inputs.data.raw import RawData, SplitName

USAGE = "column:NAME, file:PATH or pattern:REGEX"
FILE_BYTES = 2**28
_EMPTY = ("", "nan", "None")
Groups = dict[SplitName, NDArray[np.int64]]


def groups_of(raw: RawData, spec: str) -> Groups:
    """A number for each image of each split, (N,), which images of one group share.

    Args:
        raw: the source's images, in whose order the numbers are.
        spec: ``column:NAME`` of a parquet file or an array of the same length in a .npz file;
            ``file:PATH``, of a CSV file with the image's name and its group in each line or,
            where images have no names, the group alone, in the order of the images;
            ``pattern:REGEX``, whose first group is found in the names of the image files.

    Raises:
        InputError: the rule can't be read, or leaves an image without a group.
    """
    kind, _, argument = spec.partition(":")
    if kind not in _KINDS or not argument:
        raise InputError(f"--groups must be {USAGE}, but got {spec!r}")
    named = _KINDS[kind](raw, argument)
    for split, values in named.items():
        if len(values) != len(raw.splits[split].images):
            raise InputError(
                f"--groups must give one group for each image, but {spec!r} gives {len(values)} "
                f"for the {len(raw.splits[split].images)} images of the {split} split"
            )
        empty = [index for index, value in enumerate(values) if value.strip() in _EMPTY]
        if empty:
            raise InputError(
                f"--groups must give each image a group, but by {spec!r} image {empty[0]} of the "
                f"{split} split has none"
            )
    numbers = {name: n for n, name in enumerate(sorted({v for vs in named.values() for v in vs}))}
    if len(numbers) < 2:
        raise InputError(
            f"--groups must find at least two groups, but by {spec!r} all images are of one"
        )
    return {split: np.array([numbers[v] for v in vs], np.int64) for split, vs in named.items()}


def _column(raw: RawData, name: str) -> dict[SplitName, list[str]]:
    if raw.column is None:
        raise InputError(
            f"--groups column: must name a column of a parquet or .npz file, but {raw.name!r} "
            f"has no columns; use file:PATH"
        )
    return {split: [str(v) for v in values] for split, values in raw.column(name).items()}


def _names(raw: RawData, why: str) -> dict[SplitName, list[str]]:
    if not raw.names:
        raise InputError(f"--groups {why}, but the images of {raw.name!r} are no files")
    return {split: list(names) for split, names in raw.names.items()}


def _pattern(raw: RawData, pattern: str) -> dict[SplitName, list[str]]:
    try:
        rule = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"--groups pattern: must be a regular expression, but {pattern!r} is none ({error})"
        ) from None
    if not rule.groups:
        raise InputError(
            f"--groups pattern: must have a part in parentheses, which names the group, but "
            f"{pattern!r} has none; for example pattern:(patient[0-9]+)"
        )
    found: dict[SplitName, list[str]] = {}
    for split, names in _names(raw, "pattern: is for the names of image files").items():
        matches = [rule.search(name) for name in names]
        missing = [name for name, match in zip(names, matches, strict=True) if not match]
        if missing:
            raise InputError(
                f"--groups pattern: must match every image's name, but {pattern!r} does not match "
                f"{missing[0]!r} ({len(missing)} of {len(names)} images of the {split} split)"
            )
        found[split] = [match.group(1) or "" for match in matches if match]
    return found


def _file(raw: RawData, path: str) -> dict[SplitName, list[str]]:
    try:
        rows = [row for row in csv.reader(read_text(Path(path), FILE_BYTES).splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise InputError(
            f"--groups file: must be a CSV file, but {shortened(path)!r} is none: {error}"
        ) from None
    if not raw.names:
        return _in_order(raw, path, [row[0] for row in rows])
    if any(len(row) != 2 for row in rows):
        short = next(number for number, row in enumerate(rows, 1) if len(row) != 2)
        raise InputError(
            f"--groups file: must have the image's name and its group in each line, but line "
            f"{short} of {path!r} has {len(rows[short - 1])} fields"
        )
    groups: dict[str, str] = {}
    for name, group in rows:
        if groups.setdefault(name, group) != group:
            raise InputError(
                f"--groups file: must have one group for each image, but {path!r} has {name!r} in "
                f"{groups[name]!r} and in {group!r}; name it with its class folder"
            )
    return {
        split: [_of_file(groups, name, path) for name in names]
        for split, names in raw.names.items()
    }


def _of_file(groups: Mapping[str, str], name: str, path: str) -> str:
    for known in (name, PurePath(name).name):
        if known in groups:
            return groups[known]
    raise InputError(f"--groups file: must name every image, but {path!r} lacks {name!r}")


def _in_order(raw: RawData, path: str, values: Sequence[str]) -> dict[SplitName, list[str]]:
    total = sum(len(split.images) for split in raw.splits.values())
    if len(values) != total:
        raise InputError(
            f"--groups file: must have one line for each image, but {path!r} has {len(values)} "
            f"lines for {total} images"
        )
    found: dict[SplitName, list[str]] = {}
    for name, split in raw.splits.items():
        found[name], values = list(values[: len(split.images)]), values[len(split.images) :]
    return found


_KINDS: Mapping[str, Callable[[RawData, str], dict[SplitName, list[str]]]] = {
    "column": _column,
    "file": _file,
    "pattern": _pattern,
}
