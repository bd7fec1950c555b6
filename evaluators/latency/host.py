"""Latency of a file on this machine, measured beside others in a process of its own.

The search's own process is no place to measure: thread pools spin there. One fresh process
that has only onnxruntime and numpy is started at the first measurement and serves all of them.

Candidate and companions alternate in blocks (single alternating runs would evict the smaller
one from the caches, a thing that no device does). A round opens all files anew and runs each
in two blocks, ABBA, so that a steady drift of the machine cancels. Rounds go on until the
interval of their ratio is narrow or the time is up. What other processes interrupted counts by
its processor time, and the faster rounds make the figure (``evaluators.latency.interval``).

The baseline is there for ``latency_ratio``. It may be a hundred times the candidate's size, and
then says little about what the candidate suffers. So ``latency_ms`` comes from the ratio to a
file of the candidate's size, the fastest that this search has measured (``incumbent``), times
what that took at best; without one, from the candidate's own rounds. ``detail`` has what the
clock said. A slow mode that lasts longer than the measurement cannot be seen in it; the
interval reaches as far as that may be (``evaluators.latency.drift``).
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.evaluator import EvaluationContext
from evaluators.latency import lease
from evaluators.latency.drift import GAP, BestLog, Seen, ratio_reach
from evaluators.latency.incumbent import Incumbent, IncumbentStore, similar
from evaluators.latency.interval import (
    Interval,
    geometric_interval,
    interleaved,
    least_disturbed,
    level,
    spread,
)
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
PATIENCE = 2  # a block is so many times as long where other processes interrupt its runs
BLOCK_TIMEOUT_S = 600.0
WARMUP_OPEN = 3  # after opening: the first runs pack weights and grow the arena
WARMUP_BLOCK = 1  # after another file's block: the first run fills the caches
# Beyond any of these a measurement is called noisy.
OTHERS_CORES = 0.25
STEAL_SHARE = 0.02
ROUND_SPREAD = 0.05


@dataclass(frozen=True)
class HostLatency:
    """One measurement. Times in ms at batch 1, in the faster rounds; ratios are of the candidate.

    ``interval`` is of the ratio to the baseline, without one that of ``p50_ms``. It covers what
    the measurement could not see: other modes of the machine.
    """

    p50_ms: float
    p90_ms: float
    baseline_p50_ms: float | None
    interval: Interval
    own: Interval  # of p50_ms, as the clock had it; modes that were not seen reach below
    drift: float  # of the candidate over the measurement: deviation of the logarithm
    unseen: float  # share of a gap between modes that may lie below, 0 to 1
    incumbent_p50_ms: float | None  # None where no file of the candidate's size ran beside it
    incumbent_best_ms: float | None  # in the measurements of this process
    incumbent_ratio: Interval | None
    all_cores_p50_ms: float | None
    rounds: int
    runs: int
    interrupted_runs: int  # by other processes; their processor time counts where few others are
    seconds: float
    noise: tuple[str, ...]  # why the machine was noisy; empty when it wasn't
    version: str  # of onnxruntime
    cpu: str
    cores: int


@dataclass(frozen=True)
class _Block:
    """Times of single runs in ms: those that kept the processor, and all.

    Of a run that lost the processor, ``every`` has the processor time.
    """

    whole: tuple[float, ...]
    every: tuple[float, ...]

    @property
    def usable(self) -> tuple[float, ...]:
        """Those to look at: the uninterrupted ones where there are enough."""
        return self.whole if len(self.whole) >= BLOCK_RUNS else self.every

    @property
    def median_ms(self) -> float:
        return float(np.median(self.usable))


_FileBlocks = tuple[_Block, _Block]  # of one file in one round


def _level_ms(blocks: _FileBlocks) -> float:
    return float(np.sqrt(blocks[0].median_ms * blocks[1].median_ms))


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
_best = BestLog()


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
    incumbent: Path | None = None,
) -> HostLatency:
    """Measures one file on this machine, alone: our own training pauses meanwhile.

    Args:
        model: the ONNX file; batch 1 is measured.
        baseline: the file to compare it with, interleaved.
        threads: of the runtime, for the figure of merit.
        budget_s: no new round begins after so many seconds (five are always run).
        narrow: relative half-width of the rounds' interval at which it stops earlier (before
            drift and what is unseen are added, which more rounds don't reduce).
        incumbent: one more file to run beside it, which should be of its size; left out after
            a round that finds that it isn't.

    Raises:
        ModelError: the runtime cannot run a file.
        DeviceError: the measuring process died.
    """
    others = [path for path in (baseline, incumbent) if path is not None]
    with lease.measuring(f"the measurement of {model.name}"):
        agent = _agent.get()
        start = time.monotonic()
        before = agent.ask("environment")
        rounds: list[tuple[_FileBlocks, ...]] = []
        while True:
            files = [model, *others]
            rounds.append(_round(agent, files, threads, backwards=len(rounds) % 2 == 1))
            now_ms = [_level_ms(blocks) for blocks in rounds[-1]]
            if incumbent is not None and not similar(now_ms[0], now_ms[-1]):
                rounds = [each[:-1] for each in rounds]
                incumbent = None
                others.pop()
            if len(rounds) < MIN_ROUNDS:
                continue
            spent = time.monotonic() - start
            if spent >= budget_s or len(rounds) >= MAX_ROUNDS or _is_narrow(rounds, narrow):
                break
        after = agent.ask("environment")
        seconds = time.monotonic() - start
        cores = int(agent.about["cores"])
        all_cores = _all_cores_p50(agent, model, cores) if cores > threads else None
    noise = _noise(rounds, before, after, seconds, cores)
    by_file = list(zip(*rounds, strict=True))
    levels = [[_level_ms(blocks) for blocks in each] for each in by_file]
    seen = [
        _best.add((file_sha256(path), threads), level(each).value)
        for path, each in zip([model, *others], levels, strict=True)
    ]
    own = level(levels[0])
    kept = least_disturbed(levels[0])
    usable = [t for i in kept for block in by_file[0][i] for t in block.usable]
    every = [block for blocks in by_file[0] for block in blocks]
    runs = sum(len(block.every) for block in every)
    ratios = [
        _reaching(interleaved(levels[0], each), other, bool(noise))
        for each, other in zip(levels[1:], seen[1:], strict=True)
    ]
    # The state of the machine is known by what was measured most often.
    witness = max(seen, key=lambda each: each.looks)
    own_seen = own.reaching(GAP * witness.unseen, 0.0)
    return HostLatency(
        p50_ms=own.value,
        p90_ms=float(np.percentile(usable, 90)),
        baseline_p50_ms=seen[1].now_ms if baseline else None,
        interval=ratios[0] if baseline else own_seen,
        own=own_seen,
        drift=spread([levels[0][i] for i in kept]),
        unseen=witness.unseen,
        incumbent_p50_ms=seen[-1].now_ms if incumbent else None,
        incumbent_best_ms=seen[-1].best_ms if incumbent else None,
        incumbent_ratio=ratios[-1] if incumbent else None,
        all_cores_p50_ms=all_cores,
        rounds=len(rounds),
        runs=runs,
        interrupted_runs=runs - sum(len(block.whole) for block in every),
        seconds=seconds,
        noise=noise,
        version=str(agent.about["onnxruntime"]),
        cpu=str(agent.about["cpu"]),
        cores=cores,
    )


def _is_narrow(rounds: Sequence[tuple[_FileBlocks, ...]], narrow: float) -> bool:
    """Of the candidate's ratio to every other file; without others, of its own latency."""
    levels = np.array([[_level_ms(blocks) for blocks in each] for each in rounds]).T
    ratios = levels[0] / levels[1:] if len(levels) > 1 else levels
    pairs = [np.vstack([levels[0], other]) for other in levels[1:]] or [levels]
    return all(
        geometric_interval(list(ratio[least_disturbed(*pair)])).half_width <= narrow
        for ratio, pair in zip(ratios, pairs, strict=True)
    )


