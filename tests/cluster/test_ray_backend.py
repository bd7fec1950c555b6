"""The Ray backend on a cluster of one node, started for these tests."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from backend_contract import BackendContract, Make, fake_job, ignore

from search.errors import InputError
from search.running.backends import Listen, Resources
from search.running.backends.ray import ENVIRONMENT, TRIES, RayBackend, connect

TESTS = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def on_ray(
    folder: Path, workers: int, listen: Listen = ignore, notes: list[str] | None = None
) -> RayBackend:
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000
    )
    said = notes if notes is not None else []
    opener = "fake_jobs:open_fake"
    return RayBackend(opener, {}, Resources(workers), folder, listen, said.append)


class TestRay(BackendContract):
    workers = 2

    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        with contextlib.ExitStack() as stack:

            def made(listen: Listen) -> RayBackend:
                backend = on_ray(tmp_path, self.workers, listen)
                stack.callback(backend.close)
                return backend

            yield made


def test_job_of_a_killed_worker_is_tried_once_more(tmp_path: Path) -> None:
    notes: list[str] = []
    with contextlib.closing(on_ray(tmp_path, 1, notes=notes)) as backend:
        backend.submit(0, fake_job(die=str(tmp_path / "died")))
        assert backend.next().outcome is not None
        assert notes == ["The worker of trial 0 ended; the trial starts again."]
        backend.submit(1, fake_job(always_die=True))
        assert str(backend.next().error).startswith("its worker ended twice")
        backend.submit(2, fake_job())
        assert backend.next().outcome is not None


def test_trial_has_the_cpus_it_asks_for_and_shares_the_nodes_data(tmp_path: Path) -> None:
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000
    )
    argument = {"array": np.zeros(1_000_000)}
    resources = Resources(1, cpus_per_trial=2)
    backend = RayBackend(
        "fake_jobs:open_shared", argument, resources, tmp_path, ignore, pytest.fail
    )
    with contextlib.closing(backend):
        backend.submit(0, fake_job(**{"await": str(tmp_path / "go")}))
        give_up = time.monotonic() + 60
        while ray.available_resources().get("CPU", 0) > 0:
            assert time.monotonic() < give_up
            time.sleep(0.1)
        (tmp_path / "go").touch()
        found = backend.next().outcome
    assert found is not None
    # Not copied: it lies in the node's object store, where all its workers look at it.
    assert found.evaluation["accuracy"].detail == {"own": False, "writeable": False}


def test_head_too_busy_for_a_client_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str | None] = []

    def busy(times: int, address: str | None = None, **_: object) -> None:
        calls.append(address)
        if len(calls) <= times:
            raise ConnectionAbortedError("Starting Ray client server failed.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", partial(busy, TRIES - 1))
    connect("auto", None)
    assert calls == ["auto"] * TRIES
    calls.clear()
    monkeypatch.setattr("ray.init", partial(busy, TRIES))
    with pytest.raises(InputError, match="Starting Ray client server failed"):
        connect("auto", None)
    assert len(calls) == TRIES
