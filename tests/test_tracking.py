"""MLflow: what is logged, and that no store, however it fails, costs the search anything.

Stores are real: SQLite files, and ``mlflow server`` processes that are killed and restarted.
"""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.image
import mlflow
import numpy as np
import onnxruntime
import pytest
from mlflow import MlflowClient

from evaluators import Evaluation, Measurement
from search.bundle.write import write_bundle
from search.publishing.figure import draw_front
from search.publishing.mlflow import MlflowTracker, resolve_tracking_uri
from search.publishing.records import (
    MAX_TAG,
    ending_records,
    plan_parameters,
    story,
    trial_metrics,
    trial_record,
)
from search.publishing.spool import Spool
from search.publishing.tracker import NullTracker
from tests.samples import sample_result, tiny_onnx

REGISTERED = "The winner is registered in MLflow: models:/cells@raspberry-pi-4b."
PARAMETERS = {"target": "raspberry-pi-4b", "max_drop": 0.03, "trials": 8}


class Search:
    """A small finished search and what it would hand to a tracker."""

    def __init__(self, folder, trials=8):
        folder.mkdir(parents=True)
        self.folder = folder
        self.result = sample_result(folder, trials=trials)
        self.notes = []
        self.report = folder / "report.html"
        self.report.write_text("<!doctype html><p>report")
        self.bundle = write_bundle(
            folder, self.result, self.result.winner, tiny_onnx(folder / "trial.onnx")
        )

    def tracker(self, uri, **options):
        return MlflowTracker(
            self.folder, "solar", uri, "accuracy", PARAMETERS, self.notes.append, **options
        )

    def run(self, uri, trials=None, **options):
        """The whole of it; the first ``trials`` trials and no end where given."""
        tracker = self.tracker(uri, **options)
        for trial in self.result.trials[:trials]:
            tracker.trial(trial)
        if trials is None:
            tracker.finish(self.result, self.report, self.bundle)
        tracker.close()


class Logged:
    """What a store holds of one study."""

    def __init__(self, uri):
        self.client = MlflowClient(uri, registry_uri=uri)
        self.experiment = self.client.get_experiment_by_name("compression-search")
        runs = self.client.search_runs([self.experiment.experiment_id])
        self.parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
        self.nested = {
            int(r.data.tags["trial"]): r for r in runs if "mlflow.parentRunId" in r.data.tags
        }
        assert len(self.nested) + len(self.parents) == len(runs)  # no trial is logged twice

    @property
    def parent(self):
        assert len(self.parents) == 1
        return self.parents[0]

    def artifacts(self):
        return {a.path for a in self.client.list_artifacts(self.parent.info.run_id)}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An SQLite store without runs, made once: making one takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    code = "import sys, mlflow; mlflow.MlflowClient(sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-c", code, f"sqlite:///{path}"], check=True)
    return path


@pytest.fixture
def sqlite(empty_store, tmp_path):
    return f"sqlite:///{shutil.copy(empty_store, tmp_path)}"


@dataclass
class Finished:
    """A search that was interrupted after five trials and resumed to its end."""

    search: Search
    uri: str
    interrupted: Logged
    logged: Logged


