"""Arrays in a file of ``numpy.savez``; see ``arrays.py`` for their names and shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.regular_files import open_regular
from search.errors import InputError
from search.inputs.data.arrays import find_names, from_arrays
from search.inputs.data.raw import RawData
from search.inputs.first_bytes import check_size, first_bytes, told
from search.inputs.own_code import one_line

PREFIX = "npz"
USAGE = "npz:PATH"
ZIP, NPY = b"PK", b"\x93NUMPY"  # how files of numpy.savez and of numpy.save begin


def suggests(spec: str) -> bool:
    """Whether that looks like a .npz file."""
    return spec.endswith(".npz")


def check(argument: str) -> None:
    """Raises InputError when there is no such file, or it is of another kind."""
    start = first_bytes(Path(argument), "npz: must name a file")
    if start.startswith(ZIP):
        return
    found = "holds one array without a name" if start.startswith(NPY) else told(start)
    raise InputError(
        f"npz: must name a file of numpy.savez, but {argument!r} {found}; save it again: "
        f"numpy.savez(FILE, images=..., labels=...)"
    )


def load(argument: str) -> RawData:
    """The images of a .npz file; objects that need unpickling are never read.

    Raises:
        InputError: the file is missing or damaged, or an array breaks a rule.
    """
    check(argument)
    arrays = _read(argument, _needed)

    def fetch(name: str) -> Any:
        return _read(argument, lambda names: [name] if name in names else [])[name]

    return from_arrays(Path(argument).stem, arrays, repr(argument), fetch)


def _needed(names: list[str]) -> list[str]:
    ours = [name for pair in find_names(names).values() for name in pair if name]
    return [name for name in names if name in ours or name == "classes"] or names


def _read(argument: str, chosen: Callable[[list[str]], list[str]]) -> dict[str, Any]:
    """Arrays of the file that are ``chosen`` among their names."""
    try:
        with open_regular(Path(argument)) as content, np.load(content, allow_pickle=False) as file:
            members = {info.filename.removesuffix(".npy"): info for info in file.zip.infolist()}
            names = chosen(file.files)
            for name in names:
                check_size(members[name].file_size, f"{name!r} of {argument!r}")
            return {name: file[name] for name in names}
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the reader raise anything
        pickled = "allow_pickle" in str(error)
        reason = "it holds pickled objects, which are never run" if pickled else one_line(error)
        raise InputError(
            f"npz: must name a file of numpy.savez with plain arrays, but {argument!r} can't be "
            f"read: {reason[:160]}; save it again as arrays of numbers"
        ) from error
