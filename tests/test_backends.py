"""Every backend keeps the contract; what is particular to worker processes is tested beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fake_jobs
import lives
import numpy as np
import pytest
import torch
from backend_contract import BackendContract, Make, fake_job, ignore
from benches import a_bench
from fake_backend import FakeBackend

from hardware_profiles import load_profile
from search.errors import InputError, SearchError
from search.running.backends import InlineBackend, Listen, Resources
from search.running.backends.finding import discover, find_backend
from search.running.backends.messages import (
    job_from_json,
    job_to_json,
    outcome_from_json,
    outcome_to_json,
)
from search.running.backends.pacing import Paced
from search.running.backends.parcel import pack, read_arrays, unpack, write_arrays
from search.running.backends.processes import Local, ProcessBackend
from search.training.job import Job, Outcome, run_job
from spaces import CompressionPlan
from spaces.techniques import pruning


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


def test_warnings_of_workers_are_noted_once() -> None:
    notes: list[str] = []
    with contextlib.closing(processes(2, notes=notes)) as backend:
        for ticket in range(2):
            backend.submit(ticket, fake_job(warn="the device is hot"))
        backend.next()
        backend.next()
    assert notes == ["the device is hot"]


def test_worker_that_cannot_start_ends_the_search_with_a_sentence() -> None:
    with contextlib.closing(processes(2, argument={"unable": "no such device"})) as backend:
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
        find_backend("local").check(Resources(2, address="auto"), load_profile("arm"), None)


def test_worker_process_gives_the_outcome_of_the_driver(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    plan = CompressionPlan({"pruning": pruning.uniform(bench.network, bench.context.profile, 0.5)})
    job, resources = Job(plan, 0.5), Resources(2, cpus_per_trial=torch.get_num_threads())
    here = replace(bench, folder=tmp_path / "here")
    expected = run_job(job, here, lambda _stage, _done: None)
    with contextlib.closing(Local().start(bench, resources, ignore, pytest.fail)) as backend:
        backend.submit(0, job)
        found = backend.next()
    assert found.error is None
    assert found.outcome is not None
    assert found.outcome.model == tmp_path / "plans" / plan.plan_id / "model.onnx"
    for figure in ("accuracy", "drop", "size_bytes", "macs"):
        assert found.outcome.evaluation[figure] == expected.evaluation[figure]
    # Emulated counts repeat within a fraction of a percent, not to the last instruction.
    latency_ms = expected.evaluation.value("latency_ms")
    assert found.outcome.evaluation.value("latency_ms") == pytest.approx(latency_ms, rel=0.01)
    assert expected.model is not None
    assert found.outcome.model.read_bytes() == expected.model.read_bytes()


def test_bench_survives_packing_but_for_the_test_images(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    write_arrays(pack(bench), tmp_path / "bench")
    folders = {"plans": bench.folder, "scratch": tmp_path, "baseline": bench.context.baseline}
    found = unpack(read_arrays(tmp_path / "bench"), **folders)
    assert found.network == bench.network
    assert found.context.profile == bench.context.profile
    assert found.limits == bench.limits
    assert found.settings == bench.settings
    assert found.task.build == bench.task.build
    assert found.task.data.preprocess == bench.task.data.preprocess
    assert len(found.task.data.test) == 0
    for name in ("train", "calibration", "validation"):
        mine, theirs = getattr(found.task.data, name), getattr(bench.task.data, name)
        assert np.array_equal(mine.images, theirs.images)
        assert np.array_equal(mine.labels, theirs.labels)
    assert torch.equal(found.views.logits, bench.views.logits)
    assert found.views.features is not None
    assert bench.views.features is not None
    assert found.views.features.layer == bench.views.features.layer
    assert torch.equal(found.views.features.values, bench.views.features.values)
    assert all(torch.equal(found.weights[name], bench.weights[name]) for name in bench.weights)


def test_worker_with_another_source_of_latency_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(a_bench(tmp_path))
    monkeypatch.setattr("search.running.backends.parcel.tier", lambda _: "another")
    with pytest.raises(SearchError, match=r"from one source, but .*'another'"):
        unpack(packed, plans=tmp_path, scratch=tmp_path, baseline=None)


def test_arrays_of_a_bench_are_mapped_not_copied(tmp_path: Path) -> None:

    write_arrays(
        {"a": np.arange(6).reshape(2, 3), "b": np.zeros((0, 3), np.uint8)}, tmp_path / "x"
    )
    found = read_arrays(tmp_path / "x")
    assert isinstance(found["a"], np.memmap)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].shape == (0, 3)
    assert torch.from_numpy(found["a"]).sum() == 15


def test_stages_are_told_at_once_and_their_fractions_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr("search.running.backends.pacing.time.monotonic", lambda: now)
    told: list[tuple[str, float | None]] = []
    listen = Paced(lambda stage, fraction: told.append((stage, fraction)), every_s=1.0)
    listen("build", None)
    listen("train", 0.1)
    now = 100.9
    listen("train", 0.2)
    now = 101.0
    listen("train", 0.3)
    assert told == [("build", None), ("train", 0.1), ("train", 0.3)]