@pytest.fixture(scope="module")
def finished(empty_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    uri = f"sqlite:///{shutil.copy(empty_store, folder)}"
    search = Search(folder / "solar")
    search.run(uri, trials=5)
    interrupted = Logged(uri)
    search.run(uri, register="cells")
    mlflow.set_tracking_uri(uri)
    yield Finished(search, uri, interrupted, Logged(uri))
    mlflow.set_tracking_uri(None)


@pytest.fixture(autouse=True)
def own_settings(tmp_path, monkeypatch):
    """No test writes to the store that a fallback would choose, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


# What is logged


def test_plan_parameters_are_flat_and_readable():
    settings = {
        "pruning": {"kept": {"layer1.0.conv1": 32}},
        "depth": {"removed": ["layer1.1", "layer2.1"]},
        "odd": {"a?b": 1},
    }
    assert plan_parameters(settings) == {
        "pruning.kept.layer1.0.conv1": "32",
        "depth.removed": "layer1.1, layer2.1",
        "odd.a_b": "1",
    }


def test_metrics_name_split_and_unit_and_hold_no_nan(tmp_path):
    trial = sample_result(tmp_path).trials[1]
    odd = Measurement("latency_p90_ms", float("nan"), "ms", "measured", "here")
    drop = Measurement("drop", -0.01, "", "measured", "here")
    metrics = trial_metrics(
        replace(trial, evaluation=trial.evaluation.merged(Evaluation.of([odd, drop]))), "accuracy"
    )
    assert metrics["accuracy_validation"] == trial.evaluation.value("accuracy")
    assert metrics["latency_ms_low"] < metrics["latency_ms"] < metrics["latency_ms_high"]
    assert metrics["drop_validation"] == -0.01
    assert metrics["train_seconds"] == trial.stages["train"]
    assert not {"accuracy", "drop", "latency_p90_ms"} & metrics.keys()


def test_trial_record_ends_now_and_began_when_the_trial_did(tmp_path):
    trial = replace(sample_result(tmp_path).trials[1], stages={"train": 2.5})
    record = trial_record(trial, "accuracy", 1_000_000)
    assert (record["start_ms"], record["time_ms"]) == (997_500, 1_000_000)


def test_ending_marks_roles_and_test_figures(tmp_path):
    result = sample_result(tmp_path)
    updates = {r["number"]: r for r in ending_records(result, 0) if r["kind"] == "update"}
    winner = result.winner
    update = updates[winner.trial.number]
    assert update["tags"] == {"on_front": "true", "role": "winner", "proven": "true"}
    assert update["metrics"]["accuracy_test"] == winner.test.value("accuracy_test")
    assert update["metrics"]["drop_bound_test"] == winner.bound.bound
    assert updates[0]["tags"]["role"] == "baseline"
    assert updates[0]["metrics"]["accuracy_test"] == result.baseline_test.value("accuracy_test")
    on_front = {n for n, r in updates.items() if r["tags"]["on_front"] == "true"}
    assert on_front == {t.number for t in result.front}


@pytest.mark.parametrize("winner", ["proven", "unproven", "none"])
def test_story_and_figure_are_made_however_a_search_ended(tmp_path, winner):
    result = sample_result(tmp_path, winner=winner)
    told = story(result)
    assert {"proven": "Proved:", "unproven": "Unproven:", "none": "No candidate"}[winner] in told
    assert len(told) <= MAX_TAG
    draw_front(result, tmp_path / "front.png")
    pixels = matplotlib.image.imread(tmp_path / "front.png")
    assert pixels.shape[:2] == (660, 1080)
    star = np.all(np.abs(pixels[..., :3] - np.array([0xC5, 0x1B, 0x7D]) / 255) < 0.02, axis=-1)
    assert (star.sum() > 50) == (winner != "none")


def test_null_tracker_takes_everything(tmp_path):
    result = sample_result(tmp_path)
    tracker = NullTracker()
    tracker.trial(result.trials[0])
    tracker.finish(result)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


# The spool


def test_spool_cuts_a_torn_line_and_goes_on(tmp_path):
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append([{"a": 1}, {"b": "é\n"}])
    with spool.path.open("ab") as file:
        file.write(b'{"torn": ')
    assert spool.read() == [{"a": 1}, {"b": "é\n"}]
    spool.append([{"c": 3}])
    assert spool.read()[-1] == {"c": 3}


def test_spool_is_unchanged_when_the_disk_is_full(tmp_path, monkeypatch):
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append([{"a": 1}])

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            spool.append([{"b": 2}])
    assert spool.read() == [{"a": 1}]


# The store


def test_address_is_argument_then_environment_then_file(tmp_path, monkeypatch):
    assert resolve_tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert resolve_tracking_uri(None, tmp_path) == "http://host"
    assert resolve_tracking_uri("http://other", tmp_path) == "http://other"


@pytest.mark.slow
def test_resumed_search_continues_its_run_and_repeats_nothing(finished):
    before, after = finished.interrupted, finished.logged
    assert before.parent.info.status == "RUNNING"
    assert sorted(before.nested) == [0, 1, 2, 3, 4]
    assert after.parent.info.status == "FINISHED"
    assert after.parent.info.run_id == before.parent.info.run_id
    assert sorted(after.nested) == list(range(8))
    for number, run in before.nested.items():
        assert after.nested[number].info.run_id == run.info.run_id
    assert [n for n in finished.search.notes if not n.startswith("Sending")] == [REGISTERED]


@pytest.mark.slow
def test_parent_run_tells_the_story(finished):
    logged, result = finished.logged, finished.search.result
    parent = logged.parent
    assert parent.info.run_name == "solar"
    assert parent.data.params == {k: str(v) for k, v in PARAMETERS.items()}
    assert "Proved:" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["outcome"] == "proven"
    assert parent.data.metrics["winner_drop_bound"] == result.winner.bound.bound
    assert logged.artifacts() == {"front.json", "front.png", "report.html", "bundle"}
    location = (finished.search.folder.parent / "artifacts").as_uri()
    assert logged.experiment.artifact_location == location
    table = logged.client.load_table(logged.experiment.experiment_id, "front.json")
    assert list(table["plan_id"]) == [t.plan.plan_id for t in result.front]


@pytest.mark.slow
def test_nested_runs_hold_plan_figures_and_roles(finished):
    result = finished.search.result
    winner = result.winner
    run = finished.logged.nested[winner.trial.number]
    assert run.data.tags["role"] == "winner"
    assert run.data.tags["feasible"] == "true"
    assert run.data.tags["plan_id"] == winner.trial.plan.plan_id
    assert run.data.metrics["latency_ms"] == winner.trial.evaluation.value("latency_ms")
    assert run.data.metrics["accuracy_test"] == winner.test.value("accuracy_test")
    assert run.data.params["quantization.bits.conv1"] == "8"
    tagged = {n for n, r in finished.logged.nested.items() if r.data.tags["on_front"] == "true"}
    assert tagged == {t.number for t in result.front}


@pytest.mark.slow
def test_winner_loads_as_onnx_and_as_pyfunc_and_gives_the_files_answers(finished):
    logged, search = finished.logged, finished.search
    version = logged.client.get_model_version_by_alias("cells", "raspberry-pi-4b")
    assert version.tags["plan_id"] == search.result.winner.trial.plan.plan_id
    exported = mlflow.onnx.load_model("models:/cells@raspberry-pi-4b")
    model = mlflow.pyfunc.load_model(f"runs:/{logged.parent.info.run_id}/model")
    example = model.input_example
    path = str(search.bundle / "model.onnx")
    expected = onnxruntime.InferenceSession(path).run(None, {"input": example})[0]
    assert np.array_equal(model.predict(example)["output"], expected)
    again = onnxruntime.InferenceSession(exported.SerializeToString())
    assert np.array_equal(again.run(None, {"input": example})[0], expected)
    assert model.metadata.signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    assert model.metadata.signature.outputs.input_names() == ["output"]


@pytest.mark.slow
def test_nothing_is_doubled_when_all_is_sent_again(finished):
    (finished.search.folder / "mlflow.json").unlink()
    finished.search.tracker(finished.uri).close()
    assert _offset(finished.search) == _size(finished.search)
    after = Logged(finished.uri)
    for number, run in finished.logged.nested.items():
        assert after.nested[number].info.run_id == run.info.run_id
    history = after.client.get_metric_history(after.nested[1].info.run_id, "latency_ms")
    assert len(history) == 1
    models = after.client.search_logged_models([after.experiment.experiment_id])
    assert len(models) == 1


@pytest.mark.slow
def test_killed_sender_and_missing_file_cost_nothing_else(tmp_path, sqlite):
    search = Search(tmp_path / "solar")
    tracker = search.tracker(sqlite)
    for trial in search.result.trials[:4]:
        tracker.trial(trial)
    os.kill(tracker._sender.pid, signal.SIGKILL)
    tracker._sender.wait()
    tracker.trial(search.result.trials[4])
    assert any("ended with -9" in note for note in search.notes)
    tracker.close()
    assert "MLflow has yet to get 6 records" in search.notes[-1]

    tracker = search.tracker(sqlite)
    for trial in search.result.trials:
        tracker.trial(trial)
    tracker.finish(search.result, tmp_path / "gone.html")
    tracker.close()
    assert any("MLflow refused" in n and "is no longer there" in n for n in search.notes)
    logged = Logged(sqlite)
    assert sorted(logged.nested) == list(range(8))
    assert logged.artifacts() == {"front.json", "front.png"}
    assert logged.parent.info.status == "FINISHED"


# Stores that fail


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("hangs", [False, True], ids=["dead", "hanging"])
def test_search_goes_on_and_says_so_once_when_the_server_does_not_answer(
    tmp_path, monkeypatch, hangs
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    environment = dict(os.environ)
    search = Search(tmp_path / "solar")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if hangs:
            server.listen()
        tracker = search.tracker(f"http://127.0.0.1:{server.getsockname()[1]}")
        slowest_s = 0.0
        for trial in search.result.trials:
            began = time.perf_counter()
            tracker.trial(trial)
            slowest_s = max(slowest_s, time.perf_counter() - began)
        tracker.finish(search.result, search.report, search.bundle)
        began = time.perf_counter()
        tracker.close()
        closing_s = time.perf_counter() - began
    assert slowest_s < 0.5
    assert closing_s < 15
    assert sum("MLflow is away" in note for note in search.notes) == 1
    assert "MLflow has yet to get" in search.notes[-1]
    assert len(Spool(search.folder / "mlflow.jsonl").read()) > len(search.result.trials)
    assert dict(os.environ) == environment


def test_search_goes_on_when_the_disk_is_full(tmp_path, monkeypatch):
    search = Search(tmp_path / "solar")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        tracker = search.tracker("http://127.0.0.1:9")
        for trial in search.result.trials[:3]:
            tracker.trial(trial)
        assert tracker._sender is None
    assert search.notes == [
        "Results can't be passed on to MLflow now: [Errno 28] No space left on device."
    ]
    tracker.trial(search.result.trials[3])
    records = Spool(search.folder / "mlflow.jsonl").read()
    assert [r["kind"] for r in records] == ["start"] + ["trial"] * 4
    tracker.close()


def test_search_does_not_import_mlflow():
    code = "import sys, search.publishing.mlflow; assert 'mlflow' not in sys.modules"
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


class Server:
    """A real ``mlflow server`` that can be killed and started again."""

    def __init__(self, folder, database, port):
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        self._command += ["--host", "127.0.0.1", "--port", str(port)]
        self._command += ["--backend-store-uri", database]
        self._command += ["--artifacts-destination", str(folder / "served")]
        self._log = folder / "server.log"

    def start(self):
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        give_up = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < give_up, self._log.read_text()
            time.sleep(0.1)

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self):
        """The whole of its process group, which is its own."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.mark.slow
def test_killed_server_gets_everything_later(tmp_path, sqlite, port):
    search = Search(tmp_path / "solar")
    server = Server(tmp_path, sqlite, port)
    server.start()
    try:
        tracker = search.tracker(server.uri)
        for trial in search.result.trials[:3]:
            tracker.trial(trial)
        _wait_for(lambda: _offset(search) == _size(search))
        server.kill()
        for trial in search.result.trials[3:]:
            tracker.trial(trial)
        tracker.finish(search.result, search.report, search.bundle)
        tracker.close()
        assert sum("MLflow is away" in note for note in search.notes) == 1
        assert _offset(search) < _size(search)

        server.start()
        search.tracker(server.uri).close()  # what a resumed search does first and last
        assert _offset(search) == _size(search)
        logged = Logged(server.uri)
        assert sorted(logged.nested) == list(range(8))
        assert logged.artifacts() == {"front.json", "front.png", "report.html", "bundle"}
        assert logged.parent.data.tags["outcome"] == "proven"
        assert logged.experiment.artifact_location.startswith("mlflow-artifacts:")
    finally:
        server.kill()


def _offset(search):
    state = search.folder / "mlflow.json"
    return json.loads(state.read_text())["offset"] if state.exists() else 0


def _size(search):
    return (search.folder / "mlflow.jsonl").stat().st_size


def _wait_for(condition):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
