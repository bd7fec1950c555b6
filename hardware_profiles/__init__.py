"""What a device can do. Data and its loader; no torch here, and nothing from the floors above."""

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
