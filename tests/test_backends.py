"""Every backend keeps the contract; what is particular to worker processes is tested beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import fake_jobs
import lives
import numpy as np
import pytest
import torch
from backend_contract import BackendContract, Make, fake_job, ignore
from fake_backend import FakeBackend

from search.backends import InlineBackend, Listen, Resources
from search.backends.finding import discover, find_backend
from search.backends.messages import (
    job_from_json,
    job_to_json,
    outcome_from_json,
    outcome_to_json,
)
from search.backends.parcel import read_arrays, write_arrays
from search.backends.processes import ProcessBackend
from search.errors import InputError, SearchError
from search.worker import Job, Outcome
from spaces import CompressionPlan


def inline(listen: Listen) -> InlineBackend:
    def runner(ticket: int, job: Job) -> Outcome:
        return outcome_from_json(
            fake_jobs.run(job_to_json(job), lambda *told: listen(ticket, *told))
        )

    return InlineBackend(runner)


class TestInline(BackendContract):
    @pytest.fixture
    def make(self) -> Make:
        return inline


class TestFake(BackendContract):
    workers = 3

    @pytest.fixture
    def make(self) -> Make:
        return lambda listen: FakeBackend(self.workers, listen)

    test_all_workers_work_at_a_time = None  # its time is made up


class TestProcesses(BackendContract):
    workers = 2

    @pytest.fixture
    def make(self) -> Iterator[Make]:
        with contextlib.ExitStack() as stack:

            def made(listen: Listen) -> ProcessBackend:
                backend = processes(self.workers, listen)
                stack.callback(backend.close)
                return backend

            yield made


def processes(
    workers: int, listen: Listen = ignore, argument: object = None, notes: list[str] | None = None
) -> ProcessBackend:
    said = notes if notes is not None else []
    return ProcessBackend(workers, "fake_jobs:open_fake", argument, 1, listen, said.append)


def test_worker_process_is_used_again_and_computes_with_its_share_of_threads(
    tmp_path: Path,
) -> None:
    pids, found = tmp_path / "pids", []
    with contextlib.closing(processes(2)) as backend:
        for ticket in range(3):
            backend.submit(ticket, fake_job(pid=str(pids), environment=["OMP_NUM_THREADS"]))
            found.append(backend.next().outcome)
    assert len(set(pids.read_text().split())) == 1
    assert os.getpid() not in map(int, pids.read_text().split())
    assert found[0] is not None
    assert found[0].evaluation["accuracy"].detail == {"OMP_NUM_THREADS": "1"}


def test_job_of_a_killed_worker_is_tried_once_more(tmp_path: Path) -> None:
    notes: list[str] = []
    with contextlib.closing(processes(2, notes=notes)) as backend:
        backend.submit(4, fake_job(die=str(tmp_path / "died")))
        assert backend.next().outcome is not None
    assert notes == ["The worker of trial 4 ended (killed by signal 9); the trial starts again."]


def test_job_that_kills_every_worker_fails_with_a_sentence_and_the_others_go_on() -> None:
    with contextlib.closing(processes(2)) as backend:
        backend.submit(0, fake_job(always_die=True))
        backend.submit(1, fake_job())
        found = {f.ticket: f for f in (backend.next(), backend.next())}
    assert found[0].error == "its worker ended twice (killed by signal 9) during: train"
    assert found[1].outcome is not None


def test_killed_worker_does_not_keep_a_lock(tmp_path: Path) -> None:
    lock, locked, pids = (tmp_path / name for name in ("lock", "locked", "pids"))
    with contextlib.closing(processes(1)) as backend:
        backend.submit(0, fake_job(lock=str(lock), locked=str(locked), pid=str(pids)))
        fake_jobs.await_file(locked)
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(int(pids.read_text().split()[0]), signal.SIGKILL)
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def test_worker_that_cannot_start_ends_the_search_with_a_sentence() -> None:
    with contextlib.closing(processes(2, argument="unable")) as backend:
        backend.submit(0, fake_job())
        with pytest.raises(SearchError, match=r"no such device .*--workers 1"):
            backend.next()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_driver_and_say_nothing(
    ending: signal.Signals, tmp_path: Path
) -> None:
    pids, said = tmp_path / "pids", tmp_path / "said"

    def drive() -> None:
        with contextlib.closing(processes(2)) as backend:
            for ticket in range(2):
                backend.submit(ticket, fake_job(pid=str(pids), sleep_s=60.0))
            backend.next()

    driver = lives.begin(drive, said)
    try:
        give_up = time.monotonic() + 60
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        os.killpg(driver, ending)  # as Ctrl-C does, to the whole group
    except BaseException:
        os.kill(driver, signal.SIGKILL)
        raise
    finally:
        os.waitpid(driver, 0)
    # With an interruption the driver has its own.
    assert said.read_text().count("Traceback") == (ending == signal.SIGINT)
    give_up = time.monotonic() + 10
    for pid in map(int, pids.read_text().split()):
        while lives.is_alive(pid):
            assert time.monotonic() < give_up, f"worker {pid} outlives its driver"
            time.sleep(0.02)


def test_job_and_outcome_survive_json() -> None:
    job = Job(CompressionPlan({"pruning": {"kept": {"a": 8}}}), 2.5, False, Path("weights.pt"))
    assert job_from_json(job_to_json(job)) == job
    outcome = outcome_from_json(fake_jobs.outcome(job_to_json(job)))
    assert outcome_from_json(outcome_to_json(outcome)) == outcome


def test_backends_are_found_by_name_and_a_wrong_one_is_refused() -> None:
    assert {"local"} <= set(discover())
    with pytest.raises(InputError, match=r"--backend must be one of .*did you mean 'local'\?"):
        find_backend("locale")


def test_local_backend_refuses_an_address() -> None:
    with pytest.raises(InputError, match="--backend ray"):
        find_backend("local").check(Resources(2, address="auto"))


def test_arrays_of_a_bench_are_mapped_not_copied(tmp_path: Path) -> None:

    write_arrays(
        {"a": np.arange(6).reshape(2, 3), "b": np.zeros((0, 3), np.uint8)}, tmp_path / "x"
    )
    found = read_arrays(tmp_path / "x")
    assert isinstance(found["a"], np.memmap)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].shape == (0, 3)
    assert torch.from_numpy(found["a"]).sum() == 15
