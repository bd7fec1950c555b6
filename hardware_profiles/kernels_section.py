"""The [[kernels]] entries of a profile's TOML file as text."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

from hardware_profiles.profile import Kernel

# From the header of an entry to the next table, or the end of the file.
_ENTRY = re.compile(r"^\[\[kernels\]\]$.*?(?=^\[|\Z)", re.DOTALL | re.MULTILINE)


def replace_kernels(text: str, kernels: Sequence[Kernel]) -> str:
    """The text of a profile's file with these entries in the place of the first of its own."""
    first = _ENTRY.search(text)
    if first is None:
        return f"{text.rstrip()}\n\n{render_kernels(kernels)}"
    head, tail = text[: first.start()], _ENTRY.sub("", text[first.start() :])
    return f"{head}{render_kernels(kernels)}\n{tail}"


def render_kernels(kernels: Sequence[Kernel]) -> str:
    """The entries alone, without what is as it is by default."""
    return "\n".join("\n".join(_entry(kernel)) + "\n" for kernel in kernels)


def _entry(kernel: Kernel) -> list[str]:
    lines = ["[[kernels]]"]
    for field in dataclasses.fields(kernel):
        value = getattr(kernel, field.name)
        if isinstance(value, Mapping):
            if value:
                inside = ", ".join(f"{name} = {each:g}" for name, each in value.items())
                lines.append(f"{field.name} = {{ {inside} }}")
        elif value != field.default:
            lines.append(f"{field.name} = {json.dumps(value)}")
    return lines
