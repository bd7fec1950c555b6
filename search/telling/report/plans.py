"""A plan in words, whatever technique its settings belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces import CompressionPlan

_SHOWN = 6


def plan_lines(plan: CompressionPlan) -> tuple[tuple[str, str], ...]:
    """(technique, its setting in words) for each technique that changes something."""
    return tuple((name, _setting(setting)) for name, setting in sorted(plan.settings.items()))


def _setting(setting: Any) -> str:
    if not isinstance(setting, Mapping):
        return _value(setting)
    return "; ".join(f"{name} {_value(value)}" for name, value in sorted(setting.items()))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        items = list(value.values())
        if len(items) > 2 and all(isinstance(item, int | float) for item in items):
            low, high = _value(min(items)), _value(max(items))
            return f"{low if low == high else f'{low} to {high}'} in {len(items)} places"
        return _listed([f"{key} {_value(item)}" for key, item in value.items()])
    if isinstance(value, list):
        return _listed([_value(item) for item in value])
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(parts: list[str]) -> str:
    hidden = len(parts) - _SHOWN
    shown = ", ".join(parts[:_SHOWN])
    return f"{shown} and {hidden} more" if hidden > 0 else shown
