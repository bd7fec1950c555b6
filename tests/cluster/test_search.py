"""Whole searches on a cluster of two nodes: as a Ray job, and from outside the cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState
from samples import tiny_onnx
from services import BIN, Cluster, Postgres, environment, mlflow_server

from evaluators import Evaluation, EvaluationContext
from evaluators.latency.device import DeviceLatency
from hardware_profiles import load_profile
from hardware_profiles.devices.device import DeviceError, parse_device
from hardware_profiles.devices.session import AgentSession
from search.deciding.storage import open_storage

HERE = Path(__file__).parent
SEARCH = ["-m", "search", "--target", "arm", "--max-drop", "0.2", "--model", "tiny:make",
          "--workers", "2", "--backend", "ray"]  # fmt: skip
JOB_S = 500


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    """One core each; the second one has a device."""
    nodes = Cluster(cpus=1, dashboard=True)
    nodes.add_node(1, '{"pi4": 1}')
    yield nodes
    nodes.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What a person has: a folder with a module of their own, on no node."""
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(HERE / "tiny.py", folder)
    return folder


def test_search_as_a_ray_job_reaches_database_and_mlflow(
    two_nodes: Cluster, postgres: Postgres, project: Path, tmp_path: Path
) -> None:
    server = mlflow_server(tmp_path)
    runs = tmp_path / "runs"
    try:
        done = subprocess.run(
            [
                str(BIN / "ray"), "job", "submit", "--working-dir", str(project),
                f"--address=http://127.0.0.1:{two_nodes.dashboard_port}", "--",
                sys.executable, *SEARCH, "--trials", "8", "--output", str(runs), "--study", "job",
                "--storage", postgres.url, "--tracking-uri", f"http://127.0.0.1:{server.port}",
            ],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=JOB_S,
            cwd=tmp_path,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        for number in range(8):
            assert f"trial {number} (" in said
        assert "\x1b[2K" not in said  # plain lines, nothing is drawn over
        client = MlflowClient(f"http://127.0.0.1:{server.port}")
        experiment = client.get_experiment_by_name("compression-search")
        assert experiment is not None
        logged = client.search_runs([experiment.experiment_id])
        assert len(logged) == 1 + 8
    finally:
        server.kill()
    kept = optuna.load_study(study_name="job", storage=open_storage(postgres.url, runs))
    assert {t.state for t in kept.trials} == {TrialState.COMPLETE}
    verify = [sys.executable, str(runs / "job" / "best" / "verify.py")]
    assert subprocess.run(verify, capture_output=True).returncode == 0
    assert (runs / "job" / "report.html").stat().st_size > 10_000


def test_search_from_outside_the_cluster(
    two_nodes: Cluster, project: Path, tmp_path: Path
) -> None:
    """Through Ray's client: neither the driver's files nor its module are on the cluster."""
    done = subprocess.run(
        [
            sys.executable, *SEARCH, "--trials", "4", "--output", str(tmp_path / "runs"),
            "--study", "outside", "--json", "--address", f"ray://127.0.0.1:{two_nodes.client_port}",
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=JOB_S,
        cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"]["completed"] == 4


def test_latency_is_measured_on_the_node_that_has_the_device(
    two_nodes: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    context = EvaluationContext(
        profile=load_profile("raspberry-pi-4b"),
        images=np.zeros((1, 1, 8, 8), np.float32),
        labels=np.zeros(1, np.int64),
        scratch=tmp_path,
        device="ray:pi4",
    )
    found = Evaluation.of(DeviceLatency().evaluate(tiny_onnx(tmp_path / "m.onnx"), context, 0.1))
    assert found["latency_ms"].source == "measured"
    assert "on ray:pi4" in found["latency_ms"].how
    with pytest.raises(DeviceError, match="no node of the Ray cluster has the resource pi5"):
        AgentSession(parse_device("ray:pi5"))


def test_cluster_that_does_not_answer_is_bad_input(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *SEARCH, "--address", "127.0.0.1:9", "--output", str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=JOB_S,
        cwd=HERE,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "search: --address must be that of a Ray cluster that answers" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []
