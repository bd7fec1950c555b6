"""Sends a study's spooled records to an MLflow store: a program of its own beside the search.

    python -P sender.py FOLDER        (store and credentials: MLflow's own environment variables)

Apart from the search, so that neither MLflow's import, its memory and its threads nor a store
that hangs ever takes time from a trial, and so that its settings and its talk stay out of the
person's process. It is run as a file and imports nothing of this project.

It reads ``mlflow.jsonl`` from where ``mlflow.json`` says it stopped, writes one JSON line per
event to standard output (``away``, ``back``, ``refused``, ``registered``), and ends when the
search is over and all is sent, or when the search is over and the store does not answer.

Every record may be sent twice without harm: runs are found again by their tags, parameters and
metrics carry the record's own time stamp, and files replace files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

STATE_VERSION = 1
POLL_S = 0.5
LONGEST_PAUSE_S = 30.0
SAVE_EVERY_S = 1.0
ENTITIES_PER_BATCH = 100  # MLflow's limit on parameters and on tags per request
AWAIT_REGISTRATION_S = 30
EXPERIMENT = "compression-search"
# Codes with which a store says that this very record is at fault: trying again won't help.
REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}

Record = dict[str, Any]


class Away(Exception):
    """The store can't be reached, or can't take anything now."""


class Refused(Exception):
    """The store, or a missing file, makes this one record impossible to send."""


class Store:
    """One study's parent run in an MLflow store, and the runs nested in it."""

    def __init__(self, folder: Path, header: Record) -> None:
        from mlflow import MlflowClient

        self.folder = folder
        self.client = MlflowClient()
        self.experiment_id = self._experiment()
        filter_string = f"tags.study_key = '{header['key']}'"
        found = self.client.search_runs([self.experiment_id], filter_string, max_results=1)
        if found:
            self.run_id = found[0].info.run_id
            self.children = dict(self._list_children())
        else:
            self.run_id = self.client.create_run(
                self.experiment_id,
                start_time=header["time_ms"],
                tags={"study_key": header["key"], **_source_tags()},
                run_name=header["study"],
            ).info.run_id
            self.children = {}

    def _experiment(self) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        location = None
        uri = os.environ["MLFLOW_TRACKING_URI"]
        if uri.startswith("sqlite:///"):  # a store of files: artifacts belong beside it
            database = Path(uri.removeprefix("sqlite:///")).resolve()
            location = (database.parent / "artifacts").as_uri()
        return str(self.client.create_experiment(name, artifact_location=location))

    def _list_children(self) -> Iterator[tuple[int, str]]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                f"tags.mlflow.parentRunId = '{self.run_id}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                yield int(run.data.tags["trial"]), run.info.run_id
            token = page.token
            if not token:
                return

    def send(self, record: Record) -> None:
        """Sends one record by its kind."""
        getattr(self, f"_send_{record['kind']}")(record)

    def _send_start(self, record: Record) -> None:
        known = self.client.get_run(self.run_id).data.params
        new = {k: v for k, v in record["params"].items() if k not in known}
        self._log(self.run_id, {**record, "params": new})
        self.client.update_run(self.run_id, status="RUNNING")

    def _send_trial(self, record: Record) -> None:
        run_id = self.children.get(record["number"])
        if run_id is None:
            tags = {"mlflow.parentRunId": self.run_id, "trial": str(record["number"])}
            run_id = self.client.create_run(
                self.experiment_id,
                start_time=record["start_ms"],
                tags={**tags, **_source_tags()},
                run_name=record["name"],
            ).info.run_id
            self.children[record["number"]] = run_id
        self._log(run_id, record)
        self.client.set_terminated(run_id, record["status"], record["time_ms"])

    def _send_update(self, record: Record) -> None:
        if record["number"] not in self.children:
            raise Refused(f"trial {record['number']} has no run")
        self._log(self.children[record["number"]], record)

    def _send_parent(self, record: Record) -> None:
        self._log(self.run_id, record)

    def _send_table(self, record: Record) -> None:
        """The file and tag that ``log_table`` writes; that one appends to what is there."""
        content = {"columns": record["columns"], "data": record["data"]}
        self.client.log_dict(self.run_id, content, record["file"])
        tables = json.dumps([{"path": record["file"], "type": "table"}])
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", tables)

    def _send_artifact(self, record: Record) -> None:
        path = self._file(record["path"])
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), record["to"])
        else:
            self.client.log_artifact(self.run_id, str(path), record["to"])

    def _send_model(self, record: Record) -> None:
        path, example_path = self._file(record["path"]), self._file(record["example"])
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        logged = f"{digest} {record['register'] or ''}".strip()
        if self.client.get_run(self.run_id).data.tags.get("logged_model") == logged:
            return
        import mlflow.onnx
        import numpy as np
        import onnx
        import onnxruntime

        example = np.load(example_path, allow_pickle=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = session.run(names, {session.get_inputs()[0].name: example})
        mlflow.set_experiment(experiment_id=self.experiment_id)  # or the model goes to "Default"
        info = mlflow.onnx.log_model(
            onnx.load(path),
            name="model",
            signature=mlflow.models.infer_signature(
                example, dict(zip(names, outputs, strict=True))
            ),
            input_example=example,
            pip_requirements=[
                f"{module.__name__}=={module.__version__}" for module in (onnx, onnxruntime, np)
            ],
            registered_model_name=record["register"],
            await_registration_for=AWAIT_REGISTRATION_S,
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            run_id=self.run_id,
        )
        if record["register"]:
            version = info.registered_model_version
            for key, value in record["tags"].items():
                self.client.set_model_version_tag(record["register"], version, key, value)
            self.client.set_registered_model_alias(record["register"], record["alias"], version)
        self.client.set_tag(self.run_id, "logged_model", logged)

    def _send_end(self, record: Record) -> None:
        self.client.set_terminated(self.run_id, record["status"], record["time_ms"])

    def _file(self, relative: str) -> Path:
        path = self.folder / relative
        if not path.exists():
            raise Refused(f"{path} is no longer there")
        return path

    def _log(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(k, v) for k, v in record.get("params", {}).items()]
        tags = [RunTag(k, v) for k, v in record.get("tags", {}).items()]
        metrics = [
            Metric(k, v, record["time_ms"], 0) for k, v in record.get("metrics", {}).items()
        ]
        size = ENTITIES_PER_BATCH
        for start in range(0, max(len(params), len(tags), len(metrics)), size):
            part = slice(start, start + size)
            self.client.log_batch(
                run_id, metrics=metrics[part], params=params[part], tags=tags[part]
            )


class Sender:
    """Follows the spool and remembers how far it was sent."""

    def __init__(self, folder: Path, events: TextIO) -> None:
        self.folder = folder
        self.events = events
        self.state_path = folder / "mlflow.json"
        self.store: Store | None = None
        self.offset = 0
        self.saved_at = 0.0
        self.is_away = False

    def send_available(self, spool_path: Path) -> None:
        """Sends every whole line beyond the offset.

        Raises:
            Away: the store doesn't answer; what was sent until then is remembered.
        """
        with spool_path.open("rb") as spool:
            header = spool.readline()
            if not header.endswith(b"\n"):
                return
            if self.store is None:
                with _outcomes(refusals=False):
                    self.store = Store(self.folder, json.loads(header))
                self._restore()
            spool.seek(self.offset)
            try:
                for line in spool:
                    if not line.endswith(b"\n"):
                        break
                    self._send(json.loads(line))
                    self.offset += len(line)
                    if time.monotonic() - self.saved_at > SAVE_EVERY_S:
                        self._save()
            finally:
                self._save()

    def _send(self, record: Record) -> None:
        assert self.store is not None
        try:
            with _outcomes(refusals=True):
                self.store.send(record)
        except Refused as error:
            self.emit("refused", what=_name(record), why=str(error))
        else:
            if record.get("register"):
                self.emit("registered", name=record["register"], alias=record["alias"])
        if self.is_away:
            self.is_away = False
            self.emit("back")

    def emit(self, event: str, **details: str) -> None:
        """Tells the search."""
        print(json.dumps({"event": event, **details}), file=self.events, flush=True)

    def away(self, error: Away) -> None:
        """Tells the search, once until the store is back."""
        if not self.is_away:
            self.is_away = True
            self.emit("away", why=str(error))

    def _identity(self) -> Record:
        """What the offset holds for: after a change of store or run, all is sent again."""
        assert self.store is not None
        uri = os.environ["MLFLOW_TRACKING_URI"]
        store = hashlib.sha256(uri.encode()).hexdigest()  # a URI may hold a password
        return {"version": STATE_VERSION, "store": store, "run_id": self.store.run_id}

    def _restore(self) -> None:
        if self.state_path.exists():
            state = json.loads(self.state_path.read_text())
            if self._identity().items() <= state.items():
                self.offset = state["offset"]

    def _save(self) -> None:
        state = {**self._identity(), "offset": self.offset}
        fresh = self.state_path.with_suffix(".json.new")
        try:
            fresh.write_text(json.dumps(state))
            fresh.replace(self.state_path)
        except OSError as error:  # a full disk: sending again later is harmless
            print(f"can't write {self.state_path}: {error}", file=sys.stderr)
        self.saved_at = time.monotonic()


@contextmanager
def _outcomes(refusals: bool) -> Iterator[None]:
    """Turns what a store can raise into ``Away`` and, where asked, ``Refused``."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = _masked(str(error))
        print(f"{type(error).__name__}: {said}", file=sys.stderr)
        why = " ".join(said.split())[:300]
        if refusals and getattr(error, "error_code", None) in REFUSALS:
            raise Refused(why) from error
        raise Away(why) from error


def _masked(text: str) -> str:
    """Without the user and password of the store's address, which errors repeat."""
    secret = urlsplit(os.environ["MLFLOW_TRACKING_URI"]).netloc.rpartition("@")[0]
    return text.replace(f"{secret}@", "***@") if secret else text


def _name(record: Record) -> str:
    if "number" in record:
        return f"trial {record['number']}"
    return str(record.get("path") or record.get("file") or record["kind"])


def _source_tags() -> dict[str, str]:
    return {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}


def _is_over(search_pid: int, wait_s: float) -> bool:
    """Waits; True as soon as the search says so by writing to or closing standard input.

    A search that was killed is noticed even where processes that it forked keep the pipe open.
    """
    readable, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(readable) or os.getppid() != search_pid


def main() -> int:
    """Follows the spool of the folder named on the command line."""
    folder = Path(sys.argv[1])
    search_pid = os.getppid()
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # MLflow talks on standard output
    os.nice(10)
    spool_path = folder / "mlflow.jsonl"
    sender = Sender(folder, events)
    with spool_path.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of a search that was killed, the sender may still work
        pause_s = POLL_S
        over = False
        while True:
            try:
                sender.send_available(spool_path)
                pause_s = POLL_S
                sent = True
            except Away as error:
                sender.away(error)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                sent = False
            if over or (not sent and _is_over(search_pid, 0)):
                return 0 if sent else 1
            over = _is_over(search_pid, pause_s)


if __name__ == "__main__":
    sys.exit(main())
