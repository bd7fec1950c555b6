"""Latency of a file on a real device, by a small agent over SSH.

The protocol is ``hardware_profiles.devices.board``'s: 5 s in a search, 60 s for a winner, with one
thread and with all cores. A candidate runs in turns with the fastest file so far, which is of its
size more often than the baseline is; ``latency_ms`` is the ratio to that file times the least
that it took. The baseline is the anchor of ``latency_ratio``: run again every few candidates, so
that a ratio never comes from two different days and a drift of the device is seen. Figures are
of the faster parts, with intervals that reach to what was not seen, as on this host.

A device that disappears and does not come back is replaced by what serves without it, and
every such figure says so.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.evaluator import EvaluationContext, Evaluator
from evaluators.latency import analytic as latency_analytic
from evaluators.latency import emulated as latency_emulated
from evaluators.latency import host as latency_host
from evaluators.latency.drift import GAP, BestLog, Seen, ratio_reach
from evaluators.latency.incumbent import Incumbent, IncumbentStore, similar
from evaluators.latency.interval import Interval, interleaved, level, quotient
from evaluators.latency.tier import tier, warn_once
from evaluators.measurement import Evaluation, Measurement
from hardware_profiles.devices.board import MAX_DRIFT, Board, DeviceRun
from hardware_profiles.devices.device import DeviceError, file_sha256
from hardware_profiles.devices.processor import mismatch

log = logging.getLogger(__name__)

SEARCH_SECONDS = 5.0
FINAL_SECONDS = 60.0
ANCHOR_EVERY = 4  # candidates


@dataclass(frozen=True)
class Anchor:
    """The baseline's first and last run, and by how many candidates the last was used."""

    first: DeviceRun
    last: DeviceRun
    seen: Seen  # at the last run
    uses: int

    @property
    def drift(self) -> float:
        return self.last.p50_ms / self.first.p50_ms - 1


class AnchoredBoard(Board):
    """A device that remembers what the baseline took on it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._anchors: dict[tuple[str, int], Anchor] = {}
        self._best = BestLog()

    def anchor(self, baseline: Path, threads: int, seconds: float) -> Anchor:
        """The baseline's runs on this device; run anew before every fourth candidate."""
        key = (file_sha256(baseline), threads)
        known = self._anchors.get(key)
        if known is None or known.uses >= ANCHOR_EVERY:
            last = self.run(baseline, threads, seconds)
            seen = self.seen(baseline, threads, last.parts_ms)
            known = Anchor(known.first if known else last, last, seen, 0)
        self._anchors[key] = dataclasses.replace(known, uses=known.uses + 1)
        return known

    def seen(self, model: Path, threads: int, parts_ms: Sequence[float]) -> Seen:
        """Remembers what a file took now, beside what it took here at best."""
        return self._best.add((file_sha256(model), threads), level(parts_ms).value)

    def known_p50_ms(self, baseline: Path, threads: int) -> float | None:
        """What the baseline took here when it last ran; None if it never did."""
        known = self._anchors.get((file_sha256(baseline), threads))
        return known.last.p50_ms if known else None


_boards: dict[tuple[int, str], AnchoredBoard] = {}


def shared(url: str) -> AnchoredBoard:
    """This process's one connection to a device; it ends with the process.

    Raises:
        DeviceError: the address is malformed.
    """
    key = (os.getpid(), url)  # a forked child must not talk to its parent's
    if key not in _boards:
        _boards[key] = AnchoredBoard(url)
        atexit.register(_boards[key].close)
    return _boards[key]


class DeviceLatency:
    """``latency_ms`` (p50), ``latency_p90_ms``, ``latency_ratio``, ``latency_all_cores_ms``."""

    name = "latency-device"
    cheap = True

    def applies(self, context: EvaluationContext) -> bool:
        """When a device was given."""
        return context.device is not None

    def evaluate(
        self, model: Path, context: EvaluationContext, seconds: float = SEARCH_SECONDS
    ) -> tuple[Measurement, ...]:
        """Measures one file there; by what serves without the device when that is gone.

        Raises:
            DeviceError: the device never could be used.
            ModelError: the file does not run there.
        """
        assert context.device is not None
        board = shared(context.device)
        try:
            return tuple(_measured(board, model, context, seconds))
        except DeviceError as error:
            if board.state == "new":
                raise
            log.warning("%s; what serves without the device is used instead", error)
            return tuple(_instead(board, model, context, str(error)))


EVALUATOR = DeviceLatency()
_WITHOUT_DEVICE: dict[str, Evaluator] = {
    "host": latency_host.EVALUATOR,
    "emulated": latency_emulated.EVALUATOR,
    "analytic": latency_analytic.EVALUATOR,
}


def _instead(
    board: AnchoredBoard, model: Path, context: EvaluationContext, error: str
) -> Iterator[Measurement]:
    """What serves without the device, on the device's own scale where the baseline ran there.

    Milliseconds of two sources can't stand in one front. The estimated ratio of candidate to
    baseline, times what the baseline took on the device, can stand beside what was measured.
    """
    without = dataclasses.replace(context, device=None)
    evaluator = _WITHOUT_DEVICE[tier(without)]
    factor, scaled = 1.0, ""
    if context.baseline is not None:
        there_ms = board.known_p50_ms(context.baseline, context.profile.runtime.threads)
        here = Evaluation.of(evaluator.evaluate(context.baseline, without))
        if there_ms is not None:
            factor = there_ms / here.value("latency_ms")
            scaled = f", scaled by {factor:.3g}, as the baseline took {there_ms:.3g} ms there"
    for found in evaluator.evaluate(model, without):
        detail = {**(found.detail or {}), "instead_of_device": error, "scaled_by": factor}
        how = f"{found.how}; not measured on the device, which is gone: {error}{scaled}"
        times = factor if found.unit == "ms" else 1.0
        yield dataclasses.replace(
            found,
            value=found.value * times,
            low=None if found.low is None else found.low * times,
            high=None if found.high is None else found.high * times,
            source="estimated",
            how=how,
            detail=detail,
        )


