"""Packages that only some people need: asked for when they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from search.errors import InputError


def import_optional(package: str, purpose: str) -> ModuleType:
    """The package.

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
            f"run: pip install {error.name}"
        ) from error
