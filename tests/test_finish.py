"""The end: who is on the front, who wins, and what stood in the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from samples import sample_data, tiny_onnx

from evaluators import Evaluation, EvaluationContext, Measurement
from evaluators.runtimes.onnxruntime import logits
from evaluators.tasks.drop import drop_bound_of_counts
from hardware_profiles import load_profile
from search.concluding.conclude import (
    TestSplit,
    front_of,
    missing_classes,
    near_misses,
    prove_drop,
    strongest_simple,
)
from search.concluding.openings import Openings
from search.limits import Limits
from search.result import Finalist
from search.task import DataSet, Metric, Split
from search.trial import State, Trial
from spaces import CompressionPlan

LIMITS = Limits(0.03)
PROFILE = load_profile("raspberry-pi-4b")


def trial(
    number: int,
    accuracy: float,
    latency_ms: float,
    origin: str = "warm",
    state: State = "complete",
    limits: Limits = LIMITS,
    **others: float,
) -> Trial:
    """A trial of 1,000 validation images with a baseline of 90 %."""
    lost = round(1000 * max(0.90 - accuracy, 0))
    figures = {"latency_ms": latency_ms, **others}
    if state == "complete":
        figures |= {"accuracy": accuracy, "drop": 0.90 - accuracy}
    gained = round(1000 * max(accuracy - 0.90, 0))
    detail = {"lost": lost, "gained": gained, "images": 1000, "method": "exact"}
    if state == "complete":
        figures["drop_bound"] = drop_bound_of_counts(lost, gained, 1000, 0.95).bound
    evaluation = Evaluation.of(
        Measurement(name, value, "", "estimated", "made up for a test", detail=detail)
        for name, value in figures.items()
    )
    plan = CompressionPlan({"made_up": {"number": number}} if number else {})
    violations = limits.violations(evaluation, PROFILE)
    model = Path(f"plans/{number}.onnx") if state == "complete" else None
    return Trial(number, plan, state, origin, evaluation, violations, None, {}, model)


def test_front_holds_what_nothing_beats_fastest_first() -> None:
    trials = [
        trial(0, 0.90, 10.0, "baseline:fp32"),
        trial(1, 0.89, 5.0),
        trial(2, 0.88, 6.0),  # slower and worse than 1
        trial(3, 0.40, 1.0),  # infeasible, and still on the front
        trial(4, 0.89, 5.0),  # as good as 1
        trial(5, 0.99, 0.1, state="rejected"),
    ]
    assert [t.number for t in front_of(trials, "accuracy")] in ([3, 1, 0], [3, 1, 4, 0])


def test_front_is_without_what_breaks_a_limit_other_than_the_drop() -> None:
    limits = Limits(0.03, max_size_bytes=1000)
    trials = [
        trial(0, 0.95, 10.0, "baseline:fp32", limits=limits, size_bytes=5000),
        trial(1, 0.89, 5.0, limits=limits, size_bytes=900),
        trial(2, 0.40, 1.0, limits=limits, size_bytes=300),  # its drop is the price it shows
        trial(3, 0.88, 0.5, limits=limits, size_bytes=1001),
    ]
    assert [t.number for t in front_of(trials, "accuracy")] == [2, 1]
    assert front_of(trials[:1], "accuracy") == ()


def test_strongest_simple_is_the_fastest_feasible_baseline_but_the_untouched_one() -> None:
    trials = [
        trial(0, 0.90, 1.0, "baseline:fp32"),
        trial(1, 0.89, 5.0, "baseline:int8"),
        trial(2, 0.88, 4.0, "baseline:uniform-50-int8"),
        trial(3, 0.50, 2.0, "baseline:uniform-75-int8"),
        trial(4, 0.89, 3.0, "warm"),
    ]
    found = strongest_simple(trials)
    assert found is not None
    assert found.number == 2
    assert strongest_simple(trials[:1]) is None


def test_near_misses_are_infeasible_and_faster_nearest_first() -> None:
    trials = [
        trial(0, 0.90, 10.0),
        trial(1, 0.89, 5.0),
        trial(2, 0.80, 3.0),
        trial(3, 0.86, 4.0),
        trial(4, 0.85, 6.0),  # slower than the winner
        trial(5, 0.10, 0.5, state="rejected"),
    ]
    assert [t.number for t in near_misses(trials, LIMITS)] == [3, 2]


@pytest.fixture(scope="module")
def data() -> DataSet:
    return sample_data(test=900)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, data: DataSet) -> Path:
    """Files for trials 0 to 3: the first three are one file, the last disagrees with them."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "plans").mkdir()
    for number in (0, 1, 2):
        tiny_onnx(folder / f"plans/{number}.onnx", seed=0)
    tiny_onnx(folder / "plans/3.onnx", seed=5)
    return folder


@pytest.fixture(scope="module")
def test_split(folder: Path, data: DataSet) -> TestSplit:
    """The baseline is right on its own predictions, so that all disagreement is a loss."""
    model = folder / "plans/0.onnx"
    images = data.preprocess.apply(data.test.images)
    right = logits(model, images, PROFILE).argmax(1)
    data = replace(data, test=replace(data.test, labels=right))
    context = EvaluationContext(
        profile=PROFILE,
        images=data.preprocess.apply(data.validation.images),
        labels=data.validation.labels,
        scratch=folder,
        baseline=model,
        baseline_predictions=np.zeros(len(data.validation), np.int64),
    )
    return TestSplit(data, context, "accuracy")


