"""Reprints the errors of the estimates from counts, on model families left out of the fit.

Every row is fitted anew, once for each family that it leaves out, on the published latencies
of that board; compare with the errors that stand in the profiles (show NAME). With --splits,
also so many times without a third of the families, drawn at random.
"""

from __future__ import annotations

import argparse

import numpy as np

from hardware_profiles.fitting.fit import transfer
from hardware_profiles.fitting.held_out import held_out, split_errors
from hardware_profiles.fitting.samples import calibration_of
from hardware_profiles.profile import ProfileError, shipped_profiles

_HEADER = f"{'board':44} {'core':11} threads  models  families  mean %  largest %  rank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether to list the models, and how many random splits to try."""
    parser.add_argument(
        "--models", action="store_true", help="list each held-out model below its board"
    )
    parser.add_argument(
        "--splits",
        type=int,
        default=0,
        metavar="N",
        help="leave out a random third of the families, too, N times",
    )


def run(args: argparse.Namespace) -> int:
    """Prints a row for every published thread count of every board, and the notes."""
    if args.splits < 0:
        raise ProfileError(f"--splits must not be negative, but got {args.splits}")
    profiles = shipped_profiles()
    fitted = {
        name: profile.counts
        for name, profile in profiles.items()
        if profile.counts is not None and profile.counts.fit is not None
    }
    notes = []
    print(_HEADER)
    for name, model in fitted.items():
        profile = profiles[name]
        calibration = calibration_of(profile, model)
        for threads in calibration.threads:
            found = held_out(profile, model, threads)
            print(
                f"{name + ' (' + calibration.device + ')':44} {profile.cpu.core:11} {threads:7} "
                f"{len(found.samples.models):7} {found.families:9} {found.error_pct:7.1f} "
                f"{found.largest_pct:10.1f} {found.rank_correlation:5.3f}"
            )
            if args.models:
                published = found.samples.cycles / profile.cpu.ghz * 1e-6
                for each, ms, ratio in zip(
                    found.samples.models, published, found.ratio, strict=True
                ):
                    print(f"    {each:22} {ms:8.1f} ms {(ratio - 1) * 100:+6.1f} %")
        if calibration.note:
            notes.append(f"{name}: {calibration.note}")
    if args.splits:
        print(f"\na third of the families left out, {args.splits} random draws, first threads:")
        for name, model in fitted.items():
            if not calibration_of(profiles[name], model).cycles_from:
                errors = split_errors(profiles[name], model, args.splits)
                print(
                    f"{name:44} median {np.median(errors):5.1f} %, mean {errors.mean():5.1f} %, "
                    f"90th percentile {np.percentile(errors, 90):5.1f} %"
                )
    print("\n".join(["", *notes, f"onnxruntime: {transfer(profiles, fitted)}"]))
    return 0
