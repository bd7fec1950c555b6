"""Text that came from outside, made safe for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with control characters and lone surrogates written as escapes; lines stay.

    A file's or layer's name could else move the cursor, color what follows, or forge a line.
    """
    return "".join(
        character if character.isprintable() or character in "\n\u00a0" else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
