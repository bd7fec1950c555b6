"""Parquet files in the layout of Hugging Face: a column of encoded images, a column of labels.

``parquet:PATH`` is a file or a folder; a file belongs to the split with which its name, or the
name of the folder it lies in, begins (``train-00000-of-00001.parquet``), else to ``train``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.regular_files import open_regular
from search.errors import InputError
from search.inputs.data.arrays import class_names, to_labels
from search.inputs.data.encoded import Encoded, broken_note, scan
from search.inputs.data.raw import SPLIT_NAMES, RawData, RawSplit, SplitName
from search.inputs.first_bytes import check_size
from search.inputs.own_code import one_line
from search.optional import import_optional

PREFIX = "parquet"
USAGE = "parquet:PATH"
LABEL_COLUMNS = ("label", "labels", "fine_label", "target", "class")


def suggests(spec: str) -> bool:
    """Whether that looks like a parquet file."""
    return spec.endswith(".parquet")


def check(argument: str) -> None:
    """Raises InputError when there is no such file, or none in such a folder."""
    root, paths = Path(argument), _paths(argument)
    if not argument or not paths or not paths[0].is_file():
        raise InputError(
            f"parquet: must name a .parquet file or a folder of them, but {argument!r} is "
            f"{'a folder without any' if root.is_dir() else 'none'}; check the path"
        )


def load(argument: str) -> RawData:
    """The images of a parquet file or of a folder of them.

    Raises:
        InputError: no such file, it is damaged, or its columns are not images and labels.
    """
    check(argument)
    items: dict[SplitName, list[Encoded]] = defaultdict(list)
    labels: dict[SplitName, list[int]] = defaultdict(list)
    names: list[str] | None = None
    for path in _paths(argument):
        split = _split_of(path)
        table = _read(path)
        images, label = _columns(table, path)
        names = _names(table, label) or names
        for row, image in enumerate(images):
            if not isinstance(image, bytes):
                raise InputError(
                    f"the images must be stored in the parquet file, but row {row} of "
                    f"{str(path)!r} has no bytes; write the file with its images embedded"
                )
            items[split].append(Encoded(f"{path} row {row}", image))
        labels[split] += table.column(label).to_pylist()
    if "train" not in items:
        raise InputError(
            f"data must have a train split, but {argument!r} has {', '.join(items) or 'no rows'}; "
            f"add a file such as train-00000-of-00001.parquet"
        )
    splits: dict[SplitName, RawSplit] = {}
    broken: list[str] = []
    readable_rows: dict[SplitName, NDArray[np.intp]] = {}
    for split, encoded in items.items():
        readable, kept, names_of_broken = scan(encoded)
        readable_rows[split] = kept
        classes = to_labels(labels[split], f"the labels of {argument!r}")
        splits[split] = RawSplit(readable, classes[kept])
        broken += names_of_broken
    every = [split.labels for split in splits.values() if split.labels is not None]
    titles = tuple(class_names(every, names, repr(argument)))
    notes = (broken_note(broken),) if broken else ()

    def column(title: str) -> dict[SplitName, NDArray[Any]]:
        values: dict[SplitName, list[Any]] = defaultdict(list)
        for path in _paths(argument):
            table = _read(path)
            if title not in table.column_names:
                raise InputError(
                    f"--groups column: must name a column, but {str(path)!r} has "
                    f"{', '.join(table.column_names)} and no {title!r}"
                )
            values[_split_of(path)] += [str(value) for value in table.column(title).to_pylist()]
        return {split: np.array(values[split])[rows] for split, rows in readable_rows.items()}

    return RawData(Path(argument).stem, splits, titles, notes=notes, column=column)


def _paths(argument: str) -> list[Path]:
    root = Path(argument)
    return sorted(root.rglob("*.parquet")) if root.is_dir() else [root]


def _split_of(path: Path) -> SplitName:
    for text in (path.stem, path.parent.name):
        first = re.split(r"[^a-z]", text.lower())[0]
        if first in SPLIT_NAMES:
            return SPLIT_NAMES[first]
    return "train"


def _read(path: Path) -> Any:
    parquet = import_optional("pyarrow.parquet", "a parquet file")
    try:
        with open_regular(path) as file:
            source = parquet.ParquetFile(file)
            stated = sum(
                source.metadata.row_group(i).total_byte_size
                for i in range(source.metadata.num_row_groups)
            )
            check_size(stated, f"the parquet file {str(path)!r}")
            return source.read()
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the reader raise anything
        raise InputError(
            f"parquet: must name readable files, but {str(path)!r} is damaged "
            f"({one_line(error)[:120]}); copy it again"
        ) from error


def _columns(table: Any, path: Path) -> tuple[list[Any], str]:
    """The encoded images, and the name of the column of labels."""
    label = next((name for name in LABEL_COLUMNS if name in table.column_names), None)
    for field in table.schema:
        kind = str(field.type)
        if kind in ("binary", "large_binary") and label:
            return table.column(field.name).to_pylist(), label
        if kind.startswith("struct<") and "bytes: " in kind and label:
            rows = table.column(field.name).to_pylist()
            return [row and row["bytes"] for row in rows], label
    raise InputError(
        f"a parquet file must have a column of image bytes and one of {', '.join(LABEL_COLUMNS)}, "
        f"but {str(path)!r} has {', '.join(table.column_names)}; rename them"
    )


def _names(table: Any, label: str) -> list[str] | None:
    """The names of the classes in the description that Hugging Face's datasets writes."""
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    try:
        value: Any = json.loads(metadata)
    except ValueError:  # not JSON, or not text
        return None
    for key in ("info", "features", label, "names"):
        value = value.get(key) if isinstance(value, dict) else None
    is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return value if is_names and value else None
