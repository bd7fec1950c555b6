"""How a search scales: real workers on two cores, and hundreds of simulated ones.

real       trials per hour of 1 and 2 local workers, one thread each, on equally large plans with
           full training (ResNet18 on the digits, estimated latency): at least 1.8 times as many.
simulated  8, 64 and 256 workers whose trials sleep for 10 s, in a study of about 5,000 trials with
           the default sampler, SQLite and MLflow: the driver keeps at least 95 % of them busy.
asks       what an ask and a tell cost in that study, part by part: at most 35 ms together.

Takes about 9 minutes on two cores that are otherwise idle (6, 3 and 1). Exits 1 when a bound is
missed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import torch

from evaluators import Evaluation, Measurement
from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import load_profile
from search.app import Request, prepare
from search.deciding.forecast import Experience
from search.deciding.proposals import Proposer
from search.deciding.rungs import RUNGS, Seen, share_of
from search.deciding.sensitivity import Sensitivity
from search.deciding.storage import sqlite_storage
from search.deciding.study import Ask, Study
from search.inputs.loading import load_task
from search.limits import Limits
from search.publishing.mlflow import MlflowTracker
from search.publishing.tracker import NullTracker
from search.running.backends import Finished, Resources
from search.running.backends.finding import find_backend
from search.running.clock import Clock
from search.running.driver import Driver
from search.running.study_folder import open_folder
from search.sqlite_url import sqlite_url
from search.telling.progress import NullProgress
from search.training.job import Job, Outcome, Workbench, run_job
from search.trial import Trial
from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.techniques import pruning
from spaces.tracing.network import trace

LEAST_SPEEDUP, LEAST_BUSY, MOST_MS = 1.8, 0.95, 35.0
REAL_TRIALS = 10
WORKERS = (8, 64, 256)
TRIAL_S, WATCHED_S = 10.0, 35.0
FILL_S = 30.0  # for all workers to have begun; then it is watched as it is
STUDY_TRIALS = 4700  # before the simulated workers add theirs
QUESTIONS = 80
LIMITS = Limits(0.03)
Figures = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("real", "simulated", "asks"), help="one of the parts")
    only = parser.parse_args().only
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    figures: Figures = {}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if only in (None, "real"):
            figures["real"] = real(folder / "real")
            if figures["real"]["speedup"] < LEAST_SPEEDUP:
                missed.append(f"2 workers must be {LEAST_SPEEDUP} times as fast as one")
        if only != "real":
            space = resnet_space()
            filled = fill(space, folder / "filled")
        if only in (None, "asks"):
            figures["asks"] = asks(space, filled, folder / "asks")
            if figures["asks"]["ask and tell"] > MOST_MS:
                missed.append(f"an ask and a tell must cost at most {MOST_MS:g} ms together")
        if only in (None, "simulated"):
            figures["simulated"] = {}
            for workers in WORKERS:
                found = simulated(space, filled, folder / f"{workers}", workers)
                figures["simulated"][workers] = found
                if found["busy"] < LEAST_BUSY:
                    missed.append(f"{workers} workers must be {LEAST_BUSY:.0%} busy")
    for sentence in missed:
        print(f"MISSED: {sentence}")
    print(json.dumps({**figures, "missed": missed}))
    return int(bool(missed))


class Ended(Exception):
    """What was to be measured is measured."""


# Real workers


def real(folder: Path) -> Figures:
    """Trials per hour of one worker and of two, after each has done its first."""
    torch.set_num_threads(1)
    bench = real_bench(folder)
    plans = equal_plans(bench)
    found: Figures = {}
    for workers in (1, 2):
        done = times_of(bench, plans, Resources(workers, cpus_per_trial=1), folder / f"{workers}")
        done = done[workers - 1 :]
        found[f"{workers}"] = (len(done) - 1) / (done[-1] - done[0]) * 3600
        print(f"{workers} real workers    {found[f'{workers}']:7.0f} trials an hour", flush=True)
    found["speedup"] = found["2"] / found["1"]
    print(f"speed-up           {found['speedup']:7.2f} (at least {LEAST_SPEEDUP})")
    return found


def real_bench(folder: Path) -> Workbench:
    """As a search prepares it, with the untouched model evaluated."""
    request = Request(
        load_task(None, None, None), load_profile("arm"), LIMITS, None, None, "tpe", 0, "scaling"
    )
    study = open_folder(folder, "scaling", False, "arm")
    bench = prepare(request, study, lambda *_: None).bench
    baseline = run_job(Job(CompressionPlan(), 0), bench, lambda *_: None).model
    assert baseline is not None
    classes = logits(baseline, bench.context.images, bench.context.profile).argmax(axis=1)
    context = replace(bench.context, baseline=baseline, baseline_predictions=classes)
    return replace(bench, context=context)


def equal_plans(bench: Workbench) -> list[CompressionPlan]:
    """Plans that differ in one of their groups by a few channels."""
    profile = bench.context.profile
    half = pruning.uniform(bench.network, profile, 0.5)
    groups = sorted(bench.network.groups, key=lambda g: g.channels)
    kept = dict(half["kept"])
    plans = [CompressionPlan({"pruning": half})]
    for group in groups[: REAL_TRIALS - 1]:
        widths = sorted(pruning.widths(group, profile))
        wider = widths[min(widths.index(kept[group.name]) + 1, len(widths) - 1)]
        plans.append(CompressionPlan({"pruning": {**half, "kept": {**kept, group.name: wider}}}))
    return plans


def times_of(
    bench: Workbench, plans: list[CompressionPlan], resources: Resources, folder: Path
) -> list[float]:
    """When each plan's trial ended, in order; each trained in full, as a yardstick is."""
    folder.mkdir()
    space = SearchSpace.of(bench.network, bench.context.profile)
    study = open_study(space, folder)
    study.propose([(plan, "baseline:scaling") for plan in plans])
    done: list[float] = []

    class Times(NullProgress):
        def trial(self, trial: Trial) -> None:
            assert trial.state != "failed", trial.reason
            done.append(time.monotonic())
            if len(done) == len(plans):
                raise Ended  # before finalists are trained again

    def make_job(plan: CompressionPlan, rung: int, checkpoint: Path | None) -> Job:
        return Job(
            plan, share_of(rung, checkpoint is None) * bench.settings.epochs, True, checkpoint
        )

    def macs(plan: CompressionPlan) -> float:
        return space.table(plan).macs

    here = replace(bench, folder=folder / "plans")
    backend = find_backend("local").start(here, resources, lambda *_: None, print)
    clock = Clock(None, 0.0, time.monotonic())
    progress, tracker = Times(), NullTracker()
    driver = Driver(
        study,
        backend,
        make_job,
        clock,
        len(plans),
        progress,
        tracker,
        folder,
        0.03,
        Experience(macs),
    )
    with closing(backend), suppress(Ended):
        driver.run()
    return done


