"""MLflow: what is logged, and that no store, however it fails, costs the search anything.

Stores are real: SQLite files, and ``mlflow server`` processes that are killed and restarted.
"""

import errno
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import matplotlib.image
import mlflow
import numpy as np
import onnxruntime
import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from evaluators import Evaluation, Measurement
from search.bundle.write import write_bundle
from search.cli import main
from search.deciding.finals import best_training
from search.deciding.kept import Kept, trial_to_json
from search.deciding.storage import StoredStudy, sqlite_storage
from search.publishing.ending import ending, story
from search.publishing.figure import draw_front
from search.publishing.mlflow import LEAST_WAIT_S, MlflowTracker, described
from search.publishing.publish import Publisher, Source, resolve_tracking_uri
from search.publishing.tracker import NullTracker
from search.publishing.trial_run import MAX_TAG, plan_parameters, trial_metrics, trial_run
from tests.samples import sample_result, tiny_onnx

REGISTERED = "The winner is registered in MLflow: models:/cells@raspberry-pi-4b."
PARAMETERS = {"target": "raspberry-pi-4b", "max_drop": 0.03, "trials": 8}


class Search:
    """A small finished search: its study, and what it tells a tracker."""

    def __init__(self, folder, trials=8):
        folder.mkdir(parents=True)
        self.folder = folder
        self.result = replace(sample_result(folder, trials=trials), seconds=100.0)
        self.notes = []
        self.report = folder / "report.html"
        self.report.write_text("<!doctype html><p>report")
        self.bundle = write_bundle(
            folder, self.result, self.result.winner, tiny_onnx(folder / "trial.onnx")
        )
        (folder / "study.json").write_text("{}")
        self.study = StoredStudy(
            sqlite_storage(folder / "study.db"), "solar", "k" * 32, self.notes.append
        )
        self.kept = 0

    def tracker(self, uri, **options):
        """One that has begun."""
        tracker = MlflowTracker(
            self.folder, uri, "accuracy", PARAMETERS, self.notes.append, **options
        )
        tracker.begin(self.study, self.result.data)
        return tracker

    def keep(self, tracker, until=None):
        """Trials, as the driver keeps them and says so."""
        for trial in self.result.trials[self.kept : until]:
            self.study.add(record("trial", trial))
            self.kept += 1
            tracker.trial(trial)

    def run(self, uri, trials=None, **options):
        """The whole of it; the first ``trials`` trials and no end where that is given."""
        tracker = self.tracker(uri, **options)
        self.keep(tracker, trials)
        if trials is None:
            tracker.finish(self.result, self.report, self.bundle)
        tracker.close()

    def publish(self, uri, *options):
        """What a person types later."""
        return main(["publish", str(self.folder), "--tracking-uri", uri, *options])


def record(kind, trial):
    """A trial, or another training of one, as the study keeps it."""
    frozen = optuna.trial.create_trial(
        state=TrialState.FAIL if trial.state == "failed" else TrialState.COMPLETE,
        values=None if trial.state == "failed" else [0.9, 1.0],
        user_attrs={
            kind: trial_to_json(trial),
            "asks": trial.number,
            "elapsed_s": float(trial.number),
            "key": f"{kind} {trial.number}",
        },
    )
    frozen.datetime_start = frozen.datetime_complete
    return frozen


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
    with pytest.MonkeyPatch.context() as patch:
        # A search goes on without a slow store; here the machine is slow, and nobody waits for us.
        patch.setattr("search.publishing.mlflow.LEAST_WAIT_S", 60.0)
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


def test_trials_run_ends_when_the_trial_did_and_began_its_seconds_before(tmp_path):
    trial = replace(sample_result(tmp_path).trials[1], stages={"train": 2.5})
    run = trial_run(Kept(trial, datetime.fromtimestamp(1000.0)), "accuracy", None)
    assert (run["start_ms"], run["end_ms"]) == (997_500, 1_000_000)
    assert (run["tags"]["on_front"], run["tags"]["role"]) == ("false", "none")


