"""How fast searches find the front: ours, Optuna's samplers alone, and uniform pruning.

    python benchmarks/search_efficiency.py           # replayed from recorded plans: 20 minutes
    python benchmarks/search_efficiency.py --live    # and trained on digits: 25 minutes more

Replayed: every search runs for real, but what a plan shows at a rung comes from
benchmarks/data/*.jsonl (benchmarks/record.py made them); for a plan that is not in there the drop
is a surrogate's, whose held-out error is printed, and the latency always the cost function's.
All searches begin with the same simple plans, which count. The hypervolume is that of the drop
(up to 10 points) and the logarithm of the latency (up to the untouched model's), as a share of
what all plans that were ever seen dominate together.

Exits 1 when ours does not reach in 20 trials what plain TPE reaches in 60 (median over seeds).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import optuna
import torch
from record import TARGETS, open_bench, run_rung, uniform_plans
from recorded import FOLDER, Header, Recorded, at_least_one, load
from surrogate import TREES, Surrogate

from evaluators import Evaluation, Measurement
from search.deciding.baselines import simple_plans
from search.deciding.forecast import Experience
from search.deciding.pareto import hypervolume
from search.deciding.proposals import Proposer
from search.deciding.rungs import RUNGS
from search.deciding.sensitivity import Sensitivity
from search.deciding.study import Model, Study
from search.limits import Limits
from search.publishing.tracker import NullTracker
from search.running.backends.inline import InlineBackend
from search.running.clock import Clock
from search.running.driver import Driver
from search.telling.progress import NullProgress
from search.training.job import Job, Outcome
from search.trial import Trial
from spaces import CompressionPlan
from spaces.space import SearchSpace

SHORT, LONG = 20, 60
# The model's plans beside those of a sampler, of which the first is the default; samplers alone.
REPLAYED = ("ours+tpe", "ours+gp", "ours+nsga2", "tpe", "nsga2", "gp", "random")
LIVE = ("ours+tpe", "tpe")
LIMITS = Limits(0.03)
DROP_AT_MOST = 0.10
LIVE_SEEDS = 3
# The drop at a rung and the CPU seconds that finding it took; rungs below were paid before.
Look = Callable[[CompressionPlan, int], tuple[float, float]]


@dataclass
class Course:
    """What one search saw: (drop, latency_ms, seconds so far) after each trial."""

    points: list[tuple[float, float, float]] = field(default_factory=list)

    def volume(
        self, untouched_ms: float, trials: int | None = None, seconds: float = math.inf
    ) -> float:
        """Hypervolume after so many trials, or so many seconds."""
        seen = [p for p in self.points[:trials] if p[2] <= seconds]
        losses = [(max(drop, 0.0), math.log(ms)) for drop, ms, _ in seen]
        # The latency's unit doesn't matter: it is measured down from the untouched model's.
        return hypervolume(np.array(losses).reshape(-1, 2), (DROP_AT_MOST, math.log(untouched_ms)))


class Bench:
    """Runs searches on one network, whose plans are looked at through ``look``."""

    def __init__(
        self, space: SearchSpace, sensitivity: Sensitivity, look: Look, accuracy: float
    ) -> None:
        self.space = space
        self._sensitivity = sensitivity
        self._find = look
        self._accuracy = accuracy
        self._idle_since = process_time()
        self.untouched_ms = self.latency_ms(CompressionPlan())

    def _look(self, plan: CompressionPlan, rung: int) -> tuple[float, float]:
        """The drop and its price, to which what the search itself took since is added."""
        own_s = process_time() - self._idle_since
        drop, rung_s = self._find(plan, rung) if plan.settings else (0.0, 0.0)
        self._idle_since = process_time()
        return drop, rung_s + own_s

    def latency_ms(self, plan: CompressionPlan) -> float:
        """The cost function's."""
        return self.space.table(plan).latency_ms(self.space.profile)

    def uniform(self) -> Course:
        """The whole grid of uniform pruning, the strongest first."""
        course, spent_s = Course(), 0.0
        for plan, _ in uniform_plans(self.space):
            for rung in range(len(RUNGS)):
                drop, rung_s = self._look(plan, rung)
                spent_s += rung_s
            course.points.append((drop, self.latency_ms(plan), spent_s))
        return course

    def search(self, method: str, trials: int, seed: int) -> Course:
        """``ours+SAMPLER``, with model and rungs; or a sampler alone, every plan in full."""
        self._idle_since = process_time()
        model, _, sampler = method.rpartition("+")
        return self._ours(sampler, trials, seed) if model else self._sampled(method, trials, seed)

    def _sampled(self, sampler: str, trials: int, seed: int) -> Course:
        study, course, spent_s = self._study(sampler, seed), Course(), 0.0
        while len(course.points) < trials:
            ask = study.ask()
            known = study.known(ask)
            if known is not None:
                study.repeat(ask, known)
                continue
            for rung in range(len(RUNGS)):
                drop, rung_s = self._look(ask.plan, rung)
                spent_s += rung_s
            evaluation, violations = self._evaluation(drop, ask.plan), self._violations(drop)
            number = len(course.points)
            trial = Trial(number, ask.plan, "complete", ask.origin, evaluation, violations)
            study.tell(ask, trial, 0.0)
            course.points.append((drop, self.latency_ms(ask.plan), spent_s))
        return course

    def _ours(self, sampler: str, trials: int, seed: int) -> Course:
        proposer = Proposer(self.space, self._sensitivity, LIMITS)
        study, course, spent_s = self._study(sampler, seed, proposer.next), Course(), 0.0

        def runner(ticket: int, job: Job) -> Outcome:
            nonlocal spent_s
            last = next(n for n, r in enumerate(RUNGS) if math.isclose(r.share, job.epochs))
            # What was looked at in the rung before is not paid for again.
            for rung in range(last if job.checkpoint else 0, last + 1):
                drop, rung_s = self._look(job.plan, rung)
                spent_s += rung_s
            evaluation = self._evaluation(drop, job.plan)
            checkpoint = Path(job.plan.plan_id)
            return Outcome(evaluation, self._violations(drop), {}, None, None, checkpoint)

        class Watch(NullProgress):
            def trial(self, trial: Trial) -> None:
                assert trial.evaluation is not None
                drop, ms = (trial.evaluation.value(name) for name in ("drop", "latency_ms"))
                course.points.append((drop, ms, spent_s))

        Driver(
            study,
            InlineBackend(runner),
            lambda plan, rung, checkpoint: Job(plan, RUNGS[rung].share, True, checkpoint),
            Clock(None, 0.0, 0.0),
            trials,
            Watch(),
            NullTracker(),
            Path(),
            LIMITS.max_drop,
            Experience(lambda plan: self.space.table(plan).macs),
        ).run()
        return course

    def _study(self, sampler: str, seed: int, model: Model | None = None) -> Study:
        storage = optuna.storages.InMemoryStorage()
        study = Study(
            self.space,
            storage,
            "replay",
            metric="accuracy",
            sampler=sampler,
            seed=seed,
            model=model,
        )
        study.propose(simple_plans(self.space))
        return study

    def _violations(self, drop: float) -> dict[str, float]:
        return {"drop": drop - LIMITS.max_drop}

    def _evaluation(self, drop: float, plan: CompressionPlan) -> Evaluation:
        values = {
            "drop": drop,
            "accuracy": self._accuracy - drop,
            "latency_ms": self.latency_ms(plan),
        }
        return Evaluation.of(
            Measurement(name, value, "", "estimated", "replayed") for name, value in values.items()
        )


