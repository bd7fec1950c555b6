"""The study: what is asked, what is kept, and that a resumed one goes on as if nothing was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from fakes import figures, outcome, space_of
from optuna.trial import TrialState

from evaluators import Evaluation, Measurement
from search.deciding import samplers
from search.deciding.baselines import simple_plans
from search.deciding.kept import trial_from_json, trial_to_json
from search.deciding.rungs import Seen
from search.deciding.samplers import SAMPLERS
from search.deciding.storage import sqlite_storage
from search.deciding.study import Ask, Study
from search.errors import StudyError
from search.limits import Limits
from search.trial import Trial
from spaces import CompressionPlan

optuna.logging.set_verbosity(optuna.logging.ERROR)
LIMITS = Limits(0.03)
MAYBE_SMALL = Limits(0.03, max_size_bytes=9000)


def make(storage: optuna.storages.BaseStorage, sampler: str = "random", seed: int = 0) -> Study:
    return Study(space_of(), storage, "test", metric="accuracy", sampler=sampler, seed=seed)


def memory() -> optuna.storages.BaseStorage:
    return optuna.storages.InMemoryStorage()


def file(path: Path) -> Callable[[], optuna.storages.BaseStorage]:
    """The same file, opened as a new process opens it."""
    return lambda: sqlite_storage(path / "study.db")


def trial_of(number: int, ask: Ask, limits: Limits = LIMITS) -> Trial:
    found = outcome(ask.plan, limits, Path("study"))
    return Trial(
        number,
        ask.plan,
        "complete" if found.reason is None else "rejected",
        ask.origin,
        found.evaluation,
        found.violations,
        found.reason,
        found.stages,
    )


def go_on(study: Study, until: int, limits: Limits = LIMITS) -> list[str]:
    """Asks and tells until there are so many trials; every plan that was asked for, in order."""
    asked = []
    while len(study.trials) < until:
        ask = study.ask()
        asked.append(ask.plan.plan_id)
        known = study.known(ask)
        if known is not None:
            study.repeat(ask, known)
        else:
            study.tell(ask, trial_of(len(study.trials), ask, limits), float(len(study.trials)))
    return asked


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("limits", [LIMITS, MAYBE_SMALL], ids=["free", "constrained"])
def test_resumed_study_asks_for_the_same_plans(
    sampler: str, limits: Limits, tmp_path: Path
) -> None:
    """Ended anywhere, also with a question that nobody answered."""
    whole = make(memory(), sampler)
    whole.propose(simple_plans(space_of()))
    expected = go_on(whole, 30, limits)
    opened = file(tmp_path)
    asked: list[str] = []
    for until in (3, 11, 24, 30):
        part = make(opened(), sampler)
        part.propose(simple_plans(space_of()))
        asked += go_on(part, until, limits)
        if until < 30:
            part.ask()
    assert asked == expected
    assert [trial_to_json(t) for t in part.trials] == [trial_to_json(t) for t in whole.trials]


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_sampler_that_is_shown_a_part_goes_on_the_same(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samplers, "SHOWN_BEST", 4)
    monkeypatch.setattr(samplers, "SHOWN_LATEST", 5)
    monkeypatch.setattr(samplers, "_RANKED_EVERY", 3)
    until = 34 if sampler == "tpe" else 12
    expected = go_on(make(memory(), sampler), until, MAYBE_SMALL)
    opened = file(tmp_path)
    asked = go_on(make(opened(), sampler), until // 2, MAYBE_SMALL)
    assert asked + go_on(make(opened(), sampler), until, MAYBE_SMALL) == expected


def test_sampler_is_shown_the_best_and_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "SHOWN_BEST", 3)
    monkeypatch.setattr(samplers, "SHOWN_LATEST", 4)
    monkeypatch.setattr(samplers, "_RANKED_EVERY", 4)
    study = make(memory(), "tpe")
    ask = study.ask()
    for number in range(20):  # ever worse, but for the one in the middle, which breaks a limit
        figured = {"accuracy": 0.9 - number / 100, "latency_ms": 1.0 + number}
        if number == 10:
            figured = {"accuracy": 1.0, "latency_ms": 0.1}
        evaluation = Evaluation.of(
            [Measurement(n, v, "", "estimated", "made up") for n, v in figured.items()]
        )
        broken = {"size_bytes": 0.1 if number == 10 else -0.1}
        trial = Trial(number, ask.plan, "complete", ask.origin, evaluation, broken)
        study.tell(ask, trial, 0.0)
        ask = study.ask()
    shown = study._memory.get_trials(deepcopy=False)
    assert [t.number for t in shown] == [0, 1, 2, 16, 17, 18, 19, 20]
    assert shown[-1].state == TrialState.RUNNING


def test_model_is_asked_until_it_has_said_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.deciding.study.MODEL_UNTIL", 5)
    monkeypatch.setattr("search.deciding.study.MODELED_AT_ONCE", 3)
    space = space_of()
    plans = iter(space.decode(space.encode(plan)) for plan, _ in simple_plans(space))

    def model(*_: object) -> tuple[CompressionPlan, str]:
        return next(plans), "model"

    study = Study(
        space, memory(), "test", metric="accuracy", sampler="random", seed=0, model=model
    )
    asks = [study.ask() for _ in range(5)]
    assert [ask.origin for ask in asks] == ["model"] * 3 + ["sampler:random"] * 2
    for number, ask in enumerate(asks):
        study.tell(ask, trial_of(number, ask), 0.0)
    assert study.ask().origin == "sampler:random"


def test_repeated_plans_are_seen_by_a_resumed_sampler(tmp_path: Path) -> None:
    """A sampler that is stuck asks for plans that are known; it has to know that it did."""
    whole = make(memory(), "tpe")
    opened = file(tmp_path)
    part = make(opened(), "tpe")
    for study in (whole, part):
        go_on(study, 10)
        for _ in range(5):
            ask = study.ask()
            study.repeat(ask, study.trials[0])
    assert go_on(make(opened(), "tpe"), 16) == go_on(whole, 16)


def test_gaussian_process_goes_on_the_same(tmp_path: Path) -> None:
    expected = go_on(make(memory(), "gp"), 11)
    opened = file(tmp_path)
    asked = go_on(make(opened(), "gp"), 9)
    assert asked + go_on(make(opened(), "gp"), 11) == expected


def test_other_seed_asks_for_other_plans() -> None:
    assert go_on(make(memory(), seed=1), 5) != go_on(make(memory(), seed=2), 5)


def test_storage_makes_no_difference(tmp_path: Path) -> None:
    assert go_on(make(memory(), "tpe"), 14) == go_on(make(file(tmp_path)(), "tpe"), 14)


def test_told_trial_is_on_disk_at_once(tmp_path: Path) -> None:
    """Read by somebody else while the study is open: nothing waits for a tidy end."""
    study = make(file(tmp_path)())
    ask = study.ask()
    study.tell(ask, trial_of(0, ask), 12.5)
    other = make(file(tmp_path)())
    assert [t.plan for t in other.trials] == [ask.plan]
    assert other.elapsed_s == 12.5


def test_proposals_come_first_each_once_and_not_when_known() -> None:
    study = make(memory())
    plans = simple_plans(space_of())
    study.propose(plans)
    study.propose(plans[::-1])
    origins = []
    for number in range(len(plans)):
        ask = study.ask()
        origins.append(ask.origin)
        study.tell(ask, trial_of(number, ask), 0.0)
    assert origins == [origin for _, origin in plans]
    study.propose(plans)
    assert study.ask().origin == "sampler:random"


def test_simple_plans_are_those_of_every_search() -> None:
    plans = simple_plans(space_of())
    assert plans[0] == (CompressionPlan(), "baseline:fp32")
    by_origin = {origin: plan for plan, origin in plans}
    assert set(by_origin) == {
        "baseline:fp32",
        "baseline:int8",
        "baseline:uniform-50-fp32",
        "baseline:uniform-50-int8",
        "baseline:uniform-93.75-fp32",  # 75 % leaves the same four channels, the fewest
        "baseline:uniform-93.75-int8",
        "baseline:uniform-93.75-int8-shallow",
    }
    assert [origin for _, origin in plans[:2]] == ["baseline:fp32", "baseline:int8"]
    shallow = by_origin["baseline:uniform-93.75-int8-shallow"]
    assert shallow.settings["depth"] == {"removed": ["low", "high"]}
    table = space_of().table(by_origin["baseline:uniform-50-int8"])
    assert dict(table.kept) == {"stem.0": 8, "low.first.0": 8, "wider.0": 8, "high.first.0": 8}
    assert {row.bits for row in table.rows if row.layer} == {8}


def test_rejected_plan_is_told_as_the_worst_with_its_violation() -> None:
    study = make(memory())
    ask = study.ask()
    rejected = Trial(
        0, ask.plan, "rejected", ask.origin, figures(ask.plan), {"size_bytes": 0.4}, "too large"
    )
    study.tell(ask, rejected, 0.0)
    (told,) = study._memory.trials
    (kept,) = study._stored.trials
    for frozen in (told, kept):
        assert frozen.state == TrialState.COMPLETE
        assert frozen.values == [0.0, figures(ask.plan).value("latency_ms")]
    assert told.constraints == {"violation": 0.4}
    assert kept.constraints == {"0": 0.4, "size_bytes": 0.4}
    assert study.known(ask) == rejected


def test_sampler_learns_from_rejections() -> None:
    """With most of the space over a limit, later plans are within it more often."""
    tight = Limits(0.5, max_size_bytes=3500)
    study = make(memory(), "tpe")
    go_on(study, 60, tight)
    within = [t.state == "complete" for t in study.trials]
    assert sum(within[-15:]) >= sum(within[:15]) + 5


def test_failed_plan_is_kept_with_its_error_and_not_tried_again() -> None:
    study = make(memory())
    ask = study.ask()
    failed = Trial(0, ask.plan, "failed", ask.origin, reason="RuntimeError: no (net.py:3 in f)")
    study.tell(ask, failed, 0.0)
    (kept,) = study._stored.trials
    assert kept.state == TrialState.FAIL
    assert study.known(ask) == failed
    study.repeat(study.ask(), failed)  # asked for again: told as failed again
    assert [t.state for t in study._stored.trials] == [TrialState.FAIL, TrialState.PRUNED]
    assert study.trials == [failed]


def test_question_that_runs_elsewhere_is_dropped() -> None:
    study = make(memory())
    first = study.ask()
    again = Ask(first.plan, "sampler:random", study._memory.ask())
    assert study.is_running(again)
    assert not study.is_running(first)
    study.drop(again)
    study.tell(first, trial_of(0, first), 0.0)
    assert len(study._stored.trials) == 1


def test_trial_round_trips_through_json() -> None:
    plan = CompressionPlan({"pruning": {"kept": {"stem.0": 8}}})
    trial = Trial(
        3,
        plan,
        "complete",
        "warm",
        figures(plan),
        {"drop": -0.01},
        None,
        {"train": 1.5},
        Path("plans/x/model.onnx"),
        "full",
        {"short": Seen(0.01, 2.0, 0.0)},
    )
    data = json.loads(json.dumps(trial_to_json(trial)))
    assert trial_from_json(data) == trial
    with pytest.raises(StudyError, match=r"must be of version .*, but this one is of 0.*--study"):
        trial_from_json({**data, "version": 0})


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"no database at all, but long enough to have a header of its own" * 20)
    with pytest.raises(StudyError, match="must be a readable and writable SQLite database") as e:
        sqlite_storage(path)
    assert e.value.exit_code == 2
    assert "\n" not in str(e.value)


def test_every_sampler_proposes_plans_of_the_space() -> None:
    for sampler in SAMPLERS:
        study = make(memory(), sampler)
        for number in range(3):
            ask = study.ask()
            assert ask.origin == f"sampler:{sampler}"
            assert space_of().decode(space_of().encode(ask.plan)) == ask.plan
            study.tell(ask, trial_of(number, ask), 0.0)