def test_ending_marks_roles_and_test_figures(tmp_path):
    result = sample_result(tmp_path)
    end = ending(result, 5_000)
    winner = result.winner

    def run(trial):
        return trial_run(Kept(trial, datetime.fromtimestamp(1.0)), "accuracy", end)

    won, baseline = run(winner.trial), run(result.baseline)
    assert (won["tags"]["on_front"], won["tags"]["role"]) == ("true", "winner")
    assert won["tags"]["proven"] == "true"
    at_ms, figures = won["metrics"][-1]
    assert at_ms == 5_000
    assert figures["accuracy_test"] == winner.test.value("accuracy_test")
    assert figures["drop_bound_test"] == winner.bound.bound
    assert baseline["tags"]["role"] == "baseline"
    expected = result.baseline_test.value("accuracy_test")
    assert baseline["metrics"][-1][1]["accuracy_test"] == expected
    on_front = {t.number for t in result.trials if run(t)["tags"]["on_front"] == "true"}
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
    tracker.begin(None, result.data)
    tracker.trial(result.trials[0])
    tracker.finish(result)
    tracker.close()
    assert list(tmp_path.iterdir()) == []


# The store


def test_address_is_argument_then_environment_then_file(tmp_path, monkeypatch):
    assert resolve_tracking_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    assert resolve_tracking_uri(None, tmp_path) == "http://host"
    assert resolve_tracking_uri("http://other", tmp_path) == "http://other"


@pytest.mark.slow
def test_resumed_search_continues_its_run_and_repeats_nothing(finished):
    before, after = finished.interrupted, finished.logged
    assert before.parent.info.status == "KILLED"  # it had no end
    assert sorted(before.nested) == [0, 1, 2, 3, 4]
    assert after.parent.info.status == "FINISHED"
    assert after.parent.info.run_id == before.parent.info.run_id
    assert sorted(after.nested) == list(range(8))
    for number, run in before.nested.items():
        assert after.nested[number].info.run_id == run.info.run_id
    assert finished.search.notes == [REGISTERED]


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
def test_data_set_is_an_input_and_the_machine_is_watched(finished):
    parent, data = finished.logged.parent, finished.search.result.data
    (data_set,) = parent.inputs.dataset_inputs
    assert data_set.dataset.name == data.name
    assert data.fingerprint.startswith(data_set.dataset.digest)
    assert json.loads(data_set.dataset.profile)["test"] == len(data.test)
    assert parent.data.metrics["system/system_memory_usage_megabytes"] > 10
    assert 0 <= parent.data.metrics["system/cpu_utilization_percentage"] <= 100


@pytest.mark.slow
def test_publishing_again_by_hand_changes_nothing(finished, capsys):
    """In the process itself: what it publishes is what the process beside a search publishes."""
    before = finished.logged
    assert finished.search.publish(finished.uri) == 0
    assert "published nothing, as all is there" in capsys.readouterr().err
    for run in before.nested.values():
        before.client.delete_tag(run.info.run_id, "published")
    before.client.delete_tag(before.parent.info.run_id, "published")
    assert finished.search.publish(finished.uri) == 0
    assert "published 8 trials and the end" in capsys.readouterr().err
    after = Logged(finished.uri)
    for number, run in before.nested.items():
        again = after.nested[number]
        assert again.info.run_id == run.info.run_id
        assert again.data.metrics == run.data.metrics
        for name in ("latency_ms", "accuracy_test"):
            assert len(history(after, again, name)) == len(history(before, run, name))
    assert len(history(after, after.parent, "winner_latency_ms")) == 1
    models = after.client.search_logged_models([after.experiment.experiment_id])
    assert len(models) == 1
    assert len(after.client.search_model_versions("name = 'cells'")) == 1


def history(logged, run, name):
    return logged.client.get_metric_history(run.info.run_id, name)


@pytest.mark.slow
def test_finished_study_is_published_to_another_store_and_registered_by_hand(
    finished, empty_store, tmp_path, capsys
):
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    assert finished.search.publish(other, "--register", "later") == 0
    assert "The winner is registered: models:/later@raspberry-pi-4b." in capsys.readouterr().err
    logged, expected = Logged(other), finished.logged
    for number, run in expected.nested.items():
        again = logged.nested[number]
        assert again.data.metrics == run.data.metrics
        assert again.data.params == run.data.params
        assert again.data.tags == {
            **run.data.tags,
            "mlflow.parentRunId": logged.parent.info.run_id,
        }
        assert (again.info.start_time, again.info.end_time) == (
            run.info.start_time,
            run.info.end_time,
        )
    assert logged.parent.info.status == "FINISHED"
    assert logged.artifacts() == expected.artifacts()
    assert logged.client.get_model_version_by_alias("later", "raspberry-pi-4b").version


