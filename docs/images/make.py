"""Takes the pictures of the documentation from a finished search: its report, its MLflow pages.

    python -m docs.images.make runs/STUDY          (at the root of the repository)

``runs/mlflow.db`` must be the store that the search wrote to. Needs Chromium, and writes the
PNG files beside this one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from PIL import Image

from search.sqlite_url import sqlite_url
from tests.browser import look
from tests.servers import free_port, wait_until_alive

HERE = Path(__file__).parent
COMPARED = 5  # runs beside each other, as many as the page has room for
WAIT_MS = 20_000  # of the page's own clock, for MLflow's scripts and their requests
# Pixels of MLflow's window, and the part of it between its navigation and its assistant, which
# say nothing about a search.
WINDOW, LEFT, RIGHT = 1690, 200, 1250


@dataclass(frozen=True)
class View:
    """A part of the report: which section it begins with (the head: none), and in which light."""

    section: str = ""
    dark: bool = False


@dataclass(frozen=True)
class Shot:
    """Views of the report beside each other; width and height of each in pixels."""

    width: int
    height: int
    views: tuple[View, ...]


PHONE = (View(), View("front"), View("limits", dark=True))
REPORT = {
    "report-desktop.png": Shot(1160, 1110, (View(),)),
    "report-dark.png": Shot(1160, 1640, (View("front", dark=True),)),
    "report-phone.png": Shot(390, 1290, PHONE),
}
MLFLOW = ("mlflow-run.png", "mlflow-front.png", "mlflow-compare.png")
GAP = 20


def main() -> int:
    """Writes all pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, help="the folder of a finished search")
    study = parser.parse_args().study.resolve()
    for name, shot in REPORT.items():
        take_report(study / "report.html", shot, HERE / name)
    store = sqlite_url(study.parent / "mlflow.db")
    with served(store) as server:
        for name, (address, height) in zip(MLFLOW, pages(store, study.name), strict=True):
            page, size = f"{server}/#/{address}", (WINDOW, height)
            look(page, wait_ms=WAIT_MS, picture=HERE / name, size=size)
            finish(HERE / name, (LEFT, 0, RIGHT, height))
    return 0


def take_report(report: Path, shot: Shot, picture: Path) -> None:
    """A frame of its own for each view: it has its own width, place and light."""
    frames = "".join(
        f'<iframe src="{report.as_uri()}{f"#{view.section}" if view.section else ""}" '
        f'style="color-scheme: {"dark" if view.dark else "light"}"></iframe>'
        for view in shot.views
    )
    style = (
        f"body {{ margin: 0; display: flex; gap: {GAP}px; background: #888 }}"
        f"iframe {{ border: 0; width: {shot.width}px; height: {shot.height}px }}"
    )
    width = len(shot.views) * (shot.width + GAP) - GAP
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f"<!doctype html><style>{style}</style><body>{frames}")
        look(page.as_uri(), wait_ms=2000, picture=picture, size=(width, shot.height))
    finish(picture, (0, 0, width, shot.height))


def finish(picture: Path, box: tuple[int, int, int, int]) -> None:
    """Keeps left, top, right and bottom of a picture, in 256 colors, which halves the file."""
    with Image.open(picture) as seen:
        shown = seen.convert("RGB").crop(box).quantize(256, dither=Image.Dither.NONE)
    shown.save(picture, optimize=True)


def pages(store: str, study: str) -> Sequence[tuple[str, int]]:
    """Address and height of each of MLflow's pages."""
    client = MlflowClient(store)
    (experiment,) = (e for e in client.search_experiments() if e.name == "compression-search")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parent = next(r.info.run_id for r in runs if r.info.run_name == study)
    front = sorted(
        (run.info.run_name, run.info.run_id)
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent
        and run.data.tags["on_front"] == "true"
    )
    run = f"experiments/{experiment.experiment_id}/runs/{parent}"
    ids = quote(json.dumps([run_id for _, run_id in front[:COMPARED]]))
    experiments = quote(json.dumps([experiment.experiment_id]))
    return (
        (run, 1800),
        (f"{run}/artifacts/front.png", 676),
        (f"compare-runs?runs={ids}&experiments={experiments}", 1136),
    )


@contextmanager
def served(store: str) -> Iterator[str]:
    """MLflow's server over that store, as long as it is needed."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as out:
            server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_until_alive(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, 9)  # with the workers that it started
            server.wait()


if __name__ == "__main__":
    sys.exit(main())
