"""Who is trained again, which training stands, and what is known of how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from evaluators import Evaluation, Measurement
from search.deciding.finals import FINALISTS, best_training, finalists
from search.deciding.forecast import MARGIN, Experience, Untouched
from search.deciding.rungs import Seen
from search.trial import State, Trial
from spaces import CompressionPlan

SEEN = Seen(0.0, 1.0, 0.0)


def trial(
    number: int,
    drop: float,
    bound: float | None = None,
    latency_ms: float = 1.0,
    *,
    state: State = "complete",
    rung: str = "full",
    size: float = -0.5,
    drops: tuple[float, ...] = (),
    training: int = 0,
    stages: Mapping[str, float] | None = None,
) -> Trial:
    """A trial with a limit of 0.03; its bound is 0.01 above its drop unless it is given."""
    figures = {"drop": drop, "latency_ms": latency_ms}
    figures["drop_bound"] = drop + 0.01 if bound is None else bound
    evaluation = Evaluation.of(
        Measurement(name, value, "", "measured", "made up") for name, value in figures.items()
    )
    return Trial(
        number,
        CompressionPlan({"fake": {"number": number}} if number else {}),
        state,
        "warm",
        evaluation,
        {"drop": drop - 0.03, "size_bytes": size},
        None,
        stages or {},
        Path(f"plans/{number}-{training}/model.onnx"),
        rung,
        {},
        training,
        drops,
    )


def numbers(*trials: Trial) -> list[int]:
    return [t.number for t in finalists(trials, 0.03)]


def test_finalists_are_faster_than_the_fastest_safe_one_and_near_the_limit() -> None:
    """The distance from drop to bound is 0.01: near are drops from 0.01 to 0.04."""
    assert numbers(
        trial(0, 0.0, latency_ms=50.0),  # the untouched model
        trial(1, 0.025, latency_ms=9.0),  # slower than the safe one
        trial(2, 0.009, latency_ms=8.0),  # the limit is twice the noise away: safe
        trial(3, 0.011, latency_ms=7.0),  # shown, but not safely
        trial(4, 0.038, latency_ms=6.0),  # missed by less than the noise
        trial(5, 0.041, latency_ms=5.0),  # by more
    ) == [3, 4]


def test_nobody_is_trained_again_when_the_fastest_is_safe() -> None:
    assert numbers(trial(1, 0.01, latency_ms=1.0), trial(2, 0.03, latency_ms=2.0)) == []


def test_safe_one_that_never_had_the_full_training_gets_it() -> None:
    assert numbers(trial(1, 0.01, rung="short"), trial(2, 0.0, latency_ms=2.0)) == [1]
    assert numbers(trial(1, 0.01, rung="short", drops=(0.01, 0.02))) == []


def test_the_nearest_come_first_and_of_those_that_meet_the_limit_the_fastest() -> None:
    found = numbers(
        trial(1, 0.036, latency_ms=1.0),
        trial(2, 0.032, latency_ms=2.0),
        trial(3, 0.028, latency_ms=3.0),
        trial(4, 0.022, latency_ms=4.0),
    )
    assert found == [3, 4, 2]
    assert len(found) == FINALISTS


def test_everyone_gets_a_second_training_before_anyone_gets_a_third() -> None:
    second = trial(1, 0.025, latency_ms=1.0, drops=(0.025, 0.03))
    assert numbers(second, trial(2, 0.035, latency_ms=0.5)) == [2, 1]
    assert numbers(trial(1, 0.025, drops=(0.03, 0.025, 0.05))) == []  # three are enough


def test_no_training_helps_a_plan_that_breaks_another_limit() -> None:
    assert numbers(trial(1, 0.025, size=0.1)) == []
    assert numbers(trial(1, 0.025, state="rejected"), trial(2, 0.025, state="failed")) == []


def test_best_training_has_the_least_drop_and_the_seconds_of_all() -> None:
    trainings = [
        trial(4, 0.034, stages={"train": 2.0, "build": 1.0}),
        trial(4, 0.021, training=1, stages={"train": 3.0, "export": 0.5}),
        trial(4, 0.021, training=2, stages={"train": 4.0}),
    ]
    best = best_training(trainings)
    assert best.training == 1  # of equals the first
    assert best.drops == (0.034, 0.021, 0.021)
    assert best.stages == {"train": 9.0, "build": 1.0, "export": 0.5}
    assert best.model == Path("plans/4-1/model.onnx")
    assert best.feasible
    assert best_training(trainings[:1]) is trainings[0]


def test_training_that_breaks_a_limit_does_not_stand_for_one_that_does_not() -> None:
    """A latency that is measured may be within its limit once, and not again."""
    assert best_training([trial(4, 0.02), trial(4, 0.01, size=0.01, training=1)]).training == 0


def learned(*told: tuple[int, float, float]) -> Experience:
    """From (multiply-accumulates, seconds of training, other seconds); all climbed every rung."""
    macs = {CompressionPlan({"fake": {"number": m}}).plan_id: float(m) for m, _, _ in told}
    found = Experience(lambda plan: macs.get(plan.plan_id, float(plan.settings["fake"]["number"])))
    for m, train_s, others_s in told:
        stages = {"train": train_s, "export": others_s}
        seen = dict.fromkeys(("recalibrated", "short", "full"), SEEN)
        plan = CompressionPlan({"fake": {"number": m}})
        found.learn(Trial(1, plan, "complete", "warm", stages=stages, seen=seen))
    return found


def expected(found: Experience, macs: int, share: float) -> float:
    return found.expected_s(CompressionPlan({"fake": {"number": macs}}), share) / MARGIN


def test_expected_seconds_are_the_least_of_what_larger_and_smaller_plans_tell() -> None:
    """Climbing every rung is 1.25 trainings; a trial's other seconds are of its three rungs."""
    found = learned((100, 12.5, 3.0), (400, 25.0, 6.0))  # 10 and 20 s a training; 1 and 2 s
    assert expected(found, 100, 1.0) == pytest.approx(10 + 2)
    assert expected(found, 50, 1.0) == pytest.approx(10 + 2)
    assert expected(found, 150, 1.0) == pytest.approx(15 + 2)
    assert expected(found, 300, 1.0) == pytest.approx(20 + 2)
    assert expected(found, 800, 0.25) == pytest.approx(0.25 * 40 + 2)


