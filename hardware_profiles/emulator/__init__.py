"""The real aarch64 runtime on an emulated core, and what it executes there."""

from hardware_profiles.emulator.cores import CORES
from hardware_profiles.emulator.errors import EmulatorError
from hardware_profiles.emulator.installation import find, install, is_installed, unsupported
from hardware_profiles.emulator.session import (
    Counted,
    Counts,
    Emulator,
    KernelCounts,
    run_python,
    shared,
)

__all__ = [
    "CORES",
    "Counted",
    "Counts",
    "Emulator",
    "EmulatorError",
    "KernelCounts",
    "find",
    "install",
    "is_installed",
    "run_python",
    "shared",
    "unsupported",
]
