"""Latency of a file on a real device, by a small agent over SSH.

One connection a process and device; the agent and every file are copied once and kept there by
hash. Each measurement: 10 warm-ups, then at least 50 runs and 5 s (60 s for a winner), p50 and
p90, with one thread and with all cores. It is repeated when the machine was not steady: when
the second half's median is more than 3 % from the first's, the runs vary by more than 5 %, or
the device throttled. The baseline is the anchor: run again every few candidates, so that a
ratio never comes from two different days and a drift of the device is seen.

The device serves one measurement at a time: a lock there, which goes with the process.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from evaluators.evaluator import EvaluationContext
from evaluators.interval import Interval, geometric_interval, quotient
from evaluators.measurement import Measurement
from hardware_profiles.device import DeviceError, file_sha256, parse_device
from hardware_profiles.session import AgentSession

log = logging.getLogger(__name__)

SEARCH_SECONDS = 5.0
FINAL_SECONDS = 60.0
WARMUPS = 10
MIN_RUNS = 50
MAX_DRIFT = 0.03
MAX_VARIATION = 0.05
MAX_CLOCK_LOSS = 0.05
STEADY_TRIES = 3
ANCHOR_EVERY = 4  # candidates
PARTS = 10  # of a measurement, for its interval
RETRY_WAITS_S = (2.0, 10.0)  # before the second and third attempt when a device disappears
LOCK_POLL_S = 1.0
LONG_S = 3600.0  # for requests of unknown length; a dead connection ends them earlier
# vcgencmd get_throttled: the low bits say what is so now.
_THROTTLED_NOW = {1: "under-voltage", 2: "capped clock", 4: "throttled", 8: "at its heat limit"}
Result = TypeVar("Result")


@dataclass(frozen=True)
class DeviceRun:
    """One file's runs on a device, in ms at batch 1."""

    p50_ms: float
    p90_ms: float
    interval: Interval  # of p50_ms
    variation: float  # standard deviation over mean
    drift: float  # second half's median over the first's, less 1
    runs: int
    interrupted_runs: int  # by other processes; left out where 50 others remain
    threads: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    unsteady: tuple[str, ...]  # why it should be rejected; empty when steady

    def to_json(self) -> dict[str, Any]:
        """For a measurement's detail."""
        return {
            "p50_ms": self.p50_ms,
            "p90_ms": self.p90_ms,
            "variation": self.variation,
            "drift": self.drift,
            "runs": self.runs,
            "interrupted_runs": self.interrupted_runs,
            "threads": self.threads,
            "before": dict(self.before),
            "after": dict(self.after),
            "unsteady": list(self.unsteady),
        }


def summarize(
    answer: Mapping[str, Any],
    threads: int,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
) -> DeviceRun:
    """What the agent's times and its environment before and after say."""
    every = np.asarray(answer["times_ms"])
    whole = every[np.asarray(answer["interrupted"]) == 0]
    times = whole if len(whole) >= MIN_RUNS else every
    half = len(times) // 2
    drift = float(np.median(times[half:]) / np.median(times[:half]) - 1)
    variation = float(np.std(times) / np.mean(times))
    medians = [float(np.median(part)) for part in np.array_split(times, PARTS)]
    p50 = float(np.median(times))
    spread = geometric_interval(medians)
    return DeviceRun(
        p50_ms=p50,
        p90_ms=float(np.percentile(times, 90)),
        interval=spread.scaled(p50 / spread.value),
        variation=variation,
        drift=drift,
        runs=len(every) * int(answer["stride"]),
        interrupted_runs=(len(every) - len(whole)) * int(answer["stride"]),
        threads=threads,
        before=before,
        after=after,
        unsteady=_unsteadiness(drift, variation, before, after),
    )


