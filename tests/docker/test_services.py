"""The compose file at work: its commands in the image, on hosts that see only each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from image import ACCOUNT, Image
from services import Services

KEPT = """
import json, os, mlflow, optuna
from search.deciding.storage import open_storage
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("compression-search")
runs = client.search_runs([experiment.experiment_id])
(parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
study = optuna.load_study(
    study_name="arm", storage=open_storage(os.environ["COMPRESSION_SEARCH_STORAGE"], None)
)
print(json.dumps({
    "runs": len(runs),
    "artifacts": [each.path for each in client.list_artifacts(parent.info.run_id)],
    "trials": len(study.trials),
}))
"""
ASK_DASHBOARD = """
import os, sys, urllib.error, urllib.request
token = os.environ.get("RAY_AUTH_TOKEN")
headers = {"Authorization": f"Bearer {token}"} if token else {}
request = urllib.request.Request("http://ray-head:8265/api/jobs/", headers=headers)
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
NEXT_TO_MLFLOW = """
import urllib.error, urllib.request
request = urllib.request.Request(
    "http://mlflow:5000/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": HOST}
)
try:
    print(urllib.request.urlopen(request, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def services(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)  # accounts of services pass through
    up = Services(image, folder, {})
    try:
        up.start_postgres()
        for name in ("mlflow", "ray-head", "worker"):
            up.start(name)
        yield up
    finally:
        up.close()


def test_search_on_the_cluster_reaches_database_and_mlflow(services: Services) -> None:
    done = services.run(
        *("search", "--target", "arm", "--max-drop", "0.03"),
        *("--trials", "4", "--budget", "4m", "--study", "arm", "--json"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    completed = json.loads(done.stdout)["trials"]["completed"]
    assert completed >= 1
    kept = services.run_in("search", ["python", "-c", KEPT])
    assert kept.returncode == 0, kept.stderr[-3000:]
    found = json.loads(kept.stdout)
    assert (found["runs"], found["trials"]) == (1 + completed, completed)
    assert "report.html" in found["artifacts"]
    for volume in ("runs", "artifacts", "cache"):
        files = [p for p in services.volume(volume).rglob("*") if p.is_file()]
        assert files, volume
        assert {p.lstat().st_uid for p in files} == {ACCOUNT}
    verify = ["python", "runs/arm/best/verify.py"]
    assert services.run_in("search", verify).returncode == 0


def test_secret_is_in_no_log(services: Services) -> None:
    written = [services.log(name) for name in ("mlflow", "ray-head", "worker")]
    runs: Path = services.volume("runs")
    written += [p.read_text(errors="replace") for p in runs.rglob("*.json")]
    for secret in services.secrets.values():
        assert not any(secret in text for text in written)


def test_ray_refuses_who_has_no_token(services: Services) -> None:
    with_token = services.run_in("search", ["python", "-c", ASK_DASHBOARD])
    without = services.run_in("search", ["python", "-c", ASK_DASHBOARD], {})
    assert (with_token.stdout.strip(), without.stdout.strip()) == ("200", "401")


def test_mlflow_refuses_names_that_are_not_its_own(services: Services) -> None:
    codes = []
    for host in ("mlflow:5000", "localhost:5000", "elsewhere.example:5000"):
        ask = NEXT_TO_MLFLOW.replace("HOST}", f"{host!r}}}")
        codes.append(services.run_in("search", ["python", "-c", ask]).stdout.strip())
    assert codes == ["200", "200", "403"]


def test_worker_whose_node_is_gone_is_unhealthy(services: Services) -> None:
    assert services.healthy("worker")
    services.stop("worker")
    assert not services.healthy("worker")
    services.start("worker")  # as a restart does
