"""The loop, with fake jobs and a fake clock: what counts, what ends it, what is kept."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import lives
import optuna
import pytest
from fakes import FakeBackend, FakeTime, figures, macs_of, space_of

from search.deciding.baselines import UNTOUCHED, simple_plans
from search.deciding.finals import FINAL_SHARE, MOST_AGAIN, finalists
from search.deciding.forecast import Experience, Untouched
from search.deciding.rungs import FULL_SHARE, LAST, RUNGS, share_of
from search.deciding.storage import sqlite_storage
from search.deciding.study import Ask, Study
from search.errors import TrialsFailedError
from search.limits import Limits
from search.publishing.tracker import NullTracker
from search.running.clock import Clock, OutOfTimeError
from search.running.driver import ASKS_PER_TRIAL, Driver
from search.telling.progress import NullProgress
from search.training.job import Job
from search.trial import Trial
from spaces import CompressionPlan

optuna.logging.set_verbosity(optuna.logging.ERROR)
LIMITS = Limits(0.03)


class Told(NullTracker, NullProgress):  # type: ignore[misc]
    """A tracker and a progress display that remember trials."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def trial(self, trial: Trial) -> None:
        self.numbers.append(trial.number)


def study_of(storage: optuna.storages.BaseStorage | None = None, sampler: str = "random") -> Study:
    """A study whose trial 0, the untouched model, is there, as the search makes it."""
    storage = storage or optuna.storages.InMemoryStorage()
    study = Study(space_of(), storage, "test", metric="accuracy", sampler=sampler, seed=0)
    study.propose(simple_plans(space_of()))
    if not study.trials:
        ask = study.ask()
        figured = figures(ask.plan)
        study.tell(ask, Trial(0, ask.plan, "complete", UNTOUCHED, figured, {"drop": -0.03}), 1.0)
    return study


def make_job(plan: CompressionPlan, rung: int, checkpoint: Path | None) -> Job:
    return Job(plan, share_of(rung, checkpoint is None), RUNGS[rung].constrained, checkpoint)


def drive(
    study: Study,
    backend: FakeBackend,
    trials: int | None = None,
    budget_s: float | None = None,
    told: Told | None = None,
    untouched: Untouched | None = None,
) -> str:
    clock = Clock(budget_s, 0.0, backend.time(), study.elapsed_s, backend.time)
    told, before = told or Told(), backend.before

    def listen(ticket: int, job: Job) -> None:
        clock.check()  # as a real job's stages do
        before(ticket, job)

    backend.before = listen
    folder = Path("study")
    driver = Driver(
        study,
        backend,
        make_job,
        clock,
        trials,
        told,
        told,
        folder,
        0.03,
        Experience(macs_of(space_of()), untouched),
    )
    return driver.run()


def test_trials_count_the_evaluated_ones_baselines_included() -> None:
    study, told = study_of(), Told()
    assert drive(study, FakeBackend(LIMITS), trials=12, told=told) == "trials"
    assert len(study.trials) == 12
    assert told.numbers == sorted([*range(1, 12)] * 2)  # by tracker and progress
    simple = [origin for _, origin in simple_plans(space_of())]
    assert [t.origin for t in study.trials[: len(simple)]] == simple
    assert len({t.plan.plan_id for t in study.trials}) == 12


def test_rejected_plans_do_not_count() -> None:
    study, limits = study_of(), Limits(0.03, max_size_bytes=9000)
    assert drive(study, FakeBackend(limits), trials=12) == "trials"
    states = [t.state for t in study.trials]
    assert states.count("complete") == 12
    assert states.count("rejected") > 0
    for trial in study.trials:
        if trial.state == "rejected":
            assert trial.violations["size_bytes"] > 0
            assert trial.reason == "size_bytes is over its limit"
            assert trial.model is None
            assert not trial.feasible


def test_budget_ends_the_search() -> None:
    study, backend = study_of(), FakeBackend(LIMITS, job_s=10.0)
    assert drive(study, backend, budget_s=95.0) == "budget"
    # One second was spent on trial 0, and what began within the budget goes on to its end.
    assert backend.time.now_s == 1000.0 + 100.0
    assert study.elapsed_s <= 1.0 + 100.0


def test_plan_that_takes_too_long_makes_room_for_smaller_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, backend = study_of(), FakeBackend(LIMITS)
    drive(study, backend, trials=10)  # simple plans and a few more
    macs, asked, ask = macs_of(space_of()), list[CompressionPlan](), study.ask
    most = median(macs(t.plan) for t in study.trials if not t.is_baseline)

    def watched() -> Ask:
        found = ask()
        asked.append(found.plan)
        return found

    monkeypatch.setattr(study, "ask", watched)
    monkeypatch.setattr(
        Experience, "expected_s", lambda self, plan, share: 1e3 if macs(plan) > most else 0.1
    )
    assert drive(study, backend, budget_s=study.elapsed_s + 20.0) == "budget"
    began = {job.plan for _, job in backend.jobs}
    first = next(n for n, plan in enumerate(asked) if macs(plan) > most)
    assert asked[first] not in began
    assert began.intersection(asked[first + 1 :])


def test_reserve_is_kept_for_the_end() -> None:
    time = FakeTime()
    clock = Clock(100.0, 20.0, began=time(), spent_before_s=30.0, now=time)
    assert (clock.elapsed_s, clock.left_s) == (30.0, 50.0)
    time.now_s += 49.0
    clock.check()
    time.now_s += 1.0
    with pytest.raises(OutOfTimeError):
        clock.check()
    assert Clock(None, 20.0, began=time(), now=time).left_s == float("inf")


def test_trial_that_the_budget_cuts_off_is_dropped() -> None:
    study, backend = study_of(), FakeBackend(LIMITS)

    def out_of_time(ticket: int, job: Job) -> None:
        if ticket == 4:
            raise OutOfTimeError

    backend.before = out_of_time
    assert drive(study, backend, trials=12) == "budget"
    assert [t.number for t in study.trials] == [0, 1, 2, 3]


def test_budget_is_cumulative_over_resumptions(tmp_path: Path) -> None:
    storage = sqlite_storage(tmp_path / "study.db")
    study = study_of(storage)
    assert drive(study, FakeBackend(LIMITS, job_s=10.0), trials=5) == "trials"
    used = study.elapsed_s
    resumed, backend = study_of(storage), FakeBackend(LIMITS, job_s=10.0)
    assert resumed.elapsed_s == used
    assert drive(resumed, backend, budget_s=used + 25.0) == "budget"
    assert backend.time.now_s == 1000.0 + 30.0
    assert drive(study_of(storage), FakeBackend(LIMITS), budget_s=used) == "budget"


def test_space_that_has_nothing_new_is_exhausted() -> None:
    """Every plan is known, because the sampler always says the same."""
    study = study_of()
    known = study.trials[0]
    asked = 0

    def ask() -> Ask:
        nonlocal asked
        asked += 1
        study._memory.enqueue_trial(space_of().encode(known.plan))
        return Ask(known.plan, "sampler:random", study._memory.ask(study._distributions))

    study.ask = ask  # type: ignore[method-assign]
    backend = FakeBackend(LIMITS)
    assert drive(study, backend, trials=12) == "exhausted"
    assert asked == 2 * ASKS_PER_TRIAL
    assert backend.jobs == []


def test_rejections_alone_exhaust_the_search() -> None:
    study, backend = study_of(), FakeBackend(Limits(0.03, max_size_bytes=1))
    assert drive(study, backend, trials=12) == "exhausted"
    assert {t.state for t in study.trials[1:]} == {"rejected"}


