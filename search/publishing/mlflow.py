"""MLflow during a search: one parent run a search, one nested run a trial.

The search itself only keeps its trials in the study's storage and, at the end, writes how it
ended (``ending.py``); a process beside it (``follow.py``) publishes both. A store that is slow,
hangs or is away therefore costs the search nothing, and what it lacks is published when it is
back, at the end, by the next ``--resume``, or by hand.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.masking import masked
from search.publishing.publish import (
    ENDING,
    ENVIRONMENT,
    STORAGE,
    resolve_tracking_uri,
)
from search.publishing.registry import address
from search.publishing.trial_run import MAX_PARAMETER
from search.result import SearchResult
from search.task import DataSet, Metric
from search.trial import Trial

if TYPE_CHECKING:
    from search.deciding.study import Study

ROOT = Path(__file__).parents[2]
# The process sees this project last, and not the current folder: a file there may have the name
# of one of MLflow's packages.
FOLLOW = f"""\
import sys
sys.path.append({str(ROOT)!r})
from search.publishing.follow import main
sys.exit(main())
"""
# How long a search waits at its end for what is still to be published: as long as its budget
# leaves, but at least and at most so long. Then the process beside it goes on alone.
LEAST_WAIT_S, MOST_WAIT_S = 5.0, 60.0


class MlflowTracker:
    """Has one study's trials and its end published to an MLflow store.

    ``parameters`` are shown with the parent run (target, limits, budget, seed…). ``register`` is
    a name in the model registry for the winner, aliased with the target's name. ``note`` takes
    sentences for the person.
    """

    def __init__(
        self,
        folder: Path,
        tracking_uri: str,
        metric: Metric,
        parameters: Mapping[str, object],
        note: Callable[[str], None],
        *,
        register: str | None = None,
        storage: str | None = None,
        budget_s: float | None = None,
    ) -> None:
        """``storage``: the URL of the study's, where that isn't the folder's own file."""
        self._folder = folder
        self._uri = tracking_uri
        self._metric = metric
        self._parameters = parameters
        self._register = register
        self._storage = storage
        self._budget_s = budget_s
        self._note = note
        self._process: subprocess.Popen[bytes] | None = None
        self._said: set[str] = set()
        self._wait_until = 0.0

    def begin(self, study: Study, data: DataSet) -> None:
        """Keeps with the study what is shown of it, and starts the process that publishes."""
        study.describe(
            {
                "metric": self._metric,
                "parameters": {n: str(v)[:MAX_PARAMETER] for n, v in self._parameters.items()},
                "data": described(data),
                "began_ms": round(time.time() * 1000),
            }
        )
        with suppress(OSError):  # a folder that can't be written has no older one either
            (self._folder / ENDING).unlink(missing_ok=True)  # of a search that is resumed
        self._begin_process()

    def trial(self, trial: Trial) -> None:
        """One more trial is in the study's storage."""
        self._begin_process()
        self._wake()
        self._listen()

    def finish(
        self, result: SearchResult, report: Path | None = None, bundle: Path | None = None
    ) -> None:
        """Writes the end: roles, test figures, front, report, bundle and the winner's model."""
        from search.publishing.ending import write_ending

        time_ms = round(time.time() * 1000)
        try:
            write_ending(result, time_ms, report, bundle, self._register)
        except OSError as error:
            self._say("files", f"MLflow won't get the end of the search: {error}.")
        left_s = MOST_WAIT_S if self._budget_s is None else self._budget_s - result.seconds
        self._wait_until = time.monotonic() + left_s
        if self._process is not None and self._process.poll() is not None:
            self._listen()
            self._process = None  # whatever ended it may not end the next one
        self._begin_process()
        self._wake()

    def close(self) -> None:
        """Waits until everything is published or the store doesn't answer, for a few seconds
        or as long as the budget leaves. May be called twice.
        """
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        now = time.monotonic()
        until = min(max(self._wait_until, now + LEAST_WAIT_S), now + MOST_WAIT_S)
        try:
            process.wait(timeout=until - now)
        except subprocess.TimeoutExpired:
            self._listen_to(process)
            self._note(
                f"MLflow is still being written to; that goes on by itself (its log: "
                f"{self._folder / 'mlflow.log'}). If it is cut short: {self._command()}"
            )
        else:
            self._listen_to(process)
            if process.returncode:
                self._note(f"MLflow has not got everything. {self._later()}")
        process.stdout.close()

    def _begin_process(self) -> None:
        """Starts the process, where there is none yet; a full disk may keep it from starting."""
        if self._process is None:
            try:
                self._process = self._start()
            except OSError as error:
                self._say("disk", f"MLflow gets nothing for now: {error}. {self._later()}")

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {"MLFLOW_TRACKING_URI": self._uri}
        if self._storage:
            settings[STORAGE] = self._storage
        with (self._folder / "mlflow.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", FOLLOW, str(self._folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={**ENVIRONMENT, **_without(os.environ, STORAGE), **settings},
                start_new_session=True,  # Ctrl-C is the search's to handle
            )
        assert process.stdout is not None
        assert process.stdin is not None
        os.set_blocking(process.stdout.fileno(), False)
        os.set_blocking(process.stdin.fileno(), False)
        return process

    def _wake(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            # It has ended, or has been woken often enough already.
            with suppress(BrokenPipeError, BlockingIOError):
                os.write(self._process.stdin.fileno(), b"\n")

    def _listen(self) -> None:
        """Passes on what the process has to say."""
        if self._process is not None:
            self._listen_to(self._process)

    def _listen_to(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in (process.stdout.read() or b"").splitlines():  # doesn't wait
            event = json.loads(line)
            if event["event"] == "away":
                self._say(
                    "away",
                    f"MLflow is away ({event['why']}); the search goes on, and what MLflow lacks "
                    f"is published later.",
                )
            elif event["event"] == "remedy":
                self._say("remedy", f"MLflow takes nothing: {event['why']}. The search goes on.")
            elif event["event"] == "back":
                self._say("back", "MLflow takes results again, and gets what it lacks.")
            elif event["event"] == "registered":
                model = address(event["name"], event["alias"])
                self._say("registered", f"The winner is registered in MLflow: {model}.")
            else:
                self._say("refused", f"MLflow refused {event['what']}.")
        if process.poll() is not None and process.returncode not in (0, 3):
            self._say(
                "ended",
                f"The process that publishes to MLflow ended with {process.returncode} (its log: "
                f"{self._folder / 'mlflow.log'}). {self._later()}",
            )

    def _say(self, kind: str, text: str) -> None:
        """Says each kind of thing once."""
        if kind not in self._said:
            self._said.add(kind)
            self._note(text)

    def _later(self) -> str:
        return f"What it lacks: {self._command()}"

    def _command(self) -> str:
        """How to publish by hand; a password has to be put in again."""
        parts = ["python", "-m", "search", "publish", os.path.relpath(self._folder)]
        if self._uri != resolve_tracking_uri(None, self._folder.parent):
            parts += ["--tracking-uri", masked(self._uri)]
        if self._storage and self._storage != os.environ.get(STORAGE):
            parts += ["--storage", masked(self._storage)]
        return shlex.join(parts)


def described(data: DataSet) -> dict[str, Any]:
    """A data set as MLflow shows an input: name, SHA-256, shape and counts."""
    preprocess = data.preprocess
    splits = {
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
    }
    return {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "schema": {
            "images": f"uint8 ({preprocess.channels}, {preprocess.size[0]}, {preprocess.size[1]})",
            "classes": len(data.classes),
        },
        "profile": {"num_rows": sum(splits.values()), **splits},
    }


def _without(environment: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}
