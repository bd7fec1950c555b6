"""Sets up the emulated ARM machine that counts what a file's inference executes."""

from __future__ import annotations

import argparse
import sys

from hardware_profiles.emulator.errors import EmulatorError
from hardware_profiles.emulator.installation import install


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action, named so that the command says what it does."""
    parser.add_argument("action", choices=["install"], help="download and build what is missing")


def run(_args: argparse.Namespace) -> int:
    """Installs; 1 when that is not possible, with one line that says why."""
    try:
        setup = install(lambda line: print(line, flush=True))
    except EmulatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    versions = ", ".join(f"{name} {version}" for name, version in setup.versions().items())
    print(f"ready in {setup.folder}: {versions}")
    return 0
