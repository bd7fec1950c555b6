"""One study's runs in an MLflow store: found again by their tags, completed where they lack.

Whatever is written here may be written again without harm. A run is found by its tag
(``study_key``, ``trial``), the tag ``published`` tells what it holds, parameters and metrics are
compared with what is there, and files replace files. So nothing has to be remembered outside of
the store, and it does not matter who published what, or when it was cut short.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from search.publishing.outcomes import RefusedError, TellPersonError
from search.publishing.trial_run import Run, as_key, digest

ENTITIES_PER_BATCH = 100  # MLflow's limit on parameters and on tags per request
AWAIT_REGISTRATION_S = 30
EXPERIMENT = "compression-search"
PUBLISHED = "published"
MAX_DIGEST = 36  # of a data set, by MLflow


class Store:
    """The parent run of a study, made where it is missing, and the runs nested in it."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """``about``: the study's key, name, parameters, data and beginning, see ``Source``.

        Raises:
            TellPersonError: the experiment is deleted.
        """
        import mlflow
        from mlflow import MlflowClient

        mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])  # whatever was set before
        self.folder = folder
        self.client = MlflowClient()
        self.experiment_id = self._experiment()
        filter_string = f"tags.study_key = '{about['key']}'"
        runs = self.client.search_runs([self.experiment_id], filter_string, max_results=1)
        if runs:
            self.run_id = runs[0].info.run_id
        else:
            self.run_id = self.client.create_run(
                self.experiment_id,
                start_time=about["began_ms"],
                tags={"study_key": about["key"], **_source_tags()},
                run_name=about["name"],
            ).info.run_id
        self._nested: dict[int, tuple[str, str]] = {}  # run and what it holds, by trial
        self.look_again()

    def look_again(self) -> None:
        """Reads which trials have runs: another process may have published some."""
        self._nested = {number: (run, held) for number, run, held in self._list_nested()}

    def _experiment(self) -> str:
        if identifier := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            experiment = self.client.get_experiment(identifier)
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None:
                location = _beside_database(os.environ["MLFLOW_TRACKING_URI"])
                return str(self.client.create_experiment(name, artifact_location=location))
        if experiment.lifecycle_stage == "deleted":
            raise TellPersonError(
                f"the experiment {experiment.name!r} is deleted: restore it (mlflow experiments "
                f"restore --experiment-id {experiment.experiment_id}), or name another one in "
                f"MLFLOW_EXPERIMENT_NAME"
            )
        return str(experiment.experiment_id)

    def _list_nested(self) -> Iterator[tuple[int, str, str]]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                f"tags.mlflow.parentRunId = '{self.run_id}'",
                max_results=1000,
                page_token=token,
            )
            for run in page:
                tags = run.data.tags
                yield int(tags["trial"]), run.info.run_id, tags.get(PUBLISHED, "")
            token = page.token
            if not token:
                return

    def put_parent(self, about: Mapping[str, Any]) -> None:
        """Parameters that the parent run lacks, and the data set as its input."""
        run = self.client.get_run(self.run_id)
        stated = {as_key(name): text for name, text in about["parameters"].items()}
        new = {name: text for name, text in stated.items() if name not in run.data.params}
        self._log(self.run_id, params=new)
        self._put_data_set(run, about["data"])

    def _put_data_set(self, run: Any, data: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        short = data["fingerprint"][:MAX_DIGEST]
        inputs = run.inputs.dataset_inputs if run.inputs else []
        if any(each.dataset.digest == short for each in inputs):
            return
        data_set = Dataset(
            name=data["name"],
            digest=short,
            source_type="compression-search",
            source=json.dumps({"data": data["name"], "sha256": data["fingerprint"]}),
            schema=json.dumps(data["schema"]),
            profile=json.dumps(data["profile"]),
        )
        context = InputTag("mlflow.data.context", "train, validation, test")
        self.client.log_inputs(self.run_id, [DatasetInput(data_set, [context])])

    def set_running(self) -> None:
        """The search goes on."""
        self.client.update_run(self.run_id, status="RUNNING")

    def set_ended(self, status: str, time_ms: int) -> None:
        """The search is over: FINISHED, or KILLED where it has no ending."""
        self.client.set_terminated(self.run_id, status, time_ms)

    def has(self, number: int, run: Run) -> bool:
        """Whether a trial's run is there and holds just this."""
        return self._nested.get(number, ("", ""))[1] == digest(run)

    def put_trial(self, number: int, run: Run) -> None:
        """A trial's run, with what it lacks."""
        run_id, _ = self._nested.get(number, (None, ""))
        known: Mapping[str, float] = {}
        if run_id is None:
            tags = {"mlflow.parentRunId": self.run_id, "trial": str(number), **_source_tags()}
            run_id = self.client.create_run(
                self.experiment_id, start_time=run["start_ms"], tags=tags, run_name=run["name"]
            ).info.run_id
            self._nested[number] = run_id, ""
        else:
            known = self.client.get_run(run_id).data.metrics
        self._log(run_id, run["params"], run["tags"], _changed(known, run["metrics"]))
        self.client.set_terminated(run_id, run["status"], run["end_ms"])
        self.client.set_tag(run_id, PUBLISHED, digest(run))
        self._nested[number] = run_id, digest(run)

    def has_ending(self, ending: Mapping[str, Any]) -> bool:
        """Whether the parent run holds just this end."""
        tags = self.client.get_run(self.run_id).data.tags
        return bool(tags.get(PUBLISHED) == digest(ending))

    def put_ending(
        self, ending: Mapping[str, Any], registered: Callable[[str, str], None]
    ) -> None:
        """The story, the front, the files and the winner; tells where that is registered.

        Raises:
            RefusedError: a file is no longer there; all else is published.
        """
        known = self.client.get_run(self.run_id).data.metrics
        metrics = _changed(known, [(ending["time_ms"], ending["metrics"])])
        self._log(self.run_id, {}, ending["tags"], metrics)
        self._put_table(ending["table"])
        missing = [each["path"] for each in ending["files"] if not self._path(each).exists()]
        for each in ending["files"]:
            path = self._path(each)
            if path.is_dir():
                self.client.log_artifacts(self.run_id, str(path), each["to"])
            elif path.exists():
                self.client.log_artifact(self.run_id, str(path), each["to"])
        if model := ending["model"]:
            if self._path(model).exists():
                self._put_model(model, registered)
            else:
                missing.append(model["path"])
        self.client.set_tag(self.run_id, PUBLISHED, digest(ending))
        if missing:
            raise RefusedError(f"{', '.join(missing)} is no longer in {self.folder}")

    def _put_table(self, table: Mapping[str, Any]) -> None:
        """The file and tag that ``log_table`` writes; that one appends to what is there."""
        content = {"columns": table["columns"], "data": table["data"]}
        self.client.log_dict(self.run_id, content, table["file"])
        tables = json.dumps([{"path": table["file"], "type": "table"}])
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", tables)

    def _put_model(self, model: Mapping[str, Any], registered: Callable[[str, str], None]) -> None:
        """The winner as an ONNX model with signature; registered, where that is asked for."""
        path = self._path(model)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        if self.client.get_run(self.run_id).data.tags.get("logged_model") != content:
            self._log_model(path, self.folder / model["example"])
            self.client.set_tag(self.run_id, "logged_model", content)
        if name := model["register"]:
            asked = f"{name} {content}"
            if self.client.get_run(self.run_id).data.tags.get("registered_model") != asked:
                self._register(name, model["alias"], model["tags"])
                self.client.set_tag(self.run_id, "registered_model", asked)
            registered(name, model["alias"])

    def _log_model(self, path: Path, example_path: Path) -> None:
        import mlflow.onnx
        import numpy as np
        import onnx
        import onnxruntime

        example = np.load(example_path, allow_pickle=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = session.run(names, {session.get_inputs()[0].name: example})
        mlflow.set_experiment(experiment_id=self.experiment_id)  # or the model goes to "Default"
        mlflow.onnx.log_model(
            onnx.load(path),
            name="model",
            signature=mlflow.models.infer_signature(
                example, dict(zip(names, outputs, strict=True))
            ),
            input_example=example,
            pip_requirements=[
                f"{module.__name__}=={module.__version__}" for module in (onnx, onnxruntime, np)
            ],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,
            run_id=self.run_id,
        )

    def _register(self, name: str, alias: str, tags: Mapping[str, str]) -> None:
        import mlflow

        uri = f"runs:/{self.run_id}/model"
        version = mlflow.register_model(uri, name, AWAIT_REGISTRATION_S, tags=dict(tags)).version
        self.client.set_registered_model_alias(name, alias, version)

    def put_system_metrics(self, figures: Mapping[str, float], time_ms: int, step: int) -> None:
        """Figures of the machine that searches, in the parent run."""
        from mlflow.entities import Metric

        metrics = [Metric(f"system/{k}", v, time_ms, step) for k, v in figures.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def _path(self, entry: Mapping[str, Any]) -> Path:
        return self.folder / str(entry["path"])

    def _log(
        self,
        run_id: str,
        params: Mapping[str, str],
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, tuple[float, int]] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        entities = {
            "params": [Param(k, v) for k, v in params.items()],
            "tags": [RunTag(k, v) for k, v in (tags or {}).items()],
            "metrics": [Metric(k, v, at, 0) for k, (v, at) in (metrics or {}).items()],
        }
        size = ENTITIES_PER_BATCH
        for start in range(0, max(map(len, entities.values())), size):
            part = {name: each[start : start + size] for name, each in entities.items()}
            self.client.log_batch(run_id, **part)


def _changed(
    known: Mapping[str, float], metrics: list[tuple[int, Mapping[str, float]]]
) -> dict[str, tuple[float, int]]:
    """Figures and their times that a run does not show yet; of two of one name, the later."""
    last = {name: (value, at) for at, figures in metrics for name, value in figures.items()}
    return {name: each for name, each in last.items() if known.get(name) != each[0]}


def _beside_database(uri: str) -> str | None:
    """Where a store that is a file has its artifacts: beside it; None for others."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(make_url(uri).database or "").resolve().parent / "artifacts").as_uri()


def _source_tags() -> dict[str, str]:
    return {"mlflow.source.name": "python -m search", "mlflow.source.type": "LOCAL"}
