"""Secrets that people write into addresses; they belong into no log, report or store."""

from __future__ import annotations

import re

# Of web addresses all that is before the host: a token may stand in the place of the user.
_WEB = re.compile(r"(https?://)[^\s/'\"]*@")
_OTHER = re.compile(r"([a-z][\w+.-]*://[^\s/:@'\"]*:)[^\s/'\"]*@", re.IGNORECASE)
_QUERY = re.compile(r"([?&](?:password|passwd|pwd|token|secret|key)=)[^&\s'\"]+", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with the secrets of the addresses in it replaced by ``***``."""
    text = _WEB.sub(r"\1***@", text)
    text = _OTHER.sub(r"\1***@", text)
    return _QUERY.sub(r"\1***", text)