def _unsteadiness(
    drift: float, variation: float, before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[str, ...]:
    reasons = []
    if abs(drift) > MAX_DRIFT:
        reasons.append(f"the second half was {drift:+.1%} from the first (limit 3 %)")
    if variation > MAX_VARIATION:
        reasons.append(f"runs varied by {variation:.1%} (limit 5 %)")
    bits = int(str(after["throttled"]), 16) if after["throttled"] else 0
    states = [state for bit, state in _THROTTLED_NOW.items() if bits & bit]
    if states:
        reasons.append(f"the device was {', '.join(states)} (0x{bits:x})")
    if before["mhz"] and after["mhz"]:
        then, now = float(np.mean(before["mhz"])), float(np.mean(after["mhz"]))
        if now < then * (1 - MAX_CLOCK_LOSS):
            reasons.append(f"its clock fell from {then:.0f} to {now:.0f} MHz")
    return tuple(reasons)


class Board:
    """The device at one address: its connection and its anchors. Not thread-safe.

    Every method raises DeviceError when the device cannot be used: at once when it never could,
    after two more attempts when it has disappeared.
    """

    def __init__(self, url: str) -> None:
        self.device = parse_device(url)
        self._session: AgentSession | None = None
        self._worked = False
        self._anchors: dict[tuple[str, int], _Anchor] = {}

    def about(self) -> Mapping[str, Any]:
        """What the device is: runtime and version, processor, cores."""
        return self._persistently(lambda session: session.about)

    def run(
        self,
        model: Path,
        threads: int,
        seconds: float = SEARCH_SECONDS,
        tries: int = STEADY_TRIES,
    ) -> DeviceRun:
        """Measures one file, again while the device is unsteady; then the steadiest run.

        Raises:
            ModelError: the file does not run there.
        """

        def work(session: AgentSession) -> DeviceRun:
            there = session.bring(model)
            with _locked(session):
                return _steady(session, there, threads, seconds, tries)

        return self._persistently(work)

    def anchor(self, baseline: Path, threads: int, seconds: float = SEARCH_SECONDS) -> _Anchor:
        """The baseline's runs on this device; run anew before every fourth candidate."""
        key = (file_sha256(baseline), threads)
        known = self._anchors.get(key)
        if known is None or known.uses >= ANCHOR_EVERY:
            last = self.run(baseline, threads, seconds)
            known = _Anchor(known.first if known else last, last, 0)
        self._anchors[key] = dataclasses.replace(known, uses=known.uses + 1)
        return known

    def predict(self, model: Path, images: NDArray[np.float32]) -> NDArray[np.int64]:
        """Classes that the file gives there for (N, C, H, W) images, one at a time; (N,).

        Raises:
            ModelError: the file does not run there.
        """

        def work(session: AgentSession) -> NDArray[np.int64]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "images.npy"
                np.save(path, images)
                there = session.bring(path)
                with session.opened(session.bring(model), threads=1) as number:
                    answer = session.ask(
                        "classify", timeout_s=LONG_S, session=number, images=there
                    )
            return np.asarray(answer["classes"], dtype=np.int64)

        return self._persistently(work)

    def close(self) -> None:
        """Ends the agent; a later request starts another."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connected(self) -> AgentSession:
        if self._session is None:
            self._session = AgentSession(self.device)
            self._worked = True
        return self._session

    def _persistently(self, work: Callable[[AgentSession], Result]) -> Result:
        for wait_s in RETRY_WAITS_S:
            try:
                return work(self._connected())
            except DeviceError as error:
                self.close()
                if not self._worked:
                    raise
                log.warning("%s; trying again in %.0f s", error, wait_s)
                time.sleep(wait_s)
        try:
            return work(self._connected())
        except DeviceError as error:
            self.close()
            attempts = len(RETRY_WAITS_S) + 1
            raise DeviceError(f"{error}; given up after {attempts} attempts") from None


@dataclass(frozen=True)
class _Anchor:
    """The baseline's first and last run, and by how many candidates the last was used."""

    first: DeviceRun
    last: DeviceRun
    uses: int

    @property
    def drift(self) -> float:
        return self.last.p50_ms / self.first.p50_ms - 1


@contextmanager
def _locked(session: AgentSession) -> Iterator[None]:
    """The device for this process alone; says who has it when it has to wait."""
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    told = False
    while not (answer := session.ask("lock", holder=holder))["locked"]:
        if not told:
            log.info("%s is measuring for %s; waiting", session.device.name, answer["holder"])
            told = True
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        if session.alive:
            session.ask("unlock")


def _steady(
    session: AgentSession, model: str, threads: int, seconds: float, tries: int
) -> DeviceRun:
    runs: list[DeviceRun] = []
    while True:
        runs.append(_once(session, model, threads, seconds))
        if not runs[-1].unsteady:
            return runs[-1]
        if len(runs) >= tries:
            return min(runs, key=lambda run: run.variation + abs(run.drift))
        log.info("%s: %s; measured again", session.device.name, ", ".join(runs[-1].unsteady))


def _once(session: AgentSession, model: str, threads: int, seconds: float) -> DeviceRun:
    with session.opened(model, threads) as number:
        warm = session.ask(
            "time",
            timeout_s=LONG_S,
            session=number,
            warmup=0,
            min_runs=WARMUPS,
            min_ms=0,
            max_ms=0,
        )
        expected_s = max(seconds, MIN_RUNS * float(np.median(warm["times_ms"])) / 1e3)
        before = session.ask("environment")
        answer = session.ask(
            "time",
            timeout_s=60 + 4 * expected_s,
            session=number,
            warmup=0,
            min_runs=MIN_RUNS,
            min_ms=seconds * 1e3,
            max_ms=2 * expected_s * 1e3,
        )
        return summarize(answer, threads, before, session.ask("environment"))


_boards: dict[tuple[int, str], Board] = {}


def shared(url: str) -> Board:
    """This process's one connection to a device; it ends with the process.

    Raises:
        DeviceError: the address is malformed.
    """
    key = (os.getpid(), url)  # a forked child must not talk to its parent's
    if key not in _boards:
        _boards[key] = Board(url)
        atexit.register(_boards[key].close)
    return _boards[key]


class DeviceLatency:
    """``latency_ms`` (p50), ``latency_p90_ms``, ``latency_ratio``, ``latency_all_cores_ms``."""

    name = "latency-device"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """When the person gave a device."""
        return context.device is not None

    def evaluate(
        self, model: Path, context: EvaluationContext, seconds: float = SEARCH_SECONDS
    ) -> tuple[Measurement, ...]:
        """Measures one file there.

        Raises:
            DeviceError: the device cannot be used, or disappeared and did not come back.
            ModelError: the file does not run there.
        """
        assert context.device is not None
        board = shared(context.device)
        threads = context.profile.runtime.threads
        about = board.about()
        cores = int(about["cores"])
        anchor = board.anchor(context.baseline, threads, seconds) if context.baseline else None
        run = board.run(model, threads, seconds)
        every = board.run(model, cores, seconds, tries=1) if cores > threads else None
        where = (
            f"at batch 1 on {board.device.name} ({about['cpu']}), "
            f"onnxruntime {about['onnxruntime']}"
        )
        detail = {
            "tier": "device",
            "runtime": "onnxruntime",
            "version": about["onnxruntime"],
            "threads": threads,
            "profile": context.profile.name,
            "device": board.device.name,
            "machine": about["machine"],
            "cpu": about["cpu"],
            "noisy": bool(run.unsteady),
            **run.to_json(),
        }
        return tuple(_measurements(run, every, anchor, where, detail))


def _measurements(
    run: DeviceRun,
    every: DeviceRun | None,
    anchor: _Anchor | None,
    where: str,
    detail: dict[str, Any],
) -> Iterator[Measurement]:
    unsteady = f"; unsteady device: {', '.join(run.unsteady)}" if run.unsteady else ""
    threads = f"{run.threads} thread{'s' if run.threads > 1 else ''}"
    how = f"{where}, {threads}, {run.runs} runs"
    if anchor is not None:
        detail["anchor"] = {**anchor.last.to_json(), "drift_since_first": anchor.drift}
    low, high = run.interval.low, run.interval.high
    yield Measurement(
        "latency_ms", run.p50_ms, "ms", "measured", f"p50 {how}{unsteady}", low, high, detail
    )
    yield Measurement("latency_p90_ms", run.p90_ms, "ms", "measured", f"p90 {how}{unsteady}")
    if every is not None:
        told = f"p50 {where}, {every.threads} threads, {every.runs} runs"
        yield Measurement(
            "latency_all_cores_ms",
            every.p50_ms,
            "ms",
            "measured",
            told,
            every.interval.low,
            every.interval.high,
            every.to_json(),
        )
    if anchor is not None:
        ratio = quotient(run.interval, anchor.last.interval)
        told = f"candidate over baseline {how}; the baseline ran {anchor.uses} candidates before"
        if abs(anchor.drift) > MAX_DRIFT:
            told += f" and has drifted by {anchor.drift:+.1%} since the search began"
        yield Measurement(
            "latency_ratio",
            ratio.value,
            "",
            "measured",
            f"{told}{unsteady}",
            ratio.low,
            ratio.high,
        )


EVALUATOR = DeviceLatency()
