"""Publishes a study: makes an MLflow store agree with the study's storage and its folder.

It can be called at any time, any number of times, by several processes: during the search (the
process beside it, ``follow.py``), at its end, when it is resumed, or by hand (``command.py``).
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from hardware_profiles.locks import locked
from search.deciding.kept import KeptTrials
from search.deciding.storage import ABOUT, OWNER, open_storage
from search.publishing.outcomes import RefusedError, outcomes
from search.publishing.store import Store
from search.publishing.trial_run import trial_run
from search.sqlite_url import sqlite_url

ENDING = "ending.json"
STORAGE = "COMPRESSION_SEARCH_STORAGE"  # the environment's name of the storage's URL


class Source:
    """What is to be published: the study in its storage, read as it grows, and how it ended."""

    def __init__(self, folder: Path, storage_url: str | None) -> None:
        """
        Raises:
            StudyError: the storage does not answer.
            KeyError: it has no such study.
        """
        storage = open_storage(storage_url, folder / "study.db")
        name = folder.name
        if not storage_url:  # the folder may have been renamed, with the one study in its file
            names = optuna.get_all_study_names(storage)
            name = name if name in names or not names else names[0]
        self._study = optuna.load_study(study_name=name, storage=storage)
        self._folder = folder
        self._read = 0
        self.trials = KeptTrials()

    def about(self) -> dict[str, Any] | None:
        """Key, name, beginning, parameters and data of the study; None before it has begun."""
        attributes = self._study.user_attrs
        if ABOUT not in attributes:
            return None
        return {**attributes[ABOUT], "key": attributes[OWNER], "name": self._study.study_name}

    def news(self) -> set[int]:
        """Numbers of the trials that are new, or trained again, since it was last called."""
        records = self._study.get_trials(deepcopy=False)
        new = {self.trials.add(record) for record in records[self._read :]}
        self._read = len(records)
        return {number for number in new if number is not None}

    def ending(self) -> dict[str, Any] | None:
        """How the search ended; None while it goes on, or where it was killed."""
        path = self._folder / ENDING
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text())
        return content


@dataclass
class Published:
    """What a call has brought into the store."""

    trials: int = 0
    ending: bool = False
    refused: list[str] = field(default_factory=list)
    registered: list[tuple[str, str]] = field(default_factory=list)  # name, alias


class Publisher:
    """Publishes one study to the store of ``MLFLOW_TRACKING_URI``."""

    def __init__(self, folder: Path, source: Source, register: str | None = None) -> None:
        """``register``: the winner's name in the registry, instead of the one of the search."""
        self._folder = folder
        self._source = source
        self._register = register
        self._store: Store | None = None
        self._waiting: set[int] = set()  # trials to be compared with the store
        self._ending: dict[str, Any] | None = None
        self._me = uuid.uuid4().hex
        self._refused: set[str] = set()

    def publish(
        self, is_running: bool, told: Callable[[Published], None] = lambda _: None
    ) -> Published:
        """All that the store lacks. ``is_running``: the search goes on.

        ``told`` is called after each trial, so that a caller can say how far it is.

        Raises:
            NotPublishedError: the store is away, or somebody has to do something. What it took
                until then stays there.
        """
        done = Published()
        with _alone(self._folder, self._me) as was_somebody_else:
            about = self._source.about()
            if about is None:
                return done
            with outcomes(opening=True):
                store = self._open(about, is_running, was_somebody_else)
            ending = self._source.ending()
            self._waiting |= self._source.news()
            if ending != self._ending or was_somebody_else:
                self._ending = ending
                self._waiting |= set(self._source.trials)
            for number in sorted(self._waiting):
                run = trial_run(self._source.trials[number], about["metric"], ending)
                if not store.has(number, run):
                    with self._refusals(done, f"trial {number}"), outcomes():
                        store.put_trial(number, run)
                        done.trials += 1
                        told(done)
                self._waiting.discard(number)
            self._put_end(store, ending, is_running, done)
        return done

    def put_system_metrics(self, figures: Mapping[str, float], step: int) -> None:
        """Figures of the machine, in the parent run, where there is one yet.

        Raises:
            NotPublishedError: the store is away.
        """
        if self._store is not None:
            with outcomes(opening=True):
                self._store.put_system_metrics(figures, round(time.time() * 1000), step)

    def _open(self, about: Mapping[str, Any], is_running: bool, look_again: bool) -> Store:
        if self._store is None:
            store = Store(self._folder, about)
            store.put_parent(about)
            if is_running:
                store.set_running()
            self._store = store
        elif look_again:
            self._store.look_again()
        return self._store

    def _put_end(
        self, store: Store, ending: dict[str, Any] | None, is_running: bool, done: Published
    ) -> None:
        if ending is None:
            if not is_running:
                with outcomes():
                    store.set_ended("KILLED", round(time.time() * 1000))
            return
        if self._register and ending["model"]:
            ending = {**ending, "model": {**ending["model"], "register": self._register}}
        with self._refusals(done, "a part of the end"), outcomes():
            if not store.has_ending(ending):
                store.put_ending(ending, lambda *model: done.registered.append(model))
                done.ending = True
        with outcomes():
            store.set_ended("FINISHED", ending["time_ms"])

    @contextmanager
    def _refusals(self, done: Published, what: str) -> Iterator[None]:
        """Goes on after a refusal, and says each once."""
        try:
            yield
        except RefusedError as error:
            said = f"{what}: {error}"
            if said not in self._refused:
                self._refused.add(said)
                done.refused.append(said)


@contextmanager
def _alone(folder: Path, me: str) -> Iterator[bool]:
    """Keeps other publishers of this study waiting; whether another one was at it since."""
    with locked(folder / ".publishing") as lock:
        lock.seek(0)
        last = lock.read()
        if last != me:
            lock.truncate(0)
            lock.write(me)
            lock.flush()
        yield last not in (me, "")


def is_searched(folder: Path) -> bool:
    """Whether a search is using the study's folder."""
    path = folder / ".lock"
    if not path.exists():
        return False
    try:
        with locked(path, wait=False, shared=True):
            return False
    except BlockingIOError:
        return True


# A client that waits long for a dead server delays the end of a search. What the person has set
# wins. The first three are seconds, requests, seconds.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # it is tried again as a whole
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "OMP_NUM_THREADS": "1",
}


def resolve_tracking_uri(asked: str | None, runs: Path) -> str:
    """The store to write to: what was asked for, else ``MLFLOW_TRACKING_URI``, else a local file.

    The file is ``mlflow.db`` in the folder of all runs; artifacts go to a folder beside it.
    """
    return asked or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(runs / "mlflow.db")
