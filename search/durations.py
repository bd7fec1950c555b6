"""``30m`` and ``20MB``: durations and sizes as people write them."""

from __future__ import annotations

import re

LONGEST_S, LARGEST = 1e9, 1e15  # no search is longer, no device has more
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_BYTES |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}


def seconds(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1.5h`` or ``1h30m``.

    Raises:
        ValueError: it is not a positive duration; the message says what is.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)", text.strip().lower())
    total = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    written = "".join(text.lower().split())
    if "".join(n + u for n, u in parts) != written or not 0 < total < LONGEST_S:
        raise ValueError(f"must be a positive duration such as 90s, 30m or 1h30m, got {text!r}")
    return total


def size_bytes(text: str) -> float:
    """Bytes of ``200000``, ``200kB``, ``2MB`` or ``1.5MiB``.

    Raises:
        ValueError: it is not a positive size; the message says what is.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _BYTES or not 0 < float(match[1]) < LARGEST:
        raise ValueError(f"must be a positive size such as 200kB or 1.5MiB, got {text!r}")
    return float(match[1]) * _BYTES[match[2]]