# Simulated workers


def resnet_space() -> SearchSpace:
    """ResNet18 on a Raspberry Pi 4B: the default job's dimensions."""
    import torchvision

    network = trace(torchvision.models.resnet18(num_classes=2), (3, 64, 64))
    return SearchSpace.of(network, load_profile("arm"))


def law(plan: CompressionPlan) -> Evaluation:
    """Figures drawn from a hash of the plan."""
    digest = hashlib.sha256(plan.plan_id.encode()).digest()
    drop, latency_ms = digest[0] / 255 * 0.1, 1 + digest[1] / 16
    figures = {"accuracy": 0.95 - drop, "drop": drop, "drop_bound": drop + 0.01}
    named = [Measurement(name, v, "", "estimated", "made up") for name, v in figures.items()]
    return Evaluation.of(
        [*named, Measurement("latency_ms", latency_ms, "ms", "estimated", "made up")]
    )


def seen_of(plan: CompressionPlan) -> Seen:
    found = law(plan)
    drop = found.value("drop")
    return Seen(drop, found.value("latency_ms"), max(0.0, drop - LIMITS.max_drop))


def trial_of(number: int, ask: Ask) -> Trial:
    """A finished trial that saw every rung."""
    seen = {rung.name: seen_of(ask.plan) for rung in RUNGS}
    violations = {"drop": law(ask.plan).value("drop") - LIMITS.max_drop}
    return Trial(
        number, ask.plan, "complete", ask.origin, law(ask.plan), violations, seen=seen, rung="full"
    )  # fmt: skip


