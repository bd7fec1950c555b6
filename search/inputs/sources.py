"""Finds the source of a model or of data by listing a package: no central list to keep.

A source is a module with a ``PREFIX`` and a ``USAGE``; ``PREFIX:argument`` is what a person
writes. The one whose prefix is empty takes ``package.module:function``. ``check(argument)``
raises ``InputError`` for what can be refused at a glance. A source may have ``suggests(spec) ->
bool``: whether that is what a person meant who left the prefix out. One with a ``SUFFIX`` takes
what ends with it and has no prefix.

Importing torch takes seconds, and a typo should not: sources import it (and what imports it)
where they use it, not at their top, and modules that are no source aren't imported here.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

from search.errors import InputError
from search.inputs.own_code import module_exists


@cache
def list_sources(package: str) -> Mapping[str, ModuleType]:
    """The sources in a package, by prefix."""
    files = [
        file
        for folder in importlib.import_module(package).__path__
        for file in Path(folder).glob("*.py")
        if re.search(r"^PREFIX = ", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    modules = [
        importlib.import_module(f"{package}.{name}") for name in sorted(f.stem for f in files)
    ]
    return {module.PREFIX: module for module in modules}


def find_source(package: str, spec: str, kind: str) -> tuple[ModuleType, str]:
    """The source that answers to ``spec``, and the argument for it.

    Raises:
        InputError: no source has that prefix.
    """
    sources = list_sources(package)
    prefix, colon, argument = spec.partition(":")
    if prefix and prefix in sources:
        return sources[prefix], argument
    for source in sources.values():
        if hasattr(source, "SUFFIX") and spec.endswith(source.SUFFIX):
            return source, spec
    close = nearest(prefix, [name for name in sources if name])
    is_dotted = all(part.isidentifier() for part in prefix.split("."))
    if colon and is_dotted and (not close or module_exists(prefix)):
        return sources[""], spec
    meant = _meant(sources, spec) or (close and close + colon + argument)
    usages = ", ".join(sorted(source.USAGE for source in sources.values()))
    remedy = f"did you mean {meant!r}?" if meant else "see --help"
    raise InputError(f"{kind} must be one of {usages}, but got {spec!r}; {remedy}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelled most like ``name``, if any comes near."""
    spellings = {word.lower(): word for word in known}
    close = difflib.get_close_matches(name.lower(), spellings, n=1, cutoff=0.6)
    return spellings[close[0]] if close else None


def _meant(sources: Mapping[str, ModuleType], spec: str) -> str | None:
    for prefix, source in sources.items():
        if hasattr(source, "suggests") and source.suggests(spec):
            return f"{prefix}:{spec}"
    return None
