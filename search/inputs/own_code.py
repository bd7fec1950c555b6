"""A person's own code, named ``package.module:function``: found, imported and called."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from search.errors import InputError


def one_line(error: BaseException) -> str:
    """An exception's type and message without line breaks, for a message of one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def describe(error: BaseException) -> str:
    """One sentence: what was raised, and where in the innermost frame."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{one_line(error)} ({frame.filename}:{frame.lineno} in {frame.name})"


def use_folder(folder: str) -> None:
    """Makes modules in ``folder`` importable, first of all others.

    ``python -m search`` has the current folder first already; the installed script and the
    workers do not.
    """
    if folder not in sys.path:
        sys.path.insert(0, folder)


def module_exists(name: str) -> bool:
    """Whether a module of that name could be imported from the current folder."""
    use_folder(os.getcwd())
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError as error:
        # A parent is missing or isn't a package; else it is there, and imports what is missing.
        return not f"{name}.".startswith(f"{error.name}.")
    except Exception:  # a parent's own code raised: it is there, and importing it will tell
        return True


def check_module(spec: str) -> None:
    """Whether the module of ``package.module:function`` is there; it isn't imported.

    Raises:
        InputError: it isn't.
    """
    module_name = spec.partition(":")[0]
    if not module_exists(module_name):
        raise InputError(
            f"a module must be importable from the current folder, but {module_name!r} of "
            f"{spec!r} is not found in {os.getcwd()!r}; change to its folder or install it"
        )


def import_function(spec: str) -> Callable[..., Any]:
    """The function that ``package.module:function`` names.

    Raises:
        InputError: the module can't be imported, or has no such function.
    """
    check_module(spec)
    module_name, _, name = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a person's own code may raise anything
        raise InputError(
            f"a module must be importable, but {module_name!r} raised {one_line(error)}; "
            f"try: python -c 'import {module_name}'"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        found = "nothing" if function is None else f"a {type(function).__name__}"
        raise InputError(
            f"package.module:function must name a function, but {spec!r} names {found}; "
            f"define `def {name or 'function'}(...)` in {module_name}"
        )
    return function  # type: ignore[no-any-return]
