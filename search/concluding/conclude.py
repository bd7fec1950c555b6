"""The end: the test split is opened, the drop is shown, and what stood in the way is told."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluators import Evaluation, EvaluationContext
from evaluators.accuracy import score
from evaluators.agreement import agreement, device_agreement
from evaluators.latency.device import FINAL_SECONDS, SEARCH_SECONDS, DeviceLatency, shared
from evaluators.latency.host import FINAL_BUDGET_S, HostLatencyEvaluator
from evaluators.latency.tier import tier
from evaluators.runtimes.onnxruntime import logits
from evaluators.tasks.drop import DropBound, images_needed, metric_drop_bound
from hardware_profiles.devices.device import DeviceError, file_sha256
from hardware_profiles.emulator import EmulatorError
from search.concluding import proof
from search.concluding.infeasible import worst
from search.concluding.openings import Openings, TestedFile
from search.deciding.pareto import ParetoFront, Point
from search.limits import Limits
from search.result import Finalist
from search.running.interruption import came
from search.task import DataSet, Metric
from search.telling.proof_words import Kind, ProofOutcome
from search.trial import Trial

AGREEMENT_IMAGES = 200
MEANS = ("balanced_accuracy", "f1")  # metrics that are means over classes
log = logging.getLogger(__name__)


class TestSplit:
    """The split that the search never saw: predictions of files on it, each made once."""

    __test__ = False  # not a test, whatever its name says

    def __init__(self, data: DataSet, context: EvaluationContext, metric: Metric) -> None:
        self.metric = metric
        # A copy of an image says nothing new about others: each counts once.
        first = distinct(data.test.images)
        once = data.test.take(first)
        pixels = data.preprocess.apply(once.images)
        self._context = replace(context, images=pixels, labels=once.labels)
        self._groups = once.groups
        self._predictions: dict[Path, NDArray[np.int64]] = {}
        self.repeated = len(data.test) - len(first)
        self.missing = missing_classes(data) if metric in MEANS else ()
        assert context.baseline is not None
        self._baseline = self.predictions(context.baseline)
        self._context = replace(self._context, baseline_predictions=self._baseline)

    def predictions(self, model: Path) -> NDArray[np.int64]:
        """Classes (N,) that the file sees in the test images."""
        if model not in self._predictions:
            context = self._context
            found = logits(model, context.images, context.profile, context.threads)
            self._predictions[model] = found.argmax(axis=1)
        return self._predictions[model]

    def bound(self, model: Path, confidence: float) -> DropBound:
        """The drop of the file against the baseline, with its one-sided bound."""
        if model == self._context.baseline:
            images = len(self._context.labels)
            return DropBound(0.0, 0.0, confidence, images, 0, 0, "exact")
        return metric_drop_bound(
            self.metric,
            self._context.labels,
            self._baseline,
            self.predictions(model),
            confidence,
            groups=self._groups,
        )

    def quality(self, model: Path) -> Evaluation:
        """Metric and drop on the test images; its bound only where there is one that holds."""
        figures = score(self.predictions(model), self._context)
        holds = not self.missing and self._groups is None  # it takes images as independent
        return Evaluation.of(f for f in figures if f.name != "drop_bound" or holds)

    def full(self, model: Path) -> Evaluation:
        """Metric and drop and, where it is measured, a longer look at the latency."""
        host, device = HostLatencyEvaluator(), DeviceLatency()
        found = self.quality(model)
        if device.applies(self._context):
            # Up to five minutes on an unsteady device; whoever interrupted does not wait for that.
            seconds = SEARCH_SECONDS if came() else FINAL_SECONDS
            latency = device.evaluate(model, self._context, seconds)
        elif host.applies(self._context):
            latency = host.evaluate(model, self._context, FINAL_BUDGET_S)
        else:
            return found
        return found.merged(Evaluation.of(latency))

    def on_target(self, model: Path, seconds: float) -> Evaluation:
        """``target_agreement``: whether the target sees the classes that this host sees.

        On the device, or for so many ``seconds`` on an emulated core of the target; empty where
        there is neither, or no time, and where either fails, which is logged.
        """
        context, images = self._context, self._context.images[:AGREEMENT_IMAGES]
        try:
            if context.device is not None:
                board = shared(context.device)
                found = device_agreement(model, images, context.profile, board)
            elif seconds > 0 and tier(context) == "emulated":
                found = agreement(model, images, context.profile, seconds)
            else:
                return Evaluation({})
        except (EmulatorError, DeviceError) as error:
            log.warning("the winner's classes were not compared on the target: %s", error)
            return Evaluation({})
        return Evaluation.of([found])


def distinct(images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Indices of the first of each image, (N, C, H, W), that occurs, in order."""
    first: dict[bytes, int] = {}
    for index, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.tobytes()).digest(), index)
    return np.array(sorted(first.values()), np.intp)


