"""Command line of the profiles; the commands are the modules of ``hardware_profiles.commands``."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from hardware_profiles import commands
from hardware_profiles.output import until_closed
from hardware_profiles.printable import printable
from hardware_profiles.profile import ProfileError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help shows how\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with one subcommand for every module of ``hardware_profiles.commands``."""
    parser = _Parser(
        prog="python -m hardware_profiles",
        description="What devices can do: list them, fit and check their latency coefficients.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for found in sorted(pkgutil.iter_modules(commands.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{commands.__name__}.{found.name}")
        text = str(module.__doc__).strip()
        command = subparsers.add_parser(
            found.name.replace("_", "-"),
            help=text.splitlines()[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; bad input is one line on stderr and exit code 2."""
    args = build_parser().parse_args(argv)
    code = 0
    try:
        with until_closed():
            code = int(args.run(args))
    except ProfileError as error:
        print(f"error: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return 2
    return code
