"""A person's own data: ``package.module:function``, or handed over in Python.

The function is called without arguments. It returns, and Python hands over, arrays by name or a
pair of images and labels (see ``arrays.py``), a data set of (image, label), or a mapping of
``train``, ``val`` and ``test`` to such data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.errors import InputError
from search.inputs.data.arrays import from_arrays
from search.inputs.data.items import from_items
from search.inputs.data.raw import SPLIT_NAMES, RawData
from search.inputs.own_code import check_module, import_function, one_line

PREFIX = ""
USAGE = "package.module:function"
SHAPES = "a mapping of arrays, a pair (images, labels) or a data set of (image, label)"


def check(argument: str) -> None:
    """Raises InputError when there is no such module; importing it is for later."""
    check_module(argument)


def load(argument: str) -> RawData:
    """What the function gives.

    Raises:
        InputError: no such function, it raises, or what it gives breaks a rule.
    """
    function = import_function(argument)
    try:
        given = function()
    except Exception as error:  # a person's own code may raise anything
        raise InputError(
            f"a data function must work without arguments, but {argument!r} raised "
            f"{one_line(error)}; correct it"
        ) from error
    return read(given, argument.partition(":")[2], repr(argument))


def read(given: Any, name: str, origin: str) -> RawData:
    """The images in an object; ``origin`` is what messages call it.

    Raises:
        InputError: it is of another kind, or breaks a rule.
    """
    if isinstance(given, Mapping) and given and all(map(_is_split_name, given)):
        return from_items(name, {SPLIT_NAMES[key]: given[key] for key in given}, origin)
    if isinstance(given, Mapping):
        return from_arrays(name, given, origin)
    if isinstance(given, tuple) and len(given) == 2:
        return from_arrays(name, {"images": given[0], "labels": given[1]}, origin)
    if hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, str):
        return from_items(name, {"train": given}, origin)
    raise InputError(
        f"data must be {SHAPES}, but {origin} gave a {type(given).__name__}; give one of these"
    )


def _is_split_name(key: Any) -> bool:
    return isinstance(key, str) and key in SPLIT_NAMES
