"""How often the test split was opened, and how much of the error allowance is left.

A confidence of 95 % allows for an error in 5 % of searches. Whoever looks at the same test images
again spends of the same 5 %, so that openings are kept: with the study, and by test images for
other studies on them. An opening whose finalists were all proved spends nothing. One
that ended with a failure spends what it was tested with: two thirds of the allowance at first, and
later half of what is left, so that all together never exceed it (``docs/proof.md``).

    openings.json   {"version": 1, "openings": [{"id", "study", "time_s", "allowance", "claim",
                     "tested": [{"sha256", "proved", "bound"}]}]}
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from evaluators.tasks.drop import DropBound
from hardware_profiles import atomic
from hardware_profiles.locks import locked
from hardware_profiles.regular_files import read_text
from search.errors import StudyError
from search.task import Split

VERSION = 1
FIRST, LATER = 2 / 3, 1 / 2  # of what is left of the allowance


@dataclass(frozen=True)
class TestedFile:
    """An exported file, by its content, and what the test split said of it."""

    __test__ = False

    sha256: str
    proved: bool
    bound: DropBound


@dataclass(frozen=True)
class Opening:
    """One look at the test split. ``allowance`` is the probability of error it was tested with.

    ``claim`` is what was to be shown: a limit of a metric's drop against a baseline.
    """

    id: str
    study: str
    time_s: float
    allowance: float
    claim: str
    tested: tuple[TestedFile, ...]

    @property
    def failed(self) -> bool:
        """Whether it ended with a file that was not proved."""
        return not all(file.proved for file in self.tested)


@dataclass(frozen=True)
class Record:
    """All openings of one test split, the first one first."""

    openings: tuple[Opening, ...]

    def allowance(self, error: float) -> float:
        """What the next opening may spend of an allowed ``error``, such as 0.05."""
        failures = sum(opening.failed for opening in self.openings)
        return error * (FIRST if not failures else (1 - FIRST) * LATER**failures)

    def known(self, claim: str, error: float) -> Mapping[str, TestedFile]:
        """Files by content that were tested for this claim, at no more than this error."""
        return {
            file.sha256: file
            for opening in self.openings
            if opening.claim == claim and opening.allowance <= error
            for file in opening.tested
        }


class Openings:
    """Where openings are kept: one place or several, which may each know of others."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """``paths`` are of JSON files, made when there is something to keep."""
        self._paths = tuple(paths)

    def record(self) -> Record:
        """What all places know.

        Raises:
            StudyError: a file is not one of these.
        """
        openings = {o.id: o for path in self._paths for o in _read(path)}
        return Record(tuple(sorted(openings.values(), key=lambda o: (o.time_s, o.id))))

    @contextmanager
    def held(self) -> Iterator[Record]:
        """Keeps other searches from opening the same test split meanwhile.

        Raises:
            StudyError: as ``record``; or a place can't be written to.
        """
        with ExitStack() as stack:
            for path in self._paths:
                try:
                    stack.enter_context(locked(path.with_suffix(".lock")))
                except OSError as error:
                    raise StudyError(
                        f"how often the test split was opened must be kept in {path.parent}, but "
                        f"that can't be written to ({error.strerror}); make it writable, or set "
                        f"COMPRESSION_SEARCH_CACHE to a folder that is"
                    ) from None
            yield self.record()

    def keep(self, study: str, allowance: float, claim: str, tested: Sequence[TestedFile]) -> None:
        """Adds an opening; what a place did not know of the others, it knows from now on."""
        opening = Opening(uuid.uuid4().hex, study, time.time(), allowance, claim, tuple(tested))
        openings = (*self.record().openings, opening)
        content = {"version": VERSION, "openings": _OPENINGS.dump_python(openings, mode="json")}
        for path in self._paths:
            atomic.write_text(path, json.dumps(content, indent=1))


_OPENINGS = TypeAdapter(tuple[Opening, ...])


def split_key(test: Split) -> str:
    """64 hex digits of the test images and their labels."""
    digest = hashlib.sha256()
    digest.update(repr((test.images.shape, str(test.images.dtype))).encode())
    digest.update(np.ascontiguousarray(test.images).data)
    digest.update(test.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[Opening, ...]:
    try:
        content = json.loads(read_text(path))
        if content["version"] != VERSION:
            raise ValueError(f"its version is {content['version']!r}")
        return _OPENINGS.validate_python(content["openings"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError, RecursionError, ValidationError) as error:
        raise StudyError(
            f"{path} must be the version-{VERSION} record of how often the test split was opened, "
            f"but is not ({type(error).__name__}); take it away, and what was proved on these "
            f"test images before is forgotten"
        ) from None
