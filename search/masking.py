"""Secrets that people write into addresses; they belong into no log, report or store."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from urllib.parse import unquote

_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
# A database's driver writes what it was given as pairs.
_PAIR = re.compile(
    r"\b((?:ssl)?(?:password|passwd|pwd|passphrase|token|secret)\s*=\s*)(?:'[^']*'|[^\s'\"&]+)",
    re.IGNORECASE,
)
_WEB = ("http://", "https://")
HIDDEN = "***"


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """The text in which addresses show neither user and password nor their queries.

    A password may hold anything, slashes, quotes and blanks, too: what stands before the last @ of
    an address counts as secret, and what follows its question mark. It is better to hide too much
    of a line. ``secrets`` are addresses whose parts are hidden wherever they stand.
    """
    for secret in sorted({s for a in secrets for s in secret_parts(a)}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return "\n".join(map(_masked_line, text.split("\n")))


def without_secrets(address: str) -> str:
    """An address to open: its user, password and query are left out."""
    return masked(address).replace(f"{HIDDEN}@", "").removesuffix(f"?{HIDDEN}")


def masked_command(arguments: Iterable[str]) -> str:
    """A command line, each argument masked by itself and quoted for a shell."""
    return shlex.join(masked(argument) for argument in arguments)


def secret_parts(address: str) -> set[str]:
    """What of an address is secret: the password, on the web a lone user, all behind its path."""
    scheme = _SCHEME.match(address)
    if scheme is None:
        return set()
    rest = address[scheme.end() :]
    parts: set[str] = set()
    user, at, _ = rest.rpartition("@")
    if at:
        name, colon, password = user.partition(":")
        # A name alone is no secret but on the web, where it may be a token.
        parts |= {password} if colon else {name} if scheme[0].lower() in _WEB else set()
    behind = re.split(r"[?#;]", rest, maxsplit=1)[1:]
    for pair in re.split(r"[&;?#]", behind[0]) if behind else ():
        key, equals, value = pair.partition("=")
        parts.add(value if equals else key)
    return (parts | {unquote(part) for part in parts}) - {""}


def _masked_line(line: str) -> str:
    line = _PAIR.sub(rf"\1{HIDDEN}", line)
    starts = list(_SCHEME.finditer(line))
    if not starts:
        return line
    pieces = [line[: starts[0].start()]]
    is_address = starts[0].start() == 0
    for match, following in zip(starts, [*starts[1:], None], strict=True):
        end = len(line) if following is None else following.start()
        pieces.append(match[0] + _masked_rest(match[0], line[match.end() : end], is_address))
    return "".join(pieces)


def _masked_rest(scheme: str, rest: str, is_address: bool) -> str:
    """What follows a scheme, up to the next address or the end of the line."""
    user, at, after = rest.rpartition("@")
    # Of web addresses even a user is one: a token may stand there, with slashes, too.
    if at and user and (":" in user or scheme.lower() in _WEB):
        rest = f"{HIDDEN}@{after}"
    if is_address:
        path, *behind = re.split(r"([?#;])", rest, maxsplit=1)
        return f"{path}{behind[0]}{HIDDEN}" if behind and behind[1] else rest
    # In running text a value may hold blanks: what looks like one hides the rest of the line.
    return re.sub(r"([?#;])[^\s'\"]*=.*|([?#])[^\s'\"]+", rf"\1\2{HIDDEN}", rest)
