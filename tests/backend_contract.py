"""What every backend must do; a test class inherits it and says how to make one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_jobs
import pytest

from search.running.backends import Backend, Listen
from search.running.backends.messages import job_to_json, outcome_from_json
from search.running.clock import OutOfTimeError
from search.training.job import Job
from spaces import CompressionPlan

Make = Callable[[Listen], Backend]


def fake_job(**does: Any) -> Job:
    """A job that does what ``fake_jobs.run`` understands."""
    return Job(CompressionPlan({"fake": does or {"sleep_s": 0.0}}), 1.0)


def ignore(_ticket: int, _stage: str, _fraction: float | None) -> None:
    """Listens to nothing."""


class BackendContract:
    """Subclasses have a fixture ``make``, and say how many jobs their backends run at a time."""

    workers = 1

    @pytest.fixture
    def make(self) -> Iterator[Make]:
        raise NotImplementedError

    def test_outcome_comes_back_equal_under_its_ticket(self, make: Make) -> None:
        backend, job = make(ignore), fake_job(sleep_s=0.01)
        backend.submit(7, job)
        finished = backend.next()
        expected = outcome_from_json(fake_jobs.outcome(job_to_json(job)))
        assert finished.ticket == 7
        assert finished.outcome == expected
        assert finished.error is None

    def test_job_that_raises_comes_back_as_one_sentence(self, make: Make) -> None:
        backend = make(ignore)
        backend.submit(0, fake_job(**{"raise": "a layer\nhas no channels"}))
        finished = backend.next()
        assert finished.outcome is None
        assert finished.error is not None
        assert finished.error.startswith("RuntimeError: a layer has no channels (")
        assert "\n" not in finished.error
        backend.submit(1, fake_job())  # and the worker goes on
        assert backend.next().outcome is not None

    def test_all_workers_work_at_a_time(self, make: Make, tmp_path: Path) -> None:
        backend = make(ignore)
        assert backend.workers == self.workers
        for ticket in range(self.workers):  # each waits for the next one, the last for none
            after = {"await": str(tmp_path / f"{ticket + 1}")}
            more = after if ticket + 1 < self.workers else {}
            backend.submit(ticket, fake_job(touch=str(tmp_path / f"{ticket}"), **more))
        found = [backend.next() for _ in range(self.workers)]
        assert {f.ticket for f in found} == set(range(self.workers))
        assert all(f.outcome is not None for f in found)

    def test_stages_are_told(self, make: Make) -> None:
        heard: list[tuple[int, str]] = []
        backend = make(lambda ticket, stage, _: heard.append((ticket, stage)))
        backend.submit(3, fake_job())
        backend.next()
        assert (3, "train") in heard

    def test_what_the_listener_raises_passes_through(self, make: Make) -> None:
        def out_of_time(_ticket: int, _stage: str, _fraction: float | None) -> None:
            raise OutOfTimeError

        backend = make(out_of_time)
        backend.submit(0, fake_job(sleep_s=30.0))
        with pytest.raises(OutOfTimeError):
            backend.next()
        backend.close()

    def test_close_drops_what_is_under_way_and_may_be_repeated(self, make: Make) -> None:
        backend = make(ignore)
        backend.submit(0, fake_job(sleep_s=30.0))
        backend.close()
        backend.close()
