"""A baseline that there is no time for: cut short, said to be, and never taken for a whole one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from networks import IMAGE, Residual, seeded
from test_finals import trial
from test_train import CPU, task_of

from evaluators import Evaluation, EvaluationContext, Measurement
from evaluators.latency.tier import tier
from hardware_profiles import emulator, load_profile
from search.app import (
    SENSITIVITY,
    Search,
    is_time_to_count,
    outdone_baseline,
    poor_baseline,
    with_tier_of,
)
from search.deciding.storage import elapsed_s
from search.errors import InputError
from search.running.clock import OutOfTimeError
from search.training.augment import VIEWS
from search.training.step_clock import STEPS, Pace
from search.training.teacher import affordable, baseline_weights, teacher_views


class Clock:
    """Each look at it is a step later."""

    def __init__(self, step_s: float, first_s: float = 0.0) -> None:
        self.now_s = first_s
        self._step_s = step_s

    def __call__(self) -> float:
        self.now_s += self._step_s
        return self.now_s


def trained(pace: Pace, planned: int) -> int:
    """The steps that a training of so many makes."""
    done, total = 0, planned
    while done < total:
        done += 1
        total = pace(done, planned)
    return done


@pytest.mark.parametrize(
    ("until", "steps"),
    [(None, 100), (1e9, 100), (200.0, 100), (61.0, 30), (3.0, 2), (0.0, 1)],
)
def test_training_takes_as_many_two_second_steps_as_fit(until: float | None, steps: int) -> None:
    told: list[tuple[float, float]] = []
    pace = Pace(until, lambda *each: told.append(each), Clock(2.0))
    assert trained(pace, 100) == steps
    assert pace.share == steps / 100
    if steps > STEPS:
        assert told == [(pytest.approx(200), steps / 100)]


def test_training_takes_its_time_again_once_the_machine_is_free() -> None:
    clock = Clock(2.0)
    pace = Pace(120.0, lambda *_: None, clock)
    slow = [pace(step, 100) for step in range(1, 11)][-1]
    clock._step_s = 0.5
    assert slow == 60
    assert [pace(step, 100) for step in range(11, 41)][-1] > 80


def test_cut_baseline_is_kept_for_its_own_study_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path / "cache"))
    kept = tmp_path / "baseline.pt"

    def weights(until: float | None) -> tuple[object, float]:
        pace = Pace(until, lambda *_: None, Clock(1.0))
        found = baseline_weights(task_of(), 0, CPU, lambda _: None, pace, kept)
        return {name: value.tolist() for name, value in found.items()}, pace.share

    cut, share = weights(9.0)  # one step a second, of 15 epochs of 3
    assert share == pytest.approx(9 / 45)
    assert not (tmp_path / "cache" / "baselines").exists()
    assert weights(9.0) == (cut, share)
    assert weights(None) == (cut, share)  # a resumed search has to go on with it
    kept.unlink()
    whole, share = weights(None)
    assert share == 1
    assert whole != cut
    assert not kept.exists()
    assert weights(9.0) == (whole, 1)  # which is no training at all


@pytest.mark.parametrize(
    ("passes", "images", "views"),
    [(1e9, 160, VIEWS), (160 * 2.5, 160, 2), (160, 160, 1), (130, 130, 1), (0, 128, 1)],
)
def test_teacher_answers_what_there_is_time_for(passes: float, images: int, views: int) -> None:
    split, found = affordable(task_of(count=160).data.train, passes, 0)
    assert (len(split), found) == (images, views)
    counts = np.bincount(split.labels)
    assert counts.max() - counts.min() <= 1  # all classes, and each its share


def test_views_are_fewer_when_the_time_is_up() -> None:
    task, teacher = task_of(count=300), seeded(Residual)
    views = teacher_views(task, teacher, CPU, 0, until=0.0)
    assert views.images.shape == (1, 128, *IMAGE)
    assert views.logits.shape[:2] == (1, 128)
    assert len(views.labels) == 128
    same = {image.tobytes(): label for image, label in zip(*_of(task), strict=True)}
    for image, label in zip(views.images[0].numpy(), views.labels.tolist(), strict=True):
        assert same[image.tobytes()] == label


def _of(task: object) -> tuple[np.ndarray, list[int]]:
    train = task.data.train  # type: ignore[attr-defined]
    return train.images, train.labels.tolist()


@pytest.mark.parametrize(
    ("right", "warned"),
    [(lambda labels: labels, False), (lambda labels: np.zeros_like(labels), True)],
)
@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "f1"])
def test_baseline_that_learned_nothing_is_told(
    right: Callable[[np.ndarray], np.ndarray], warned: bool, metric: str
) -> None:
    labels = np.repeat([0, 0, 0, 1], 25)
    task = task_of()
    data = replace(task.data, train=replace(task.data.train, labels=labels[:160]))
    bench = SimpleNamespace(
        context=SimpleNamespace(labels=labels, confidence=0.95),
        task=replace(task, data=data, metric=metric),
    )
    found = poor_baseline(bench, right(labels))  # type: ignore[arg-type]
    assert bool(found) == warned
    if warned:
        assert "always answering 'a' has" in found[0]
        assert "--weights" in found[0]
    better = np.where(np.arange(100) == 80, 1, 0)  # one of 25 found: by chance, perhaps
    assert poor_baseline(bench, better)  # type: ignore[arg-type]


def test_resumed_search_prepares_in_a_share_of_what_is_left() -> None:
    storage = optuna.storages.InMemoryStorage()
    assert elapsed_s(storage, "cells") == 0
    study = optuna.create_study(storage=storage, study_name="cells")
    assert elapsed_s(storage, "cells") == 0
    for used_s in (100.0, 240.0):
        trial = optuna.trial.create_trial(value=1.0, user_attrs={"elapsed_s": used_s})
        study.add_trial(trial)
    assert elapsed_s(storage, "cells") == 240
    request = SimpleNamespace(budget_s=480.0)
    search = Search(request, *[None] * 3, began=1000.0)  # type: ignore[arg-type]
    assert search._until(0.5) == 1240
    search._spent_s = 240.0
    assert search._until(0.5) == 1120
    search._spent_s = 500.0
    assert search._until(0.5) == 1000
    search._spent_s, search._ready = 240.0, 1040.0  # forty seconds to load what it needs
    assert search._until(0.5) == 1140
    request.budget_s = None
    assert search._until(0.5) is None


@pytest.mark.parametrize(
    ("step_s", "looks"),
    [(1.0, 20), (11.9, 20), (12.5, 4), (300.0, 1)],
)
def test_sensitivity_that_cannot_end_in_time_is_given_up_early(
    monkeypatch: pytest.MonkeyPatch, step_s: float, looks: int
) -> None:
    """Twenty looks of so many seconds; 240 seconds of a budget of 400 are for preparing."""
    notes: list[str] = []
    progress = SimpleNamespace(stage=lambda *_: None, note=notes.append)
    request = SimpleNamespace(budget_s=400.0)
    search = Search(request, None, progress, None, began=0.0)  # type: ignore[arg-type]
    clock = Clock(step_s)
    monkeypatch.setattr("search.app.time.monotonic", lambda: clock.now_s)
    done = 0
    try:
        for done in range(1, 21):
            clock()
            search._preparing(SENSITIVITY, done / 20)
        assert notes == []
    except OutOfTimeError:
        assert notes == [
            "The budget leaves no time to look at the sensitivity: the sampler searches alone."
        ]
    assert done == looks


def test_baseline_that_a_compressed_model_outdoes_by_far_is_told() -> None:
    """By the bound, not by what was seen; and the best of all is named."""
    better, best = trial(1, -0.04, -0.02), trial(2, -0.05, -0.03)
    assert outdone_baseline([trial(0, -0.5, -0.5), better, trial(3, -0.05, -0.005)]) != []
    assert outdone_baseline([trial(3, -0.05, -0.005), trial(4, 0.0, 0.01)]) == []
    (told,) = outdone_baseline([better, best])
    assert "trial 2 seems better" in told
    assert "by at least 3\u00a0points" in told


def context_of(**changes: object) -> EvaluationContext:
    return EvaluationContext(
        profile=load_profile("raspberry-pi-4b"),
        images=np.zeros((0, 3, 8, 8), np.float32),
        labels=np.zeros(0, np.int64),
        scratch=Path(),
        **changes,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("macs", "time_s", "counted"),
    [(1.8e9, None, True), (1.8e9, 60.0, False), (1.8e9, 900.0, True), (36e6, 60.0, True)],
)
def test_counting_takes_at_most_a_twentieth_of_the_time(
    macs: float, time_s: float | None, counted: bool
) -> None:
    """Twenty nanoseconds a multiply-accumulate: 36 s for ResNet18 at 224 pixels."""
    assert is_time_to_count(macs, time_s) == counted


@pytest.mark.parametrize("now", [True, False])
def test_resumed_search_takes_latency_from_where_it_did(
    now: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "find", lambda: None)
    context = context_of(counted=now)
    assert with_tier_of(context, None) == context
    for before in ("analytic", "emulated"):
        latency = Measurement("latency_ms", 3.0, "ms", "estimated", "", detail={"tier": before})
        untouched = replace(trial(0, 0.0), evaluation=Evaluation.of([latency]))
        assert tier(with_tier_of(context, untouched)) == before

    def missing() -> None:
        raise emulator.EmulatorError("the emulator is not installed")

    monkeypatch.setattr(emulator, "find", missing)
    with pytest.raises(InputError, match="emulator install"):
        with_tier_of(context, untouched)
