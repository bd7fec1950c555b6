"""Latency of a file on this machine, measured beside the baseline in a process of its own.

The search's own process is no place to measure: thread pools spin there. One fresh process
that has only onnxruntime and numpy is started at the first measurement and serves all of them.

Baseline and candidate alternate in blocks (single alternating runs would evict the smaller
one from the caches, a thing that no device does). A round opens both files anew and runs each
in two blocks, ABBA, so that a steady drift of the machine cancels; the ratio of the medians is
one figure a round. Rounds go on until the interval of their mean is narrow or the time is up.
The machine's drift between measurements, as the baseline shows it, then widens the interval.

The machine's speed drifts from one measurement to the next, the ratio hardly. So the figure of
merit, ``latency_ms``, is the ratio times the baseline's latency as it was measured first in
this search (the anchor, kept in the scratch folder); ``detail`` has what the clock said.
"""

from __future__ import annotations

import atexit
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.evaluator import EvaluationContext
from evaluators.latency import lease
from evaluators.latency.drift import DriftLog
from evaluators.latency.interval import Interval, geometric_interval
from evaluators.measurement import Measurement
from hardware_profiles import HardwareProfile
from hardware_profiles.devices.device import HOST, file_sha256
from hardware_profiles.devices.session import AgentSession

SEARCH_BUDGET_S = 2.0  # for a trial; a finalist deserves more
FINAL_BUDGET_S = 20.0
MIN_ROUNDS = 5  # below, Student's factor makes any interval wide
MAX_ROUNDS = 200
NARROW = 0.01  # relative half-width at which a measurement is good enough
BLOCK_MS = 20.0
BLOCK_RUNS = 3
PATIENCE = 5  # a block is so many times as long where other processes interrupt its runs
BLOCK_TIMEOUT_S = 600.0
WARMUP_OPEN = 3  # after opening: the first runs pack weights and grow the arena
WARMUP_BLOCK = 1  # after the other file's block: the first run fills the caches
ANCHOR_TRIES = 3
# Beyond any of these a measurement is called noisy.
OTHERS_CORES = 0.25
STEAL_SHARE = 0.02
ROUND_SPREAD = 0.05


@dataclass(frozen=True)
class HostLatency:
    """One measurement. Times in ms at batch 1; ratios are candidate over baseline."""

    p50_ms: float
    p90_ms: float
    baseline_p50_ms: float | None
    interval: Interval  # of the ratio; without a baseline, of p50_ms; drift included
    drift: float  # of the machine from one measurement to the next: deviation of the logarithm
    all_cores_p50_ms: float | None
    rounds: int
    runs: int
    interrupted_runs: int  # by other processes; left out where others remain
    seconds: float
    noise: tuple[str, ...]  # why the machine was noisy; empty when it wasn't
    version: str  # of onnxruntime
    cpu: str
    cores: int


@dataclass(frozen=True)
class _Times:
    """Times of single runs in ms: those that kept the processor, and all."""

    whole: tuple[float, ...] = ()
    every: tuple[float, ...] = ()

    def __add__(self, other: _Times) -> _Times:
        return _Times(self.whole + other.whole, self.every + other.every)

    @property
    def usable(self) -> tuple[float, ...]:
        """Those to look at: the uninterrupted ones where there are enough."""
        return self.whole if len(self.whole) >= BLOCK_RUNS else self.every

    @property
    def median_ms(self) -> float:
        return float(np.median(self.usable))


@dataclass(frozen=True)
class _Round:
    candidate: _Times
    baseline: _Times | None

    @property
    def figure(self) -> float:
        """Ratio of the medians; without a baseline the median in ms."""
        own = self.candidate.median_ms
        return own if self.baseline is None else own / self.baseline.median_ms

    @property
    def reference_ms(self) -> float:
        """Median of a file that is the same in every round."""
        return (self.baseline or self.candidate).median_ms


class _HostAgent:
    """The measuring process of this process."""

    session: AgentSession | None = None
    owner = 0

    def get(self) -> AgentSession:
        """The running one, or a new one after the first call, a crash or a fork."""
        mine = self.owner == os.getpid()
        if self.session is None or not mine or not self.session.alive:
            self.close()
            self.session, self.owner = AgentSession(HOST), os.getpid()
        return self.session

    def close(self) -> None:
        """Ends it, unless it is the parent's."""
        if self.session is not None and self.owner == os.getpid():
            self.session.close()
        self.session = None


_agent = _HostAgent()
_drift = DriftLog()


def close_host_agent() -> None:
    """Ends the measuring process; the next measurement starts a new one. Also done at exit."""
    _agent.close()


atexit.register(close_host_agent)


