"""How figures are written for people: three digits, a unit, and never a zero for "unknown"."""

from __future__ import annotations

import math
from collections.abc import Callable

from evaluators import Measurement

UNKNOWN = "not evaluated"
NOTHING = "–"
NBSP = "\u00a0"
LIMITED = {
    "drop": "the drop",
    "latency_ms": "latency",
    "size_bytes": "size",
    "peak_memory_bytes": "peak memory",
    "peak_tensor_bytes": "peak tensors",
}


def latency(ms: float | None) -> str:
    """``0.27 ms``, ``142 ms``: three significant digits of milliseconds."""
    return UNKNOWN if ms is None else f"{_digits(ms)}{NBSP}ms"


def size(value_bytes: float | None) -> str:
    """``74.2 kB``, ``1.4 MB``: decimal units, three significant digits."""
    if value_bytes is None:
        return UNKNOWN
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value_bytes >= factor:
            return f"{_digits(value_bytes / factor)}{NBSP}{unit}"
    return f"{value_bytes:.0f}{NBSP}B"


def count(value: float | None) -> str:
    """``11.2 M``: a number of things such as MACs or parameters."""
    if value is None:
        return UNKNOWN
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{_digits(value / factor)}{NBSP}{unit}"
    return f"{value:.0f}"


def counted(number: int, thing: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{number} {thing}" + ("" if number == 1 else "s")


def percent(share: float | None) -> str:
    """``97.8 %`` of a share in [0, 1]; two decimals where one would hide a difference."""
    if share is None:
        return UNKNOWN
    return f"{round(share * 100, 2):.4g}{NBSP}%"


def points(difference: float | None) -> str:
    """``0.56 points``: a difference of two shares, in percentage points, with its sign."""
    if difference is None:
        return UNKNOWN
    rounded = round(difference * 100, 2)
    unit = "point" if abs(rounded) == 1 else "points"
    return f"{rounded:.4g}{NBSP}{unit}".replace("-", "−")


def ratio(times: float | None) -> str:
    """``21.7×``, ``4.1×``, ``0.83×``: how many times."""
    return UNKNOWN if times is None else f"{_digits(times)}×"


def duration(seconds: float) -> str:
    """``42 s``, ``4 min 10 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 1:
        return f"{_digits(seconds * 1e3)}{NBSP}ms"
    if whole < 60:
        return f"{whole}{NBSP}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min" + (f" {rest}{NBSP}s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{NBSP}h" + (f" {minutes}{NBSP}min" if minutes else "")


def signed(number: float | None, told: Callable[[float], str], plus: str = "+") -> str:
    """``+0.4 ms``, ``−1.2 points``, ``0 ms``: a change in the words of ``told``."""
    if number is None:
        return UNKNOWN
    text = told(abs(number))
    zero = not any(digit in text for digit in "123456789")
    return text if zero else (plus if number > 0 else "−") + text


def figure(measurement: Measurement) -> str:
    """A measurement's value in the words that its name and unit ask for."""
    if measurement.unit == "ms":
        return latency(measurement.value)
    if measurement.unit == "bytes":
        return size(measurement.value)
    if measurement.name.endswith("_ratio"):
        return ratio(measurement.value)
    if measurement.name == "drop":
        return points(measurement.value)
    if abs(measurement.value) <= 1 and not measurement.unit:
        return percent(measurement.value)
    return f"{count(measurement.value)} {measurement.unit}".strip()


def loss(value: float) -> str:
    """``0.21``, ``12``, ``<0.001``: two digits are enough to compare."""
    if 0 < abs(value) < 0.001:
        return "<0.001"
    return f"{float(f'{value:.2g}'):.6f}".rstrip("0").rstrip(".")


def source(measurement: Measurement | None) -> str:
    """Where a figure comes from: ``measured``, ``estimated, 12 to 19 ms`` or ``not evaluated``."""
    if measurement is None:
        return UNKNOWN
    low, high, value = measurement.low, measurement.high, measurement.value
    if measurement.source != "estimated" or low is None or high is None or value == 0:
        return measurement.source
    if measurement.unit == "ms":
        return f"estimated, {latency(low)} to {latency(high)}"
    return f"estimated, {_digits(low)} to {_digits(high)}"


def about(factor: float | None) -> str:
    """A ratio of estimates, by as many digits as are known: ``about 200×``, ``about 2.5×``."""
    if factor is None:
        return UNKNOWN
    digits = 1 if factor >= 100 else 2
    return f"about {ratio(float(f'{factor:.{digits}g}'))}"


def between(interval: tuple[float, float]) -> str:
    """``7.1× to 7.7×``, outwards to two digits: what is stated holds the interval."""
    low, high = interval
    return f"{ratio(_rounded(low, math.floor))} to {ratio(_rounded(high, math.ceil))}"


def _rounded(value: float, whole: Callable[[float], int]) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return whole(round(value / unit, 6)) * unit


def brief(measurement: Measurement) -> str:
    """How a figure was come by, without the account of its error, which ``metrics.json`` has."""
    account = (measurement.detail or {}).get("error_how")
    if not account or f": {account}" not in measurement.how:
        return measurement.how
    return measurement.how.replace(f": {account}", " (of what, and its caveats: metrics.json)")


def metric_title(metric: str) -> str:
    """``balanced accuracy``: the metric's name for people."""
    return {"f1": "macro F1", "agreement": "agreement with the original"}.get(
        metric, metric.replace("_", " ")
    )


def origin(text: str) -> str:
    """A trial's origin for people: ``baseline:uniform-50-int8`` is ``uniform −50 %, int8``.

    A ``warm`` start comes from the additive model of sensitivity and latency, a plan of the
    ``model`` from the same after it was corrected by what had been measured.
    """
    kind, _, name = text.partition(":")
    if kind == "baseline":
        names = {"fp32": "untouched FP32", "int8": "plain int8"}
        if name in names:
            return names[name]
        parts = name.split("-")
        if len(parts) in (3, 4) and parts[0] == "uniform":
            shallow = ", blocks left out" if parts[3:] == ["shallow"] else ""
            return f"uniform −{parts[1]}{NBSP}%, {parts[2]}{shallow}"
        return name
    if kind == "untrained":
        what, _, amount = name.partition("-")
        if what == "float":
            layers = "1 layer" if amount == "1" else f"{amount} layers"
            return f"int8, {layers} in float, untrained"
        return f"uniform −{amount}{NBSP}%, untrained"
    if kind in ("warm", "model"):
        return {"warm": "warm start", "model": "corrected model"}[kind]
    return f"{name} sampler" if kind == "sampler" and name else text


def _digits(number: float) -> str:
    """Three significant digits without an exponent or trailing zeros."""
    if number >= 1000:
        return f"{number:,.0f}".replace(",", NBSP)
    return f"{float(f'{number:.3g}'):.6f}".rstrip("0").rstrip(".")