def missing_classes(data: DataSet) -> tuple[str, ...]:
    """Classes of the training without an image in the test split."""
    absent = np.setdiff1d(data.train.labels, data.test.labels)
    return tuple(data.classes[label] for label in absent)


def front_of(trials: Iterable[Trial], metric: Metric) -> tuple[Trial, ...]:
    """Completed trials that no other beats in both metric and latency, fastest first.

    What breaks a limit on size, memory or latency is off it, as a plan that was rejected for that
    is, the untouched model included. Of the drop the front shows the price: trials beyond that
    limit are on it.
    """
    front: ParetoFront[Trial] = ParetoFront()
    for trial in trials:
        meets_ceilings = all(by <= 0 for name, by in trial.violations.items() if name != "drop")
        if trial.state == "complete" and trial.evaluation is not None and meets_ceilings:
            losses = (trial.evaluation.value("latency_ms"), -trial.evaluation.value(metric))
            front = front.add(Point(losses, trial))
    return tuple(point.payload for point in front)


def strongest_simple(trials: Iterable[Trial]) -> Trial | None:
    """The fastest feasible simple plan; the untouched model is not one of them."""
    simple = (t for t in trials if t.is_baseline and t.plan.settings and t.feasible)
    return min(simple, key=_latency, default=None)


def prove_drop(
    trials: Sequence[Trial],
    folder: Path,
    test: TestSplit,
    limits: Limits,
    openings: Openings,
    study: str,
    baseline: str,
) -> tuple[Finalist | None, tuple[Finalist, ...]]:
    """The winner, and all that were tested now or earlier, in order.

    The fastest finalist that is proved wins, now or in an earlier opening. If none is, the
    fastest by point estimate is delivered as unproven. No winner when no trial
    meets the limits by point estimate. What failed before is not tested again, nor what is no
    faster than what was proved before; where nothing is left to test, nothing is spent.
    ``baseline`` is the untouched model's fingerprint.

    Raises:
        StudyError: the record of earlier openings can't be read.
    """
    candidates = [t for t in trials if t.feasible and t.model is not None]
    if not candidates:
        return None, ()
    outcome = partial(
        ProofOutcome,
        max_drop=limits.max_drop,
        confidence=limits.confidence,
        metric=test.metric,
        missing=test.missing,
    )

    def finalist(trial: Trial, told: ProofOutcome) -> Finalist:
        return Finalist(trial, test.quality(_file(trial, folder)), told)

    # The untouched model drops by nothing and needs no proof: it wins when nothing is faster.
    untouched = [t for t in candidates if not t.plan.settings]
    best_ms = min(map(_latency, untouched), default=float("inf"))
    candidates = [t for t in candidates if t.plan.settings and _latency(t) < best_ms]
    if not candidates:
        bound = test.bound(_file(untouched[0], folder), limits.confidence)
        winner = finalist(untouched[0], outcome("untouched", bound, missing=()))
        return winner, (winner,)
    fastest = min(candidates, key=_latency)
    if test.missing:  # a mean over classes says nothing of one that was not seen
        bound = test.bound(_file(fastest, folder), limits.confidence)
        winner = finalist(fastest, outcome("class missing", bound))
        return winner, (winner,)

    claim = f"{test.metric} drops by at most {limits.max_drop!r} against {baseline}"
    opened = _open(candidates, folder, test, limits, openings, study, claim)

    def before(trial: Trial) -> ProofOutcome:
        seen = opened.before[trial.number]
        return _told(outcome, "proved" if seen.proved else "failed", seen.bound, earlier=True)

    failed = [t for t in candidates if t.number in opened.before and t not in opened.standing]
    finalists = [finalist(t, before(t)) for t in (*opened.standing[:1], *failed)]
    for trial, bound, is_proved in opened.tested:
        kind: Kind = "proved" if is_proved else "failed"
        finalists.append(finalist(trial, _told(outcome, kind, bound, opening=opened.number)))
    proved = [each for each in finalists if each.proven]
    if proved:
        return proved[-1], tuple(finalists)
    if all(each.trial.number != fastest.number for each in finalists):
        bound = test.bound(_file(fastest, folder), 1 - opened.allowance)
        late = outcome("out of turn", bound, opening=opened.number)
        finalists.append(finalist(fastest, late))
    winner = next(each for each in finalists if each.trial.number == fastest.number)
    return winner, tuple(finalists)