def test_failed_trial_is_kept_and_the_search_goes_on() -> None:
    study = study_of()
    backend = FakeBackend(LIMITS, errors={2: "RuntimeError: broken (net.py:1 in forward)"})
    assert drive(study, backend, trials=6) == "trials"
    assert [t.state for t in study.trials].count("failed") == 1
    assert study.trials[2].reason == "RuntimeError: broken (net.py:1 in forward)"
    assert len(study.trials) == 6


def test_five_failures_in_a_row_end_the_search() -> None:
    study = study_of()
    errors = {number: f"ValueError: number {number}" for number in (1, 3, 4, 5, 6, 7)}
    with pytest.raises(TrialsFailedError) as caught:
        drive(study, FakeBackend(LIMITS, errors=errors), trials=12)
    message = str(caught.value)
    assert "at most 4 trials in a row may fail, but 5 did" in message
    assert "number 7" in message
    assert "--resume" in message
    assert "\n" not in message
    assert [t.state for t in study.trials[1:]] == ["failed", "complete"] + ["failed"] * 5


def test_interruption_ends_the_search_and_loses_the_running_trial_alone() -> None:
    study, backend = study_of(), FakeBackend(LIMITS)

    def interrupt(ticket: int, job: Job) -> None:
        if ticket == 5:
            raise KeyboardInterrupt

    backend.before = interrupt
    assert drive(study, backend, trials=12) == "interrupt"
    assert [t.number for t in study.trials] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_interrupted_and_resumed_search_tries_the_same_plans(sampler: str, tmp_path: Path) -> None:
    """With promotions from rung to rung, which depend on what other plans showed."""
    whole = study_of(sampler=sampler)
    drive(whole, FakeBackend(LIMITS), trials=30)
    storage = sqlite_storage(tmp_path / "study.db")
    for interrupted_at in (4, 13, 21, None):

        def interrupt(ticket: int, job: Job, at: int | None = interrupted_at) -> None:
            if ticket == at:
                raise KeyboardInterrupt

        part = study_of(storage, sampler)
        drive(part, FakeBackend(LIMITS, before=interrupt), trials=30)
    assert [(t.number, t.plan, t.rung) for t in part.trials] == [
        (t.number, t.plan, t.rung) for t in whole.trials
    ]


def test_baselines_are_trained_in_full_and_others_climb() -> None:
    study, backend = study_of(), FakeBackend(LIMITS)
    drive(study, backend, trials=25)
    simple = {plan.plan_id for plan, _ in simple_plans(space_of())}
    epochs: dict[str, list[float]] = {}
    for _, job in backend.jobs:
        epochs.setdefault(job.plan.plan_id, []).append(job.epochs)
    shares = [rung.share for rung in RUNGS]
    for plan_id, trained in epochs.items():
        if plan_id in simple:
            assert trained == [FULL_SHARE]  # as much as climbing takes
        else:
            assert trained == shares[: len(trained)]
    climbed = [len(trained) for plan, trained in epochs.items() if plan not in simple]
    assert 1 in climbed  # some ended early
    assert LAST + 1 in climbed  # some went all the way


def test_seconds_of_all_rungs_are_added_up() -> None:
    study = study_of()
    drive(study, FakeBackend(LIMITS), trials=10)
    for trial in study.trials[1:]:
        rungs = len(trial.seen)
        assert trial.stages == pytest.approx({"train": 0.9 * rungs, "evaluate": 0.1 * rungs})
        assert trial.seconds == pytest.approx(rungs)


def test_jobs_fill_all_workers_and_no_plan_runs_twice() -> None:
    study, backend = study_of(), FakeBackend(LIMITS, workers=3)
    assert drive(study, backend, trials=14) == "trials"
    assert len(study.trials) == 14
    started = [job.plan for _, job in backend.jobs if job.checkpoint is None]
    assert len(set(started)) == len({t for t, _ in backend.jobs}) <= 14


