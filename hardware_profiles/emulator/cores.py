"""The processor cores that can be emulated, and the system files a program finds on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.emulator.errors import EmulatorError

_CORES = 4


@dataclass(frozen=True)
class Cache:
    """One level: size and ways, and whether the cores share it."""

    kilobytes: int
    ways: int
    shared: bool = False


@dataclass(frozen=True)
class Core:
    """A core as the runtime sees it: instructions, identity, caches from the core outwards.

    ``data`` holds the levels through which data goes, which the plugin simulates.
    """

    qemu: str  # QEMU's -cpu
    part: int  # MIDR part number
    variant: int
    revision: int
    features: str  # of /proc/cpuinfo: what the kernel lets programs use
    mhz: int
    instruction_kilobytes: int
    data: tuple[Cache, ...]


# Part numbers, features and caches: Arm Cortex-A72 and Cortex-A76 Technical Reference Manuals,
# with the cache sizes of BCM2711 (Raspberry Pi 4B) and BCM2712 (Raspberry Pi 5).
CORES: Mapping[str, Core] = {
    "a72": Core(
        qemu="cortex-a72",
        part=0xD08,
        variant=0,
        revision=3,
        features="fp asimd evtstrm crc32 cpuid",
        mhz=1800,
        instruction_kilobytes=48,
        data=(Cache(32, 2), Cache(1024, 16, shared=True)),
    ),
    "a76": Core(
        qemu="cortex-a76",
        part=0xD0B,
        variant=4,
        revision=1,
        features=(
            "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
            "lrcpc dcpop asimddp"
        ),
        mhz=2400,
        instruction_kilobytes=64,
        data=(Cache(64, 4), Cache(512, 8), Cache(2048, 16, shared=True)),
    ),
}


def core(name: str) -> Core:
    """The core of that name.

    Raises:
        EmulatorError: it cannot be emulated.
    """
    if name not in CORES:
        raise EmulatorError(
            f"an emulated core must be one of {', '.join(CORES)}, but got {name!r}"
        )
    return CORES[name]


def write_system_files(root: Path, core: Core) -> None:
    """Writes ``proc/cpuinfo`` and ``sys/devices/system/cpu`` of a four-core machine to ``root``.

    The runtime reads them to choose kernels and tile sizes, and stops on those of an x86 host.
    """
    everyone = f"0-{_CORES - 1}"
    files = {"proc/cpuinfo": "\n".join(_cpuinfo(core, index) for index in range(_CORES))}
    cpus = "sys/devices/system/cpu"
    files |= {f"{cpus}/{name}": everyone for name in ("possible", "present", "online")}
    files[f"{cpus}/kernel_max"] = str(_CORES - 1)
    for index in range(_CORES):
        here = f"{cpus}/cpu{index}"
        for name in ("core_siblings_list", "cluster_cpus_list", "package_cpus_list"):
            files[f"{here}/topology/{name}"] = everyone
        for name in ("thread_siblings_list", "core_cpus_list", "core_id"):
            files[f"{here}/topology/{name}"] = str(index)
        files[f"{here}/topology/physical_package_id"] = "0"
        files[f"{here}/cpufreq/cpuinfo_max_freq"] = str(core.mhz * 1000)
        files[f"{here}/cpufreq/cpuinfo_min_freq"] = "600000"
        first = [
            ("Data", 1, core.data[0]),
            ("Instruction", 1, Cache(core.instruction_kilobytes, 1)),
        ]
        outer = [("Unified", level, cache) for level, cache in enumerate(core.data[1:], start=2)]
        for place, (kind, level, cache) in enumerate([*first, *outer]):
            files |= {
                f"{here}/cache/index{place}/type": kind,
                f"{here}/cache/index{place}/level": str(level),
                f"{here}/cache/index{place}/size": f"{cache.kilobytes}K",
                f"{here}/cache/index{place}/coherency_line_size": "64",
                f"{here}/cache/index{place}/shared_cpu_list": (
                    everyone if cache.shared else str(index)
                ),
            }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def _cpuinfo(core: Core, index: int) -> str:
    fields = {
        "processor": str(index),
        "BogoMIPS": "108.00",
        "Features": core.features,
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": f"{core.variant:#x}",
        "CPU part": f"{core.part:#05x}",
        "CPU revision": str(core.revision),
    }
    return "".join(f"{name}\t: {value}\n" for name, value in fields.items())
