"""Sensitivity as a table of shades: how much each choice alone hurts."""

from __future__ import annotations

from dataclasses import dataclass

from search.deciding.sensitivity import Sensitivity, interpolate
from search.telling import words

_REMOVED = (0.25, 0.5, 0.75, 0.875)  # shares of a group's channels


@dataclass(frozen=True)
class Heat:
    """A loss increase; ``before`` is that before the batch norms were re-estimated.

    ``shade`` is in [0, 1], of the largest increase in the table.
    """

    loss: float
    before: float | None
    shade: float


@dataclass(frozen=True)
class HeatTable:
    """One row for each group, layer, block or input, with None where a choice does not exist."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Heat | None, ...]], ...]


def heat_table(found: Sensitivity) -> HeatTable:
    """Narrowing at round shares of the channels, each width in bits, leaving out, a smaller input.

    Shades follow the square root of the loss: small differences between harmless choices are
    what a person looks for.
    """
    narrow = sorted({b for curve in found.bits.values() for b in curve if b != 32}, reverse=True)
    names = list(dict.fromkeys([*found.bits, *found.recovered, *found.removed]))
    raw = {
        name: (
            *_narrowed(found, name),
            *((found.bits.get(name, {}).get(b), None) for b in narrow),
            *(((found.removed.get(name), None),) if found.removed else ()),
            *(((None, None),) if found.resized else ()),
        )
        for name in names
    }
    columns = [f"−{words.percent(share)}" for share in _REMOVED if found.recovered]
    columns += [f"int{b}" for b in narrow] + (["left out"] if found.removed else [])
    for size, loss in found.resized.items():
        raw[f"input {size}"] = (*((None, None),) * len(columns), (loss, None))
    columns += ["smaller"] if found.resized else []
    largest = max((loss for row in raw.values() for loss, _ in row if loss), default=0.0)
    rows = tuple(
        (name, tuple(_heat(loss, before, largest) for loss, before in row))
        for name, row in raw.items()
    )
    return HeatTable(tuple(columns), rows)


def _narrowed(
    found: Sensitivity, name: str
) -> tuple[tuple[float | None, float | None], ...]:  # fmt: skip
    if not found.recovered:
        return ()
    curve, raw = found.recovered.get(name), found.pruned.get(name)
    if curve is None or raw is None:
        return ((None, None),) * len(_REMOVED)
    widths = [round(max(curve) * (1 - share)) for share in _REMOVED]
    return tuple((interpolate(curve, w), interpolate(raw, w)) for w in widths)


def _heat(loss: float | None, before: float | None, largest: float) -> Heat | None:
    if loss is None:
        return None
    return Heat(loss, before, (max(loss, 0.0) / largest) ** 0.5 if largest else 0.0)
