"""Latency of one exported file on a target: ``python -m evaluators MODEL.onnx --target NAME``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.evaluator import EvaluationContext
from evaluators.graph import GraphError, GraphOp, read_model, session_config, walk
from evaluators.latency import analytic as latency_analytic
from evaluators.latency import device as latency_device
from evaluators.latency import emulated as latency_emulated
from evaluators.latency import host as latency_host
from evaluators.latency.analytic import operator_ms
from evaluators.latency.tier import Tier, tier
from evaluators.measurement import Measurement
from hardware_profiles import HardwareProfile, ProfileError, emulator, load_profile
from hardware_profiles.devices.device import (
    HOST,
    AddressError,
    DeviceError,
    ModelError,
    NoAnswerError,
)
from hardware_profiles.devices.session import AgentSession
from hardware_profiles.output import until_closed
from hardware_profiles.printable import printable

_ROWS = 25
_WIDTHS = (32, 8)
FIRST_RUN_S = 120.0  # for one inference here; what takes longer hangs
_ONCE = {"warmup": 0, "min_runs": 1, "min_ms": 0, "max_ms": 0}


def build_parser() -> argparse.ArgumentParser:
    """The command line; every choice but the file has a default."""
    parser = argparse.ArgumentParser(prog="python -m evaluators", description=__doc__)
    parser.add_argument("model", type=Path, help="an ONNX file with one image input")
    parser.add_argument("--target", default="host", help="device name, 'host' or a profile's file")
    parser.add_argument(
        "--tier",
        choices=["analytic", "emulated", "device"],
        help="where the latency is from; the most truthful one that serves, unless given",
    )
    parser.add_argument(
        "--device", metavar="ssh://USER@HOST[:PORT][/PYTHON]", help="a board to measure on"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="worker threads of the runtime")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the latency; bad input is one line on stderr and exit code 2."""
    args = build_parser().parse_args(argv)
    try:
        found = measure(args.model, args.target, args.tier, args.device, args.threads)
    except (GraphError, ProfileError, AddressError, ModelError) as error:
        print(f"error: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return 2
    except (emulator.EmulatorError, DeviceError) as error:
        print(f"error: {printable(' '.join(str(error).splitlines()))}", file=sys.stderr)
        return 1
    with until_closed():
        print(json.dumps(found) if args.json else printable("\n".join(_lines(found))))
    return 0


def measure(
    model: Path,
    target: str,
    chosen: Tier | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """The latency of ``model`` and where it goes, as JSON.

    Raises:
        GraphError: the file is not one that the runtime can run.
        ProfileError: no such target, or one that cannot serve the chosen tier.
        EmulatorError: the emulated tier was chosen and fails.
        DeviceError: the device cannot be reached.
    """
    profile = load_profile(target)
    if device is not None and chosen not in (None, "device"):
        raise ProfileError(
            f"--device measures, so that --tier must be device or left out, but got {chosen}"
        )
    if threads is not None:
        if not 1 <= threads <= profile.cpu.cores:
            raise ProfileError(
                f"--threads must be from 1 to {profile.cpu.cores}, the cores of {profile.name}, "
                f"but got {threads}"
            )
        runtime = dataclasses.replace(profile.runtime, threads=threads)
        profile = dataclasses.replace(profile, runtime=runtime)
    if chosen == "device" and device is None:
        raise ProfileError("--tier device needs --device, such as --device ssh://pi@board")
    read_model(model)
    arm = profile.cpu.isa.startswith("arm")
    _run_once(model, arm)
    ops = walk(model, arm=arm)
    with tempfile.TemporaryDirectory() as scratch:
        context = EvaluationContext(
            profile=profile,
            images=np.zeros((0, 3, 1, 1), np.float32),
            labels=np.zeros(0, np.int64),
            scratch=Path(scratch),
            device=device,
        )
        latency = _latency(model, context, chosen or tier(context))
    detail = dict(latency.detail or {})
    rows = detail.pop("operators", None)
    how = detail.pop("operators_how", "estimated from shapes")
    if rows is None:
        rows = latency_analytic.rows(profile, ops, latency.value)
        how = "estimated from shapes, scaled to the measured total"
    return {
        "model": str(model),
        "target": profile.name,
        "latency_ms": latency.value,
        "low_ms": latency.low,
        "high_ms": latency.high,
        "source": latency.source,
        "how": latency.how,
        "detail": detail,
        "operators_how": how,
        "operators": _with_widths(rows, ops, profile),
        "widths_how": "the width that the file does not have is estimated from shapes",
    }


def _run_once(model: Path, arm: bool) -> None:
    """One inference in a process of its own, which can be ended: nobody knows the file yet.

    Raises:
        GraphError: it crashes the runtime here, takes too long, or can't be run.
    """
    rule = f"a model must run here in {FIRST_RUN_S:g} s an image, but {model}"
    with AgentSession(HOST) as agent:
        try:
            config = session_config(arm)
            opened = agent.ask("open", FIRST_RUN_S, model=str(model), threads=1, config=config)
            agent.ask("time", FIRST_RUN_S, session=opened["session"], **_ONCE)
        except NoAnswerError:
            raise GraphError(f"{rule} did not end and was stopped") from None
        except DeviceError as error:
            raise GraphError(f"{rule} ended the runtime: {error}") from None
        except ModelError as error:
            raise GraphError(f"the runtime must be able to run {model}, but: {error}") from None


def _latency(model: Path, context: EvaluationContext, chosen: Tier) -> Measurement:
    if chosen == "analytic":
        return latency_analytic.estimate(model, context.profile)
    if chosen == "emulated":
        return latency_emulated.estimate(model, context.profile)
    serving = latency_device.EVALUATOR if chosen == "device" else latency_host.EVALUATOR
    return next(m for m in serving.evaluate(model, context) if m.name == "latency_ms")


def _with_widths(
    rows: Sequence[Mapping[str, Any]], ops: Sequence[GraphOp], profile: HardwareProfile
) -> list[dict[str, Any]]:
    """Rows with ``ms_by_bits``: what the same operator takes as float and as int8."""
    shapes = {op.name: op for op in ops if op.op in ("conv", "depthwise", "linear")}
    found = []
    for row in rows:
        op = shapes.get(row["name"])
        both = None
        if op is not None:
            own = operator_ms(profile, [op])[0]
            both = {
                str(bits): row["ms"] * profile.cost(op.op, op.shape, bits) / own
                for bits in _WIDTHS
            }
        found.append({**row, "ms_by_bits": both})
    return found


def _lines(found: Mapping[str, Any]) -> list[str]:
    detail = found["detail"]
    span = ""
    if found["low_ms"] is not None:
        span = f"  ({found['low_ms']:.3g} to {found['high_ms']:.3g} ms)"
    lines = [
        f"{found['model']} on {found['target']}: p50 {found['latency_ms']:.3g} ms{span}",
        f"{detail.get('tier', found['source'])}: {found['how']}",
    ]
    if detail.get("work"):
        work = sorted(detail["work"].items(), key=lambda item: -item[1])
        lines.append("where it goes: " + ", ".join(f"{what} {share:.0%}" for what, share in work))
    lines += ["", f"operators, {found['operators_how']}; {found['widths_how']}"]
    lines.append(f"{'ms':>9} {'share':>6} {'bits':>4} {'fp32 ms':>9} {'int8 ms':>9}  operator")
    ordered = sorted(found["operators"], key=lambda row: -row["ms"])
    for row in ordered[:_ROWS]:
        both = row["ms_by_bits"] or {}
        widths = " ".join(
            f"{both[str(bits)]:9.4f}" if str(bits) in both else " " * 9 for bits in _WIDTHS
        )
        lines.append(
            f"{row['ms']:9.4f} {row['share']:6.1%} {row['bits']:4d} {widths}  "
            f"{row['op']} {row['name']}"
        )
    if len(ordered) > _ROWS:
        rest = math.fsum(row["ms"] for row in ordered[_ROWS:])
        share = math.fsum(row["share"] for row in ordered[_ROWS:])
        lines.append(f"{rest:9.4f} {share:6.1%} {'':24}  {len(ordered) - _ROWS} others")
    return lines
