"""Nothing measured is lost: killed processes, storages that are away, full disks."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fake_jobs
import lives
import optuna
import pytest
import sqlalchemy
from fakes import FakeBackend, FakeTime, space_of
from optuna.trial import TrialState

from search import disk, driver, interruption
from search.backends import InlineBackend
from search.backends.messages import job_to_json, outcome_from_json
from search.backends.processes import ProcessBackend
from search.baselines import simple_plans
from search.clock import Clock
from search.driver import Driver
from search.errors import StorageError, StudyError
from search.limits import Limits
from search.progress import NullProgress
from search.rungs import RUNGS
from search.storage import StoredStudy, open_storage, sqlite_storage
from search.study import Ask, Study, trial_to_json
from search.tracking.tracker import NullTracker
from search.trial import Trial
from search.worker import Job, Outcome

optuna.logging.set_verbosity(optuna.logging.ERROR)

TRIAL_S = 0.015


class Acknowledged(NullTracker):
    """Writes down every trial that the search believes to be kept."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def trial(self, trial: Trial) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps([trial.number, trial.plan.plan_id, trial.state]) + "\n")


def search_in(folder: Path, trials: int, workers: int = 1) -> None:
    """A search whose jobs sleep; killed and called again, it goes on."""
    study = Study(
        space_of(),
        sqlite_storage(folder / "study.db"),
        "study",
        metric="accuracy",
        sampler="tpe",
        seed=3,
    )
    study.propose(simple_plans(space_of()))

    def make_job(ask: Ask, rung: int, checkpoint: Path | None) -> Job:
        return Job(ask.plan, 4 * RUNGS[rung].share, RUNGS[rung].constrained, checkpoint)

    def run(_ticket: int, job: Job) -> Outcome:
        done = fake_jobs.open_fake(argument)(job_to_json(job), lambda _stage, _done: None)
        return outcome_from_json(done)

    argument = {"sleep_s": TRIAL_S, "pids": str(folder / "pids")}
    backend = InlineBackend(run)
    if workers > 1:
        opener = "fake_jobs:open_fake"
        backend = ProcessBackend(workers, opener, argument, 1, _ignore, lambda _: None)
    clock = Clock(None, 0.0, time.monotonic())
    tracker = Acknowledged(folder / "acknowledged")
    with contextlib.closing(backend):
        Driver(
            study, backend, make_job, clock, trials, NullProgress(), tracker, folder, 0.03
        ).run()


def _ignore(_ticket: int, _stage: str, _fraction: float | None) -> None:
    pass


def kept_in(folder: Path) -> list[Trial]:
    """What a search that is resumed finds; looks at the raw storage, too."""
    raw = optuna.load_study(study_name="study", storage=sqlite_storage(folder / "study.db"))
    assert {t.state for t in raw.get_trials()} <= {TrialState.COMPLETE, TrialState.FAIL}
    return Study(
        space_of(), sqlite_storage(folder / "study.db"), "study", metric="accuracy",
        sampler="tpe", seed=3,
    ).trials  # fmt: skip


def check(folder: Path) -> None:
    """Every acknowledged trial is there, once; no plan and no number is there twice."""
    kept = [(t.number, t.plan.plan_id, t.state) for t in kept_in(folder)]
    acknowledged = [tuple(json.loads(x)) for x in (folder / "acknowledged").read_text().split("\n")
                    if x]  # fmt: skip
    assert not Counter(acknowledged) - Counter(kept)
    assert max(Counter(number for number, _, _ in kept).values()) == 1
    assert max(Counter(plan for _, plan, _ in kept).values()) == 1


def shapes(trials: list[Trial]) -> list[object]:
    """Trials but for what depends on the clock."""
    return [{**trial_to_json(t), "stages": None} for t in trials]


def acknowledged(folder: Path) -> int:
    path = folder / "acknowledged"
    return path.read_text().count("\n") if path.exists() else 0


def let_live(folder: Path, more: int, moment_s: float, pid: int) -> None:
    """Waits until there are ``more`` trials, and then for another moment."""
    until = acknowledged(folder) + more
    while acknowledged(folder) < until:
        assert lives.is_alive(pid), (folder / "said").read_text()
        time.sleep(0.002)
    time.sleep(moment_s)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "it ended before it was killed"


def test_search_killed_25_times_tries_the_plans_of_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    trials, draw = 120, random.Random(5)
    search_in(whole, trials)
    for _ in range(25):
        pid = lives.begin(lambda: search_in(killed, trials), killed / "said")
        let_live(killed, draw.randrange(3), draw.uniform(0, 0.06), pid)
        kill(pid)
    assert 10 < len(kept_in(killed)) < trials
    search_in(killed, trials)
    check(killed)
    assert shapes(kept_in(killed)) == shapes(kept_in(whole))


def test_20_killed_drivers_and_workers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    trials, draw, drivers, workers = 300, random.Random(7), 10, 10
    while drivers + workers:
        pid = lives.begin(lambda: search_in(tmp_path, trials, workers=2), tmp_path / "said")
        for _ in range(min(workers, draw.randrange(3))):
            let_live(tmp_path, 1 + draw.randrange(2), draw.uniform(0, 0.03), pid)
            crew = [int(each) for each in (tmp_path / "pids").read_text().split()]
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(crew[-2:]), signal.SIGKILL)
                workers -= 1
        let_live(tmp_path, draw.randrange(3), draw.uniform(0, 0.06), pid)
        kill(pid)
        drivers -= min(drivers, 1)
    trials = len(kept_in(tmp_path)) + 4
    search_in(tmp_path, trials, workers=2)
    check(tmp_path)
    assert sum(t.state != "rejected" for t in kept_in(tmp_path)) == trials


