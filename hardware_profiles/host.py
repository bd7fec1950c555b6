"""The machine this runs on, as a profile."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path

from hardware_profiles.profile import HardwareProfile, shipped_profiles


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction-set flags of this processor; empty where the system does not tell."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.lower().startswith(("flags", "features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's own name, or the architecture where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Memory that this process may use: of the machine, or of its container where that is less."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            stated = Path("/sys/fs/cgroup", name).read_text().strip()
        except OSError:
            continue
        if stated.isdigit():
            return min(whole, int(stated))
    return whole


def detect_host() -> HardwareProfile:
    """The shipped profile nearest to this machine, renamed ``host``, with its cores and name."""
    flags = cpu_flags()
    if platform.machine().lower() in ("aarch64", "arm64"):
        base = "raspberry-pi-5" if "asimddp" in flags else "raspberry-pi-4b"
    elif flags & {"avx512_vnni", "avx_vnni"}:
        base = "x86-vnni"
    else:
        base = "x86-avx2"
    profile = shipped_profiles()[base]
    return dataclasses.replace(
        profile,
        name="host",
        title=f"this machine ({cpu_name()})",
        aliases=(),
        cpu=dataclasses.replace(profile.cpu, cores=usable_cores()),
    )