def test_files_are_named_relative_to_the_study() -> None:
    study = study_of()
    drive(study, FakeBackend(LIMITS), trials=3)
    for trial in study.trials[1:]:
        assert trial.model == Path("plans") / trial.plan.plan_id / "model.onnx"
    assert study.trials[0].plan == CompressionPlan()


def finals(
    budget_s: float | None = None,
    trials: int | None = 20,
    storage: optuna.storages.BaseStorage | None = None,
    before: Callable[[int, Job], None] = lambda ticket, job: None,
    errors: Mapping[int, str] | None = None,
) -> tuple[Study, FakeBackend]:
    """A search with figures whose bound lies 0.02 above the drop, run to its end."""
    study = study_of(storage)
    backend = FakeBackend(
        LIMITS, job_s=10.0, before=before, errors=errors or {}, paced=True, noise=0.02, seeds=0.004
    )
    drive(study, backend, trials=trials, budget_s=budget_s)
    return study, backend


def test_finalists_are_trained_again_with_other_seeds_and_the_best_stands() -> None:
    study, backend = finals()
    assert len(study.trials) == 20
    again = [(ticket, job) for ticket, job in backend.jobs if job.training]
    assert 0 < len(again) <= MOST_AGAIN
    assert again == backend.jobs[-len(again) :]
    for ticket, job in again:
        assert job.plan == study.trials[ticket].plan
        assert job.checkpoint is None
        assert job.epochs == FINAL_SHARE
    assert {n: [t.training for t in each] for n, each in study.trainings.items()} == {
        n: list(range(1, 1 + [ticket for ticket, _ in again].count(n)))
        for n in {ticket for ticket, _ in again}
    }
    for trial in study.finished:
        trained = [study.trials[trial.number], *study.trainings.get(trial.number, [])]
        drops = [t.evaluation.value("drop") for t in trained if t.evaluation]
        assert trial.evaluation is not None
        assert trial.evaluation.value("drop") == min(drops)
        assert trial.model == trained[drops.index(min(drops))].model
    assert finalists(study.finished, 0.03) == () or len(again) == MOST_AGAIN


def test_finals_that_are_interrupted_lose_the_running_one_alone(tmp_path: Path) -> None:
    whole, _ = finals()
    expected = {n: [t.evaluation for t in each] for n, each in whole.trainings.items()}
    count = sum(map(len, expected.values()))
    assert count > 2
    storage = sqlite_storage(tmp_path / "study.db")
    for at in range(count):
        seen = 0

        def interrupt(ticket: int, job: Job) -> None:
            nonlocal seen
            seen += bool(job.training)
            if seen == 2:
                raise KeyboardInterrupt

        part, backend = finals(storage=storage, before=interrupt)
        assert sum(map(len, part.trainings.values())) == at + 1
        assert len([job for _, job in backend.jobs if job.training]) == min(2, count - at)
    assert {n: [t.evaluation for t in each] for n, each in part.trainings.items()} == expected
    again, backend = finals(storage=storage)
    assert backend.jobs == []  # what is done is not done again
    assert again.finished == part.finished


def test_finals_that_are_killed_lose_the_running_one_alone(tmp_path: Path) -> None:
    whole, _ = finals()
    expected = {n: [t.evaluation for t in each] for n, each in whole.trainings.items()}
    count = sum(map(len, expected.values()))
    begun = tmp_path / "begun"

    def slow(ticket: int, job: Job) -> None:
        if job.training:
            with begun.open("a") as file:
                file.write(f"{ticket} {job.training}\n")
            time.sleep(0.1)

    def live() -> None:
        finals(storage=sqlite_storage(tmp_path / "study.db"), before=slow)

    for life in range(1, count + 1):
        process = lives.begin(live, tmp_path / "said")
        give_up = time.monotonic() + 60
        # Each life begins with what the one before was killed in, and gets one further.
        while not begun.exists() or begun.read_text().count("\n") < 2 * life:
            assert lives.is_alive(process) or life == count, (tmp_path / "said").read_text()
            assert time.monotonic() < give_up
            if not lives.is_alive(process):
                break
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    part, backend = finals(storage=sqlite_storage(tmp_path / "study.db"))
    assert {n: [t.evaluation for t in each] for n, each in part.trainings.items()} == expected
    assert len([job for _, job in backend.jobs if job.training]) <= 1
    repeated = Counter(begun.read_text().splitlines())
    assert max(repeated.values()) == 2
    assert len(repeated) == count


