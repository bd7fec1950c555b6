"""Names of a package's models, read from its source text: importing the package takes seconds."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from search.errors import InputError
from search.inputs.sources import nearest


def check_spelled(package: str, name: str, example: str) -> None:
    """Refuses a name that the package nowhere spells; ``example`` is one that it has.

    A name that is spelled there and yet is no model's gets through: only the package can tell.

    Raises:
        InputError: the package has no such model.
    """
    if not name or not re.search(rf"\b{re.escape(name)}\b", _text(package)):
        raise unknown(package, name, registered(package), example)


def unknown(package: str, name: str, known: Sequence[str], example: str) -> InputError:
    """What a person is told whose model is not among the known ones."""
    close = nearest(name, known)
    hint = f"did you mean {package}:{close}?" if close else f"such as {package}:{example}"
    return InputError(
        f"a model's name must be one of {package}'s {len(known)} classifiers, but got {name!r}; "
        f"{hint}"
    )


def registered(package: str) -> Sequence[str]:
    """The names under ``@register_model`` in the package's folder ``models``."""
    pattern = r"^@register_model\b.*?^def (\w+)"
    return sorted(set(re.findall(pattern, _text(package), re.MULTILINE | re.DOTALL)))


@cache
def _text(package: str) -> str:
    found = importlib.util.find_spec(package)  # of a top-level package: it isn't imported
    folders = (found and found.submodule_search_locations) or ()
    files = [file for folder in folders for file in sorted(Path(folder, "models").glob("*.py"))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
