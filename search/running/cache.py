"""Outcomes of jobs, kept from one study to the next, by a key of all that they depend on.

    evaluations/v1/KEY/outcome     a line with the SHA-256 of what follows, then JSON
                       model.onnx  the exported file, if there is one
                       weights.pt  the checkpoint, if there is one

An entry is written beside its place and then renamed: it is there as a whole or not at all, for
other processes and after a ``kill -9``. What is read is checked against its hashes, and nothing
is ever unpickled here; an entry that does not hold is removed and counts as not there. The
entries used least recently go first when there are too many bytes of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware_profiles.devices.device import file_sha256
from search.running.backends.messages import outcome_from_json, outcome_to_json
from search.training.job import Outcome

VERSION = 1
LIMIT_BYTES = 4_000_000_000
KEEP_FREE_BYTES = 2_000_000_000  # of the disk, for searches themselves
LOOK_AGAIN = 40  # after so small a part of the limit was added, others may have added as well
LEFTOVER_S = 3600.0  # what a killed process left unfinished is removed after so long
FILES = {"model": "model.onnx", "checkpoint": "weights.pt"}


class EvaluationCache:
    """One folder, for any number of processes."""

    def __init__(
        self, folder: Path, note: Callable[[str], None], limit_bytes: int = LIMIT_BYTES
    ) -> None:
        """``note`` takes sentences for the person."""
        self._folder = folder / f"v{VERSION}"
        self._note = note
        self._limit_bytes = limit_bytes
        self._added_bytes: int | None = None  # since the folder was looked at
        self._refused = False

    def get(self, key: str, folder: Path) -> Outcome | None:
        """What was kept under ``key``, with its files copied to ``folder``; None if nothing was.

        Raises:
            OSError: ``folder`` can't be written.
        """
        entry = self._folder / key
        if not entry.exists():
            return None
        try:
            kept = _read(entry / "outcome")
        except (OSError, ValueError):
            self._remove(entry)
            return None
        paths: dict[str, str | None] = dict.fromkeys(FILES)
        folder.mkdir(parents=True, exist_ok=True)
        for field, digest in kept["files"].items():
            path = folder / FILES[field]
            part = path.with_suffix(".part")
            if not _copied(entry / FILES[field], part, digest):
                part.unlink(missing_ok=True)
                self._remove(entry)
                return None
            part.replace(path)
            paths[field] = str(path)
        with suppress(OSError):  # used just now; or removed just now, by another process
            os.utime(entry)
        return outcome_from_json({**kept["outcome"], **paths})

    def put(self, key: str, outcome: Outcome) -> None:
        """Keeps an outcome with copies of its files; what can't be kept is said once."""
        entry = self._folder / key
        if entry.exists():
            return
        part = self._folder / f".part-{uuid.uuid4().hex}"
        try:
            sources = {
                field: path
                for field, path in (("model", outcome.model), ("checkpoint", outcome.checkpoint))
                if path is not None
            }
            self._make_room(sum(path.stat().st_size for path in sources.values()))
            part.mkdir()
            for field, path in sources.items():
                shutil.copyfile(path, part / FILES[field])
            plain = outcome_to_json(replace(outcome, model=None, checkpoint=None))
            files = {field: file_sha256(part / FILES[field]) for field in sources}
            _write(part / "outcome", {"outcome": plain, "files": files})
            part.rename(entry)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            # Another process may have kept the same meanwhile.
            if not self._refused and not entry.exists():
                self._refused = True
                self._note(f"Evaluations are not kept for later searches: {error}.")

    def _make_room(self, bytes_more: int) -> None:
        """Removes the oldest until so many more bytes fit.

        Raises:
            OSError: the disk would be too full.
        """
        if self._added_bytes is None or self._added_bytes > self._limit_bytes / LOOK_AGAIN:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._tidy(bytes_more)
            self._added_bytes = 0
        self._added_bytes += bytes_more
        free = shutil.disk_usage(self._folder).free
        if free - bytes_more < KEEP_FREE_BYTES:
            raise OSError(
                f"the disk of {self._folder} must keep {KEEP_FREE_BYTES / 1e9:g} GB free, but "
                f"has {free / 1e9:.1f} GB"
            )

    def _tidy(self, bytes_more: int) -> None:
        entries = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # removed meanwhile
                used_at = path.stat().st_mtime
                if path.name.startswith("."):
                    if time.time() - used_at > LEFTOVER_S:
                        shutil.rmtree(path, ignore_errors=True)
                    continue
                entries.append((used_at, sum(f.stat().st_size for f in path.iterdir()), path))
        left = sum(size for _, size, _ in entries) + bytes_more
        margin = self._limit_bytes / LOOK_AGAIN  # for what is added before the next look
        for _, size, path in sorted(entries):
            if left + margin <= self._limit_bytes:
                break
            self._remove(path)
            left -= size

    def _remove(self, entry: Path) -> None:
        """Takes the entry away as a whole, so that nobody finds half of it."""
        gone = self._folder / f".gone-{uuid.uuid4().hex}"
        with suppress(OSError):  # another process was faster, or the folder is read-only
            entry.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps({"version": VERSION, **content})
    path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def _read(path: Path) -> Any:
    """Raises ValueError when the file is not as it was written."""
    digest, _, text = path.read_text().partition("\n")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise ValueError(f"{path} must be as it was written, but is not")
    return json.loads(text)


def _copied(source: Path, target: Path, digest: str) -> bool:
    """Whether the copy is what was kept; a source that is gone or broken is not."""
    try:
        content = source.read_bytes()
    except OSError:
        return False
    if hashlib.sha256(content).hexdigest() != digest:
        return False
    target.write_bytes(content)
    return True
