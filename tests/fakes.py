"""A search without training: outcomes by a simple law, time that is told, jobs that are faked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from networks import IMAGE, NETWORKS, seeded

from evaluators import Evaluation, Measurement
from hardware_profiles import load_profile
from search.limits import Limits
from search.running.backends import Finished
from search.training.job import Job, Outcome
from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.tracing.network import trace

BASELINE_ACCURACY = 0.95


@cache
def space_of(name: str = "residual") -> SearchSpace:
    """The space of one of the test networks on a Raspberry Pi 4B."""
    return SearchSpace.of(trace(seeded(NETWORKS[name]), IMAGE), load_profile("raspberry-pi-4b"))


def macs_of(space: SearchSpace) -> Callable[[CompressionPlan], float]:
    """Multiply-accumulates of the space's plans."""
    return lambda plan: space.table(plan).macs


def figures(plan: CompressionPlan, space: SearchSpace | None = None) -> Evaluation:
    """Accuracy falls with the share of weights left out and a little with every int8 layer."""
    space = space or space_of()
    table, whole = space.table(plan), space.table(CompressionPlan())
    lost = 1 - table.parameters / whole.parameters
    narrow = sum(row.bits == 8 for row in table.rows if row.layer)
    drop = 0.08 * lost**2 + 0.001 * narrow
    return Evaluation.of(
        [
            _figure("accuracy", BASELINE_ACCURACY - drop, ""),
            _figure("drop", drop, ""),
            _figure("latency_ms", table.latency_ms(space.profile), "ms"),
            _figure("size_bytes", table.weight_bytes, "bytes"),
        ]
    )


def _figure(name: str, value: float, unit: str) -> Measurement:
    return Measurement(name, value, unit, "estimated", "the law of a fake")


@dataclass
class FakeTime:
    """A clock that goes on when it is told to."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeBackend:
    """Gives the law's outcome of every job; a job takes ``job_s`` of the fake time.

    Where it is ``paced``, that is what an epoch takes, and all else a tenth of it.

    ``errors`` maps a ticket to what its job raises. ``before`` is called before each job and
    may raise, as an interruption does. With ``noise`` drops have a bound so far above them, and
    with ``seeds`` they vary by as much from training to training.
    """

    limits: Limits
    time: FakeTime = field(default_factory=FakeTime)
    job_s: float = 1.0
    errors: Mapping[int, str] = field(default_factory=dict)
    before: Callable[[int, Job], None] = lambda ticket, job: None
    folder: Path = Path("study")
    workers: int = 1
    paced: bool = False
    noise: float | None = None
    seeds: float = 0.0
    jobs: list[tuple[int, Job]] = field(default_factory=list)
    _waiting: list[tuple[int, Job]] = field(default_factory=list)

    def submit(self, ticket: int, job: Job) -> None:
        assert len(self._waiting) < self.workers
        self._waiting.append((ticket, job))

    def next(self) -> Finished:
        ticket, job = self._waiting.pop(0)
        self.jobs.append((ticket, job))
        self.before(ticket, job)
        self.time.now_s += self.job_s * (job.epochs + 0.1 if self.paced else 1.0)
        if ticket in self.errors:
            return Finished(ticket, None, self.errors[ticket])
        return Finished(ticket, self._varied(job, outcome(job.plan, self.limits, self.folder)))

    def _varied(self, job: Job, found: Outcome) -> Outcome:
        if self.paced and found.reason is None:
            stages = {"train": self.job_s * job.epochs, "evaluate": 0.1 * self.job_s}
            found = replace(found, stages=stages)
        if self.noise is None or "drop" not in found.evaluation:
            return found
        luck = int(hashlib.sha256(job.folder.encode()).hexdigest()[:8], 16) / 2**32
        drop = found.evaluation.value("drop") + self.seeds * (2 * luck - 1)
        varied = Evaluation.of(
            [_figure("drop", drop, ""), _figure("drop_bound", drop + self.noise, "")]
        )
        assert found.model is not None
        return replace(
            found,
            evaluation=found.evaluation.merged(varied),
            violations={**found.violations, "drop": drop - self.limits.max_drop},
            model=found.model.parent.with_name(job.folder) / found.model.name,
        )

    def close(self) -> None:
        self._waiting.clear()


def outcome(plan: CompressionPlan, limits: Limits, folder: Path) -> Outcome:
    """What a worker would say: rejected when a stated limit but for the drop is broken."""
    evaluation, profile = figures(plan), space_of().profile
    violations = limits.violations(evaluation, profile)
    broken = {n: v for n, v in violations.items() if n != "drop" and v > 0}
    if broken:
        facts = {n: m for n, m in evaluation.measurements.items() if n not in ("accuracy", "drop")}
        facts_violations = {n: v for n, v in violations.items() if n != "drop"}
        reason = f"{next(iter(broken))} is over its limit"
        return Outcome(Evaluation(facts), facts_violations, {"facts": 0.1}, None, reason)
    model = folder / "plans" / plan.plan_id / "model.onnx"
    checkpoint = model.with_name("weights.pt")
    return Outcome(
        evaluation, violations, {"train": 0.9, "evaluate": 0.1}, model, checkpoint=checkpoint
    )
