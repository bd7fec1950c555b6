"""Killed Ray workers, nodes, drivers and heads, and a database that crashes, lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import durable
import optuna
from services import Cluster, Postgres, environment

from search.deciding.storage import StoredStudy, open_storage

DRIVE = Path(__file__).with_name("drive.py")
TRIALS = 22
AWAY_S = 60.0


def start(address: str, postgres: Postgres, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "said").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, str(DRIVE), address, postgres.url, str(folder), str(TRIALS)],
            env=environment(),
            stdout=said,
            stderr=said,
        )


def begun(folder: Path) -> list[int]:
    """Who began a job, each time."""
    path = folder / "begun"
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def next_worker(folder: Path, is_alive: Callable[[], bool]) -> int:
    """Waits until a job begins; its worker."""
    before = len(begun(folder))
    while len(begun(folder)) == before:
        assert is_alive(), (folder / "said").read_text()
        time.sleep(0.01)
    return begun(folder)[-1]


def test_killed_worker_node_driver_and_head_change_no_plan(
    cluster: Cluster, postgres: Postgres, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    durable.search_in(whole, TRIALS)

    node = cluster.add_node(1)
    driver = start(cluster.address, postgres, killed)

    def is_alive() -> bool:
        return driver.poll() is None

    def live(more: int) -> None:
        durable.let_live(killed, more, 0.2, is_alive)

    live(2)
    os.kill(next_worker(killed, is_alive), signal.SIGKILL)  # while it works
    live(2)
    os.kill(begun(killed)[-1], signal.SIGKILL)  # whatever it does
    live(2)
    next_worker(killed, is_alive)
    node.kill()
    cluster.add_node(1)
    live(2)
    driver.kill()
    driver.wait()
    driver = start(cluster.address, postgres, killed)
    live(2)
    cluster.crash()
    assert driver.wait(120) == 1
    said = (killed / "said").read_text()
    assert "the Ray cluster must stay up" in said
    assert "go on with --resume" in said
    assert "Traceback" not in said
    durable.check(killed, postgres.url)
    assert len(durable.kept_in(killed, postgres.url)) < TRIALS

    cluster.start_head()
    cluster.add_node(1)
    driver = start(cluster.address, postgres, killed)
    assert driver.wait(300) == 0, (killed / "said").read_text()
    durable.check(killed, postgres.url)
    kept, expected = durable.kept_in(killed, postgres.url), durable.kept_in(whole)
    assert durable.shapes(kept) == durable.shapes(expected)
    assert (killed / "said").read_text().count("ended; the trial starts again") in (2, 3)


def test_database_that_crashes_is_waited_for(postgres: Postgres, tmp_path: Path) -> None:
    notes: list[str] = []
    pauses: list[float] = []

    def pause(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 2:
            postgres.start()

    storage = open_storage(postgres.url, tmp_path / "unused")
    study = StoredStudy(storage, "crash", "here", notes.append, pause)
    study.add(finished("before"))
    postgres.crash()
    study.add(finished("after"))
    assert [t.user_attrs["key"] for t in study.trials] == ["before", "after"]
    assert len(pauses) >= 2
    assert notes[0].startswith("The study's storage takes no results (connection failed")
    assert notes[-1] == "The study's storage takes results again."
    password = postgres.url.split(":")[2].split("@")[0]
    assert password not in "".join(notes)


def test_search_waits_for_its_database_and_loses_nothing(
    postgres: Postgres, tmp_path: Path
) -> None:
    whole, away = tmp_path / "whole", tmp_path / "away"
    whole.mkdir()
    away.mkdir()
    durable.search_in(whole, TRIALS)

    said = away / "said"
    driver = start("here", postgres, away)
    durable.let_live(away, 3, 0.02, lambda: driver.poll() is None)
    postgres.crash()
    time.sleep(AWAY_S)
    assert driver.poll() is None, said.read_text()
    postgres.start()
    assert driver.wait(120) == 0, said.read_text()
    durable.check(away, postgres.url)
    kept, expected = durable.kept_in(away, postgres.url), durable.kept_in(whole)
    assert durable.shapes(kept) == durable.shapes(expected)
    assert said.read_text().splitlines()[-1] == "The study's storage takes results again."


def finished(key: str) -> optuna.trial.FrozenTrial:
    trial = optuna.trial.create_trial(values=[0.9, 1.0])
    trial.user_attrs = {"key": key}
    return trial
