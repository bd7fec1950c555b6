"""What a device can do. Data and its loader; no torch here, and nothing from the floors above."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware_profiles.lookup import load_profile
    from hardware_profiles.ops import OPS, OpShape
    from hardware_profiles.profile import (
        HardwareProfile,
        ProfileError,
        read_profile,
        shipped_profiles,
    )

# Before anybody imports onnxruntime, which sends usage data to its makers unless told otherwise:
# nobody asked for that, and it would run in the middle of what is measured.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_FROM = {
    "OPS": "hardware_profiles.ops",
    "HardwareProfile": "hardware_profiles.profile",
    "OpShape": "hardware_profiles.ops",
    "ProfileError": "hardware_profiles.profile",
    "load_profile": "hardware_profiles.lookup",
    "read_profile": "hardware_profiles.profile",
    "shipped_profiles": "hardware_profiles.profile",
}
__all__ = [
    "OPS",
    "HardwareProfile",
    "OpShape",
    "ProfileError",
    "load_profile",
    "read_profile",
    "shipped_profiles",
]


def __getattr__(name: str) -> Any:
    """Imports what is used when it is used, so that a Python without pydantic can be told."""
    from importlib import import_module

    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FROM[name]), name)
