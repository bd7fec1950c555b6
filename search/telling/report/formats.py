"""The winner in other formats: what each is worth, or why it could not be made."""

from __future__ import annotations

from dataclasses import dataclass

from search.bundle.exports.exporter import Exported
from search.telling import words


@dataclass(frozen=True)
class FormatRow:
    """One format, in words; ``failure`` stands for all figures where it could not be made."""

    title: str
    file: str
    size: str
    value: str
    agreement: str
    how: str
    failure: str


def format_row(export: Exported) -> FormatRow:
    """A format's figures."""
    return FormatRow(
        export.title,
        f"exports/{export.name}/{export.file.name}" if export.file else words.NOTHING,
        words.size(export.size_bytes),
        words.percent(export.value),
        words.percent(export.agreement),
        export.how or "",
        export.failure or "",
    )


def told_format(export: Exported, metric: str) -> str:
    """One sentence; ``metric`` as people call it."""
    row = format_row(export)
    if export.file is None:
        return f"{row.title} could not be made: {row.failure}."
    return (
        f"{row.title}: {row.size}, {metric} {row.value} on test; it sees the class that the ONNX "
        f"file sees in {row.agreement} of the images ({row.how})."
    )
