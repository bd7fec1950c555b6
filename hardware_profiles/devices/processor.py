"""Which core a machine has, by what its agent says, and whether a profile is of such a core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware_profiles.profile import HardwareProfile

# The part numbers of /proc/cpuinfo, from the cores' Technical Reference Manuals.
_CORES = {
    "0xd03": "cortex-a53",
    "0xd05": "cortex-a55",
    "0xd08": "cortex-a72",
    "0xd0b": "cortex-a76",
}
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})


def is_x86(about: Mapping[str, Any]) -> bool:
    """Whether the agent runs on x86-64."""
    return str(about["machine"]).lower() in ("x86_64", "amd64")


def has_vnni(about: Mapping[str, Any]) -> bool:
    """Whether an x86 machine has int8 dot products."""
    return bool(_VNNI & set(about["flags"]))


def arm_cores(about: Mapping[str, Any]) -> frozenset[str]:
    """Names of the machine's cores as profiles have them; empty where none is known."""
    return frozenset(_CORES[part] for part in about["parts"] if part in _CORES)


def mismatch(profile: HardwareProfile, about: Mapping[str, Any]) -> str | None:
    """Why a machine isn't one of the profile's kind, in a few words; None if it may be one."""
    found = str(about["cpu"])
    if is_x86(about) == profile.cpu.isa.startswith("arm"):
        return f"{found} is {about['machine']}, and {profile.title} {profile.cpu.isa}"
    cores = arm_cores(about)
    if cores and profile.cpu.core not in cores:
        return f"{found} has {', '.join(sorted(cores))}, and {profile.title} {profile.cpu.core}"
    if profile.cpu.core == "x86-vnni" and not has_vnni(about):
        return f"{found} has no int8 dot products (VNNI), and {profile.title} has"
    return None
