"""Packages that only some people need: asked for when they are used."""

from __future__ import annotations

import importlib
import shlex
from types import ModuleType

from search.errors import InputError


def import_optional(package: str, purpose: str, install: str | None = None) -> ModuleType:
    """The package. ``install`` is what pip calls it, where that is something else.

    Raises:
        InputError: it isn't installed; says how to.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise
        raise InputError(
            f"{purpose} needs the package {error.name}, which is not installed; "
            f"run: pip install {shlex.quote(install or error.name)}"
        ) from error
