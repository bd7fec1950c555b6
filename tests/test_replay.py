"""Searches replayed from plans that were trained once: ``benchmarks/data`` has what they showed.

Nothing is trained here. The hypervolume alone forgives much: a search that allocates or aims worse
still ends near the front. So what is decided on the way is held against the recorded plans, too.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median

import optuna
import pytest

from evaluators import Evaluation, Measurement
from search.deciding.allocation import Allocator
from search.deciding.correction import correct, losses_of
from search.deciding.proposals import Proposer
from search.limits import Limits
from search.trial import Trial
from spaces import CompressionPlan

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from recorded import FOLDER, Recorded, load
from search_efficiency import replayed

# What all searches of benchmarks/search_efficiency.py dominate together, rounded up.
WHOLE = {"digits": 0.5412, "elpv": 0.4304}
TABLES = sorted(WHOLE)
HURT = {"digits": "layer2.0.conv2", "elpv": "layer4.0.conv1"}  # units that can do without
TRIALS, TREES, ROWS = 20, 20, 28


class Table:
    """A recorded table, a bench to search on, and the model of its network."""

    def __init__(self, name: str) -> None:
        header, rows = load(FOLDER / f"{name}.jsonl")
        self.bench, _ = replayed(header, rows, TREES)
        self.space, self.sensitivity = header.space, header.sensitivity
        self.model = Allocator(self.space, self.sensitivity)
        # Some of the plans that the model could have made.
        random.Random(0).shuffle(rows)
        self.rows = list(itertools.islice((r for r in rows if self.could_make(r.plan)), ROWS))

    def could_make(self, plan: CompressionPlan) -> bool:
        if not plan.settings or self.model.foreign(plan):
            return False
        return self.model.plan(self.model.assignment(plan)) == plan

    def latency_ms(self, plan: CompressionPlan) -> float:
        return self.space.table(plan).latency_ms(self.space.profile)

    def trial(
        self, number: int, plan: CompressionPlan, drop: float, excess: float, origin: str
    ) -> Trial:
        figures = {"drop": drop, "latency_ms": self.latency_ms(plan)}
        evaluation = Evaluation.of(
            Measurement(name, value, "", "measured", "recorded") for name, value in figures.items()
        )
        violations = {"drop": excess}
        return Trial(number, plan, "complete", origin, evaluation, violations, rung="full")

    def history(self, rows: list[Recorded], limit: float = 0.03) -> list[Trial]:
        """The untouched model, and the rows as the first of the model's proposals."""
        found = [self.trial(0, CompressionPlan(), 0.0, -limit, "baseline:fp32")]
        for number, row in enumerate(rows, 1):
            drop = row.drops["full"]
            origin = "warm" if number < 5 else "sampler:tpe"
            found.append(self.trial(number, row.plan, drop, drop - limit, origin))
        return found


table = cache(Table)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.mark.parametrize("name", TABLES)
def test_twenty_trials_find_the_front(name: str) -> None:
    bench = table(name).bench
    course = bench.search("ours+tpe", TRIALS, seed=0)
    assert len(course.points) == TRIALS
    share = course.volume(bench.untouched_ms) / WHOLE[name]
    assert 0.99 <= share <= 1.001


def test_allocation_loses_no_more_than_recorded_plans_that_are_as_fast() -> None:
    """By the model; a few of the recorded plans are the better ones."""
    better = []
    for name in TABLES:
        model = table(name).model
        for row in table(name).rows[:5]:
            given = model.assignment(row.plan)
            found = model.solve(model.latency_ms(given) * (1 + 1e-9))
            better.append(model.loss(found) <= model.loss(given) * (1 + 1e-9))
    assert sum(better) >= 0.8 * len(better)


@pytest.mark.parametrize("name", TABLES)
def test_correction_forecasts_recorded_drops_without_wild_weights(name: str) -> None:
    here = table(name)
    for seed in range(4):
        rows = random.Random(seed).sample(here.rows, len(here.rows))
        learned, others = rows[:12], rows[12:]
        found = correct(here.model, here.history(learned))
        assert found is not None
        assert max(found.weights.values()) < 3
        errors = []
        for row in others:
            losses = losses_of(row.plan, here.model.units, here.sensitivity.bits)
            errors.append(abs(found.drop(losses) - max(row.drops["full"], 0.0)))
        assert median(errors) < 0.01


@pytest.mark.parametrize("name", TABLES)
def test_gap_between_recorded_plans_is_halved(name: str) -> None:
    """Between the fastest that meets the limit and the slowest that doesn't, far below it."""
    here = table(name)
    rows = sorted(here.rows, key=lambda row: here.latency_ms(row.plan))
    for below, above in ((2, 14), (6, 20), (3, 24)):
        limit = 0.01
        slow = [replace(row, drops={"full": 0.0}) for row in rows[above : above + 3]]
        fast = replace(rows[below], drops={"full": 0.1})
        low_ms, high_ms = (here.latency_ms(row.plan) for row in (fast, slow[0]))
        assert high_ms > 1.4 * low_ms
        found = Proposer(here.space, here.sensitivity, Limits(limit)).next(
            here.history([*slow, fast], limit)
        )
        assert found is not None
        aim_ms = math.sqrt(low_ms * high_ms)
        assert here.latency_ms(found[0]) == pytest.approx(aim_ms, rel=0.1)


@pytest.mark.parametrize("name", TABLES)
def test_unit_that_is_seen_to_hurt_is_spared(name: str) -> None:
    """The same recorded plans, limits and latencies; what was lost is one unit's doing alone."""
    here = table(name)
    rows, untouched_ms = here.rows[:16], here.latency_ms(CompressionPlan())

    def lost(plan: CompressionPlan, unit: str) -> float:
        return losses_of(plan, here.model.units, here.sensitivity.bits)[unit]

    def next_where(unit: str) -> CompressionPlan:
        scale = 0.2 / max(lost(row.plan, unit) for row in rows)
        drops = [{"full": scale * lost(row.plan, unit)} for row in rows]
        trials = [
            replace(t, violations={"drop": 0.02 * untouched_ms - here.latency_ms(t.plan)})
            for t in here.history([replace(r, drops=d) for r, d in zip(rows, drops, strict=True)])
        ]
        found = Proposer(here.space, here.sensitivity, Limits(0.03)).next(trials)
        assert found is not None
        return found[0]

    one, other = HURT[name], "conv1"
    assert lost(next_where(one), one) < lost(next_where(other), one)
