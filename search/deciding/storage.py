"""Where finished trials are kept: a SQLite file, or a database server given as a URL.

A storage may be away for a while: a server that restarts, a full disk. Then the search waits,
says so, and loses nothing; a trial whose fate is unknown is looked for before it is added again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from search.deciding.bulk import BulkInsert
from search.deciding.kept import STUDY_VERSION, check_version
from search.errors import StorageError, StudyError
from search.masking import masked
from search.optional import import_optional
from search.running import interruption
from search.sqlite_url import sqlite_url

PATIENCE_S = 30 * 60.0
LONGEST_PAUSE_S = 15.0
# A dead connection is noticed within this time.
_POSTGRES = {"connect_timeout": 10, "tcp_user_timeout": 20_000}
OWNER, ABOUT, _VERSION = "folder", "about", "version"  # attributes of the study


def sqlite_storage(path: Path) -> optuna.storages.RDBStorage:
    """The study's file.

    Raises:
        StudyError: the file can't be opened or written.
    """
    try:
        storage = optuna.storages.RDBStorage(
            sqlite_url(path), engine_kwargs={"connect_args": {"timeout": 60}}
        )
        # A commit then waits for the disk once instead of three times, and is as safe.
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        return storage
    except Exception as error:
        raise StudyError(
            f"the study's file must be a readable and writable SQLite database, but {path} is "
            f"not ({type(error).__name__}); choose another --study or --output"
        ) from error


def open_storage(url: str | None, path: Path) -> optuna.storages.RDBStorage:
    """The storage at a URL, such as ``postgresql://user@host/database``; without one, the file.

    Raises:
        InputError: the package that talks to the server is not installed.
        StudyError: the storage does not answer, or is not one.
    """
    if url is None:
        return sqlite_storage(path)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url != optuna_url(url):
        import_optional("psycopg", "--storage postgresql://…", "psycopg[binary]")
        options["connect_args"] = _POSTGRES
    try:
        return optuna.storages.RDBStorage(optuna_url(url), engine_kwargs=options)
    except Exception as error:  # of SQLAlchemy, a driver or Optuna: whatever they raise
        cause = masked(_cause(error), [url])
        raise StudyError(
            f"--storage must be the URL of a database that answers, such as "
            f"postgresql://user@host/database, but {masked(url)} does not: {cause}"
        ) from error


def optuna_url(url: str) -> str:
    """The URL as Optuna's own tools take it: with the driver that is used for PostgreSQL."""
    kind, colon, rest = url.partition("://")
    return f"postgresql+psycopg{colon}{rest}" if kind in ("postgres", "postgresql") else url


def elapsed_s(storage: optuna.storages.BaseStorage, name: str) -> float:
    """Seconds that a study has used; 0 where there is none yet."""
    try:
        study = storage.get_study_id_from_name(name)
    except KeyError:
        return 0.0
    count = storage.get_n_trials(study)
    if count == 0:
        return 0.0
    # The last one has the largest; to read all of a large study takes seconds.
    last = storage.get_trial_id_from_study_id_trial_number(study, count - 1)
    return float(storage.get_trial(last).user_attrs["elapsed_s"])


class StoredStudy:
    """The finished trials of one study in a storage."""

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        owner: str | None,
        note: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
        metrics: Sequence[str] = ("accuracy", "latency_ms"),
    ) -> None:
        """``owner`` identifies the folder that has the study's files; ``metrics`` are the values'
        names, the first to be maximized, the second to be minimized.

        Raises:
            StudyError: the storage has a study of that name, of another folder or of another
                release.
        """
        self._note = note
        self._pause = pause
        self._study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
        known = self._study.user_attrs
        if not self.trials:
            self._study.set_user_attr(_VERSION, STUDY_VERSION)
            if owner is not None:
                self._study.set_user_attr(OWNER, owner)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(list(metrics))
            known = self._study.user_attrs
        check_version(known.get(_VERSION))
        self._bulk = BulkInsert.into(storage)
        self._id = storage.get_study_id_from_name(name)
        found = known.get(OWNER)
        if found != owner:
            raise StudyError(
                f"a study's name must be its own in the storage, but {name!r} is there already "
                f"and has its files in another folder; choose another --study, or resume it "
                f"where its folder is"
            )

    def describe(self, about: Mapping[str, Any]) -> None:
        """Keeps what is shown of the study besides its trials; it keeps its beginning.

        Raises:
            StorageError: as ``add``.
        """

        def write() -> None:
            began = self._study.user_attrs.get(ABOUT, about)["began_ms"]
            self._study.set_user_attr(ABOUT, {**about, "began_ms": began})

        self._patiently(write, lambda: False)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them, in the order in which they were added."""
        return self._study.get_trials(deepcopy=False)

    def add(self, frozen: FrozenTrial) -> None:
        """Keeps a trial; waits for a storage that is away. ``key`` is among its user attributes.

        Raises:
            StorageError: the storage was away for too long, or the person won't wait.
        """
        self._patiently(lambda: self._add(frozen), lambda: self._has(frozen.user_attrs["key"]))

    def _patiently(self, write: Callable[[], None], arrived: Callable[[], bool]) -> None:
        """Writes; waits for a storage that is away, and looks whether it came there in between."""
        began, pause_s, cause = time.monotonic(), 1.0, ""
        while True:
            try:
                if not cause or not arrived():
                    write()
            except optuna.exceptions.StorageInternalError as error:
                if not cause:
                    self._note(
                        f"The study's storage takes no results ({masked(_cause(error))}); "
                        f"the search waits for it."
                    )
                cause = masked(_cause(error))
            else:
                if cause:
                    self._note("The study's storage takes results again.")
                return
            if interruption.came() or time.monotonic() - began > PATIENCE_S:
                raise StorageError(
                    f"the study's storage must take results, but does not: {cause}; mend it and "
                    f"go on with --resume, what is finished is there but for the last trial"
                )
            self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _add(self, frozen: FrozenTrial) -> None:
        if self._bulk is not None:
            self._bulk.add(self._id, frozen)
        else:
            self._study.add_trial(frozen)

    def _has(self, key: str) -> bool:
        """Whether a trial arrived though its acknowledgment did not."""
        return any(trial.user_attrs.get("key") == key for trial in self.trials)


def _cause(error: BaseException) -> str:
    """The first line of what is at the bottom of it; a database's own words."""
    while error.__cause__ is not None:
        error = error.__cause__
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    return lines[0] if lines else type(original).__name__
