"""MLflow: one parent run a search, one nested run a trial.

The search itself only writes to a spool on disk (``spool.py``); ``sender.py``, a process beside
it, follows that file and talks to the store. A store that is slow, hangs or is away therefore
costs the search nothing, and what it missed is sent when it is back, at the end, or by the next
``--resume``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from search.publishing.figure import draw_front
from search.publishing.records import (
    NO_ROLE,
    Record,
    ending_records,
    start_record,
    trial_record,
)
from search.publishing.registry import address
from search.publishing.spool import Spool
from search.result import SearchResult
from search.task import Metric
from search.telling import words
from search.trial import Trial
from spaces.space import input_size

SENDER = Path(__file__).with_name("sender.py")
CLOSE_WITHIN_S = 120.0
EXAMPLES = 2  # images in the model's input example
# A client that waits long for a dead server delays the end of a search. What the person has set
# wins. The first three are seconds, requests, seconds.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the sender tries again on its own
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
}


def resolve_tracking_uri(given: str | None, runs: Path) -> str:
    """The store to write to: what was given, else ``MLFLOW_TRACKING_URI``, else a local file.

    The file is ``mlflow.db`` in the folder of all runs; artifacts go to a folder beside it.
    """
    return (
        given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.resolve()}/mlflow.db"
    )


class MlflowTracker:
    """Writes one study's trials and its end to an MLflow store.

    ``parameters`` are shown with the parent run (target, limits, budget, seed…). ``register`` is
    a name in the model registry for the winner, aliased with the target's name. ``note`` takes
    sentences for the person.
    """

    def __init__(
        self,
        folder: Path,
        study: str,
        tracking_uri: str,
        metric: Metric,
        parameters: Mapping[str, object],
        note: Callable[[str], None],
        register: str | None = None,
    ) -> None:
        self._folder = folder
        self._uri = tracking_uri
        self._metric = metric
        self._register = register
        self._note = note
        self._spool = Spool(folder / "mlflow.jsonl")
        self._unwritten: list[Record] = []
        self._sender: subprocess.Popen[bytes] | None = None
        self._told: set[str] = set()
        kept = self._spool.read()
        self._seen = {r["number"] for r in kept if r["kind"] == "trial"}
        self._updates = {r["number"]: _content(r) for r in kept if r["kind"] == "update"}
        key = kept[0]["key"] if kept else uuid.uuid4().hex
        self._write([start_record(study, key, parameters, _now_ms())])

    def trial(self, trial: Trial) -> None:
        """Takes one finished trial; one whose number it has had before is ignored."""
        if trial.number not in self._seen:
            self._seen.add(trial.number)
            self._write([trial_record(trial, self._metric, _now_ms())])
        self._listen()

    def finish(
        self, result: SearchResult, report: Path | None = None, bundle: Path | None = None
    ) -> None:
        """Takes the end: roles, test figures, front, report, bundle and the winner's model."""
        records = [r for r in ending_records(result, _now_ms()) if self._is_news(r)]
        try:
            records += self._files(result, report, bundle)
        except OSError as error:
            self._tell("files", f"The front's figure or the example can't be written: {error}.")
        records.append({"kind": "end", "status": "FINISHED", "time_ms": _now_ms()})
        if self._sender is not None and self._sender.poll() is not None:
            self._listen()
            self._await_sender(self._sender)
            self._sender = None  # whatever ended it may not end the next one
        self._write(records)

    def close(self) -> None:
        """Waits until everything has arrived, or the store doesn't answer, at most two minutes."""
        if self._unwritten:
            self._write([])
        if self._sender is not None:
            self._await_sender(self._sender)
            self._sender = None
        if self._unwritten:
            self._note(
                f"{words.counted(len(self._unwritten), 'record')} for MLflow could not be written "
                f"to {self._spool.path}; resume the study to log them."
            )
        elif waiting := self._unsent():
            self._note(
                f"MLflow has yet to get {words.counted(waiting, 'record')}, kept in "
                f"{self._spool.path} and sent when this study is resumed."
            )

    def _await_sender(self, sender: subprocess.Popen[bytes]) -> None:
        assert sender.stdin is not None
        assert sender.stdout is not None
        with suppress(BrokenPipeError):  # it has ended already
            sender.stdin.write(b"\n")
        sender.stdin.close()
        give_up = time.monotonic() + CLOSE_WITHIN_S
        say_so = time.monotonic() + 3
        try:
            while sender.poll() is None and time.monotonic() < give_up:
                time.sleep(0.05)
                if time.monotonic() > say_so and (left := self._unsent()):
                    say_so = give_up
                    self._note(
                        f"Sending {words.counted(left, 'record')} to MLflow, for at most "
                        f"{words.duration(CLOSE_WITHIN_S)}."
                    )
            self._listen()
        finally:  # also when the person won't wait
            sender.kill()
            sender.wait()
            sender.stdout.close()

    def _write(self, records: Iterable[Record]) -> None:
        """Appends to the spool; what a full disk refuses is kept until the next call."""
        self._unwritten += records
        try:
            self._spool.append(self._unwritten)
            self._unwritten = []
            if self._sender is None:
                self._sender = self._start_sender()
        except OSError as error:
            self._tell("disk", f"Results can't be passed on to MLflow now: {error}.")

    def _start_sender(self) -> subprocess.Popen[bytes]:
        uri = {"MLFLOW_TRACKING_URI": self._uri}
        with (self._folder / "mlflow.log").open("ab") as log:
            sender = subprocess.Popen(
                [sys.executable, "-P", str(SENDER), str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={**ENVIRONMENT, **os.environ, **uri},
                start_new_session=True,  # Ctrl-C is the search's to handle
            )
        assert sender.stdout is not None
        os.set_blocking(sender.stdout.fileno(), False)
        return sender

    def _listen(self) -> None:
        """Passes on what the sender has to say."""
        if self._sender is None:
            return
        assert self._sender.stdout is not None
        for line in (self._sender.stdout.read() or b"").splitlines():  # doesn't wait
            event = json.loads(line)
            if event["event"] == "away":
                self._tell(
                    "away",
                    f"MLflow is away ({event['why']}); the search goes on, results are kept "
                    f"and sent later.",
                )
            elif event["event"] == "back":
                self._tell("back", "MLflow is back; what it missed is being sent.")
            elif event["event"] == "registered":
                model = address(event["name"], event["alias"])
                self._tell("registered", f"The winner is registered in MLflow: {model}.")
            else:
                self._tell("refused", f"MLflow refused {event['what']}: {event['why']}.")
        if self._sender.poll() not in (None, 0, 1):
            self._tell(
                "ended",
                f"The process that writes to MLflow ended with {self._sender.returncode}; "
                f"results are kept and sent later. Its log: {self._folder / 'mlflow.log'}.",
            )

    def _tell(self, kind: str, text: str) -> None:
        """Says each kind of thing once."""
        if kind not in self._told:
            self._told.add(kind)
            self._note(text)

    def _unsent(self) -> int:
        """How many spooled records the store has not got yet."""
        offset = 0
        state_path = self._folder / "mlflow.json"
        if state_path.exists():
            state = json.loads(state_path.read_text())
            if state["store"] == hashlib.sha256(self._uri.encode()).hexdigest():
                offset = state["offset"]
        return self._spool.count(offset)

    def _is_news(self, record: Record) -> bool:
        if record["kind"] != "update":
            return True
        number, content = record["number"], _content(record)
        if number not in self._seen:
            return False
        if self._updates.get(number, {"tags": NO_ROLE, "metrics": {}}) == content:
            return False
        self._updates[number] = content
        return True

    def _files(
        self, result: SearchResult, report: Path | None, bundle: Path | None
    ) -> list[Record]:
        draw_front(result, self._folder / "front.png")
        records = [self._artifact(self._folder / "front.png")]
        if report:
            records.append(self._artifact(report))
        if bundle and result.winner:
            records.append(self._artifact(bundle, to="bundle"))
            stated = result.data.preprocess
            size = input_size(result.winner.trial.plan, stated.size)
            example = replace(stated, size=size).apply(result.data.test.images[:EXAMPLES])
            np.save(self._folder / "example.npy", example, allow_pickle=False)
            bound = result.winner.bound
            records.append(
                {
                    "kind": "model",
                    "path": self._relative(bundle / "model.onnx"),
                    "example": "example.npy",
                    "register": self._register,
                    "alias": result.profile.name,
                    "tags": {
                        "study": result.study,
                        "plan_id": result.winner.trial.plan.plan_id,
                        "proven": str(result.winner.proven).lower(),
                        "drop_bound_test": f"{bound.bound:.4f}",
                    },
                }
            )
        return records

    def _artifact(self, path: Path, to: str | None = None) -> Record:
        return {"kind": "artifact", "path": self._relative(path), "to": to}

    def _relative(self, path: Path) -> str:
        """A study's folder may be moved between spooling and sending."""
        return os.path.relpath(path, self._folder)


def _content(record: Record) -> dict[str, Any]:
    return {"tags": record["tags"], "metrics": record["metrics"]}


def _now_ms() -> int:
    return round(time.time() * 1000)
