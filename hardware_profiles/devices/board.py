"""Measuring files on one device: the protocol, its lock there, and a connection that lasts.

The agent and every file are copied once and kept there by hash. A measurement is 10 warm-ups,
then at least 50 runs and so many seconds in ten parts, p50 and p90; another file may run in turns
with it. A run that was interrupted counts by its processor time. It is repeated when the device
was not steady: when the second half's median is more than 3 % from the first's, the runs vary by
more than 5 %, or the device throttled. The device serves one measurement at a time, by a lock
there that goes with its process.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.devices.device import DeviceError, parse_device
from hardware_profiles.devices.session import AgentSession

log = logging.getLogger(__name__)

WARMUPS = 10
MIN_RUNS = 50
MAX_DRIFT = 0.03
MAX_VARIATION = 0.05
MAX_CLOCK_LOSS = 0.05
STEADY_TRIES = 3
PARTS = 10  # of a measurement, for its spread
PART_RUNS = MIN_RUNS // PARTS
RETRY_WAITS_S = (2.0, 10.0)  # before the second and third attempt when a device disappears
LOCK_POLL_S = 0.2
TELL_S = 5.0  # after so long it is said for whom a measurement waits
LONG_S = 3600.0  # for requests of unknown length; a dead connection ends them earlier
# vcgencmd get_throttled: the low bits say what is so now.
_THROTTLED_NOW = {1: "under-voltage", 2: "capped clock", 4: "throttled", 8: "at its heat limit"}
Result = TypeVar("Result")


@dataclass(frozen=True)
class DeviceRun:
    """One file's runs on a device, in ms at batch 1."""

    p50_ms: float
    p90_ms: float
    parts_ms: tuple[float, ...]  # medians of ten equal stretches
    beside_ms: tuple[float, ...]  # the same of the file that ran in turns with it; else empty
    variation: float  # standard deviation over mean
    drift: float  # second half's median over the first's, less 1
    runs: int
    interrupted_runs: int  # by other processes; left out where enough others remain
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
    parts: Sequence[Mapping[str, Any]],
    threads: int,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    beside: Sequence[Mapping[str, Any]] = (),
) -> DeviceRun:
    """What the agent's times and its environment before and after say.

    Args:
        parts: its answers, in order of time.
        beside: those about the file that ran in turns with it.
    """
    runs = sum(len(part["times_ms"]) * int(part["stride"]) for part in parts)
    lost = sum(sum(part["interrupted"]) * int(part["stride"]) for part in parts)
    times = np.concatenate([_usable(part) for part in parts])
    half = len(times) // 2
    drift = float(np.median(times[half:]) / np.median(times[:half]) - 1)
    variation = float(np.std(times) / np.mean(times))
    return DeviceRun(
        p50_ms=float(np.median(times)),
        p90_ms=float(np.percentile(times, 90)),
        parts_ms=tuple(float(np.median(_usable(part))) for part in parts),
        beside_ms=tuple(float(np.median(_usable(part))) for part in beside),
        variation=variation,
        drift=drift,
        runs=runs,
        interrupted_runs=lost,
        threads=threads,
        before=before,
        after=after,
        unsteady=_unsteadiness(drift, variation, before, after),
    )


