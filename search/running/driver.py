"""The loop: ask, run, keep, tell; until the trials or the time are used up.

A budget is spent to its end on what can still move the front: no job is started that is not
expected to finish in time, a part is kept for finalists, and what they leave goes to short trials.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from search.deciding.finals import FINAL_SHARE, MOST_AGAIN, finalists
from search.deciding.forecast import Experience
from search.deciding.rungs import LAST, RUNGS, Seen, goes_on, seen, share_of
from search.deciding.study import Ask, Study
from search.errors import TrialsFailedError
from search.publishing.tracker import Tracker
from search.running.backends import Backend, Finished
from search.running.clock import Clock, OutOfTimeError
from search.running.disk_trouble import disk_trouble, is_of_disk
from search.running.interruption import held
from search.telling import words
from search.telling.progress import Progress
from search.training.job import Job
from search.trial import Trial
from spaces import CompressionPlan

ASKS_PER_TRIAL = 20  # rejected and repeated plans are free, within bounds
FAILURES_IN_A_ROW = 5
DISK_PAUSE_S = 2.0
DISK_ERRORS = 3  # of one job, before it counts as failed
FINALS_SHARE = 0.15  # of the budget, at most, is kept for finalists
SIMPLE_SHARE = 0.5  # of what is left, at most, is for one simple baseline
TOO_LONG_IN_A_ROW = 10  # plans that would not be done in time, before the search gives up


# A plan that was thought out starts with a short training, a sampler's with none.
FIRST = {"sampler": 0, "warm": 1, "model": 1}
SHORT = 1


@dataclass(frozen=True)
class _Running:
    """A plan under way: at which rung, the seconds it took so far, and what it showed."""

    ask: Ask
    rung: int
    checkpoint: Path | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    seen: Mapping[str, Seen] = field(default_factory=dict)


class Driver:
    """Runs a study to its end; the only one that writes to study and tracker."""

    def __init__(
        self,
        study: Study,
        backend: Backend,
        make_job: Callable[[CompressionPlan, int, Path | None], Job],
        clock: Clock,
        trials: int | None,
        progress: Progress,
        tracker: Tracker,
        folder: Path,
        max_drop: float,
        experience: Experience,
    ) -> None:
        """``experience`` says how long jobs are expected to take."""
        self._study = study
        self._backend = backend
        self._make_job = make_job
        self._clock = clock
        self._trials = trials
        self._progress = progress
        self._tracker = tracker
        self._folder = folder
        self._max_drop = max_drop
        self._running: dict[int, _Running] = {}
        self._again: dict[int, Trial] = {}  # finalists under way, by their trials' numbers
        self._broken: set[int] = set()  # finalists that could not be trained again
        self._experience = experience
        self._history: list[dict[str, Seen]] = [{} for _ in RUNGS]
        for trial in study.trials:
            self._experience.learn(trial)
            for rung, each in enumerate(RUNGS):
                if each.name in trial.seen:
                    self._history[rung][trial.plan.plan_id] = trial.seen[each.name]
        self._next_number = max((trial.number for trial in study.trials), default=-1) + 1
        self._free_asks = 0
        self._failures = 0
        self._disk_errors: Counter[int] = Counter()  # by ticket

    def run(self) -> str:
        """Runs trials until something ends the search, and says what: ``trials``, ``budget``,
        ``interrupt`` or ``exhausted`` (the sampler has nothing new).

        Raises:
            TrialsFailedError: five trials in a row raised.
        """
        try:
            while True:
                reason = self._fill()
                if reason is not None and not self._running and not self._again:
                    return reason
                self._take(self._backend.next())
        except KeyboardInterrupt:
            return "interrupt"
        except OutOfTimeError:
            return "budget"

    @property
    def counted(self) -> int:
        """Evaluated trials; rejected ones don't count."""
        return sum(trial.state != "rejected" for trial in self._study.trials)

    def _fill(self) -> str | None:
        """Submits jobs while there is room; the reason when no more may start."""
        while len(self._running) + len(self._again) < self._backend.workers:
            reason = self._begin_trial()
            if reason is not None and not self._begin_training():
                return reason
        return None

    def _begin_trial(self) -> str | None:
        """Submits the next plan; the reason where there is none that may start."""
        too_long = 0
        while True:
            if self._trials is not None and self.counted + len(self._running) >= self._trials:
                return "trials"
            if self._clock.left_s <= 0:
                return "budget"
            if self._free_asks >= ASKS_PER_TRIAL * (self._backend.workers + 1):
                return "exhausted"
            ask = self._study.ask()
            known = self._study.known(ask)
            if known is not None or self._study.is_running(ask):
                if known is not None:
                    self._study.repeat(ask, known)
                else:
                    self._study.drop(ask)
                self._free_asks += 1
                continue
            # Simple baselines are trained in full, whatever they promise: they are the yardstick.
            simple = ask.origin.startswith("baseline:")
            rung = LAST if simple else FIRST[ask.origin.split(":")[0]]
            # What is not trained at all does not move the front.
            needed_s = self._experience.expected_s(ask.plan, share_of(max(rung, SHORT), simple))
            if simple and needed_s > SIMPLE_SHARE * self._clock.left_s:
                self._progress.note(
                    f"To train {words.origin(ask.origin)} would take about "
                    f"{words.duration(needed_s)}, most of what the budget leaves: it is left out."
                )
                self._study.drop(ask)
                continue
            if not simple and needed_s + self._kept_s() > self._clock.left_s:
                self._study.drop(ask)  # a smaller one may fit
                too_long += 1
                if too_long == TOO_LONG_IN_A_ROW:
                    return "budget"
                continue
            number = self._next_number
            self._next_number += 1
            self._start(number, _Running(ask, rung))
            return None

    def _begin_training(self) -> bool:
        """Submits the next finalist for whom there is time, if there is one."""
        if self._running and self._clock.budget_s is None:
            return False  # who is a finalist is known when all are done
        for trial in self._finalists():
            job = self._make_job(trial.plan, LAST, None)
            epochs = FINAL_SHARE / share_of(LAST, from_scratch=True) * job.epochs
            training = 1 + len(self._study.trainings.get(trial.number, ()))
            self._again[trial.number] = trial
            self._backend.submit(trial.number, replace(job, epochs=epochs, training=training))
            return True
        return False

    def _finalists(self) -> list[Trial]:
        """Whom to train again, and there is time."""
        done = sum(map(len, self._study.trainings.values())) + len(self._again)
        if done >= MOST_AGAIN:
            return []
        busy = self._broken | set(self._again)
        most_s = self._clock.left_s
        if self._clock.budget_s is not None:
            most_s = min(most_s, FINALS_SHARE * self._clock.budget_s)
        return [
            trial
            for trial in finalists(self._study.finished, self._max_drop)
            if trial.number not in busy and self._again_s(trial) <= most_s
        ]

    def _again_s(self, trial: Trial) -> float:
        return self._experience.expected_s(trial.plan, FINAL_SHARE)

    def _kept_s(self) -> float:
        """Seconds that are kept for today's finalists."""
        if self._clock.budget_s is None:
            return 0.0
        return min(sum(map(self._again_s, self._finalists())), FINALS_SHARE * self._clock.budget_s)

    def _start(self, number: int, running: _Running) -> None:
        self._running[number] = running
        job = self._make_job(running.ask.plan, running.rung, running.checkpoint)
        self._backend.submit(number, job)

    def _take(self, finished: Finished) -> None:
        if finished.ticket in self._again:
            self._take_training(finished)
            return
        running = self._running.pop(finished.ticket)
        if self._was_the_disk(finished):
            self._start(finished.ticket, running)  # it was no fault of the trial
            return
        ask, outcome = running.ask, finished.outcome
        trial = Trial(
            finished.ticket,
            ask.plan,
            "failed",
            ask.origin,
            reason=finished.error,
            seen=running.seen,
        )
        if outcome is not None:
            stages = dict(running.stages)
            for stage, spent_s in outcome.stages.items():
                stages[stage] = stages.get(stage, 0.0) + spent_s
            shown = dict(running.seen)
            if outcome.reason is None:
                shown[RUNGS[running.rung].name] = seen(outcome.evaluation, outcome.violations)
                if self._goes_on(running, shown[RUNGS[running.rung].name]):
                    up = _Running(ask, running.rung + 1, outcome.checkpoint, stages, shown)
                    self._start(finished.ticket, up)
                    return
            trial = replace(
                trial,
                state="complete" if outcome.reason is None else "rejected",
                evaluation=outcome.evaluation,
                violations=outcome.violations,
                reason=outcome.reason,
                stages=stages,
                model=self._relative(outcome.model),
                rung=RUNGS[running.rung].name,
                seen=shown,
            )
        with held():
            self._study.tell(ask, trial, self._clock.elapsed_s)
            self._progress.trial(trial)
            self._tracker.trial(trial)
        self._experience.learn(trial)
        self._free_asks = self._free_asks + 1 if trial.state == "rejected" else 0
        self._failures = self._failures + 1 if trial.state == "failed" else 0
        if self._failures == FAILURES_IN_A_ROW:
            raise TrialsFailedError(
                f"at most {FAILURES_IN_A_ROW - 1} trials in a row may fail, but "
                f"{FAILURES_IN_A_ROW} did, the last with: {trial.reason}; mend the cause and go "
                f"on with --resume"
            )

    def _take_training(self, finished: Finished) -> None:
        trial, outcome = self._again.pop(finished.ticket), finished.outcome
        if self._was_the_disk(finished):
            return  # it is still a finalist
        if outcome is None or outcome.reason is not None:
            self._broken.add(trial.number)
            why = outcome.reason if outcome else finished.error
            self._progress.note(f"Trial {trial.number} could not be trained again: {why}")
            return
        shown = seen(outcome.evaluation, outcome.violations)
        again = replace(
            trial,
            evaluation=outcome.evaluation,
            violations=outcome.violations,
            stages=outcome.stages,
            model=self._relative(outcome.model),
            rung=RUNGS[LAST].name,
            seen={RUNGS[LAST].name: shown},
            training=1 + len(self._study.trainings.get(trial.number, ())),
            drops=(),
        )
        with held():
            self._study.keep_training(again, self._clock.elapsed_s)
            self._progress.trial(again)

    def _goes_on(self, running: _Running, shown: Seen) -> bool:
        """Remembers what the plan showed at its rung, and whether it is worth the next."""
        rung, plan_id = running.rung, running.ask.plan.plan_id
        self._history[rung][plan_id] = shown
        if rung == LAST:
            return False
        needed_s = self._experience.expected_s(running.ask.plan, RUNGS[rung + 1].share)
        if needed_s > self._clock.left_s:
            return False
        front = [s for s in self._history[LAST].values() if s.violation <= 0]
        return goes_on(rung, plan_id, self._history, front, self._max_drop)

    def _was_the_disk(self, finished: Finished) -> bool:
        """Whether a job ended by a disk that can be written to by now.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        if finished.error is None:
            return False
        if self._waited_for_disk():
            return True
        if not is_of_disk(finished.error) or self._disk_errors[finished.ticket] == DISK_ERRORS:
            return False
        self._disk_errors[finished.ticket] += 1
        self._progress.note(f"A job is run again, since a disk was in its way: {finished.error}")
        time.sleep(DISK_PAUSE_S)
        return True

    def _waited_for_disk(self) -> bool:
        """Whether the disk had trouble; if so it is over, or the budget is.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        trouble = disk_trouble(self._folder)
        if trouble is None:
            return False
        self._progress.note(f"The search waits, since {trouble}.")
        while disk_trouble(self._folder) is not None:
            time.sleep(DISK_PAUSE_S)
            self._clock.check()
        self._progress.note("The disk can be written to again; the search goes on.")
        return True

    def _relative(self, model: Path | None) -> Path | None:
        """Files are named relative to the study's folder, which may be moved."""
        return model.relative_to(self._folder) if model else None
