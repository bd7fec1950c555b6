"""Runs jobs on a Ray cluster: Ray Tune places them; what a dead node had is started again.

The driver stays the only one that decides and writes. Tune runs in a thread (or, through a
``ray://`` address, on the cluster's head) with a searcher that suggests what the driver posts.
"""

from __future__ import annotations

import os
import socket
import sysconfig
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles import HardwareProfile
from search.errors import InputError, SearchError
from search.inputs.own_code import describe, one_line
from search.optional import import_optional
from search.running.backends.backend import Backend, Finished, Listen, Resources

if TYPE_CHECKING:
    from search.running.backends.parcel import Runner
    from search.training.job import Job, Workbench

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set for what `ray job submit` runs
LOOK_S = 10.0
TRIES = 3  # to become a client of a cluster that is there
HEAR_S = 1.0
END_S = 20.0  # for Tune to notice that there is nothing left to do
# Before Ray and Tune are imported: no log files nobody reads, nothing started behind our back.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


class RayKind:
    """``--backend ray``: an existing cluster, or one that is started on this machine."""

    name = "ray"

    def check(self, resources: Resources, profile: HardwareProfile, device: str | None) -> None:
        """Raises InputError when Ray is not installed or the cluster does not answer."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import_optional("ray.tune", "--backend ray", "ray[client,default,tune]")
        if resources.address is not None:
            os.environ["RAY_ADDRESS"] = resources.address  # for what measures on a node
        if not os.environ.get("RAY_ADDRESS"):
            return  # one may have to be started, and that is for later
        connect(resources.address, None)
        import ray

        nodes = sum(node["Alive"] for node in ray.nodes())
        if IN_JOB not in os.environ:  # a job's folder is gone when its connection ends
            ray.shutdown()
        if profile.name == "host" and device is None and nodes > 1:
            raise InputError(
                f"--target host must be one machine, but the cluster has {nodes} nodes; name the "
                f"one that measures with --device ray:RESOURCE, or search with --backend local"
            )

    def start(
        self,
        bench: Workbench,
        resources: Resources,
        listen: Listen,
        note: Callable[[str], None],
    ) -> Backend:
        """Puts the bench into the object store, once, and starts Tune."""
        from search.running.backends.parcel import pack

        baseline = bench.context.baseline
        argument = {
            "arrays": pack(bench),
            "baseline": None if baseline is None else baseline.read_bytes(),
            "threads": resources.cpus_per_trial or 1,
        }
        module = bench.task.model_spec.partition(":")[0]
        connect(resources.address, _own_module(module))
        return RayBackend(
            f"{__name__}:open_bench", argument, resources, bench.folder, listen, note
        )


BACKEND = RayKind()


def open_bench(argument: Mapping[str, Any]) -> Runner:
    """In a worker: the runner for the bench that ``start`` put into the object store."""
    import torch

    from search.running.backends.parcel import open_runner

    torch.set_num_threads(argument["threads"])
    folder = Path(argument["folder"])
    baseline = None
    if argument["baseline"] is not None:
        baseline = folder / "baseline.onnx"
        baseline.write_bytes(argument["baseline"])
    return open_runner(
        argument["arrays"], plans=folder / "plans", scratch=folder, baseline=baseline
    )


@dataclass
class _Running:
    """A job under way, and where it is."""

    ticket: int
    folder: str  # of its files, among those of all plans
    stage: str = "waiting for a worker"
    fraction: float | None = None


class RayBackend:
    """Jobs as Tune trials; see ``on_ray.board`` for who tells whom. Ray is connected already."""

    def __init__(
        self,
        opener: str,
        argument: Mapping[str, Any],
        resources: Resources,
        plans: Path,
        listen: Listen,
        note: Callable[[str], None],
    ) -> None:
        """``opener``, ``module:function``, makes a worker's runner of ``argument``."""
        import ray

        from search.running.backends.on_ray.board import Board

        self.workers = resources.workers
        self._plans = plans
        self._listen = listen
        self._note = note
        self._running: dict[int, _Running] = {}  # by the board's tickets
        self._posted = 0
        self._finished: deque[Finished] = deque()
        self._said: set[str] = set()
        self._board = Board.options(  # type: ignore[attr-defined]
            scheduling_strategy=_this_node()
        ).remote()
        self._get = ray.get
        self._shutdown = ray.shutdown
        self._ended: str | None = None  # why Tune ended before it was told to
        self._closing = False
        self._folder = tempfile.TemporaryDirectory(prefix="compression-search-tune-")
        tuner = _tuner(opener, argument, resources, self._board, self._folder.name)
        self._tune = threading.Thread(target=self._fit, args=(tuner,), daemon=True)
        self._tune.start()

    def submit(self, ticket: int, job: Job) -> None:
        """Posts the job, with the files that it names."""
        from search.running.backends.messages import job_to_json
        from search.running.backends.on_ray.board import Posted

        named = {"checkpoint": job.checkpoint, "exported": job.exported}
        files = {name: path.read_bytes() for name, path in named.items() if path is not None}
        self._posted += 1
        self._running[self._posted] = _Running(ticket, job.folder)
        self._ask(self._board.post.remote(self._posted, Posted(job_to_json(job), files)))

    def next(self) -> Finished:
        """Waits for the first job that is done; its files are in the plan's folder then."""
        while not self._finished:
            heard = self._ask(self._board.hear.remote(HEAR_S))
            for told in heard:
                self._hear(told)
            if not heard:
                for running in self._running.values():
                    self._listen(running.ticket, running.stage, running.fraction)
            if self._ended is not None and not heard:
                raise SearchError(
                    f"Ray Tune must run until the search ends it, but ended: {self._ended}; go on "
                    f"with --resume"
                )
        return self._finished.popleft()

    def close(self) -> None:
        """Ends Tune, its workers and the connection."""
        if self._closing:
            return
        self._closing = True
        if not self._running and self._ended is None:
            self._board.finish.remote()
            self._tune.join(END_S)
        self._shutdown()  # kills what still runs for this driver
        self._folder.cleanup()

    def _fit(self, tuner: Any) -> None:
        try:
            tuner.fit()
            self._ended = "no reason given"
        except BaseException as error:
            self._ended = one_line(error)

    def _ask(self, reference: Any) -> Any:
        import ray

        try:
            return self._get(reference)
        except ray.exceptions.RayError as error:
            raise SearchError(
                f"the Ray cluster must stay up, but is lost: {one_line(error)[:300]}; go on with "
                f"--resume when it is back"
            ) from error

    def _hear(self, told: Any) -> None:
        if told.kind == "unable":
            raise SearchError(
                f"a Ray worker must be able to do what the driver can, but it could not start: "
                f"{told.content}; every node needs the same packages"
            )
        if told.kind == "note":
            if told.content not in self._said:
                self._said.add(told.content)
                self._note(told.content)
            return
        running = self._running.get(told.ticket)
        if running is None:
            return  # what a worker that was taken for dead still had to say
        if told.kind == "again":
            self._note(f"The worker of trial {running.ticket} ended; the trial starts again.")
        elif told.kind == "stage":
            running.stage, running.fraction = told.content
            self._listen(running.ticket, running.stage, running.fraction)
        else:
            del self._running[told.ticket]
            self._finished.append(self._finish(running, told))

    def _finish(self, running: _Running, told: Any) -> Finished:
        from search.running.backends.messages import outcome_from_json

        if told.kind == "error":
            return Finished(running.ticket, None, told.content)
        outcome = dict(told.content)
        names = {"model": "model.onnx", "checkpoint": "weights.pt"}
        try:
            for field, content in told.files.items():
                path = self._plans / running.folder / names[field]
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part")
                part.write_bytes(content)
                part.replace(path)
                outcome[field] = str(path)
        except OSError as error:
            return Finished(running.ticket, None, describe(error))
        return Finished(running.ticket, outcome_from_json(outcome))


