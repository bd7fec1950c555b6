"""A stream that hides secrets, whoever writes to it: also libraries, and what raised."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from search.masking import HIDDEN, secret_parts

# What is shorter stands in other words, too; addresses in messages are masked by their form.
SHORTEST = 4
ADDRESSES = ("MLFLOW_TRACKING_URI", "COMPRESSION_SEARCH_STORAGE")
VALUES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def secrets_of(addresses: Iterable[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """What must not be shown of these addresses and of those in the environment, longest first."""
    named = [*addresses, *(environment[name] for name in ADDRESSES if name in environment)]
    parts = {part for address in named for part in secret_parts(address)}
    parts |= {environment[name] for name in VALUES if name in environment}
    return tuple(sorted((p for p in parts if len(p) >= SHORTEST), key=len, reverse=True))


class MaskedStream:
    """Writes to another stream what is left of a text without the secrets."""

    def __init__(self, stream: TextIO, secrets: tuple[str, ...]) -> None:
        self._stream = stream
        # Not within a longer word: a secret may be a word that others begin with.
        self._secret = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, secrets))})(?!\w)")

    def write(self, text: str) -> int:
        """Writes the text; a secret that comes in two writes is not found."""
        self._stream.write(self._secret.sub(HIDDEN, text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes each."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def masking(addresses: Iterable[str]) -> Iterator[None]:
    """Hides the secrets of addresses in all that goes to standard error meanwhile."""
    secrets = secrets_of(addresses, os.environ)
    if not secrets:
        yield
        return
    stream: Any = MaskedStream(sys.stderr, secrets)
    with contextlib.redirect_stderr(stream):
        yield