def measure(
    model: Path,
    baseline: Path | None = None,
    threads: int = 1,
    budget_s: float = SEARCH_BUDGET_S,
    narrow: float = NARROW,
) -> HostLatency:
    """Measures one file on this machine, alone: our own training pauses meanwhile.

    Args:
        model: the ONNX file; batch 1 is measured.
        baseline: the file to compare it with, interleaved.
        threads: of the runtime, for the figure of merit.
        budget_s: no new round begins after so many seconds (five are always run).
        narrow: relative half-width of the interval at which it stops earlier (before the
            machine's drift between measurements is added, which more rounds don't reduce).

    Raises:
        ModelError: the runtime cannot run a file.
        DeviceError: the measuring process died.
    """
    with lease.measuring(f"the measurement of {model.name}"):
        agent = _agent.get()
        start = time.monotonic()
        before = agent.ask("environment")
        rounds: list[_Round] = []
        while True:
            rounds.append(_round(agent, model, baseline, threads, backwards=len(rounds) % 2 == 1))
            if len(rounds) < MIN_ROUNDS:
                continue
            interval = geometric_interval([each.figure for each in rounds])
            spent = time.monotonic() - start
            if interval.half_width <= narrow or spent >= budget_s or len(rounds) >= MAX_ROUNDS:
                break
        after = agent.ask("environment")
        seconds = time.monotonic() - start
        cores = int(agent.about["cores"])
        all_cores = _all_cores_p50(agent, model, cores) if cores > threads else None
    candidate = [each.candidate for each in rounds]
    reference = [each.baseline for each in rounds if each.baseline is not None]
    noise = _noise(rounds, before, after, seconds, cores)
    unchanging = baseline or model
    reference_ms = float(np.median(_usable(reference or candidate)))
    identity = (unchanging, unchanging.stat().st_mtime_ns, threads)
    drift = _drift.add(identity, reference_ms, bool(noise))
    return HostLatency(
        p50_ms=float(np.median(_usable(candidate))),
        p90_ms=float(np.percentile(_usable(candidate), 90)),
        baseline_p50_ms=reference_ms if reference else None,
        interval=interval.widened(drift),
        drift=drift,
        all_cores_p50_ms=all_cores,
        rounds=len(rounds),
        runs=sum(len(each.every) for each in candidate),
        interrupted_runs=sum(len(each.every) - len(each.whole) for each in candidate),
        seconds=seconds,
        noise=noise,
        version=str(agent.about["onnxruntime"]),
        cpu=str(agent.about["cpu"]),
        cores=cores,
    )


def _usable(blocks: Iterable[_Times]) -> list[float]:
    return [time_ms for each in blocks for time_ms in each.usable]


def _round(
    agent: AgentSession, model: Path, baseline: Path | None, threads: int, backwards: bool
) -> _Round:
    with agent.opened(str(model), threads) as candidate:
        if baseline is None:
            return _Round(_block(agent, candidate, WARMUP_OPEN), None)
        with agent.opened(str(baseline), threads) as reference:
            times = {candidate: _Times(), reference: _Times()}
            order = [candidate, reference, reference, candidate]
            if backwards:
                order = [reference, candidate, candidate, reference]
            for session in order:
                warmup = WARMUP_BLOCK if times[session].every else WARMUP_OPEN
                times[session] += _block(agent, session, warmup)
            return _Round(times[candidate], times[reference])


def _block(agent: AgentSession, session: int, warmup: int, block_ms: float = BLOCK_MS) -> _Times:
    answer = agent.ask(
        "time",
        timeout_s=BLOCK_TIMEOUT_S,
        session=session,
        warmup=warmup,
        min_runs=BLOCK_RUNS,
        min_ms=block_ms,
        max_ms=PATIENCE * block_ms,
    )
    every = answer["times_ms"]
    kept = (t for t, lost in zip(every, answer["interrupted"], strict=True) if not lost)
    return _Times(tuple(kept), tuple(every))


def _all_cores_p50(agent: AgentSession, model: Path, cores: int) -> float:
    with agent.opened(str(model), cores) as session:
        return _block(agent, session, warmup=10, block_ms=10 * BLOCK_MS).median_ms


