"""Finds the source of a model or of data by listing a package: no central list to keep.

A source is a module with a ``PREFIX``; ``PREFIX:argument`` is what a person writes. The module
whose prefix is empty takes the rest, ``package.module:function``.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType

from search.errors import InputError


@cache
def list_sources(package: str) -> dict[str, ModuleType]:
    """The sources in a package, by prefix."""
    folder = importlib.import_module(package).__path__
    names = [f"{package}.{module.name}" for module in pkgutil.iter_modules(folder)]
    modules = [importlib.import_module(name) for name in sorted(names)]
    return {module.PREFIX: module for module in modules if hasattr(module, "PREFIX")}


def find_source(package: str, spec: str, kind: str) -> tuple[ModuleType, str]:
    """The source that answers to ``spec``, and the argument for it.

    Raises:
        InputError: no source has that prefix.
    """
    sources = list_sources(package)
    prefix, colon, argument = spec.partition(":")
    if prefix and prefix in sources:
        return sources[prefix], argument
    usages = [source.USAGE for source in sources.values()]
    known = ", ".join(sorted(usages))
    close = nearest(prefix, [name for name in sources if name])
    if close or not colon or not all(part.isidentifier() for part in prefix.split(".")):
        hint = f"; did you mean {close + colon + argument!r}?" if close else ""
        raise InputError(f"{kind} must be one of {known}, but got {spec!r}{hint}")
    return sources[""], spec


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelled most like ``name``, if any comes near."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else None
