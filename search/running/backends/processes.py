"""Runs jobs on this machine: in the driver's process, or in worker processes beside it.

A worker process is started when it is first needed and then takes job after job. One that dies
is replaced, and its job is tried once more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from hardware_profiles import HardwareProfile
from hardware_profiles.host import usable_cores
from search.errors import InputError, SearchError
from search.quiet import quiet_libraries
from search.running.backends.backend import Backend, Finished, Listen, Resources
from search.running.backends.inline import InlineBackend
from search.running.backends.messages import (
    job_to_json,
    outcome_from_json,
)
from search.running.backends.parcel import Runner, open_runner, pack, read_arrays, write_arrays
from search.training.job import Job, Outcome, Workbench, run_job

WORKER = "search.running.backends.worker_main"
TICK_S = 1.0
LEAVE_S = 5.0  # for a worker to tidy up; a run of the runtime can't be interrupted
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Local:
    """``--backend local``: one worker is the driver itself, more are processes."""

    name = "local"

    def check(self, resources: Resources, profile: HardwareProfile, device: str | None) -> None:
        """Raises InputError for options of a cluster."""
        if resources.address is not None:
            raise InputError(
                f"--address must come with a backend on a cluster, but the backend is local and "
                f"the address {resources.address!r}; add --backend ray"
            )
        if resources.gpus_per_trial:
            raise InputError(
                f"--gpus-per-trial must come with a backend that lends them, but the backend is "
                f"local and it is {resources.gpus_per_trial:g}; leave it out, all local trials "
                f"share the GPU"
            )

    def start(
        self,
        bench: Workbench,
        resources: Resources,
        listen: Listen,
        note: Callable[[str], None],
    ) -> Backend:
        """Inline for one worker; else the bench is laid out for worker processes to map."""
        if resources.workers == 1:

            def runner(ticket: int, job: Job) -> Outcome:
                return run_job(job, bench, lambda stage, done: listen(ticket, stage, done))

            if resources.cpus_per_trial is not None:
                torch.set_num_threads(resources.cpus_per_trial)
            return InlineBackend(runner)
        share = min(usable_cores() // resources.workers, torch.get_num_threads())
        threads = resources.cpus_per_trial or max(1, share)
        folder = bench.context.scratch / "bench"
        write_arrays(pack(bench), folder)
        argument = {
            "arrays": str(folder),
            "plans": str(bench.folder),
            "scratch": str(bench.context.scratch),
            "baseline": None if bench.context.baseline is None else str(bench.context.baseline),
            "threads": threads,
        }
        opener = f"{__name__}:open_bench"
        return ProcessBackend(resources.workers, opener, argument, threads, listen, note)


BACKEND = Local()


def open_bench(argument: Mapping[str, Any]) -> Runner:
    """In a worker: the runner for the bench that ``start`` laid out."""
    quiet_libraries()
    torch.set_num_threads(argument["threads"])
    baseline = argument["baseline"]
    return open_runner(
        read_arrays(Path(argument["arrays"])),
        plans=Path(argument["plans"]),
        scratch=Path(argument["scratch"]),
        baseline=None if baseline is None else Path(baseline),
    )


class _Worker:
    """One process, and the job that it has."""

    def __init__(self, opener: str, argument: Mapping[str, Any], threads: int) -> None:
        self.connection, theirs = connection.Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, str(theirs.fileno())],
                stdin=subprocess.PIPE,  # closes with this process, and ends the worker
                stdout=2,  # standard output is the driver's
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C is the driver's to handle
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    **dict.fromkeys(THREADS, str(threads)),
                },
            )
        self.job: _Job | None = None
        self.send({"open": opener, "argument": argument})

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; one that has died will show by its closed pipe."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send_bytes(json.dumps(message, allow_nan=False).encode())

    def end(self) -> str:
        """Waits for the end of a process that has been told to end, and says how it ended."""
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        code = self.process.wait()
        self.connection.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


@dataclass
class _Job:
    """A job under way: how often it was begun, and where it is."""

    ticket: int
    content: Mapping[str, Any]
    begun: int = 1
    stage: str = "starting a worker"
    fraction: float | None = None


class ProcessBackend:
    """Worker processes that each run one job at a time."""

    def __init__(
        self,
        workers: int,
        opener: str,
        argument: Mapping[str, Any],
        threads: int,
        listen: Listen,
        note: Callable[[str], None],
    ) -> None:
        """``opener``, ``module:function``, makes a worker's runner of ``argument`` (JSON)."""
        self.workers = workers
        self._make = partial(_Worker, opener, argument, threads)
        self._listen = listen
        self._note = note
        self._crew: list[_Worker] = []
        self._finished: deque[Finished] = deque()
        self._said: set[str] = set()  # by workers; each says the same

    def submit(self, ticket: int, job: Job) -> None:
        """Gives the job to an idle worker, or to a new one."""
        self._give(_Job(ticket, job_to_json(job)))

    def next(self) -> Finished:
        """Waits for the first worker that is done."""
        heard_at = time.monotonic()
        while not self._finished:
            crew = {worker.connection: worker for worker in self._crew}
            for ready in connection.wait(list(crew), TICK_S):
                self._hear(crew[ready])  # type: ignore[index]
            if time.monotonic() - heard_at >= TICK_S:
                heard_at = time.monotonic()
                for job in [worker.job for worker in self._crew if worker.job]:
                    self._listen(job.ticket, job.stage, job.fraction)
        return self._finished.popleft()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._crew:
            worker.process.terminate()
        for worker in self._crew:
            worker.end()
        self._crew.clear()
        self._finished.clear()

    def _give(self, job: _Job) -> None:
        worker = next((w for w in self._crew if w.job is None), None)
        if worker is None:
            worker = self._make()
            self._crew.append(worker)
        worker.job = job
        worker.send({"ticket": job.ticket, "job": job.content})

    def _hear(self, worker: _Worker) -> None:
        try:
            message = json.loads(worker.connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            self._bury(worker)
            return
        if "unable" in message:
            raise SearchError(
                f"a worker process must be able to do what the driver can, but it could not "
                f"start: {message['unable']}; search with --workers 1 instead"
            )
        if "note" in message:
            if message["note"] not in self._said:
                self._said.add(message["note"])
                self._note(message["note"])
            return
        job = worker.job
        assert job is not None
        if "stage" in message:
            job.stage, job.fraction = message["stage"], message["fraction"]
            self._listen(job.ticket, job.stage, job.fraction)
            return
        worker.job = None
        outcome = message.get("outcome")
        found = None if outcome is None else outcome_from_json(outcome)
        self._finished.append(Finished(job.ticket, found, message.get("error")))

    def _bury(self, worker: _Worker) -> None:
        self._crew.remove(worker)
        how = worker.end()
        job = worker.job
        if job is None:
            self._note(f"An idle worker ended ({how}); another one takes its place.")
        elif job.begun == 1:
            self._note(f"The worker of trial {job.ticket} ended ({how}); the trial starts again.")
            job.begun += 1
            self._give(job)
        else:
            told = f"its worker ended twice ({how}) during: {job.stage}"
            self._finished.append(Finished(job.ticket, None, told))