@pytest.mark.slow
def test_training_again_changes_the_trials_run_and_two_publishers_double_nothing(
    tmp_path, sqlite, monkeypatch
):
    """Two publish by hand what the process beside the search has begun to."""
    search = Search(tmp_path / "solar")
    untouched, first, *others = search.result.trials
    first = replace(first, evaluation=_with_drop(first, 0.01))
    search.result = replace(search.result, trials=(untouched, first, *others))
    tracker = search.tracker(sqlite)
    search.keep(tracker, 4)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    others = [Publisher(search.folder, Source(search.folder, None)) for _ in range(2)]
    threads = [threading.Thread(target=each.publish, args=[True]) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worse = replace(first, training=1, evaluation=_with_drop(first, 0.5), stages={"train": 7.0})
    search.study.add(record("training", worse))
    tracker.trial(first)
    tracker.close()
    logged = Logged(sqlite)
    assert sorted(logged.nested) == [0, 1, 2, 3]
    run = logged.nested[1]
    both = best_training([first, worse])
    assert both.drops == (0.01, 0.5)
    assert run.data.metrics["accuracy_validation"] == both.evaluation.value("accuracy")
    assert run.data.metrics["trial_seconds"] == first.seconds + 7.0


@pytest.mark.slow
def test_publisher_sees_what_another_one_has_published(tmp_path, sqlite, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite)
    search = Search(tmp_path / "solar")
    about = {"metric": "accuracy", "parameters": {}, "data": described(search.result.data)}
    search.study.describe({**about, "began_ms": 0})
    one, other = (Publisher(search.folder, Source(search.folder, None)) for _ in range(2))
    for publisher, until, new in ((one, 2, 2), (other, 4, 2), (one, 4, 0), (one, 5, 1)):
        for trial in search.result.trials[search.kept : until]:
            search.study.add(record("trial", trial))
        search.kept = until
        assert publisher.publish(is_running=True).trials == new
    assert sorted(Logged(sqlite).nested) == [0, 1, 2, 3, 4]


def _with_drop(trial, drop):
    figures = {"drop": drop, "drop_bound": drop + 0.1, "accuracy": 0.97 - drop}
    measured = [Measurement(name, value, "", "measured", "") for name, value in figures.items()]
    return trial.evaluation.merged(Evaluation.of(measured))


@pytest.mark.slow
def test_killed_process_and_missing_file_cost_nothing_else(tmp_path, sqlite):
    search = Search(tmp_path / "solar")
    tracker = search.tracker(sqlite)
    search.keep(tracker, 4)
    os.kill(tracker._process.pid, signal.SIGKILL)
    tracker._process.wait()
    search.keep(tracker, 5)
    assert any("ended with -9" in note for note in search.notes)
    tracker.close()
    assert "python -m search publish" in search.notes[-1]

    tracker = search.tracker(sqlite)
    search.keep(tracker)
    tracker.finish(search.result, tmp_path / "gone.html")
    tracker.close()
    assert any("MLflow refused" in n and "is no longer in" in n for n in search.notes)
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
            search.study.add(record("trial", trial))
            began = time.perf_counter()
            tracker.trial(trial)
            slowest_s = max(slowest_s, time.perf_counter() - began)
        tracker.finish(search.result, search.report, search.bundle)
        began = time.perf_counter()
        tracker.close()
        closing_s = time.perf_counter() - began
    assert slowest_s < 0.5
    assert closing_s < LEAST_WAIT_S + 2
    assert sum("MLflow is away" in note for note in search.notes) == 1
    assert "python -m search publish" in search.notes[-1]
    assert dict(os.environ) == environment


@pytest.mark.slow
def test_search_that_has_used_its_budget_leaves_a_slow_store_to_the_process_beside_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("search.publishing.mlflow.LEAST_WAIT_S", 0.2)
    search = Search(tmp_path / "solar")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        tracker = search.tracker(uri, budget_s=50.0)
        process = tracker._process
        tracker.finish(search.result, search.report, search.bundle)  # after 100 s
        began = time.perf_counter()
        tracker.close()
        closing_s = time.perf_counter() - began
        still_at_it = process.poll() is None
        process.kill()
        process.wait()
    assert closing_s < 2
    assert still_at_it
    assert "that goes on by itself" in search.notes[-1]
    assert f"python -m search publish {os.path.relpath(search.folder)}" in search.notes[-1]


def test_search_goes_on_when_the_disk_is_full(tmp_path, monkeypatch):
    search = Search(tmp_path / "solar")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", full)
        tracker = search.tracker("http://127.0.0.1:9")
        search.keep(tracker, 3)
    with monkeypatch.context() as patch:
        patch.setattr("search.publishing.ending.draw_front", full)
        tracker.finish(search.result)
    tracker.close()
    assert [note.split("[")[0] for note in search.notes[:2]] == [
        "MLflow gets nothing for now: ",
        "MLflow won't get the end of the search: ",
    ]
    assert any("MLflow is away" in note for note in search.notes)  # it was tried again at the end
    assert "python -m search publish" in search.notes[0]
    assert not (search.folder / "ending.json").exists()


# What only a person can mend


@pytest.mark.slow
def test_deleted_experiment_is_named_with_the_command_that_restores_it(tmp_path, sqlite, capsys):
    client = MlflowClient(sqlite)
    experiment = client.create_experiment("compression-search")
    client.delete_experiment(experiment)
    search = Search(tmp_path / "solar")
    search.run(sqlite)
    (said, later) = search.notes
    assert f"mlflow experiments restore --experiment-id {experiment}" in said
    assert "python -m search publish" in later
    assert search.publish(sqlite) == 1
    assert "restore --experiment-id" in capsys.readouterr().err
    client.restore_experiment(experiment)
    assert search.publish(sqlite) == 0
    assert sorted(Logged(sqlite).nested) == list(range(8))


@pytest.mark.parametrize(
    ("uri", "remedy"),
    [
        ("./mlruns", "mlflow migrate-filestore"),
        ("ftp://host", "--tracking-uri must be http"),
        ("mssql+pymssql://host/mlflow", "install it with pip"),
        ("migrate", "mlflow db upgrade sqlite:"),
    ],
)
def test_store_that_takes_nothing_is_told_with_what_to_do(
    tmp_path, empty_store, capsys, uri, remedy
):
    if uri == "migrate":
        path = shutil.copy(empty_store, tmp_path)
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = '27a6a02d2cf1'")
        uri = f"sqlite:///{path}"
    search = Search(tmp_path / "solar")
    about = {"metric": "accuracy", "parameters": {}, "data": described(search.result.data)}
    search.study.describe({**about, "began_ms": 0})
    assert search.publish(uri) == 1
    assert remedy in capsys.readouterr().err


def test_study_that_cannot_be_read_is_told_in_one_line(tmp_path, sqlite, capsys):
    search = Search(tmp_path / "solar")
    search.study.describe({"metric": "accuracy", "parameters": {}, "data": {}, "began_ms": 0})
    (search.folder / ".publishing").mkdir()
    assert search.publish(sqlite) == 1
    assert "its folder writable" in capsys.readouterr().err


def test_study_that_cannot_be_found_is_named(tmp_path, capsys):
    assert main(["publish", "nosuch"]) == 2
    assert "got 'nosuch'" in capsys.readouterr().err
    (tmp_path / "runs" / "solar").mkdir(parents=True)
    (tmp_path / "runs" / "solar" / "study.json").write_text("{}")
    assert main(["publish", "solar"]) == 2
    assert "--storage must be given" in capsys.readouterr().err


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
        search.keep(tracker, 3)
        _wait_for(lambda: len(_nested(sqlite)) == 3)
        server.kill()
        search.keep(tracker)
        tracker.finish(search.result, search.report, search.bundle)
        tracker.close()
        assert sum("MLflow is away" in note for note in search.notes) == 1
        assert "python -m search publish" in search.notes[-1]

        server.start()
        assert search.publish(server.uri) == 0
        logged = Logged(server.uri)
        assert sorted(logged.nested) == list(range(8))
        assert logged.artifacts() == {"front.json", "front.png", "report.html", "bundle"}
        assert logged.parent.data.tags["outcome"] == "proven"
        assert logged.experiment.artifact_location.startswith("mlflow-artifacts:")
    finally:
        server.kill()


def _nested(uri):
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("compression-search")
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if "published" in run.data.tags]


def _wait_for(condition):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)
