"""Measures a device and writes a profile of it that --target takes.

Runs 14 small networks there with one thread (about two minutes), refines the coefficients of
the nearest shipped profile by what they took, and states the error that is left on
architectures held out of the refinement. Estimates from counts are refined, too, where the
emulator is installed and the shipped profile has them.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardware_profiles import emulator
from hardware_profiles.devices.board import Board
from hardware_profiles.devices.device import AddressError, DeviceError
from hardware_profiles.fitting.calibration import (
    Calibrated,
    Counter,
    Measured,
    base_profile,
    calibrate,
    measure,
)
from hardware_profiles.fitting.probes import Probe, make_probes
from hardware_profiles.fitting.refine import Refined
from hardware_profiles.lookup import load_profile
from hardware_profiles.profile import HardwareProfile, ProfileError
from hardware_profiles.writing import render_profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which device, from which profile, and where the result goes."""
    parser.add_argument(
        "--device",
        required=True,
        metavar="ssh://USER@BOARD[:PORT][/PYTHON]",
        help="the device; 'host' is this machine",
    )
    parser.add_argument("--name", required=True, help="of the new profile, such as my-board")
    parser.add_argument("--base", help="shipped profile to begin with (default: the nearest)")
    parser.add_argument("--out", type=Path, help="file to write (default: NAME.toml)")


def run(args: argparse.Namespace) -> int:
    """Measures, refines, writes; bad input is 2, a device that cannot be used is 1."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", args.name) or args.name == "host":
        raise ProfileError(
            f"--name must be lower-case letters, digits, dots and hyphens, but got {args.name!r}"
        )
    out: Path = args.out or Path(f"{args.name}.toml")
    if out.suffix != ".toml" or not out.parent.is_dir():
        raise ProfileError(f"--out must be a .toml file in an existing folder, but got {out}")
    try:
        _calibrate(args.device, args.name, args.base, out)
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, AddressError) else 1
    return 0


def _calibrate(url: str, name: str, base_name: str | None, out: Path) -> None:
    board = Board(url)
    try:
        about = board.about()
        base = load_profile(base_name) if base_name else base_profile(about)
        if base.kind != "cpu":
            raise ProfileError(f"--base must be a device that runs files, but got {base.name!r}")
        what = f"{about['cpu']}, onnxruntime {about['onnxruntime']}"
        print(f"{board.device.name}: {what}", flush=True)
        probes = make_probes(base.runtime.activation_type)
        print(
            f"measuring {len(probes)} networks there with one thread, from {base.name}", flush=True
        )
        measured = measure(board, probes, lambda line: print(line, flush=True))
    finally:
        board.close()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = calibrate(base, name, probes, measured, _counter(base), date)
    out.write_text(render_profile(found.profile))
    _report(base, probes, measured, found)
    print(f"written to {out}; use it with --target {out}")


def _counter(base: HardwareProfile) -> Counter | None:
    if base.counts is None:
        return None
    core = base.counts.qemu_cpu
    try:
        emulator.find()
    except emulator.EmulatorError as error:
        print(f"estimates from counts are left out of the new profile: {error}")
        return None

    def count(path: Path) -> Mapping[str, float]:
        print(f"counting {path.stem} on an emulated {core}", flush=True)
        return emulator.shared(core).count(path).total

    return count


def _report(
    base: HardwareProfile, probes: Sequence[Probe], measured: Measured, found: Calibrated
) -> None:
    tables = {"shapes": found.from_shapes, "counts": found.from_counts}
    known: dict[str, Refined] = {name: each for name, each in tables.items() if each is not None}
    print("\nheld out: architecture left out of the refinement; ms")
    print(f"{'network':18}{'measured':>10}" + "".join(f"{f'from {n}':>13}" for n in known))
    for index, probe in enumerate(probes):
        row = "".join(f"{each.held_out_ms[index]:13.3f}" for each in known.values())
        print(f"{probe.name:18}{measured.times_ms[probe.name]:10.3f}{row}")
    for name, each in known.items():
        print(
            f"from {name}: error {each.shipped_error_pct:.1f} % as shipped ({base.name}), "
            f"{each.error_pct:.1f} % refined (largest {each.largest_pct:.1f} %, rank correlation "
            f"{each.rank_correlation:.3f}); scale {each.factors.scale:.3f}"
        )
    if measured.unsteady:
        print(
            f"the device was unsteady for {len(measured.unsteady)} of {len(probes)} networks; "
            f"cool it, fix its governor, stop what else runs there, and calibrate again"
        )
