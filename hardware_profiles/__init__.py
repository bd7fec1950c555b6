"""What a device can do. Data and its loader; no torch here, and nothing from the floors above."""

import os

# Before anybody imports onnxruntime, which sends usage data to its makers unless told otherwise:
# nobody asked for that, and it would run in the middle of what is measured.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from hardware_profiles.ops import OPS, OpShape
from hardware_profiles.profile import (
    HardwareProfile,
    ProfileError,
    load_profile,
    read_profile,
    shipped_profiles,
)

__all__ = [
    "OPS",
    "HardwareProfile",
    "OpShape",
    "ProfileError",
    "load_profile",
    "read_profile",
    "shipped_profiles",
]