@dataclass(frozen=True)
class _Opened:
    """What is known once the record was read and the test split opened, where there was a need.

    ``before``: what earlier openings said, by trial; ``standing``: trials that they proved, the
    fastest first; ``tested``: trials of this opening, with their bounds and whether proved.
    """

    number: int
    allowance: float
    before: Mapping[int, TestedFile]
    standing: tuple[Trial, ...]
    tested: tuple[tuple[Trial, DropBound, bool], ...]


def _open(
    candidates: Sequence[Trial],
    folder: Path,
    test: TestSplit,
    limits: Limits,
    openings: Openings,
    study: str,
    claim: str,
) -> _Opened:
    with openings.held() as record:
        error = 1 - limits.confidence
        allowance, known = record.allowance(error), record.known(claim, error)
        files = {t.number: file_sha256(_file(t, folder)) for t in candidates}
        before = {number: known[sha256] for number, sha256 in files.items() if sha256 in known}
        standing = [t for t in candidates if t.number in before and before[t.number].proved]
        standing.sort(key=_latency)
        below_ms = _latency(standing[0]) if standing else float("inf")
        in_turn = [
            proof.Finalist(t, _latency(t), _validation_bound(t, limits))
            for t in candidates
            if t.number not in before and _latency(t) < below_ms
        ]
        shown = proof.prove(
            in_turn, lambda t: test.bound(_file(t, folder), 1 - allowance), limits.max_drop
        )
        tested = [(each.finalist.payload, each.test, True) for each in shown.proved]
        if shown.failed:
            tested.append((shown.failed.finalist.payload, shown.failed.test, False))
        if tested:
            told = [TestedFile(files[t.number], proved, bound) for t, bound, proved in tested]
            openings.keep(study, allowance, claim, told)
    return _Opened(len(record.openings) + 1, allowance, before, tuple(standing), tuple(tested))


def _told(
    outcome: Callable[..., ProofOutcome], kind: Kind, bound: DropBound, **more: Any
) -> ProofOutcome:
    """The outcome, with the images that would be needed where it failed."""
    told = outcome(kind, bound, **more)
    needed = images_needed(bound, told.max_drop) if kind == "failed" else None
    return replace(told, needed=needed)


def _file(trial: Trial, folder: Path) -> Path:
    assert trial.model is not None
    return folder / trial.model


def _validation_bound(trial: Trial, limits: Limits) -> DropBound:
    """The drop on the validation split, for the order of the proof; the untouched model first.

    Of several trainings the best is delivered, and looks better than it is: its bound is moved by
    what it is better than their mean. Else it would come before safer plans that are slower, and
    its failure would leave them untested.
    """
    assert trial.evaluation is not None
    if not trial.plan.settings:
        return DropBound(0.0, 0.0, limits.confidence, 1, 0, 0, "exact")
    drop, bound = trial.evaluation["drop"], trial.evaluation.value("drop_bound")
    if trial.drops:
        bound += max(fmean(trial.drops) - drop.value, 0.0)
    counts = drop.detail or {}
    return DropBound(
        drop.value,
        bound,
        limits.confidence,
        counts["images"],
        counts["lost"],
        counts["gained"],
        counts["method"],
    )


def near_misses(trials: Sequence[Trial], limits: Limits) -> tuple[Trial, ...]:
    """Up to five trained, infeasible trials that would win, nearest to the limits first."""
    feasible = [t for t in trials if t.feasible]
    best_ms = min(map(_latency, feasible), default=float("inf"))
    misses = [
        t
        for t in trials
        if t.state == "complete" and not t.feasible and (not feasible or _latency(t) < best_ms)
    ]
    return tuple(sorted(misses, key=lambda t: worst(t))[:5])


def _value(trial: Trial, name: str) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value(name)


def _latency(trial: Trial) -> float:
    return _value(trial, "latency_ms")