def open_study(space: SearchSpace, folder: Path, sampler: str = "tpe", model: Any = None) -> Study:
    return Study(
        space, sqlite_storage(folder / "study.db"), "scaling", metric="accuracy",
        sampler=sampler, seed=0, model=model, owner="scaling",
    )  # fmt: skip


def fill(space: SearchSpace, folder: Path) -> Path:
    """A study of random plans, so large that the bounds are about it."""
    folder.mkdir()
    storage = sqlite_storage(folder / "study.db")

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def _no_waiting(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    storage.engine.dispose()
    study = Study(
        space, storage, "scaling", metric="accuracy", sampler="random", seed=0, owner="scaling"
    )
    while len(study.trials) < STUDY_TRIALS:
        ask = study.ask()
        if study.known(ask) is None:
            study.tell(ask, trial_of(len(study.trials), ask), float(len(study.trials)))
        else:
            study.drop(ask)
    return folder


def asks(space: SearchSpace, filled: Path, folder: Path) -> Figures:
    """Milliseconds of each part, in the large study; of the model's questions in a small one."""
    shutil.copytree(filled, folder)
    study = open_study(space, folder)
    tracker = tracker_in(folder, study)
    parts = ("ask", "tell", "of it storage", "MLflow")
    spent: dict[str, list[float]] = {name: [] for name in parts}
    with timed(study._stored, "add", spent["of it storage"]):
        for _ in range(QUESTIONS):
            before = time.perf_counter()
            ask = study.ask()
            asked = time.perf_counter()
            if study.known(ask) is not None:
                study.drop(ask)
                continue
            trial = trial_of(len(study.trials), ask)
            begun = time.perf_counter()
            study.tell(ask, trial, 1.0)
            told = time.perf_counter()
            tracker.trial(trial)
            spent["ask"].append(asked - before)
            spent["tell"].append(told - begun)
            spent["MLflow"].append(time.perf_counter() - told)
    leave(tracker)
    spent["ask and tell"] = [a + t for a, t in zip(spent["ask"], spent["tell"], strict=True)]
    spent["model's question"] = model_questions(space, folder / "small")
    found = {name: statistics.mean(each) * 1000 for name, each in spent.items()}
    print(f"milliseconds in a study of {len(study.trials)} trials: mean, 95th percentile")
    for name, each in spent.items():
        tail = sorted(each)[int(0.95 * len(each))] * 1000
        print(f"  {name:<17}{found[name]:7.1f}{tail:7.1f}")
    print("  (the model's: in one of 60; it is asked in the first 400 trials)", flush=True)
    return found


def model_questions(space: SearchSpace, folder: Path) -> list[float]:
    """Seconds of questions to the corrected model; they depend little on the trials."""
    folder.mkdir()
    proposer = Proposer(space, sensitivity_of(space), LIMITS)
    spent: list[float] = []

    def model(*given: Any) -> Any:
        begun = time.perf_counter()
        found = proposer.next(*given)
        spent.append(time.perf_counter() - begun)
        return found

    study = open_study(space, folder, model=model)
    while len(study.trials) < 60:
        ask = study.ask()
        study.tell(ask, trial_of(len(study.trials), ask), 1.0)
    return spent[len(spent) // 2 :]


def sensitivity_of(space: SearchSpace) -> Sensitivity:
    """Losses that grow with what is left out."""
    draw = random.Random(0)
    network, profile = space.network, space.profile
    curves = {
        g.name: {w: draw.random() * (1 - w / g.channels) ** 2 for w in pruning.widths(g, profile)}
        for g in network.groups
    }
    bits = {la.name: {b: draw.random() / b for b in profile.bits} for la in network.layers}
    return Sensitivity("magnitude", curves, curves, bits, dict.fromkeys(network.blocks, 0.3))


@contextmanager
def timed(owner: Any, name: str, spent: list[float]) -> Iterator[None]:
    """Adds the seconds of every call of a method."""
    method: Callable[..., Any] = getattr(owner, name)

    def wrapped(*given: Any) -> Any:
        begun = time.perf_counter()
        try:
            return method(*given)
        finally:
            spent.append(time.perf_counter() - begun)

    setattr(owner, name, wrapped)
    yield
    delattr(owner, name)


def tracker_in(folder: Path, study: Study) -> MlflowTracker:
    uri = sqlite_url(folder / "mlflow.db")
    tracker = MlflowTracker(folder, uri, "accuracy", {}, lambda _: None)
    tracker.begin(study, load_task(None, None, None).data)
    return tracker


def leave(tracker: MlflowTracker) -> None:
    """Ends the process that writes, with whatever it has not written: it is thrown away."""
    if tracker._process is not None:
        tracker._process.kill()
        tracker._process.wait()


class Sleepers:
    """A backend whose workers are threads that sleep; counts when how many do."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.changes: list[tuple[float, int]] = []  # when one more began, or one less went on
        self._done: queue.SimpleQueue[Finished] = queue.SimpleQueue()

    def submit(self, ticket: int, job: Job) -> None:
        self.changes.append((time.monotonic(), 1))
        threading.Thread(target=self._sleep, args=(ticket, job), daemon=True).start()

    def _sleep(self, ticket: int, job: Job) -> None:
        time.sleep(TRIAL_S)
        self.changes.append((time.monotonic(), -1))
        found = law(job.plan)
        violations = {"drop": found.value("drop") - LIMITS.max_drop}
        self._done.put(Finished(ticket, Outcome(found, violations, {"train": TRIAL_S}, None)))

    def next(self) -> Finished:
        return self._done.get()

    def close(self) -> None:
        """Threads end by themselves."""

    def busy(self, begin: float, end: float) -> float:
        """The share of all workers' time that they slept through."""
        slept, running, before = 0.0, 0, begin
        for at, change in sorted([*self.changes, (end, 0)]):
            if begin < at <= end:
                slept += running * (at - before)
                before = at
            running += change
        return slept / (self.workers * (end - begin))


def simulated(space: SearchSpace, filled: Path, folder: Path, workers: int) -> Mapping[str, Any]:
    """How busy so many workers are, once all have begun; with everything a search has."""
    shutil.copytree(filled, folder)
    study = open_study(space, folder)
    backend = Sleepers(workers)
    began = time.monotonic()
    full_at: list[float] = []

    def job(plan: CompressionPlan, rung: int, checkpoint: Path | None) -> Job:
        now = time.monotonic()
        running = sum(change for _, change in backend.changes)
        if not full_at and (running >= workers - 1 or now - began > FILL_S):
            full_at.append(now)
        return Job(plan, 1.0, True, checkpoint)

    def macs(plan: CompressionPlan) -> float:
        return space.table(plan).macs

    class Watch(NullProgress):
        def trial(self, trial: Trial) -> None:
            if full_at and time.monotonic() - full_at[0] > WATCHED_S:
                raise Ended  # what sleeps then is left alone

    tracker = tracker_in(folder, study)
    clock = Clock(None, 0.0, began)
    driver = Driver(
        study,
        backend,
        job,
        clock,
        None,
        Watch(),
        tracker,
        folder,
        LIMITS.max_drop,
        Experience(macs),
    )
    before = len(study.trials)
    try:
        driver.run()
    except Ended:
        end = time.monotonic()
    leave(tracker)
    busy = backend.busy(full_at[0], end)
    rate = (len(study.trials) - before) / (end - began)
    print(
        f"{workers:3d} simulated workers{busy:7.1%} busy (at least {LEAST_BUSY:.0%}), "
        f"{rate:5.1f} trials a second, {len(study.trials)} trials in the end",
        flush=True,
    )
    return {"busy": busy, "trials_per_second": rate, "trials": len(study.trials)}


if __name__ == "__main__":
    sys.exit(main())
