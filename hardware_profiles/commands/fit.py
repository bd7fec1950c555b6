"""Derives cycles per instruction class and cache miss from published board latencies.

Fits every shipped profile that has a [counts.fit] section and prints the coefficients with
their error on held-out model families. Nothing is changed without --write.
"""

from __future__ import annotations

import argparse

from hardware_profiles.counts_section import render_counts, replace_counts
from hardware_profiles.fitting.fit import fit_profiles
from hardware_profiles.profile import DATA, shipped_profiles


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to keep the result."""
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the result into the [counts] sections of the shipped TOML files",
    )


def run(args: argparse.Namespace) -> int:
    """Prints, and with --write keeps, the fitted sections."""
    profiles = shipped_profiles()
    for name, model in fit_profiles(profiles).items():
        path = DATA / f"{name}.toml"
        print(f"# {path.name}\n{render_counts(model)}")
        if model == profiles[name].counts:
            print("# as it stands in the file\n")
        elif args.write:
            path.write_text(replace_counts(path.read_text(), model))
            print("# written\n")
        else:
            print("# differs from the file; --write keeps it\n")
    return 0
