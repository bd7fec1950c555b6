"""The code that others add: techniques, evaluators and backends of entry points.

What an entry point names may call anything that is installed with it. So its distribution counts
as a whole, and so does its package, which is elsewhere where somebody works on it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import evaluators
from evaluators.evaluator import ENTRY_POINTS as EVALUATORS
from hardware_profiles.devices.device import file_sha256
from search.running.backends.backend import ENTRY_POINTS as BACKENDS
from spaces import technique
from spaces.technique import ENTRY_POINTS as TECHNIQUES

_COMPILED = {".pyc", ".pyo"}  # from what counts itself, and with a time in it


def plugin_code() -> dict[str, str]:
    """SHA-256 of each file, by names that don't depend on where it is; versions by distribution.

    Files of what is found without an entry point, too: those in which its class is defined.
    """
    found: dict[str, str] = {}
    for group in (TECHNIQUES, EVALUATORS, BACKENDS):
        for entry in entry_points(group=group):
            roots = {entry.module.partition(".")[0]}
            if entry.dist is not None:
                found[entry.dist.name] = entry.dist.version
                found |= _hashed(_installed(entry.dist))
                roots |= set((entry.dist.read_text("top_level.txt") or "").split())
            for root in sorted(roots):
                found |= _hashed(_imported(root))
    for plugin in (*evaluators.discover(), *technique.discover().values()):
        found |= _hashed(_defined(plugin))
    return found


def _hashed(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    return {
        name: file_sha256(path)
        for name, path in files
        if path.suffix not in _COMPILED and path.is_file()
    }


def _installed(distribution: Distribution) -> Iterator[tuple[str, Path]]:
    """Whatever pip put there for a distribution."""
    for file in distribution.files or ():
        yield f"{distribution.name}: {file}", Path(str(file.locate()))


def _imported(root: str) -> Iterator[tuple[str, Path]]:
    """All files of a package, or the one of a module that is no package."""
    spec = find_spec(root)
    if spec is None:
        return
    for folder in map(Path, spec.submodule_search_locations or ()):
        for path in sorted(folder.rglob("*")):
            yield f"{root}/{path.relative_to(folder)}", path
    if spec.submodule_search_locations is None and spec.origin is not None:
        yield root, Path(spec.origin)


def _defined(plugin: Any) -> Iterator[tuple[str, Path]]:
    """The files of a module, or of the class of an instance and those that it inherits from."""
    if isinstance(plugin, ModuleType):
        modules = [plugin]
    else:
        kind = plugin if inspect.isclass(plugin) else type(plugin)
        modules = [sys.modules[each.__module__] for each in kind.__mro__]
    for module in modules:
        if file := getattr(module, "__file__", None):
            yield module.__name__, Path(file)
