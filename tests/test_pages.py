"""What a reviewer opens, in a headless browser: the report, MLflow; and the served model.

The store, the server and the browser are real. Without Chromium the pages are not tested.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import onnxruntime
import pytest
from browser import look

from search.telling.report.page import write_report
from search.telling.words import metric_title
from tests.servers import free_port, wait_until_alive
from tests.test_publishing import Logged, Search, Server

WAIT_MS = 20_000  # of the page's own clock, for MLflow's scripts and their requests
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")


@dataclass
class Site:
    """A finished search in a store that an MLflow server shows."""

    search: Search
    server: Server
    logged: Logged

    def page(self, path: str) -> str:
        return f"{self.server.uri}/#/{path}"

    @property
    def run(self) -> str:
        return f"experiments/{self.logged.experiment.experiment_id}/runs/{self.run_id}"

    @property
    def run_id(self) -> str:
        return str(self.logged.parent.info.run_id)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    port = free_port()
    server = Server(folder, f"sqlite:///{folder / 'mlflow.db'}", port)
    server.start()
    try:
        search = Search(folder / "solar")
        write_report(search.report, search.result)
        search.run(server.uri, register="cells")
        yield Site(search, server, Logged(server.uri))
    finally:
        server.kill()


@needs_chromium
def test_report_shows_headline_front_table_and_proof(tmp_path: Path) -> None:
    search = Search(tmp_path / "solar")
    write_report(search.report, search.result)
    seen = look(search.report.as_uri())
    assert "as fast as FP32" in seen.text
    assert "Proved" in seen.text
    assert seen.drawings >= 2  # the front, wide and narrow
    assert 'data-trial="0"' in seen.html
    assert metric_title(search.result.metric) in seen.text
    assert search.result.command in seen.text


@needs_chromium
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_parent_runs_page_tells_the_story_with_table_and_figures(site: Site) -> None:
    seen = look(site.page(site.run), wait_ms=WAIT_MS)
    assert "solar" in seen.text
    assert "Proved:" in seen.text
    assert "strongest simple" in seen.text  # the table of three models
    assert "winner_latency_ms" in seen.text
    assert "speedup_over_baseline" in seen.text
    assert "raspberry-pi-4b" in seen.text


@needs_chromium
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_front_is_among_the_artifacts_as_picture_and_as_table(site: Site) -> None:
    picture = look(site.page(f"{site.run}/artifacts/front.png"), wait_ms=WAIT_MS)
    assert any(source.startswith("blob:") for source in picture.pictures)
    table = look(site.page(f"{site.run}/artifacts/front.json"), wait_ms=WAIT_MS)
    for trial in site.search.result.front:
        assert trial.plan.plan_id in table.text
    for name in ("front.png", "report.html", "bundle"):
        assert name in table.text


@needs_chromium
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_runs_compare_in_the_charts(site: Site) -> None:
    ids = [run.info.run_id for _, run in sorted(site.logged.nested.items())][:3]
    experiments = quote(json.dumps([site.logged.experiment.experiment_id]))
    address = f"compare-runs?runs={quote(json.dumps(ids))}&experiments={experiments}"
    seen = look(site.page(address), wait_ms=WAIT_MS)
    assert "Comparing 3 Runs" in seen.text
    assert "Parallel Coordinates Plot" in seen.text
    for metric in ("latency_ms", "accuracy_validation", "size_bytes"):
        assert metric in seen.text
    assert seen.drawings > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_registered_model_is_served_and_gives_the_files_answers(
    site: Site, tmp_path: Path
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", "models:/cells@raspberry-pi-4b"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": site.server.uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The command starts its server by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    with (tmp_path / "log").open("w+") as log:
        served = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until_alive(f"http://127.0.0.1:{port}/ping", served, tmp_path / "log")
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps({"inputs": images.tolist()}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = np.array(json.load(answer)["predictions"]["output"])
        finally:
            os.killpg(served.pid, 9)  # the command and the server that it started
            served.wait()
    session = onnxruntime.InferenceSession(str(site.search.bundle / "model.onnx"))
    expected = session.run(None, {"input": images})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
