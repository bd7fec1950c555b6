"""Finds a kind of backend by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points

import search.running.backends
from search.errors import InputError
from search.inputs.sources import nearest
from search.running.backends.backend import ENTRY_POINTS, BackendKind


@cache
def discover() -> Mapping[str, BackendKind]:
    """Every kind of this package (modules with a ``BACKEND``) and of entry points, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(search.running.backends.__path__))
    modules = [importlib.import_module(f"search.running.backends.{name}") for name in names]
    kinds = [module.BACKEND for module in modules if hasattr(module, "BACKEND")]
    kinds += [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    return {kind.name: kind for kind in kinds}


def find_backend(name: str) -> BackendKind:
    """The kind called ``name``.

    Raises:
        InputError: there is none.
    """
    known = discover()
    if name not in known:
        close = nearest(name, known)
        remedy = f"did you mean {close!r}?" if close else "see --help"
        raise InputError(
            f"--backend must be one of {', '.join(known)}, but got {name!r}; {remedy}"
        )
    return known[name]