def replayed(
    header: Header, rows: Sequence[Recorded], trees: int = TREES
) -> tuple[Bench, Surrogate]:
    """A bench on a recorded table, and what guesses the drops that are not in it."""
    surrogate = Surrogate(header, rows, trees)
    known = {row.plan.plan_id: row for row in rows}

    @cache
    def guess(plan: CompressionPlan) -> tuple[dict[str, float], dict[str, float]]:
        row = known.get(plan.plan_id)
        if row is not None:
            return dict(row.drops), dict(row.seconds)
        return surrogate.drops(plan), surrogate.seconds(plan)

    def look(plan: CompressionPlan, rung: int) -> tuple[float, float]:
        drops, seconds = guess(plan)
        return drops[RUNGS[rung].name], seconds[RUNGS[rung].name]

    return Bench(header.space, header.sensitivity, look, header.baseline_accuracy), surrogate


def live(scratch: Path) -> Bench:
    """A bench that trains on digits; what it trained once it doesn't train again."""
    bench, prepared, accuracy = open_bench(TARGETS["digits"], None, scratch)
    assert prepared.sensitivity is not None
    checkpoints: dict[CompressionPlan, Path | None] = {}

    @cache
    def look(plan: CompressionPlan, rung: int) -> tuple[float, float]:
        drop, spent_s, kept = run_rung(plan, RUNGS[rung], checkpoints.get(plan), bench)
        checkpoints[plan] = kept
        return drop, spent_s

    return Bench(prepared.space, prepared.sensitivity, look, accuracy)


