"""Sets up the emulated ARM machine that counts what a file's inference executes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hardware_profiles.emulator.errors import EmulatorError
from hardware_profiles.emulator.installation import install
from hardware_profiles.emulator.session import run_python


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two actions, named so that the command says what it does."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("install", help="download and build what is missing")
    verify = actions.add_parser("verify", help="run a bundle's verify.py on an emulated ARM core")
    verify.add_argument("folder", type=Path, metavar="FOLDER", help="such as runs/STUDY/best")


def run(args: argparse.Namespace) -> int:
    """Installs or verifies; 1 when that is not possible, with one line that says why."""
    try:
        return _install() if args.action == "install" else _verify(args.folder)
    except EmulatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _install() -> int:
    setup = install(lambda line: print(line, flush=True))
    versions = ", ".join(f"{name} {version}" for name, version in setup.versions().items())
    print(f"ready in {setup.folder}: {versions}")
    return 0


def _verify(folder: Path) -> int:
    """The exit code of ``verify.py``; 2 where the folder has none."""
    script = folder / "verify.py"
    if not script.is_file():
        print(
            f"error: a bundle must have a verify.py, but {str(folder)!r} has none; name the "
            f"folder 'best' of a study",
            file=sys.stderr,
        )
        return 2
    done = run_python(script)
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode
