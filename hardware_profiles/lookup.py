"""From what a person writes after ``--target`` to a profile."""

from __future__ import annotations

import difflib
from pathlib import Path

from hardware_profiles.host import detect_host
from hardware_profiles.profile import (
    HardwareProfile,
    ProfileError,
    read_profile,
    shipped_profiles,
)


def load_profile(target: str) -> HardwareProfile:
    """The profile that ``--target`` means: a name, an alias, ``host``, or a TOML file's path.

    Raises:
        ProfileError: nothing has that name; the message lists the known and the nearest one.
    """
    if target == "host":
        return detect_host()
    if target.endswith(".toml"):
        return read_profile(Path(target))
    known = shipped_profiles()
    by_alias = {alias: p for p in known.values() for alias in (p.name, *p.aliases)}
    if target in by_alias:
        return by_alias[target]
    near = difflib.get_close_matches(target, [*by_alias, "host"], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ProfileError(
        f"--target must name a known device, but got {target!r}; {hint}"
        f"known: {', '.join(sorted([*known, 'host']))}, or the path of a profile's .toml file"
    )
