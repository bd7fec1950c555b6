"""The lease, with real processes: who waits for whom, and what a killed process leaves."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from evaluators.latency import lease

ROOT = Path(lease.__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Lock files of this test's own, for its child processes too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path
    tempfile.tempdir = None


class Child:
    """A process that runs code after ``import lease, time`` and reports by printing lines."""

    def __init__(self, code: str):
        script = f"import time\nfrom evaluators.latency import lease\n{code}"
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", script],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def child():
    children = []

    def start(code: str) -> Child:
        children.append(Child(code))
        return children[-1]

    yield start
    for each in children:
        each.kill()


MEASURER = """
with lease.measuring("child"):
    print("measuring")
    input()
print("done")
"""
TRAINER = """
with lease.training():
    print("training")
    for batch in range(10**9):
        lease.yield_to_measurements()
        print(batch)
        time.sleep(0.002)
"""


def free() -> bool:
    """Whether nobody measures or trains."""
    files = [lease._LockFile(lease.lease_folder() / name) for name in ("gate", "floor")]
    got = all(file.try_lock(lease.fcntl.LOCK_EX) for file in files)
    for file in files:
        file.close()
    return got


def test_second_measurement_waits_and_says_for_whom(child, caplog):
    other = child(MEASURER)
    assert other.line() == "measuring"
    start = time.monotonic()
    with caplog.at_level(logging.INFO):
        threading.Timer(0.3, other.go).start()
        with lease.measuring("the test"):
            waited = time.monotonic() - start
    assert waited > 0.25
    assert f"the test waits for another measurement of process {other.process.pid}" in caplog.text


@pytest.mark.parametrize("code", [MEASURER, TRAINER])
def test_killed_process_leaves_the_lease_free(child, code):
    other = child(code)
    assert other.line() in ("measuring", "training")
    assert not free()
    os.kill(other.process.pid, signal.SIGKILL)
    other.process.wait()
    assert free()


def test_killed_trainer_leaves_the_lease_free_when_a_forked_child_survives(child):
    code = """
import os
with lease.training():
    if os.fork() == 0:
        print(os.getpid())  # by now the fork has closed what it inherited
        time.sleep(30)
        os._exit(0)
    time.sleep(30)
"""
    other = child(code)
    survivor = int(other.line())
    try:
        assert not free()
        os.kill(other.process.pid, signal.SIGKILL)
        other.process.wait()
        os.kill(survivor, 0)  # still there
        assert free()
    finally:
        os.kill(survivor, signal.SIGKILL)


def test_trainers_stand_still_while_a_measurement_runs_and_do_not_starve_it(child, tmp_path):
    logs = [tmp_path / f"batches-{index}" for index in range(3)]
    code = TRAINER.replace("print(batch)", "print(batch, file=log)")
    trainers = [child(f"log = open({str(path)!r}, 'w', 1)\n{code}") for path in logs]
    assert [trainer.line() for trainer in trainers] == ["training"] * 3

    def batches() -> list[int]:
        return [path.stat().st_size for path in logs]

    time.sleep(0.1)
    for _ in range(5):
        start = time.monotonic()
        with lease.measuring():
            assert time.monotonic() - start < 1.0
            before = batches()
            time.sleep(0.05)
            assert batches() == before
        time.sleep(0.1)
        assert all(now > then for now, then in zip(batches(), before, strict=True))


def test_measuring_inside_training_does_not_lock_itself_out():
    with lease.training():
        lease.yield_to_measurements()
        with lease.measuring():
            pass
        lease.yield_to_measurements()
        assert not free()
    assert free()


def test_yielding_costs_less_than_50_microseconds_a_batch():
    with lease.training():
        best = min(_seconds_for_100_yields() for _ in range(20))
    assert best / 100 < 50e-6


def _seconds_for_100_yields() -> float:
    start = time.perf_counter()
    for _ in range(100):
        lease.yield_to_measurements()
    return time.perf_counter() - start


def test_yielding_raises_outside_training():
    with pytest.raises(RuntimeError, match="with training"):
        lease.yield_to_measurements()


def test_training_raises_when_nested():
    with lease.training(), pytest.raises(RuntimeError, match="nested"), lease.training():
        pass


def _child_trains(queue):
    with lease.training():
        lease.yield_to_measurements()
        queue.put("trained")


def test_forked_process_can_train_although_its_parent_did():
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with lease.training():
        pass
    worker = context.Process(target=_child_trains, args=(queue,))
    worker.start()
    assert queue.get(timeout=5) == "trained"
    worker.join()
