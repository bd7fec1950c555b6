"""The winner layer by layer: what each was and became, and its share of the latency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.graph import GraphError, walk
from evaluators.latency.analytic import operator_ms
from hardware_profiles import ProfileError
from search.result import SearchResult
from search.telling import words
from search.telling.summary import Contender, baseline_of, winner_of

_WITH_WEIGHTS = ("conv", "depthwise", "linear")


@dataclass(frozen=True)
class Layer:
    """A layer in the baseline or in the winner; None where it is not known."""

    op: str
    bits: int | None = None
    width: int | None = None  # output channels
    ms: float | None = None

    @property
    def precision(self) -> str | None:
        """``int8``, ``fp32``."""
        if self.bits is None:
            return None
        return f"fp{self.bits}" if self.bits >= 16 else f"int{self.bits}"


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after; ``after`` is None when the winner does without it."""

    name: str
    before: Layer | None
    after: Layer | None
    share: float | None  # of the winner's latency

    @property
    def width(self) -> str:
        """``64 → 24``: output channels."""
        if self.after is None:
            return "left out"
        return self._told(lambda layer: str(layer.width) if layer.width else None)

    @property
    def precision(self) -> str:
        """``fp32 → int8``."""
        if self.after is None:
            return words.NOTHING
        return self._told(lambda layer: layer.precision)

    @property
    def time(self) -> str:
        """``14 ms → 0.22 ms``."""
        return self._told(lambda la: None if la.ms is None else words.latency(la.ms))

    def _told(self, told: Callable[[Layer], str | None]) -> str:
        before = told(self.before) if self.before else None
        if self.after is None:
            return f"{before or 'unknown'} → none"
        after = told(self.after)
        if after is None:
            return words.NOTHING
        return after if before in (None, after) else f"{before} → {after}"


@dataclass(frozen=True)
class Rest:
    """All operators of one kind that hold no weights, together."""

    op: str
    count: int
    ms: float | None
    share: float | None


@dataclass(frozen=True)
class LayerTable:
    """``how`` is a sentence on where the times are from; empty when there are none."""

    layers: tuple[LayerChange, ...]
    rest: tuple[Rest, ...]
    how: str


def layer_table(result: SearchResult) -> LayerTable | None:
    """Baseline against winner; None without a winner or when neither file nor times are left."""
    winner = winner_of(result)
    if winner is None:
        return None
    before = _operators(result, baseline_of(result))
    after = _operators(result, winner)
    if not after:
        return None
    total = _sum(list(after.values()))
    rest: dict[str, list[Layer]] = {}
    for layer in after.values():
        if layer.op not in _WITH_WEIGHTS:
            rest.setdefault(layer.op, []).append(layer)
    names = [n for n, la in {**before, **after}.items() if la.op in _WITH_WEIGHTS]
    return LayerTable(
        layers=tuple(
            LayerChange(n, before.get(n), after.get(n), _share([after[n]], total))
            if n in after
            else LayerChange(n, before[n], None, None)
            for n in names
        ),
        rest=tuple(
            Rest(op, len(las), _sum(las), _share(las, total)) for op, las in sorted(rest.items())
        ),
        how=_how(result, winner) if total else "",
    )


def _operators(result: SearchResult, contender: Contender) -> dict[str, Layer]:
    """Executed operators by name, in order.

    Widths come from the exported file when it is still there; times from the operators of the
    latency figure, or else from the profile's table.
    """
    timed = {str(row["name"]): row for row in _rows(contender)}
    found = {
        name: Layer(str(row["op"]), int(row["bits"]), None, float(row["ms"]))
        for name, row in timed.items()
    }
    model = contender.trial.model
    path = result.folder / model if model else None
    if path is None or not path.is_file():
        return found
    try:
        ops = walk(path, arm=result.profile.cpu.isa.startswith("arm"))
    except GraphError:  # the figures still stand; the page then shows what it has without widths
        return found
    try:
        times: Sequence[float | None] = operator_ms(result.profile, ops)
    except ProfileError:
        times = [None] * len(ops)
    walked: dict[str, Layer] = {}
    for op, ms in zip(ops, times, strict=True):
        own = float(timed[op.name]["ms"]) if op.name in timed else None if timed else ms
        walked[op.name] = Layer(op.op, op.bits, op.shape.out_channels, own)
    return walked


def _rows(contender: Contender) -> Sequence[Mapping[str, Any]]:
    latency = contender.figures.measurements.get("latency_ms")
    detail = latency.detail if latency and latency.detail else {}
    rows: Sequence[Mapping[str, Any]] = detail.get("operators", ())
    return rows


def _how(result: SearchResult, contender: Contender) -> str:
    latency = contender.figures.measurements.get("latency_ms")
    if latency and _rows(contender):
        return f"Times are parts of the latency above and {latency.source} like it."
    return (
        f"Times are estimated from the table of kernels of {result.profile.title}: "
        "the latency above was not taken apart."
    )


def _sum(layers: Sequence[Layer]) -> float | None:
    known = [layer.ms for layer in layers if layer.ms is not None]
    return sum(known) if known else None


def _share(layers: Sequence[Layer], total: float | None) -> float | None:
    own = _sum(layers)
    return None if own is None or not total else own / total