def _measured(
    board: AnchoredBoard, model: Path, context: EvaluationContext, seconds: float
) -> Iterator[Measurement]:
    profile = context.profile
    threads = profile.runtime.threads
    about = board.about()
    cores = int(about["cores"])
    anchor = board.anchor(context.baseline, threads, seconds) if context.baseline else None
    machine = (board.device.name, str(about["onnxruntime"]), str(about["cpu"]), threads)
    store = IncumbentStore(context.scratch, machine)
    incumbent = store.load()
    run = board.run(model, threads, seconds, beside=incumbent.path if incumbent else None)
    found = _latency(board, model, run, incumbent, anchor)
    store.update(model, found.ms.value, found.incumbent_best_ms)
    every = board.run(model, cores, seconds, tries=1) if cores > threads else None
    where = (
        f"at batch 1 on {board.device.name} ({about['cpu']}), onnxruntime {about['onnxruntime']}"
    )
    trouble = f"; unsteady device: {', '.join(run.unsteady)}" if run.unsteady else ""
    other = mismatch(profile, about)
    if other is not None:
        warn_once(
            f"the device is not the target, {profile.name}: {other}; latency is the device's, all "
            "else the target's"
        )
        trouble += f"; not the target, {profile.name}: {other}"
    how = f"{where}, {threads} thread{'s' if threads > 1 else ''}, {run.runs} runs"
    if found.incumbent_best_ms is not None:
        trouble = (
            ", relative to the fastest file so far run in turns with it, taken as "
            f"{found.incumbent_best_ms:.3g} ms{trouble}"
        )
    detail = {
        "tier": "device",
        "runtime": "onnxruntime",
        "version": about["onnxruntime"],
        "threads": threads,
        "profile": profile.name,
        "calibration": None,  # measured: neither fitted nor held out
        "error_pct": None,
        "device": board.device.name,
        "machine": about["machine"],
        "cpu": about["cpu"],
        "mismatch": other,
        "noisy": bool(run.unsteady),
        **run.to_json(),
        "incumbent_best_ms": found.incumbent_best_ms,
    }
    if anchor is not None:
        detail["anchor"] = {**anchor.last.to_json(), "drift_since_first": anchor.drift}
    speed = found.ms.value / level(run.parts_ms).value
    yield Measurement(
        "latency_ms",
        found.ms.value,
        "ms",
        "measured",
        f"p50 {how}{trouble}",
        found.ms.low,
        found.ms.high,
        detail,
    )
    yield Measurement(
        "latency_p90_ms", run.p90_ms * speed, "ms", "measured", f"p90 {how}{trouble}"
    )
    if every is not None:
        span = level(every.parts_ms)
        told = f"p50 {where}, {every.threads} threads, {every.runs} runs"
        yield Measurement(
            "latency_all_cores_ms",
            span.value,
            "ms",
            "measured",
            told,
            span.low,
            span.high,
            every.to_json(),
        )
    if anchor is not None:
        ratio = _ratio(found.ms, anchor, bool(run.unsteady or anchor.last.unsteady))
        told = f"candidate over baseline {how}; the baseline ran {anchor.uses} candidates before"
        if abs(anchor.drift) > MAX_DRIFT:
            told += f" and has drifted by {anchor.drift:+.1%} since the search began"
        told += trouble
        yield Measurement(
            "latency_ratio", ratio.value, "", "measured", told, ratio.low, ratio.high
        )


@dataclass(frozen=True)
class _Latency:
    ms: Interval
    incumbent_best_ms: float | None  # None where none of the candidate's size ran beside it


def _latency(
    board: AnchoredBoard,
    model: Path,
    run: DeviceRun,
    incumbent: Incumbent | None,
    anchor: Anchor | None,
) -> _Latency:
    """At the device's fastest speed that is known."""
    own, seen = level(run.parts_ms), board.seen(model, run.threads, run.parts_ms)
    if incumbent is not None and similar(own.value, level(run.beside_ms).value):
        seen = board.seen(incumbent.path, run.threads, run.beside_ms)
        best_ms = min(seen.best_ms, incumbent.best_ms)
        ratio = interleaved(run.parts_ms, run.beside_ms)
        reach = ratio_reach(ratio.value, seen, bool(run.unsteady))
        found = ratio.reaching(reach, reach).scaled(best_ms)
        return _Latency(found.reaching(GAP * seen.unseen, 0.0), best_ms)
    # The state of the device is known by what was measured most often.
    if anchor is not None and anchor.seen.looks > seen.looks:
        seen = anchor.seen
    return _Latency(own.reaching(GAP * seen.unseen, 0.0), None)


def _ratio(latency: Interval, anchor: Anchor, unsteady: bool) -> Interval:
    """To the baseline at its best."""
    seen = anchor.seen
    baseline = level(anchor.last.parts_ms).scaled(seen.best_ms / seen.now_ms)
    ratio = quotient(latency, baseline)
    reach = ratio_reach(ratio.value, seen, unsteady)
    return ratio.reaching(reach, reach)