def connect(address: str | None, module: Path | None) -> None:
    """Connects to a cluster; without an address to this machine's, which is started if need be.

    A connection that is there already is used: that of a Ray job, which sends its own folder.

    Raises:
        InputError: it does not answer.
    """
    import ray

    if ray.is_initialized():
        return
    _look(address or os.environ.get("RAY_ADDRESS"))
    environment = {"py_modules": [str(module)]} if module else None
    for left in reversed(range(TRIES)):
        try:
            ray.init(
                address=address,
                runtime_env=environment,
                logging_level="CRITICAL",  # what goes wrong is said in the search's own words
                log_to_driver=False,
                include_dashboard=None if address else False,
            )
            return
        except Exception as error:  # of Ray: ConnectionError, ValueError, RuntimeError…
            if left and isinstance(error, ConnectionAbortedError):
                continue  # a busy head did not start this client's process in time
            raise InputError(
                f"--address must be that of a Ray cluster that answers, but {address!r} does not: "
                f"{one_line(error)[:300]}; start one with: ray start --head"
            ) from error


def _look(address: str | None) -> None:
    """Sees whether anything listens there; Ray itself ends the process where nothing does.

    Raises:
        InputError: nothing does.
    """
    host, colon, port = (address or "").removeprefix("ray://").partition("/")[0].rpartition(":")
    if not colon:
        return  # such as auto
    try:
        socket.create_connection((host, int(port)), LOOK_S).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"--address must be that of a Ray cluster that answers, but {address!r} does not: "
            f"{one_line(error)}; start one with: ray start --head"
        ) from None


def _own_module(name: str) -> Path | None:
    """The file or folder of a person's own module, which the nodes don't have."""
    top = name.partition(".")[0]
    if name in ("torchvision", "timm"):
        return None
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin)
    installed = [Path(sysconfig.get_path(key)) for key in ("purelib", "platlib", "stdlib")]
    if any(path.is_relative_to(folder) for folder in installed):
        return None
    return path.parent if path.name == "__init__.py" else path


def _this_node() -> Any:
    """Where the driver is; through a ``ray://`` address, the cluster's head."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _tuner(
    opener: str, argument: Mapping[str, Any], resources: Resources, board: Any, folder: str
) -> Any:
    # Else workers are started one after the other, and each start takes seconds.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.workers)
    from ray import tune

    from search.running.backends.on_ray.searcher import JobSearcher
    from search.running.backends.on_ray.trainable import JobTrainable

    trainable = tune.with_parameters(
        JobTrainable, board=board, opener=opener, argument=dict(argument)
    )
    needs = {"cpu": resources.cpus_per_trial or 1, "gpu": _gpus(resources)}
    return tune.Tuner(
        tune.with_resources(trainable, needs),
        tune_config=tune.TuneConfig(
            search_alg=JobSearcher(board), num_samples=-1, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=folder,
            failure_config=tune.FailureConfig(max_failures=0),  # the board tries again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


def _gpus(resources: Resources) -> float:
    """What was asked for, else an equal share of the cluster's GPUs, at most one."""
    import ray

    if resources.gpus_per_trial is not None:
        return resources.gpus_per_trial
    return float(min(1.0, ray.cluster_resources().get("GPU", 0.0) / resources.workers))
