"""Nothing measured is lost: killed processes, storages that are away, full disks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import lives
import optuna
import pytest
import sqlalchemy
from durable import check, kept_in, let_live, processes, search_in, shapes
from fakes import FakeBackend, FakeTime, macs_of, space_of

from search.deciding.forecast import Experience
from search.deciding.storage import StoredStudy, open_storage, sqlite_storage
from search.deciding.study import Study
from search.errors import StorageError, StudyError
from search.limits import Limits
from search.publishing.tracker import NullTracker
from search.running import disk_trouble as disk
from search.running import driver, interruption
from search.running.clock import Clock
from search.running.driver import Driver
from search.telling.progress import NullProgress
from search.training.job import Job
from spaces import CompressionPlan


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
        is_alive = partial(lives.is_alive, pid)
        let_live(killed, draw.randrange(3), draw.uniform(0, 0.06), is_alive)
        kill(pid)
    assert 10 < len(kept_in(killed)) < trials
    search_in(killed, trials)
    check(killed)
    assert shapes(kept_in(killed)) == shapes(kept_in(whole))


def test_20_killed_drivers_and_workers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    trials, draw, drivers, workers = 300, random.Random(7), 10, 10

    def life() -> None:
        search_in(tmp_path, trials, processes(tmp_path, 2))

    while drivers + workers:
        pid = lives.begin(life, tmp_path / "said")
        is_alive = partial(lives.is_alive, pid)
        for _ in range(min(workers, draw.randrange(3))):
            let_live(tmp_path, 1 + draw.randrange(2), draw.uniform(0, 0.03), is_alive)
            crew = [int(each) for each in (tmp_path / "pids").read_text().split()]
            with contextlib.suppress(ProcessLookupError):
                os.kill(draw.choice(crew[-2:]), signal.SIGKILL)
                workers -= 1
        let_live(tmp_path, draw.randrange(3), draw.uniform(0, 0.06), is_alive)
        kill(pid)
        drivers -= min(drivers, 1)
    trials = len(kept_in(tmp_path)) + 4
    life()
    check(tmp_path)
    assert sum(t.state != "rejected" for t in kept_in(tmp_path)) == trials


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 24 megabytes."""
    disk_path = tmp_path / "disk"
    disk_path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted: {mounted.stderr.decode().strip()}")
    folder = disk_path / "study"
    folder.mkdir()
    # What a test looks at lies elsewhere, where there is room.
    (tmp_path / "acknowledged").touch()
    (folder / "acknowledged").symlink_to(tmp_path / "acknowledged")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", disk_path], check=True)


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    ballast = folder.parent / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """For root as well: nothing in it is added, taken away or opened for writing."""
    files = [folder, *(path for path in folder.iterdir() if not path.is_symlink())]
    try:
        subprocess.run(["chattr", "-f", "+i", *files], check=False)  # a journal may be gone by now
        yield
    finally:
        for path in files:
            subprocess.run(["chattr", "-f", "-i", path], check=False)


def test_50_kills_with_a_full_disk_or_a_read_only_folder_lose_nothing(
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(disk, "LEAST_FREE_BYTES", 100_000)
    monkeypatch.setattr(driver, "DISK_PAUSE_S", 0.01)
    whole, draw = tmp_path / "whole", random.Random(11)
    whole.mkdir()
    trials = 150
    search_in(whole, trials)
    for _ in range(50):
        pid = lives.begin(lambda: search_in(small_disk, trials), tmp_path / "said")
        begun = time.monotonic()
        while not (small_disk / "study.db").exists() or time.monotonic() - begun < 0.05:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        trouble = draw.choice([full, read_only])
        with trouble(small_disk):
            time.sleep(draw.uniform(0.05, 0.2))
            if draw.random() < 0.5:
                os.kill(pid, signal.SIGKILL)
        time.sleep(draw.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    said = capfd.readouterr().out
    assert said.count("search waits") > 3
    assert "malformed" not in said
    search_in(small_disk, trials)
    check(small_disk)
    assert shapes(kept_in(small_disk)) == shapes(kept_in(whole))


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


def test_what_is_shown_of_a_study_waits_for_its_storage_and_keeps_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, pauses = optuna.storages.InMemoryStorage(), list[float]()
    study = StoredStudy(storage, "s", None, lambda _: None, pauses.append)
    study.describe({"metric": "f1", "began_ms": 1})
    write, refusals = storage.set_study_user_attr, [1, 2]

    def refuse(*given: object) -> None:
        if refusals:
            refusals.pop()
            raise optuna.exceptions.StorageInternalError("server closed the connection")
        write(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "set_study_user_attr", refuse)
    study.describe({"metric": "accuracy", "began_ms": 2})
    assert pauses == [1.0, 2.0]
    about = optuna.load_study(study_name="s", storage=storage).user_attrs["about"]
    assert about == {"metric": "accuracy", "began_ms": 1}


def test_storage_that_stays_away_ends_the_search_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.deciding.storage.PATIENCE_S", 0.0)
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


# What is seen of the disk after a job failed, the job's error, and how often it fails.
@pytest.mark.parametrize(
    ("troubles", "error", "times", "said"),
    [
        (
            ["the disk is full", "the disk is full", None],
            "RuntimeError: failed writing file",
            1,
            [
                "The search waits, since the disk is full.",
                "The disk can be written to again; the search goes on.",
            ],
        ),
        # The job's end made room, or the disk is another node's.
        (
            [],
            "OSError: [Errno 28] No space left on device",
            3,
            [
                "A job is run again, since a disk was in its way: "
                "OSError: [Errno 28] No space left on device"
            ]
            * 3,
        ),
    ],
)
def test_job_that_a_full_disk_ended_is_run_again(
    troubles: list[str | None],
    error: str,
    times: int,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, backend, notes = two_trials(troubles, error, times, monkeypatch)
    assert [t.state for t in study.trials] == ["complete", "complete"]
    assert backend.jobs[0] == backend.jobs[times]
    assert notes == said


def test_job_fails_when_its_disk_stays_full(monkeypatch: pytest.MonkeyPatch) -> None:
    study, _, notes = two_trials([], "OSError: Read-only file system", 9, monkeypatch)
    assert study.trials[0].state == "failed"
    assert len(notes) == driver.DISK_ERRORS


def two_trials(
    troubles: list[str | None], error: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Study, FakeBackend, list[str]]:
    """A search of two trials, whose first job ends with an error so many times."""
    seen = iter(troubles)
    monkeypatch.setattr(driver, "disk_trouble", lambda _: next(seen, None))
    monkeypatch.setattr(driver, "DISK_PAUSE_S", 0.0)
    notes: list[str] = []
    progress = NullProgress()
    monkeypatch.setattr(progress, "note", notes.append)
    study = Study(
        space_of(), optuna.storages.InMemoryStorage(), "s", metric="accuracy", sampler="random",
        seed=0,
    )  # fmt: skip
    errors = {0: error}
    backend = FakeBackend(Limits(0.03), errors=errors)
    clock = Clock(None, 0.0, 0.0, 0.0, FakeTime())

    def forget(_ticket: int, _job: Job) -> None:
        if len(backend.jobs) > times:
            errors.clear()

    backend.before = forget

    def make_job(plan: CompressionPlan, _rung: int, checkpoint: Path | None) -> Job:
        return Job(plan, 1.0, True, checkpoint)

    tracker, folder = NullTracker(), Path("study")
    macs = macs_of(space_of())
    Driver(
        study, backend, make_job, clock, 2, progress, tracker, folder, 0.03, Experience(macs)
    ).run()
    return study, backend, notes


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
