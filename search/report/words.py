"""How figures are written for people: three digits, a unit, and never a zero for "unknown"."""

from __future__ import annotations

from evaluators import Measurement

UNKNOWN = "not evaluated"
_NBSP = "\u00a0"


def latency(ms: float | None) -> str:
    """``0.27 ms``, ``142 ms``: three significant digits of milliseconds."""
    return UNKNOWN if ms is None else f"{_digits(ms)}{_NBSP}ms"


def size(value_bytes: float | None) -> str:
    """``74.2 kB``, ``1.4 MB``: decimal units, three significant digits."""
    if value_bytes is None:
        return UNKNOWN
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value_bytes >= factor:
            return f"{_digits(value_bytes / factor)}{_NBSP}{unit}"
    return f"{value_bytes:.0f}{_NBSP}B"


def count(value: float | None) -> str:
    """``11.2 M``: a number of things such as MACs or parameters."""
    if value is None:
        return UNKNOWN
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{_digits(value / factor)}{_NBSP}{unit}"
    return f"{value:.0f}"


def percent(share: float | None) -> str:
    """``97.8 %`` of a share in [0, 1]; two decimals where one would hide a difference."""
    if share is None:
        return UNKNOWN
    return f"{round(share * 100, 2):.4g}{_NBSP}%"


def points(difference: float | None) -> str:
    """``0.56 points``: a difference of two shares, in percentage points, with its sign."""
    if difference is None:
        return UNKNOWN
    rounded = round(difference * 100, 2)
    unit = "point" if abs(rounded) == 1 else "points"
    return f"{rounded:.4g}{_NBSP}{unit}".replace("-", "−")


def ratio(times: float | None) -> str:
    """``21.7×``, ``4.1×``, ``0.83×``: how many times."""
    return UNKNOWN if times is None else f"{_digits(times)}×"


def duration(seconds: float) -> str:
    """``42 s``, ``4 min 10 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 1:
        return f"{_digits(seconds * 1e3)}{_NBSP}ms"
    if whole < 60:
        return f"{whole}{_NBSP}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_NBSP}min" + (f" {rest}{_NBSP}s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_NBSP}h" + (f" {minutes}{_NBSP}min" if minutes else "")


def source(measurement: Measurement | None) -> str:
    """``measured``, ``estimated ± 12 %`` or ``not evaluated``: where a figure comes from."""
    if measurement is None:
        return UNKNOWN
    low, high, value = measurement.low, measurement.high, measurement.value
    if measurement.source == "measured" or low is None or high is None or value == 0:
        return measurement.source
    return f"estimated ±{_NBSP}{(high - low) / 2 / abs(value):.0%}".replace("%", f"{_NBSP}%")


def origin(text: str) -> str:
    """A trial's origin for people: ``baseline:uniform-50-int8`` is ``uniform −50 %, int8``."""
    kind, _, name = text.partition(":")
    if kind == "baseline":
        names = {"fp32": "untouched FP32", "int8": "plain int8"}
        if name in names:
            return names[name]
        parts = name.split("-")
        if len(parts) == 3 and parts[0] == "uniform":
            return f"uniform −{parts[1]}{_NBSP}%, {parts[2]}"
        return name
    if kind == "warm":
        return "warm start"
    return f"{name} sampler" if kind == "sampler" and name else text


def _digits(number: float) -> str:
    """Three significant digits without an exponent or trailing zeros."""
    if number >= 1000:
        return f"{number:,.0f}".replace(",", _NBSP)
    return f"{float(f'{number:.3g}'):.6f}".rstrip("0").rstrip(".")