def proved(
    trials: list[Trial], folder: Path, test_split: TestSplit
) -> tuple[Finalist | None, tuple[Finalist, ...]]:
    """Winner and finalists where nobody has opened the test split before."""
    return prove_drop(trials, folder, test_split, LIMITS, Openings([]), "cells", "baseline")


def test_fastest_proved_finalist_wins(folder: Path, test_split: TestSplit) -> None:
    trials = [trial(0, 0.90, 10.0), trial(1, 0.90, 2.0), trial(2, 0.89, 1.0)]
    winner, tested = proved(trials, folder, test_split)
    assert winner is not None
    assert winner.trial.number == 2
    assert winner.proven
    assert winner.bound.drop == 0.0
    assert 0 < winner.bound.bound <= 0.03
    assert all(finalist.proven for finalist in tested)
    assert test_split.quality(folder / "plans/2.onnx").value("accuracy") == 1.0


def test_finalist_that_fails_ends_the_proof_and_the_last_proved_wins(
    folder: Path, test_split: TestSplit
) -> None:
    """Trial 3 is the fastest on validation, but another network on the test images."""
    trials = [trial(0, 0.90, 10.0), trial(1, 0.90, 2.0), trial(3, 0.88, 0.5)]
    winner, tested = proved(trials, folder, test_split)
    assert winner is not None
    assert winner.trial.number == 1
    assert winner.proven
    assert [f.trial.number for f in tested if not f.proven] == [3]


def test_lucky_training_does_not_keep_safer_plans_from_the_proof(
    folder: Path, test_split: TestSplit
) -> None:
    """Trial 3 looks best only by the luckiest of its trainings; slower ones are tested before."""
    lucky = replace(trial(3, 0.91, 0.5), drops=(0.025, -0.01))
    trials = [trial(0, 0.90, 10.0), trial(1, 0.90, 2.0), trial(2, 0.90, 1.0), lucky]
    winner, tested = proved(trials, folder, test_split)
    assert winner is not None
    assert (winner.trial.number, winner.proven) == (2, True)
    assert [f.trial.number for f in tested] == [1, 2, 3]
    without, _ = proved([*trials[:3], replace(lucky, drops=())], folder, test_split)
    assert without is not None
    assert not without.proven  # trial 3 would have come first, and failed


def test_fastest_is_delivered_unproven_when_none_is_proved(
    folder: Path, test_split: TestSplit
) -> None:
    winner, _ = proved([trial(3, 0.88, 0.5)], folder, test_split)
    assert winner is not None
    assert winner.trial.number == 3
    assert not winner.proven
    assert winner.bound.bound > 0.03


def test_untouched_model_wins_when_nothing_is_faster(folder: Path, test_split: TestSplit) -> None:
    """And only then: it is always proved, and would stand for all that are not."""
    slower = trial(1, 0.90, 20.0)
    winner, tested = proved([trial(0, 0.90, 10.0), slower], folder, test_split)
    assert winner is not None
    assert winner.trial.number == 0
    assert winner.proven
    assert len(tested) == 1
    unproven = trial(3, 0.88, 0.5)
    winner, _ = proved([trial(0, 0.90, 10.0), unproven], folder, test_split)
    assert winner is not None
    assert winner.trial.number == 3
    assert not winner.proven


def test_nothing_wins_when_nothing_is_feasible(folder: Path, test_split: TestSplit) -> None:
    assert proved([trial(1, 0.5, 1.0)], folder, test_split) == (None, ())


def context_of(folder: Path, data: DataSet) -> EvaluationContext:
    return EvaluationContext(
        profile=PROFILE,
        images=data.preprocess.apply(data.validation.images),
        labels=data.validation.labels,
        scratch=folder,
        baseline=folder / "plans/0.onnx",
    )


def chosen(split: Split, indices: NDArray[np.intp]) -> Split:
    return Split(split.images[indices], split.labels[indices])


def test_copies_of_an_image_count_once_in_all_figures(folder: Path, data: DataSet) -> None:
    """Each image five times: the figures are those of one copy each."""
    context = context_of(folder, data)
    once = chosen(data.test, np.arange(60))
    often = chosen(data.test, np.repeat(np.arange(60), 5))
    plain, copied = (
        TestSplit(replace(data, test=test), context, "accuracy") for test in (once, often)
    )
    assert (plain.repeated, copied.repeated) == (0, 240)
    model = folder / "plans/3.onnx"
    assert copied.bound(model, 0.95) == plain.bound(model, 0.95)
    assert copied.quality(model) == plain.quality(model)
    assert copied.bound(model, 0.95).images == 60


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1", "agreement"])
def test_class_that_is_not_tested_leaves_means_over_classes_without_a_bound(
    folder: Path, data: DataSet, metric: Metric
) -> None:
    context = replace(context_of(folder, data), metric=metric)
    left = chosen(data.test, np.flatnonzero(data.test.labels != 1))
    assert missing_classes(data) == ()
    test = TestSplit(replace(data, test=left), context, metric)
    of_classes = metric in ("balanced_accuracy", "f1")
    assert test.missing == ((data.classes[1],) if of_classes else ())
    assert ("drop_bound" in test.quality(folder / "plans/3.onnx")) is not of_classes
