"""A profile as the text of its TOML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tomli_w

from hardware_profiles.profile import HardwareProfile


def render_profile(profile: HardwareProfile) -> str:
    """Text from which ``read_profile`` makes an equal profile."""
    return tomli_w.dumps(_without_defaults(dataclasses.asdict(profile)))


def _without_defaults(table: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null; empty tables and texts are defaults that need not be written."""
    kept = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            value = _without_defaults(value)
        elif isinstance(value, tuple | list):
            value = [_without_defaults(v) if isinstance(v, Mapping) else v for v in value]
        if value not in (None, {}, [], ""):
            kept[key] = value
    return kept
