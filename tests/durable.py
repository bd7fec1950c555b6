"""A search whose jobs only sleep, to be killed and resumed, and what must be left of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fake_jobs
import optuna
from fakes import macs_of, space_of

from search.deciding.baselines import simple_plans
from search.deciding.forecast import Experience
from search.deciding.kept import trial_to_json
from search.deciding.rungs import RUNGS
from search.deciding.storage import open_storage
from search.deciding.study import Study
from search.publishing.tracker import NullTracker
from search.running.backends import Backend, InlineBackend
from search.running.backends.messages import job_to_json, outcome_from_json
from search.running.backends.processes import ProcessBackend
from search.running.clock import Clock
from search.running.driver import Driver
from search.telling.progress import NullProgress
from search.training.job import Job, Outcome
from search.trial import Trial
from spaces import CompressionPlan

optuna.logging.set_verbosity(optuna.logging.ERROR)

TRIAL_S = 0.015
SEED = 3


class Acknowledged(NullTracker):
    """Writes down every trial that the search believes to be kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def trial(self, trial: Trial) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([trial.number, trial.plan.plan_id, trial.state]) + "\n")


class Said(NullProgress):
    """Prints what the person would read."""

    def note(self, text: str) -> None:
        print(text, flush=True)


def study_in(folder: Path, storage: str | None = None) -> Study:
    """The study as it is kept: in the folder's own file, or at a URL."""
    return Study(
        space_of(),
        open_storage(storage, folder / "study.db"),
        folder.name,
        metric="accuracy",
        sampler="tpe",
        seed=SEED,
        note=lambda text: print(text, flush=True),
    )


def search_in(
    folder: Path, trials: int, backend: Backend | None = None, storage: str | None = None
) -> None:
    """A search whose jobs sleep, one at a time unless a backend is given; goes on if killed."""
    study = study_in(folder, storage)
    study.propose(simple_plans(space_of()))

    def make_job(plan: CompressionPlan, rung: int, checkpoint: Path | None) -> Job:
        return Job(plan, 4 * RUNGS[rung].share, RUNGS[rung].constrained, checkpoint)

    def run(_ticket: int, job: Job) -> Outcome:
        done = fake_jobs.open_fake({"sleep_s": TRIAL_S})(job_to_json(job), lambda *_: None)
        return outcome_from_json(done)

    backend = backend or InlineBackend(run)
    clock = Clock(None, 0.0, time.monotonic())
    tracker = Acknowledged(folder / "acknowledged")
    try:
        macs = macs_of(space_of())
        Driver(
            study,
            backend,
            make_job,
            clock,
            trials,
            Said(),
            tracker,
            folder,
            0.03,
            Experience(macs),
        ).run()
    finally:
        backend.close()


def processes(folder: Path, workers: int) -> ProcessBackend:
    """Worker processes that write their ids to a file."""
    argument = {"sleep_s": TRIAL_S, "pids": str(folder / "pids")}
    return ProcessBackend(workers, "fake_jobs:open_fake", argument, 1, lambda *_: None, print)


def acknowledged(folder: Path) -> int:
    """How many trials the search believes to be kept."""
    path = folder / "acknowledged"
    return path.read_text().count("\n") if path.exists() else 0


def let_live(folder: Path, more: int, moment_s: float, is_alive: Callable[[], bool]) -> None:
    """Waits until there are ``more`` trials, and then for another moment."""
    until = acknowledged(folder) + more
    while acknowledged(folder) < until:
        assert is_alive(), (folder / "said").read_text()
        time.sleep(0.002)
    time.sleep(moment_s)


def kept_in(folder: Path, storage: str | None = None) -> list[Trial]:
    """What a search that is resumed finds; looks at the raw storage, too."""
    raw = optuna.load_study(
        study_name=folder.name, storage=open_storage(storage, folder / "study.db")
    )
    assert all(trial.state.is_finished() for trial in raw.get_trials())
    return study_in(folder, storage).trials


def check(folder: Path, storage: str | None = None) -> None:
    """Every acknowledged trial is there, once; no plan and no number is there twice."""
    kept = [(t.number, t.plan.plan_id, t.state) for t in kept_in(folder, storage)]
    lines = (folder / "acknowledged").read_text().splitlines()
    believed = [tuple(json.loads(line)) for line in lines]
    assert not Counter(believed) - Counter(kept)
    assert max(Counter(number for number, _, _ in kept).values()) == 1
    assert max(Counter(plan for _, plan, _ in kept).values()) == 1


def shapes(trials: list[Trial]) -> list[object]:
    """Trials but for what depends on the clock."""
    return [{**trial_to_json(t), "stages": None} for t in trials]
