"""A backend that runs nothing: jobs take the time that their plans say, on a clock of its own."""

from __future__ import annotations

import fake_jobs

from search.inputs.own_code import describe
from search.running.backends import Finished, Listen
from search.running.backends.messages import job_to_json, outcome_from_json
from search.training.job import Job


class FakeBackend:
    """``workers`` at a time; the job that ends first comes back first. ``now_s`` is its clock."""

    def __init__(self, workers: int, listen: Listen) -> None:
        self.workers = workers
        self.now_s = 0.0
        self.most = 0  # jobs that were under way together
        self._listen = listen
        self._running: dict[int, tuple[float, Job]] = {}

    def submit(self, ticket: int, job: Job) -> None:
        assert ticket not in self._running
        lasts_s = self._lasts_s(job)
        self._running[ticket] = (self.now_s + lasts_s, job)
        self.most = max(self.most, len(self._running))
        assert self.most <= self.workers

    def next(self) -> Finished:
        ticket = min(self._running, key=lambda t: self._running[t][0])
        self.now_s, job = self._running.pop(ticket)
        for each, _ in self._running.items():
            self._listen(each, "train", None)
        try:
            message = job_to_json(job)
            done = fake_jobs.run(message, lambda *told: self._listen(ticket, *told))
        except RuntimeError as error:
            return Finished(ticket, None, describe(error))
        return Finished(ticket, outcome_from_json(done))

    def close(self) -> None:
        self._running.clear()

    @staticmethod
    def _lasts_s(job: Job) -> float:
        return 1.0 + int(job.plan.plan_id, 16) % 7