def _noise(
    rounds: Sequence[_Round],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    seconds: float,
    cores: int,
) -> tuple[str, ...]:
    reasons = []
    if before["busy_s"] is not None:
        own = after["own_s"] - before["own_s"]
        others = (after["busy_s"] - before["busy_s"] - own) / seconds
        if others > OTHERS_CORES:
            reasons.append(f"other processes used {others:.1f} of {cores} cores")
        steal = (after["steal_s"] - before["steal_s"]) / seconds / cores
        if steal > STEAL_SHARE:
            reasons.append(f"the hypervisor took {steal:.0%} of the time")
    spread = float(np.std(medians := [each.reference_ms for each in rounds]) / np.mean(medians))
    if spread > ROUND_SPREAD:
        reasons.append(f"medians of equal rounds spread by {spread:.0%}")
    blocks = [times for each in rounds for times in (each.candidate, each.baseline) if times]
    if any(len(times.whole) < BLOCK_RUNS for times in blocks):
        reasons.append("hardly a run kept the processor to its end")
    return tuple(reasons)


class HostLatencyEvaluator:
    """``latency_ms`` (p50), ``latency_p90_ms``, ``latency_ratio``, ``latency_all_cores_ms``."""

    name = "latency_host"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """When the target is this very machine and no other device was given."""
        return context.profile.name == "host" and context.device is None

    def evaluate(
        self, model: Path, context: EvaluationContext, budget_s: float = SEARCH_BUDGET_S
    ) -> tuple[Measurement, ...]:
        """Measures one file.

        Raises:
            ModelError: the runtime cannot run it.
            DeviceError: the measuring process died.
        """
        threads = context.profile.runtime.threads
        result = measure(model, context.baseline, threads, budget_s)
        anchor_ms = None
        if context.baseline is not None:
            anchor_ms = _anchor_ms(context.scratch, model, context.baseline, threads, result)
        return measurements(result, context.profile, anchor_ms)


def measurements(
    result: HostLatency, profile: HardwareProfile, anchor_ms: float | None
) -> tuple[Measurement, ...]:
    """The figures of one measurement; with an anchor, at the machine's speed of that time."""
    threads = profile.runtime.threads
    where = f"at batch 1 on this host ({result.cpu}), onnxruntime {result.version}"
    how = f"{where}, {threads} thread{'s' if threads > 1 else ''}, {result.rounds} rounds"
    if result.interrupted_runs:
        how += f", without the {result.interrupted_runs} of {result.runs} runs that lost the core"
    if anchor_ms is None or result.baseline_p50_ms is None:
        latency, speed, anchored = result.interval, 1.0, ""
    else:
        latency, speed = result.interval.scaled(anchor_ms), anchor_ms / result.baseline_p50_ms
        anchored = f", relative to the baseline run beside it, taken as {anchor_ms:.3f} ms"
    noisy = f"; noisy machine: {', '.join(result.noise)}" if result.noise else ""
    detail = {
        "tier": "host",
        "runtime": "onnxruntime",
        "threads": threads,
        "profile": profile.name,
        "calibration": None,  # measured: neither fitted nor held out
        "error_pct": None,
        **dataclasses.asdict(result),
        "noise": list(result.noise),
        "noisy": bool(result.noise),
        "anchor_ms": anchor_ms,
    }
    tail = f"{anchored}{noisy}"
    found = [
        Measurement(
            "latency_ms",
            latency.value,
            "ms",
            "measured",
            f"p50 {how}{tail}",
            latency.low,
            latency.high,
            detail,
        ),
        Measurement("latency_p90_ms", result.p90_ms * speed, "ms", "measured", f"p90 {how}{tail}"),
    ]
    if result.baseline_p50_ms is not None:
        ratio = result.interval
        told = f"candidate over baseline, p50 in alternating blocks {how}{noisy}"
        found.append(
            Measurement("latency_ratio", ratio.value, "", "measured", told, ratio.low, ratio.high)
        )
    if result.all_cores_p50_ms is not None:
        told = f"p50 {where}, {result.cores} threads that spin between runs (its default){tail}"
        found.append(
            Measurement(
                "latency_all_cores_ms", result.all_cores_p50_ms * speed, "ms", "measured", told
            )
        )
    return tuple(found)


def _anchor_ms(
    scratch: Path, model: Path, baseline: Path, threads: int, first: HostLatency
) -> float:
    """The baseline's latency as first measured with this scratch folder; measures if none is.

    Noise only adds time: when the first measurement was noisy, the fastest of a few counts.
    """
    identity = (file_sha256(baseline), threads, first.version, first.cpu, first.cores)
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    path = scratch / f"host-latency-anchor-{key}.json"
    if path.exists():
        return float(json.loads(path.read_text())["baseline_p50_ms"])
    tries = [first]
    while tries[-1].noise and len(tries) < ANCHOR_TRIES:
        tries.append(measure(model, baseline, threads))
    best = min(each.baseline_p50_ms for each in tries if each.baseline_p50_ms is not None)
    scratch.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"baseline_p50_ms": best}))
    partial.rename(path)
    return best


EVALUATOR = HostLatencyEvaluator()
