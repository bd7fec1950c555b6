"""The two tables that coefficients come from: published latencies and emulated counts."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hardware_profiles.counts import COUNT_COLUMNS
from hardware_profiles.profile import DATA, ProfileError


@dataclass(frozen=True)
class Counted:
    """Counts of one inference of one model on an emulated core."""

    runtime: str
    qemu_cpu: str
    model: str
    counts: Mapping[str, float]  # by COUNT_COLUMNS


@dataclass(frozen=True)
class Published:
    """A latency that somebody measured on a board."""

    device: str
    runtime: str
    threads: int
    model: str  # with ``_int8`` where it ran in int8, as in the counts
    latency_ms: float
    latency_min_ms: float
    source: str


def read_counts(path: Path) -> tuple[Counted, ...]:
    """Rows of a table in the format of ``emulated_counts.csv``.

    Raises:
        ProfileError: no such file, no rows, a column is missing, or a value is not a number
            that counts something; names file, line and column.
    """
    needed = ("runtime", "qemu_cpu", "model", *COUNT_COLUMNS)
    rows = []
    for line, row in _rows(path, needed):
        counts = {name: _number(path, line, name, row[name]) for name in COUNT_COLUMNS}
        if counts["total"] == 0:
            raise ProfileError(f"{path}:{line}: total must be above 0, but is 0")
        rows.append(Counted(row["runtime"], row["qemu_cpu"], row["model"], counts))
    if not rows:
        raise ProfileError(f"a table of counts must have rows, but {path} has none")
    return tuple(rows)


@cache
def shipped_counts() -> tuple[Counted, ...]:
    """The counts of the package."""
    return read_counts(DATA / "emulated_counts.csv")


@cache
def published_latencies(runtime: str = "ncnn") -> tuple[Published, ...]:
    """The package's published means of ``runtime`` whose thread count is stated."""
    stated = ("device", "runtime", "threads", "model", "dtype", "statistic")
    needed = (*stated, "latency_ms", "latency_min_ms", "source")
    path = DATA / "published_latencies.csv"
    return tuple(
        Published(
            device=row["device"],
            runtime=row["runtime"],
            threads=int(row["threads"]),
            model=row["model"] + ("_int8" if row["dtype"] == "int8" else ""),
            latency_ms=float(row["latency_ms"]),
            latency_min_ms=float(row["latency_min_ms"] or row["latency_ms"]),
            source=row["source"],
        )
        for _, row in _rows(path, needed)
        if row["runtime"] == runtime and row["statistic"] == "mean" and row["threads"].isdigit()
    )


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise ProfileError(
                    f"{path} must have the columns {', '.join(needed)}, but lacks "
                    f"{', '.join(missing)}"
                )
            for row in reader:
                # DictReader gives None for what a short line lacks.
                yield reader.line_num, {name: value or "" for name, value in row.items() if name}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProfileError(f"a table must be a readable CSV file, but {path}: {error}") from None


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ProfileError(
            f"{path}:{line}: {column} must be a number that is not negative, but got {text!r}"
        )
    return value
