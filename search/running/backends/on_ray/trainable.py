"""A worker of a Ray cluster: set up once, then used for job after job."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from search.inputs.own_code import describe, import_function
from search.quiet import quiet_libraries
from search.running.backends.on_ray.board import Posted, Told
from search.running.backends.pacing import Paced

TELL_EVERY_S = 1.0


class JobTrainable(tune.Trainable):  # type: ignore[misc]
    """Runs one job a trial; Tune gives it the next one by ``reset_config``."""

    def setup(
        self, config: Mapping[str, Any], board: Any, opener: str, argument: Mapping[str, Any]
    ) -> None:
        """``opener``, ``module:function``, makes the runner of ``argument``.

        The argument comes from the object store, one copy a node; its arrays are not copied. It
        is given a ``folder`` of this worker's own.
        """
        self._board = board
        self._folder = Path(tempfile.mkdtemp(prefix="compression-search-"))
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address  # to measure on a node
        quiet_libraries()
        logging.getLogger().addHandler(_Warnings(board))
        try:
            self._run = import_function(opener)({**argument, "folder": str(self._folder)})
        except Exception as error:  # of the person's own code, too: anything
            self._tell(Told("unable", None, describe(error)))
            raise

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Every job can follow every other."""
        return True

    def step(self) -> dict[str, Any]:
        """Fetches the job, runs it, and tells the outcome with its files."""
        ticket = self.config["ticket"]
        posted: Posted | None = ray.get(self._board.fetch.remote(ticket))
        if posted is None:
            return {"done": True, "told": 0}
        try:
            job = {**posted.job, **self._written(posted.files)}
            outcome = self._run(job, Paced(partial(self._tell_stage, ticket), TELL_EVERY_S))
            files = {
                name: Path(outcome[name]).read_bytes()
                for name in ("model", "checkpoint")
                if outcome[name] is not None
            }
        except Exception as error:  # what the person's model raises becomes a failed trial
            self._tell(Told("error", ticket, describe(error)))
        else:
            self._tell(Told("outcome", ticket, outcome, files))
        return {"done": True, "told": 1}

    def cleanup(self) -> None:
        """Removes this worker's folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _written(self, files: Mapping[str, bytes]) -> dict[str, str]:
        """Files that came with the job; of those before, none is needed any more."""
        shutil.rmtree(self._folder / "given", ignore_errors=True)
        shutil.rmtree(self._folder / "plans", ignore_errors=True)
        (self._folder / "given").mkdir()
        for name, content in files.items():
            (self._folder / "given" / name).write_bytes(content)
        return {name: str(self._folder / "given" / name) for name in files}

    def _tell_stage(self, ticket: int, stage: str, fraction: float | None) -> None:
        self._tell(Told("stage", ticket, (stage, fraction)))

    def _tell(self, told: Told) -> None:
        ray.get(self._board.tell.remote(told))


class _Warnings(logging.Handler):
    """Passes on what would be lost in this node's logs."""

    def __init__(self, board: Any) -> None:
        super().__init__(logging.WARNING)
        self._board = board

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(("search", "evaluators", "hardware_profiles", "spaces")):
            self._board.tell.remote(Told("note", None, record.getMessage()))