def test_more_trials_after_the_finals_are_those_that_would_have_come(tmp_path: Path) -> None:
    storage = sqlite_storage(tmp_path / "study.db")
    finals(storage=storage)
    longer, _ = finals(storage=storage, trials=28)
    whole, _ = finals(trials=28)
    assert [t.plan for t in longer.trials] == [t.plan for t in whole.trials]


def test_finalist_that_can_not_be_trained_again_is_told_and_left() -> None:
    study, _ = finals()
    first = next(iter(study.trainings))
    notes: list[str] = []

    def broken(ticket: int, job: Job) -> None:
        backend.errors = {first: "RuntimeError: no"} if job.training else {}

    study = study_of()
    backend = FakeBackend(LIMITS, noise=0.02, seeds=0.004, before=broken)
    told = Told()
    told.note = notes.append  # type: ignore[method-assign]
    drive(study, backend, trials=20, told=told)
    assert notes == [f"Trial {first} could not be trained again: RuntimeError: no"]
    assert first not in study.trainings
    assert study.finished[first] == study.trials[first]


def test_no_job_is_started_that_can_not_finish_in_the_budget() -> None:
    """A full training takes ten seconds, a short one a quarter of that."""
    for budget_s in (150.0, 163.0, 171.0, 188.0, 260.0):
        study, backend = finals(budget_s, trials=None)
        spent_s = backend.time.now_s - 1000.0
        assert spent_s <= budget_s
        assert study.elapsed_s <= budget_s


@pytest.mark.parametrize("budget_s", [3.0, 6.0, 12.0])
def test_first_training_is_not_started_either_when_it_can_not_finish(budget_s: float) -> None:
    """Nothing was trained yet; a job takes ten seconds, as the untouched model says."""
    study, backend = study_of(), FakeBackend(LIMITS, paced=True, job_s=10.0)
    untouched = Untouched(macs_of(space_of())(CompressionPlan({})), 10.0, 1.0)
    begun_s = backend.time.now_s
    assert drive(study, backend, budget_s=budget_s, untouched=untouched) == "budget"
    assert backend.time.now_s - begun_s <= budget_s


def test_budget_keeps_time_for_finalists() -> None:
    study, backend = finals(300.0, trials=None)
    again = [job for _, job in backend.jobs if job.training]
    assert again
    assert 13.5 * len(again) <= 0.15 * 300.0 + 13.5
    assert len(study.trials) > len(again)


def test_no_finalist_is_trained_again_before_the_search_has_had_its_turn() -> None:
    """Plain int8 takes most of the time that is left, but for a while finalists would not."""
    study, backend = finals(120.0, trials=None)
    first = next((n for n, (_, job) in enumerate(backend.jobs) if job.training), None)
    origins = [study.trials[ticket].origin for ticket, _ in backend.jobs[:first]]
    assert any(origin.startswith("sampler") for origin in origins)


def test_simple_plan_that_would_take_too_long_is_left_out_and_told() -> None:
    study, told, notes = study_of(), Told(), list[str]()
    told.note = notes.append  # type: ignore[method-assign]
    backend = FakeBackend(LIMITS, job_s=10.0, paced=True)
    drive(study, backend, budget_s=45.0, told=told)
    left_out = [note for note in notes if "it is left out" in note]
    assert "uniform −50" in left_out[-1]
    assert "baseline:uniform-50-fp32" not in [t.origin for t in study.trials]