def test_before_a_training_was_seen_the_untouched_model_tells_how_long_one_takes() -> None:
    """Half of its ten seconds are for steps; the rest goes with multiply-accumulates."""
    macs = {"fake": {"number": 50}}
    known = Experience(lambda plan: float(plan.settings["fake"]["number"]), Untouched(100, 10, 3))
    assert expected(known, 50, 0.5) == pytest.approx(0.5 * 7.5 + 3)
    stages, seen = {"train": 2.5, "export": 2.0}, dict.fromkeys(("recalibrated", "short"), SEEN)
    known.learn(Trial(1, CompressionPlan(macs), "complete", "warm", stages=stages, seen=seen))
    assert expected(known, 50, 1.0) == pytest.approx(10 + 1)  # what was seen counts alone


def test_simple_plan_trains_as_long_as_one_that_climbed() -> None:
    found, plan = learned(), CompressionPlan({"fake": {"number": 100}})
    stages, seen = {"train": 12.5, "export": 1.0}, {"full": SEEN}
    found.learn(Trial(1, plan, "complete", "baseline:int8", stages=stages, seen=seen))
    assert expected(found, 100, 1.0) == pytest.approx(10 + 1)


def test_nothing_is_expected_of_the_first_and_nothing_learned_from_what_trained_nothing() -> None:
    assert expected(learned(), 100, 1.0) == 0.0
    found = learned()
    found.learn(trial(1, 0.01, stages={"cached": 0.1}))
    # Its short training was another search's, and only the rest took time.
    found.learn(trial(2, 0.01, stages={"cached": 0.1, "train": 0.2}))
    assert expected(found, 100, 1.0) == 0.0


def test_what_is_no_faster_than_the_untouched_model_can_not_win() -> None:
    slow = trial(1, 0.025, latency_ms=9.0)
    assert numbers(trial(0, 0.0, latency_ms=9.0), slow) == []
    assert numbers(trial(0, 0.0, latency_ms=9.0, size=1.0), slow) == [1]  # it does not fit itself
