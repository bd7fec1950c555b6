"""The folder of a study: what lies where, and what identifies the study in it."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hardware_profiles import atomic
from hardware_profiles.locks import locked
from hardware_profiles.regular_files import read_text
from search.errors import InputError, StudyError

FOLDER_VERSION = 2


@dataclass(frozen=True)
class StudyFolder:
    """``runs/<study>/``."""

    path: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.path.name

    @property
    def database(self) -> Path:
        """Optuna's storage: the truth about every trial."""
        return self.path / "study.db"

    @property
    def plans(self) -> Path:
        """Exported files, one folder a plan."""
        return self.path / "plans"

    @property
    def scratch(self) -> Path:
        """Space for evaluators."""
        return self.path / "scratch"

    @property
    def openings(self) -> Path:
        """How often the test split was opened for this study."""
        return self.path / "openings.json"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    @property
    def identity(self) -> Path:
        """What the study is a study of."""
        return self.path / "study.json"

    @property
    def id(self) -> str:
        """What tells this folder from others of its name; there once its identity is written."""
        return str(self.stated().get("id"))

    def stated(self) -> dict[str, Any]:
        """What ``study.json`` says.

        Raises:
            StudyError: it can't be read or is no JSON object.
        """
        remedy = "copy it from where it is whole, or start a new study with --study"
        try:
            stated = json.loads(read_text(self.identity))
        except OSError as error:
            raise StudyError(
                f"{self.identity} must be a readable file, but: {error.strerror}; {remedy}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise StudyError(
                f"{self.identity} must be JSON, but is not: {error}; {remedy}"
            ) from None
        if not isinstance(stated, dict):
            raise StudyError(
                f"{self.identity} must be a JSON object, but is a {type(stated).__name__}; "
                f"{remedy}"
            )
        return stated

    def check_results(self, trials: int) -> None:
        """Whether a storage without trials can be right: files of plans show that there were some.

        The untouched model's trial is kept before the next plan begins, so that one may be lost
        to a kill.

        Raises:
            StudyError: results are missing.
        """
        plans = sum(1 for path in self.plans.iterdir()) if self.plans.is_dir() else 0
        if not trials and plans > 1:
            raise StudyError(
                f"a study's storage must have its trials, but it has none, and {self.plans} has "
                f"the files of {plans} plans: {self.database.name} was emptied or another "
                f"--storage is meant; put it back, or start a new study with --study"
            )


def open_folder(runs: Path, study: str | None, resume: bool, default: str) -> StudyFolder:
    """The folder of a new study, or of an existing one that is resumed, made where it is missing.

    Raises:
        StudyError: see ``find_folder``.
        InputError: it can't be written, or the name is not one.
    """
    return _made(find_folder(runs, study, resume, default), runs)


def check_folder(runs: Path, study: str | None, resume: bool, default: str) -> None:
    """Whether ``open_folder`` would work; leaves nothing behind.

    Raises:
        StudyError: see ``find_folder``.
        InputError: it can't be written, or the name is not one.
    """
    path = find_folder(runs, study, resume, default).path
    there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with TemporaryDirectory(prefix=".writable-", dir=there):
            pass
    except OSError as error:
        raise _unwritable(runs, error) from None


def find_folder(runs: Path, study: str | None, resume: bool, default: str) -> StudyFolder:
    """The folder of a new study, which isn't made, or of an existing one that is resumed.

    Without a name, a new study is called ``default`` with the time, and the latest one that
    begins so is resumed.

    Raises:
        StudyError: it exists and is not resumed, or is resumed and does not exist.
        InputError: the name is not one.
    """
    if study is not None and (
        not study or study in (".", "..") or "/" in study or not study.isprintable()
    ):
        raise InputError(
            f"--study must be a plain name, but got {study!r}; leave out slashes and control "
            f"characters"
        )
    if study is None and resume:
        found = sorted(runs.glob(f"{default}-*/study.json"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise StudyError(
                f"--resume must find a study, but {runs} has none called {default}-…; name it "
                f"with --study or leave out --resume"
            )
        return StudyFolder(found[-1].parent)
    folder = StudyFolder(runs / (study or f"{default}-{time.strftime('%Y%m%d-%H%M%S')}"))
    exists = folder.identity.exists()
    if exists and not resume:
        raise StudyError(
            f"--study must name a new study, but {folder.path} exists; add --resume to go on "
            f"with it, or choose another name"
        )
    # One that was interrupted before it had an identity begins anew.
    if resume and not folder.path.exists():
        raise StudyError(
            f"--resume must find the study, but {folder.path} does not exist; leave out "
            f"--resume to start it"
        )
    return folder


@contextlib.contextmanager
def in_use(folder: StudyFolder) -> Iterator[None]:
    """Keeps other processes from the study; whatever ends this one gives it back.

    Raises:
        StudyError: another process has it.
    """
    path = folder.path / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(path, wait=False))
        except BlockingIOError:
            raise StudyError(
                f"a study must be used by one process at a time, but {folder.path} is in use by "
                f"process {path.read_text().strip() or 'unknown'}; wait for it, or choose another "
                f"--study"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _made(folder: StudyFolder, runs: Path) -> StudyFolder:
    try:
        for path in (folder.path, folder.plans, folder.scratch):
            path.mkdir(parents=True, exist_ok=True)
        probe = folder.path / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(runs, error) from None
    return folder


def _unwritable(runs: Path, error: OSError) -> InputError:
    return InputError(
        f"--output must be a folder that can be written to, but {str(runs)!r} is not "
        f"({error.strerror}); choose another"
    )


def check_identity(folder: StudyFolder, identity: Mapping[str, str]) -> None:
    """Writes what the study is of, or compares it with what a resumed one was of.

    Raises:
        StudyError: see ``compare_identity``.
    """
    if folder.identity.exists():
        compare_identity(folder, identity)
        return
    kept = {"version": FOLDER_VERSION, "id": uuid.uuid4().hex, **identity}
    atomic.write_text(folder.identity, json.dumps(kept, indent=2))


def compare_identity(folder: StudyFolder, identity: Mapping[str, str]) -> None:
    """Compares what a study was of, as far as it is known, with what it is to be of now.

    Raises:
        StudyError: the study is of another model, data set, target or limit, or of another
            release.
    """
    if not folder.identity.exists():
        return
    kept = folder.stated()
    if kept.get("version") != FOLDER_VERSION:
        raise StudyError(
            f"a study must be of version {FOLDER_VERSION}, but {folder.path} is of "
            f"{kept.get('version')!r}, by another release: start a new one with another --study, "
            f"or go on with that release"
        )
    for key, value in identity.items():
        if kept.get(key) != value:
            raise StudyError(
                f"a resumed study must be of the same {key}, but it has {kept.get(key)} and now "
                f"it is {value}; start a new one with --study"
            )