def _usable(part: Mapping[str, Any]) -> NDArray[np.float64]:
    """Times of the runs that kept the processor, or of all, less what others took of them."""
    every, lost = np.asarray(part["times_ms"]), np.asarray(part["interrupted"]) != 0
    whole: NDArray[np.float64] = every[~lost]
    if len(whole) >= PART_RUNS:
        return whole
    return np.where(lost, np.asarray(part["cpu_ms"]), every)


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
    """The device at one address: and its connection. Not thread-safe.

    Every method raises DeviceError when the device cannot be used: at once when it never could,
    after two more attempts when it has disappeared. ``state`` tells the two apart.
    """

    def __init__(self, url: str) -> None:
        self.device = parse_device(url)
        self._session: AgentSession | None = None
        self.state: Literal["new", "working", "gone"] = "new"

    def about(self) -> Mapping[str, Any]:
        """What the device is: runtime and version, processor, cores."""
        return self._persistently(lambda session: session.about)

    def run(
        self,
        model: Path,
        threads: int,
        seconds: float,
        tries: int = STEADY_TRIES,
        beside: Path | None = None,
    ) -> DeviceRun:
        """Measures one file, again while the device is unsteady; then the steadiest run.

        Args:
            model: the ONNX file; batch 1 is measured.
            threads: of the runtime.
            seconds: for the runs, of both files together.
            tries: measurements at most.
            beside: a file to run in turns with it, part by part.

        Raises:
            ModelError: a file does not run there.
        """

        def work(session: AgentSession) -> DeviceRun:
            files = [session.bring(path) for path in (model, beside) if path is not None]
            with _locked(session):
                return _steady(session, files, threads, seconds, tries)

        return self._persistently(work)

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
            self.state = "working"
        return self._session

    def _persistently(self, work: Callable[[AgentSession], Result]) -> Result:
        # One that was given up may be back, but is not waited for again.
        waits = list(RETRY_WAITS_S) if self.state == "working" else []
        attempts = 0
        while True:
            attempts += 1
            try:
                return work(self._connected())
            except DeviceError as error:
                self.close()
                if self.state == "new":
                    raise
                if not waits:
                    self.state = "gone"
                    tried = f"{attempts} attempt{'s' if attempts > 1 else ''}"
                    raise DeviceError(f"{error}; given up after {tried}") from None
                wait_s = waits.pop(0)
                log.warning("%s; trying again in %.0f s", error, wait_s)
                time.sleep(wait_s)
            except KeyboardInterrupt:
                # The agent was ended in the middle of an answer; whoever goes on gets another.
                self.close()
                raise


@contextmanager
def _locked(session: AgentSession) -> Iterator[None]:
    """The device for this process alone; says who has it when it has to wait."""
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    tell = time.monotonic() + TELL_S
    while not (answer := session.ask("lock", holder=holder))["locked"]:
        if time.monotonic() >= tell:
            log.warning("%s is measuring for %s; waiting", session.device.name, answer["holder"])
            tell = math.inf
        time.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        if session.alive:
            session.ask("unlock")


def _steady(
    session: AgentSession, files: Sequence[str], threads: int, seconds: float, tries: int
) -> DeviceRun:
    runs: list[DeviceRun] = []
    while True:
        runs.append(_once(session, files, threads, seconds))
        if not runs[-1].unsteady:
            return runs[-1]
        if len(runs) >= tries:
            return min(runs, key=lambda run: run.variation + abs(run.drift))
        log.info("%s: %s; measured again", session.device.name, ", ".join(runs[-1].unsteady))


def _once(session: AgentSession, files: Sequence[str], threads: int, seconds: float) -> DeviceRun:
    """The first file's run, in turns with the second one where there is one (ABBA)."""
    with ExitStack() as opened:
        numbers = [opened.enter_context(session.opened(path, threads)) for path in files]
        part_s = seconds / PARTS / len(numbers)
        expected_s = {}
        for number in numbers:
            warm = session.ask(
                "time",
                timeout_s=LONG_S,
                session=number,
                warmup=0,
                min_runs=WARMUPS,
                min_ms=0,
                max_ms=0,
            )
            expected_s[number] = max(part_s, PART_RUNS * float(np.median(warm["times_ms"])) / 1e3)
        before = session.ask("environment")
        parts: dict[int, list[Mapping[str, Any]]] = {number: [] for number in numbers}
        for part in range(PARTS):
            for number in numbers if part % 2 == 0 else numbers[::-1]:
                answer = session.ask(
                    "time",
                    timeout_s=60 + 4 * expected_s[number],
                    session=number,
                    warmup=len(numbers) - 1,  # after the other file: the first run fills caches
                    min_runs=PART_RUNS,
                    min_ms=part_s * 1e3,
                    max_ms=2 * expected_s[number] * 1e3,
                )
                parts[number].append(answer)
        after = session.ask("environment")
    own, *others = parts.values()
    return summarize(own, threads, before, after, beside=others[0] if others else ())
