"""The [counts] section of a profile's TOML file as text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping

from hardware_profiles.profile import CountModel

# From its header to the next table that is not its own, or the end of the file.
_SECTION = re.compile(r"^\[counts\]$.*?(?=^\[(?!counts)|\Z)", re.DOTALL | re.MULTILINE)


def replace_counts(text: str, model: CountModel) -> str:
    """The text of a profile's file with ``model`` as its [counts] section, the rest untouched."""
    section = render_counts(model)
    if _SECTION.search(text) is None:
        return f"{text.rstrip()}\n\n{section}"
    replaced = _SECTION.sub(lambda _: f"{section}\n", text, count=1)
    return f"{replaced.rstrip()}\n"


def render_counts(model: CountModel) -> str:
    """The section alone; empty strings and absent parts are left out, as they are defaults."""
    return "\n".join(_table("counts", dataclasses.asdict(model))) + "\n"


def _table(name: str, values: Mapping[str, object]) -> list[str]:
    # Strings, numbers and lists of JSON are TOML's too.
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in values.items()
        if not isinstance(value, Mapping) and value is not None and value != ""
    ]
    if lines:
        lines.insert(0, f"[{name}]")
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [*([""] if lines else []), *_table(f"{name}.{key}", value)]
    return lines