def _reaching(ratio: Interval, other: Seen, noisy: bool) -> Interval:
    reach = ratio_reach(ratio.value, other, noisy)
    return ratio.reaching(reach, reach)


def _round(
    agent: AgentSession, files: Sequence[Path], threads: int, backwards: bool
) -> tuple[_FileBlocks, ...]:
    """Two blocks of every file, in the order of ``files``; runs them there and back."""
    with contextlib.ExitStack() as opened:
        sessions = [opened.enter_context(agent.opened(str(path), threads)) for path in files]
        order = list(range(len(files)))
        if backwards:
            order.reverse()
        first = {i: _block(agent, sessions[i], WARMUP_OPEN) for i in order}
        order.reverse()
        second = {i: _block(agent, sessions[i], WARMUP_BLOCK) for i in order}
    return tuple((first[i], second[i]) for i in range(len(files)))


def _block(agent: AgentSession, session: int, warmup: int, block_ms: float = BLOCK_MS) -> _Block:
    answer = agent.ask(
        "time",
        timeout_s=BLOCK_TIMEOUT_S,
        session=session,
        warmup=warmup,
        min_runs=BLOCK_RUNS,
        min_ms=block_ms,
        max_ms=PATIENCE * block_ms,
    )
    runs = list(zip(answer["times_ms"], answer["cpu_ms"], answer["interrupted"], strict=True))
    return _Block(
        whole=tuple(time_ms for time_ms, _, lost in runs if not lost),
        every=tuple(cpu_ms if lost else time_ms for time_ms, cpu_ms, lost in runs),
    )


