"""Estimates latencies of one device from a table of counts.

The table has the columns of hardware_profiles/data/emulated_counts.csv; the rows that were
counted on the device's core are estimated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hardware_profiles.counts import latency_ms
from hardware_profiles.fitting.tables import read_counts
from hardware_profiles.lookup import load_profile
from hardware_profiles.profile import ProfileError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Device, table, threads."""
    parser.add_argument(
        "--target", required=True, metavar="NAME", help="name, alias, 'host' or a .toml file"
    )
    parser.add_argument(
        "--counts", required=True, type=Path, metavar="FILE.csv", help="table of counts"
    )
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads on the device (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON line as the last line")


def run(args: argparse.Namespace) -> int:
    """Prints the estimates, and what must be known about them.

    Raises:
        ProfileError: unknown device, too many threads, unusable table, or no row for the core.
    """
    profile = load_profile(args.target)
    if profile.counts is None:
        raise ProfileError(
            f"--target must name a device with a [counts] section, but {profile.name!r} has none"
        )
    table = read_counts(args.counts)
    rows = [row for row in table if row.qemu_cpu == profile.counts.qemu_cpu]
    if not rows:
        raise ProfileError(
            f"{args.counts} must have rows with qemu_cpu {profile.counts.qemu_cpu!r}, the core of "
            f"{profile.name!r}, but has {', '.join(sorted({row.qemu_cpu for row in table}))}"
        )
    found = [latency_ms(profile, row.counts, args.threads) for row in rows]
    for row, estimate in zip(rows, found, strict=True):
        print(
            f"{row.model:28} {estimate.latency_ms:10.2f} ms +- {estimate.error_pct:g} %"
            f"  ({row.runtime})"
        )
    print(f"{profile.title}, {args.threads} thread(s), {found[0].calibration_id}: {found[0].how}")
    if found[0].caveat and any(not row.runtime.startswith("ncnn") for row in rows):
        print(f"note: {found[0].caveat}")
    if args.json:
        predictions = [
            {
                "model": row.model,
                "latency_ms": estimate.latency_ms,
                "error_pct": estimate.error_pct,
            }
            for row, estimate in zip(rows, found, strict=True)
        ]
        print(
            json.dumps(
                {"target": profile.name, "threads": args.threads, "predictions": predictions}
            )
        )
    return 0