def compare(
    bench: Bench, methods: Sequence[str], seeds: int, short: int, long: int
) -> dict[str, object]:
    """Prints a table and returns its figures: medians over the seeds.

    The first of the ``methods`` is held against the others; plain TPE is one of them.
    """
    uniform = bench.uniform()
    courses = {
        method: [bench.search(method, long, seed) for seed in range(seeds)] for method in methods
    }
    everything = [p for c in (uniform, *itertools.chain(*courses.values())) for p in c.points]
    whole = Course(everything).volume(bench.untouched_ms)
    spent_s = median(c.points[short - 1][2] for c in courses[methods[0]])
    shares: dict[str, dict[str, float]] = {}
    for method, found in {**courses, "uniform": [uniform]}.items():
        at = {
            f"{short} trials": {"trials": short},
            f"{long} trials": {"trials": long},
            f"{spent_s:.0f} s": {"seconds": spent_s},
        }
        shares[method] = {
            name: median(c.volume(bench.untouched_ms, **limit) for c in found) / whole
            for name, limit in at.items()
        }
    names = list(shares[methods[0]])
    print(f"{'':<12}" + "".join(f"{name:>14}" for name in names))
    for method, row in shares.items():
        print(f"{method:<12}" + "".join(f"{row[name]:14.1%}" for name in names))
    reference = median(c.volume(bench.untouched_ms, long) for c in courses["tpe"])
    reached = [
        next((n for n in range(1, long + 1) if c.volume(bench.untouched_ms, n) >= reference), None)
        for c in courses[methods[0]]
    ]
    print(f"what plain TPE reaches in {long} trials, ours reaches in {reached}")
    ours = median(c.volume(bench.untouched_ms, short) for c in courses[methods[0]])
    return {"shares": shares, "reached_in": reached, "holds": ours >= reference}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=at_least_one, default=5, help="of replays (default 5)")
    parser.add_argument("--live", action="store_true", help="train on digits, too")
    parser.add_argument("--table", choices=sorted(TARGETS), help="only this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    figures: dict[str, object] = {}
    holds = True
    for name in [args.table] if args.table else sorted(TARGETS):
        bench, surrogate = replayed(*load(FOLDER / f"{name}.jsonl"))
        error = {rung: round(each, 4) for rung, each in surrogate.held_out_error().items()}
        said = {"plans": surrogate.plans, "surrogate_error": error}
        print(f"\n{name}, replayed from {said}, {args.seeds} seeds")
        found = compare(bench, REPLAYED, args.seeds, SHORT, LONG)
        figures[name] = said | found
        holds = holds and bool(found["holds"])
    if args.live:
        print(f"\ndigits, trained, {LIVE_SEEDS} seeds")
        with tempfile.TemporaryDirectory() as scratch:
            figures["live"] = compare(live(Path(scratch)), LIVE, LIVE_SEEDS, SHORT, SHORT)
    print(json.dumps(figures))
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