def _all_cores_p50(agent: AgentSession, model: Path, cores: int) -> float:
    with agent.opened(str(model), cores) as session:
        return _block(agent, session, warmup=10, block_ms=10 * BLOCK_MS).median_ms


def _noise(
    rounds: Sequence[tuple[_FileBlocks, ...]],
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
    # Of a file that is the same in every measurement, where there is one.
    unchanging = [_level_ms(each[min(1, len(each) - 1)]) for each in rounds]
    varied = float(np.std(unchanging) / np.mean(unchanging))
    if varied > ROUND_SPREAD:
        reasons.append(f"medians of equal rounds spread by {varied:.0%}")
    blocks = [block for each in rounds for two in each for block in two]
    if any(len(block.whole) < BLOCK_RUNS for block in blocks):
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
        about = _agent.get().about
        machine = (str(about["onnxruntime"]), str(about["cpu"]), int(about["cores"]), threads)
        store = IncumbentStore(context.scratch, machine)
        incumbent = store.load()
        result = measure(
            model,
            context.baseline,
            threads,
            budget_s,
            incumbent=incumbent.path if incumbent else None,
        )
        store.update(model, latency(result, incumbent).value, result.incumbent_best_ms)
        return measurements(result, context.profile, incumbent)


def latency(result: HostLatency, incumbent: Incumbent | None) -> Interval:
    """Of the file in ms, at the machine's fastest speed that is known.

    Args:
        result: the measurement.
        incumbent: the file that ran beside it, with what it took at best.
    """
    if incumbent is None or result.incumbent_ratio is None:
        return result.own
    assert result.incumbent_best_ms is not None
    best_ms = min(incumbent.best_ms, result.incumbent_best_ms)
    return result.incumbent_ratio.scaled(best_ms).reaching(GAP * result.unseen, 0.0)


def measurements(
    result: HostLatency, profile: HardwareProfile, incumbent: Incumbent | None
) -> tuple[Measurement, ...]:
    """The figures of one measurement; with an incumbent, at the machine's speed at its best."""
    threads = profile.runtime.threads
    where = f"at batch 1 on this host ({result.cpu}), onnxruntime {result.version}"
    how = f"{where}, {threads} thread{'s' if threads > 1 else ''}, {result.rounds} rounds"
    if result.interrupted_runs:
        how += f", {result.interrupted_runs} of {result.runs} runs lost the core"
    found_ms = latency(result, incumbent)
    speed = found_ms.value / result.p50_ms
    anchored = ""
    if result.incumbent_ratio is not None:
        best_ms = found_ms.value / result.incumbent_ratio.value
        anchored = (
            f", relative to the fastest file so far run beside it, taken as {best_ms:.3g} ms"
        )
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
        "speed": speed,  # latency_ms over what the clock said
    }
    tail = f"{anchored}{noisy}"
    found = [
        Measurement(
            "latency_ms",
            found_ms.value,
            "ms",
            "measured",
            f"p50 {how}{tail}",
            found_ms.low,
            found_ms.high,
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


EVALUATOR = HostLatencyEvaluator()