class Flaky(optuna.storages.InMemoryStorage):
    """A storage that refuses so many trials, some of them only after it has taken them."""

    def __init__(self, refusals: int, taken: bool) -> None:
        super().__init__()
        self._refusals, self._taken = refusals, taken

    def create_new_trial(
        self, study_id: int, template_trial: optuna.trial.FrozenTrial | None = None
    ) -> int:
        found = -1
        if self._taken or not self._refusals:
            found = super().create_new_trial(study_id, template_trial)
        if self._refusals:
            self._refusals -= 1
            raise optuna.exceptions.StorageInternalError("server closed the connection")
        return found


def finished() -> optuna.trial.FrozenTrial:
    trial = optuna.trial.create_trial(values=[0.9, 1.0])
    trial.user_attrs = {"key": "a"}
    return trial


@pytest.mark.parametrize("taken", [False, True], ids=["refused", "taken-but-not-acknowledged"])
def test_storage_that_is_away_is_waited_for_and_gets_the_trial_once(taken: bool) -> None:
    notes: list[str] = []
    pauses: list[float] = []
    study = StoredStudy(Flaky(1 if taken else 6, taken), "s", None, notes.append, pauses.append)
    study.add(finished())
    assert len(study.trials) == 1
    assert pauses == ([1.0] if taken else [1.0, 2.0, 4.0, 8.0, 15.0, 15.0])
    assert notes == [
        "The study's storage takes no results (server closed the connection); the search waits "
        "for it.",
        "The study's storage takes results again.",
    ]


def test_storage_that_stays_away_ends_the_search_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.storage.PATIENCE_S", 0.0)
    study = StoredStudy(Flaky(9, False), "s", None, lambda _: None, lambda _: None)
    with pytest.raises(StorageError, match=r"server closed the connection; .*--resume"):
        study.add(finished())


def test_interruption_ends_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "came", lambda: True)
    study = StoredStudy(Flaky(9, False), "s", None, lambda _: None, pytest.fail)
    with pytest.raises(StorageError):
        study.add(finished())


# What SQLite says when the disk is full, and when the folder was made read-only.
@pytest.mark.parametrize(
    ("trouble", "cure", "words"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "disk is full"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "readonly database"),
    ],
)
def test_full_or_read_only_disk_is_waited_for(
    trouble: str, cure: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)  # of Optuna's own pauses
    storage = sqlite_storage(tmp_path / "study.db")

    def tell_database(what: str) -> Callable[..., None]:
        def tell(connection: object, *_: object) -> None:
            connection.execute(what).close()  # type: ignore[attr-defined]

        return tell

    notes: list[str] = []
    troubled = tell_database(trouble)

    def end_trouble(_pause_s: float) -> None:
        sqlalchemy.event.remove(storage.engine, "checkout", troubled)
        sqlalchemy.event.listen(storage.engine, "checkout", tell_database(cure))

    study = StoredStudy(storage, "s", None, notes.append, end_trouble)
    storage.engine.dispose()
    sqlalchemy.event.listen(storage.engine, "checkout", troubled)
    big = finished()
    big.user_attrs["detail"] = "x" * 100_000
    study.add(big)
    assert len(study.trials) == 1
    assert words in notes[0]
    assert StoredStudy(sqlite_storage(tmp_path / "study.db"), "s", None, pytest.fail).trials


def test_job_that_a_full_disk_ended_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = iter(["the disk is full", "the disk is full", None])
    monkeypatch.setattr(driver, "disk_trouble", lambda _: next(troubles, None))
    monkeypatch.setattr(driver, "DISK_PAUSE_S", 0.0)
    notes: list[str] = []
    progress = NullProgress()
    monkeypatch.setattr(progress, "note", notes.append)
    study = Study(
        space_of(), optuna.storages.InMemoryStorage(), "s", metric="accuracy", sampler="random",
        seed=0,
    )  # fmt: skip
    errors = {0: "OSError: No space left on device"}
    backend = FakeBackend(Limits(0.03), errors=errors)
    clock = Clock(None, 0.0, 0.0, 0.0, FakeTime())

    def forget(_ticket: int, _job: Job) -> None:
        if len(backend.jobs) > 1:
            errors.clear()

    backend.before = forget

    def make_job(ask: Ask, _rung: int, checkpoint: Path | None) -> Job:
        return Job(ask.plan, 1.0, True, checkpoint)

    Driver(study, backend, make_job, clock, 2, progress, NullTracker(), Path("study"), 0.03).run()
    assert [t.state for t in study.trials] == ["complete", "complete"]
    assert backend.jobs[0] == backend.jobs[1]
    assert notes == [
        "The search waits, since the disk is full.",
        "The disk can be written to again; the search goes on.",
    ]


def test_disk_without_room_is_in_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk.disk_trouble(tmp_path) is None
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 1e18)
    assert "MB free, but has" in str(disk.disk_trouble(tmp_path))


def test_folder_that_is_gone_is_no_trouble_of_the_disk(tmp_path: Path) -> None:
    assert disk.disk_trouble(tmp_path / "gone") is None


def test_study_of_another_folder_is_refused() -> None:
    storage = optuna.storages.InMemoryStorage()
    StoredStudy(storage, "s", "one", pytest.fail).add(finished())
    assert len(StoredStudy(storage, "s", "one", pytest.fail).trials) == 1
    with pytest.raises(StudyError, match="files in another folder"):
        StoredStudy(storage, "s", "two", pytest.fail)


def test_address_that_is_no_storage_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        open_storage("nosuch://me:secret@host/base", tmp_path / "study.db")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
