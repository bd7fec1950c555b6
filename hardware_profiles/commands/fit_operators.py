"""Derives the analytic estimate's kernels from counted operators.

Fits every shipped profile that has coefficients for counts, or the one of --target, to the
operators of random networks that benchmarks/operator_sweep.py counted on the emulated cores or,
for x86, timed on one machine, and prints the error on networks left out. Nothing is changed
without --write. Run it after ``fit --write``, and for a copied profile when its clock was changed.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.fitting.operator_fit import (
    OPERATOR_COUNTS,
    OPERATOR_TIMES,
    Fitted,
    fit_from_counts,
    fit_from_times,
    read_operator_counts,
    read_operator_times,
    runtime_of,
)
from hardware_profiles.kernels_section import replace_kernels
from hardware_profiles.profile import DATA, ProfileError, read_profile


@dataclass(frozen=True)
class Source:
    """How the time of operators became known, for the words in a profile."""

    against: str
    obtained: str
    table: str


COUNTED = Source(
    "against the estimate from counts, whose own error stands in [counts]",
    "counted on an emulated core",
    OPERATOR_COUNTS.name,
)
TIMED = Source(
    "against the machine of the measurement", "timed on one machine", OPERATOR_TIMES.name
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, the table, and whether to keep the result."""
    parser.add_argument(
        "--target", type=Path, metavar="FILE.toml", help="this profile instead of the shipped ones"
    )
    parser.add_argument(
        "--counts",
        type=Path,
        default=OPERATOR_COUNTS,
        metavar="FILE.csv",
        help="table of benchmarks/operator_sweep.py (default: the shipped one)",
    )
    parser.add_argument(
        "--times",
        type=Path,
        default=OPERATOR_TIMES,
        metavar="FILE.csv",
        help="table of benchmarks/operator_sweep.py --host (default: the shipped one)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="put the result into the [[kernels]] of the TOML files",
    )


def run(args: argparse.Namespace) -> int:
    """Prints, and with --write keeps, the fitted kernels."""
    counted, timed = read_operator_counts(args.counts), read_operator_times(args.times)
    print(f"{'profile':22} {'kernels':>7} {'networks':>8} {'mean %':>7} {'largest %':>9}")
    for path in sorted(DATA.glob("*.toml")) if args.target is None else [args.target]:
        profile = read_profile(path)
        if profile.counts is not None:
            found, of = fit_from_counts(profile, counted), COUNTED
        elif profile.name in timed:
            found, of = fit_from_times(profile, timed[profile.name]), TIMED
        elif args.target is None:
            continue
        else:
            raise ProfileError(
                f"--target must have a [counts] section or operators in {args.times.name}, but "
                f"{path} has neither"
            )
        print(
            f"{profile.name:22} {len(found.kernels):7} {found.networks:8} {found.error_pct:7.1f} "
            f"{found.largest_pct:9.1f}"
        )
        if args.write:
            table = args.counts if of is COUNTED else args.times
            path.write_text(updated(path.read_text(), found, of, runtime_of(table)))
    return 0


def updated(text: str, found: Fitted, of: Source, runtime: str) -> str:
    """The text of a profile's file with these kernels, their error and their source."""
    how = (
        f"{of.against}, on the whole time of {found.networks} random networks in float and int8, "
        "a fifth of them left out of the fit at a time"
    )
    where = (
        f"operators of random networks under {runtime} {of.obtained}, in data/{of.table}, by "
        "python -m hardware_profiles fit-operators"
    )
    text = replace_kernels(text, found.kernels)
    text = re.sub(
        r"^error_pct = .*", f"error_pct = {found.error_pct:.1f}", text, count=1, flags=re.M
    )
    text = re.sub(r"^error_how = .*", f'error_how = "{how}"', text, count=1, flags=re.M)
    return re.sub(r'^(what = "kernels"\nwhere = ).*', rf'\1"{where}"', text, count=1, flags=re.M)
