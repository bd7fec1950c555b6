"""Why the winner: each choice reverted alone."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from benches import a_bench
from fakes import FakeTime, space_of
from test_infeasible import sensitivity

from evaluators import Evaluation, Measurement
from search.concluding.attribution import Reexport, estimator, reverts, savings
from search.deciding.allocation import Allocator
from search.deciding.correction import Correction, correct, losses_of
from search.training.job import Job, Workbench, run_job
from search.trial import Trial
from spaces import CompressionPlan
from spaces.techniques import pruning

SPACE = space_of()
STEM = SPACE.network.groups[0].name
OTHER = SPACE.network.groups[1].name
LAYER = SPACE.network.groups[1].layers[0]
BLOCK = SPACE.network.blocks[-1]
KEPT = {STEM: 8, OTHER: 8}
PLAN = CompressionPlan(
    {
        "pruning": {"kept": KEPT},
        "quantization": {"bits": {LAYER: 8}},
        "depth": {"removed": [BLOCK]},
    }
)


def test_each_choice_is_reverted_alone() -> None:
    found = {r.choice: (r.technique, dict(r.plan.settings)) for r in reverts(PLAN, SPACE)}
    pruning, quantization = {"kept": KEPT}, {"bits": {LAYER: 8}}
    depth = {"removed": [BLOCK]}
    assert found == {
        f"{BLOCK}: left out": (
            "depth",
            {"pruning": pruning, "quantization": quantization},
        ),
        f"{STEM}: 8 of 16 channels": (
            "pruning",
            {"depth": depth, "pruning": {"kept": {OTHER: 8}}, "quantization": quantization},
        ),
        f"{OTHER}: 8 of 16 channels": (
            "pruning",
            {"depth": depth, "pruning": {"kept": {STEM: 8}}, "quantization": quantization},
        ),
        f"{LAYER}: int8": ("quantization", {"depth": depth, "pruning": pruning}),
    }


def test_savings_are_differences_of_the_table_and_costs_of_the_drops() -> None:
    drops = {r.plan: 0.01 * n for n, r in enumerate(reverts(PLAN, SPACE), 1)}
    measured: list[CompressionPlan] = []

    def measure(plan: CompressionPlan) -> float:
        measured.append(plan)
        return 0.05 if plan == PLAN else 0.045

    found = savings(PLAN, SPACE, lambda plan, other: 0.06 - drops[other], measure)
    by_choice = {s.choice: s for s in found}
    assert len(by_choice) == len(found) == 4
    own = SPACE.table(PLAN)
    for number, reverted in enumerate(reverts(PLAN, SPACE), 1):
        table, saving = SPACE.table(reverted.plan), by_choice[reverted.choice]
        saved_ms = table.latency_ms(SPACE.profile) - own.latency_ms(SPACE.profile)
        assert saving.saves_ms == pytest.approx(saved_ms)
        assert saving.saves_bytes == table.weight_bytes - own.weight_bytes
        if reverted.technique == "quantization":
            assert (saving.costs, saving.source) == (pytest.approx(0.005), "measured")
        else:
            assert saving.costs == pytest.approx(0.06 - 0.01 * number)
            assert saving.source == "estimated"
    assert [s.saves_ms for s in found] == sorted((s.saves_ms for s in found), reverse=True)
    assert measured[0] == PLAN
    assert len(measured) == 2


def test_bytes_of_one_int8_layer_are_three_quarters_of_its_weights() -> None:
    plan = CompressionPlan({"quantization": {"bits": {LAYER: 8}}})
    (saving,) = savings(plan, SPACE, lambda plan, other: None, lambda plan: None)
    weights = next(la.shape.weights for la in SPACE.network.layers if la.name == LAYER)
    assert saving.saves_bytes == 3 * weights
    assert (saving.costs, saving.source) == (None, None)


def test_what_there_is_no_time_to_measure_is_estimated() -> None:
    found = savings(PLAN, SPACE, lambda plan, other: 0.1, lambda plan: None)
    assert {(s.costs, s.source) for s in found} == {(0.1, "estimated")}


def finished(number: int, plan: CompressionPlan, drop: float, rung: str = "full") -> Trial:
    figure = Measurement("drop", drop, "", "measured", "made up")
    return Trial(number, plan, "complete", "warm", Evaluation.of([figure]), rung=rung)


def corrected(trials: Sequence[Trial]) -> Correction | None:
    allocator = Allocator(SPACE, sensitivity())
    return correct(allocator, trials)


def narrowed(kept: Mapping[str, int]) -> CompressionPlan:
    return CompressionPlan({"pruning": {"kept": dict(kept)}})


def test_correction_gives_more_weight_to_what_was_seen_to_hurt() -> None:
    trials = [finished(n, narrowed({STEM: 8}), 0.10) for n in range(3)]
    trials += [finished(n, narrowed({OTHER: 8}), 0.01) for n in range(3, 6)]
    found = corrected(trials)
    untrained = [finished(n, narrowed({OTHER: 8}), 0.90, "recalibrated") for n in range(6, 9)]
    assert corrected([*trials, *untrained]) == found
    assert found is not None
    assert found.weights[STEM] > 1 > found.weights[OTHER]
    estimate = estimator(SPACE, sensitivity(), tuple(trials))
    untouched = CompressionPlan()
    hurts = estimate(narrowed({STEM: 8}), untouched)
    harmless = estimate(narrowed({OTHER: 8}), untouched)
    assert hurts is not None
    assert harmless is not None
    assert abs(hurts - 0.10) < 0.02
    assert abs(harmless - 0.01) < 0.02
    assert estimate(untouched, narrowed({OTHER: 8})) == -harmless


def test_units_that_no_trial_tells_apart_stay_near_equal_weights() -> None:
    """Both were always narrowed together, so that any weights with one sum explain the drops."""
    trials = [
        finished(n, narrowed({STEM: 8, OTHER: 8}), drop) for n, drop in enumerate((0.1, 0.3))
    ]
    trials += [finished(n, CompressionPlan({"depth": {"removed": [BLOCK]}}), 0.2) for n in (2, 3)]
    found = corrected(trials)
    assert found is not None
    assert found.weights[STEM] == pytest.approx(found.weights[OTHER])
    assert all(0.5 < weight < 2 for weight in found.weights.values())


@pytest.mark.parametrize(
    "foreign",
    [
        {"theirs": {"strength": 3}},  # of another's technique
        {"resolution": {"size": "8x8"}},  # at which nobody looked beforehand
        {"distillation": {"temperature": 2.0}},
        {"pruning": {"kept": {STEM: 8}, "steps": 2}},
    ],
)
def test_foreign_settings_are_not_blamed_on_widths_and_bits(foreign: dict[str, Any]) -> None:
    trials = [finished(n, narrowed({STEM: 8}), 0.014) for n in range(5)]
    others = [
        finished(n, CompressionPlan({**narrowed({STEM: 8}).settings, **foreign}), 0.214)
        for n in range(5, 10)
    ]
    found = corrected([*trials, *others])
    assert found is not None
    assert found == corrected(trials)
    allocator = Allocator(SPACE, sensitivity())
    losses = losses_of(narrowed({STEM: 8}), allocator.units, sensitivity().bits)
    assert found.drop(losses) == pytest.approx(0.014)
    # Nor does the model say what they cost.
    estimate = estimator(SPACE, sensitivity(), tuple(trials))
    assert estimate(others[0].plan, trials[0].plan) is None
    both = CompressionPlan({**others[0].plan.settings, "quantization": {"bits": {LAYER: 8}}})
    assert estimate(both, others[0].plan) == pytest.approx(
        estimate(CompressionPlan({"quantization": {"bits": {LAYER: 8}}}), CompressionPlan())
    )


def test_nothing_is_estimated_from_too_little() -> None:
    trials = tuple(finished(n, narrowed({STEM: 8}), 0.1) for n in range(2))
    assert corrected(trials) is None
    assert estimator(SPACE, sensitivity(), trials)(PLAN, CompressionPlan()) is None
    assert estimator(SPACE, None, trials)(PLAN, CompressionPlan()) is None


def test_where_nothing_was_lost_no_choice_costs_anything() -> None:
    trials = tuple(finished(n, PLAN, -0.001 * n) for n in range(3))
    estimate = estimator(SPACE, sensitivity(), trials)
    assert estimate(PLAN, CompressionPlan()) == 0.0


def test_losses_of_a_plan_are_those_of_its_choices() -> None:
    """Half of a group: 0.1, and half of the median loss (0.1) for the halving."""
    units = Allocator(SPACE, sensitivity()).units
    losses = losses_of(PLAN, units, sensitivity().bits)
    expected = dict.fromkeys((unit.name for unit in units), 0.0)
    expected |= {STEM: 0.15, OTHER: 0.15 + 0.01, BLOCK: 0.2 + 0.05}
    assert losses == pytest.approx(expected)
    correction = Correction(2.0, dict.fromkeys(losses, 0.5))
    assert correction.drop(losses) == pytest.approx(0.15 + 0.16 + 0.25)


def job_of(bench: Workbench) -> tuple[Job, str, str]:
    """Half of the channels, and two layers in int8."""
    kept = pruning.uniform(bench.network, bench.context.profile, 0.5)
    first, second = (layer.name for layer in bench.network.layers[:2])
    setting = {"bits": {first: 8, second: 8}}
    return Job(CompressionPlan({"pruning": kept, "quantization": setting}), 0.25), first, second


def test_trained_weights_are_evaluated_again_with_one_layer_in_float(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    job, first, second = job_of(bench)
    outcome = run_job(job, bench, lambda stage, done: None)
    assert outcome.model is not None
    trial = Trial(
        1,
        job.plan,
        "complete",
        "warm",
        outcome.evaluation,
        stages=outcome.stages,
        model=outcome.model.relative_to(tmp_path),
    )
    kept = outcome.model.read_bytes()
    with contextlib.closing(Reexport(trial, bench, tmp_path, 60.0)) as measure:
        assert measure(trial.plan) == outcome.evaluation.value("drop")
        again = tmp_path / "reverted" / trial.plan.plan_id / "model.onnx"
        assert again.read_bytes() == kept
        settings = dict(trial.plan.settings)
        less = CompressionPlan({**settings, "quantization": {"bits": {first: 8}}})
        assert measure(less) is not None
        file = onnx.load(tmp_path / "reverted" / less.plan_id / "model.onnx")
        made_by = {name: node.op_type for node in file.graph.node for name in node.output}
        layers = [node for node in file.graph.node if node.name in (first, second)]
        weights = {node.name: made_by.get(node.input[1]) for node in layers}
        assert weights[first] == "DequantizeLinear"
        assert weights[second] is None
    assert not (tmp_path / "reverted").exists()
    assert outcome.model.read_bytes() == kept


def test_nothing_is_measured_beyond_the_time_or_without_weights(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    job, *_ = job_of(bench)
    folder = tmp_path / "plans" / job.plan.plan_id
    model = (folder / "model.onnx").relative_to(tmp_path)
    trial = Trial(1, job.plan, "complete", "warm", stages={"build": 2.0}, model=model)
    assert Reexport(trial, bench, tmp_path, 60.0)(job.plan) is None  # no weights
    outcome = run_job(job, bench, lambda stage, done: None)
    assert outcome.model == folder / "model.onnx"
    time = FakeTime()
    measure = Reexport(trial, bench, tmp_path, 5.0, time)
    assert Reexport(trial, bench, tmp_path, 1.0, time)(job.plan) is None  # to build takes longer
    assert measure(job.plan) is not None
    time.now_s += 4.9
    assert measure(job.plan) is not None
    time.now_s += 0.2
    assert measure(job.plan) is None
