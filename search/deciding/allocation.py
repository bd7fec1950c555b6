"""Which widths, bits and blocks give the least loss within a latency: a dynamic program.

SPDY (Frantar & Alistarh 2022) allocates one choice a layer by dynamic programming over
discretized latency, with losses and latencies that add up. Latencies here do not quite: a
layer's cost depends on the widths of both neighbors. So the latency of each choice is taken
with all other choices as they stand, the program is solved, and both are repeated; what comes
out is mended with exact latencies.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from search.deciding.sensitivity import Sensitivity
from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.techniques import pruning, quantization, resolution
from spaces.tracing.table import Size

BUCKETS = 256
ROUNDS = 3
UNDONE_AT_MOST = 12
# Training recovers most of what the one-shot loss says, but not what was never left: each
# halving of a width or removed block also counts by itself, in units of the median loss.
CAPACITY_WEIGHT = 0.5


@dataclass(frozen=True)
class Choice:
    """One way to treat a unit: kept channels, bits of its layers, removed, a smaller input."""

    loss: float
    channels: int | None = None
    bits: int | None = None
    removed: bool = False
    size: Size | None = None  # None: that of the images


@dataclass(frozen=True)
class Unit:
    """What is chosen together: a pruning group with its layers, a lone layer, or a block.

    ``choices[0]`` is the untouched one.
    """

    name: str
    kind: str  # "group", "layer", "block" or "input"
    layers: tuple[str, ...]
    choices: tuple[Choice, ...]


Assignment = tuple[int, ...]  # index of the choice of each unit
# Technique, key, what is chosen there, and for something named the number that it gets.
Statement = tuple[str, str, str, str]
# An operator, the layer whose bits it runs in, choices of the units it depends on, input size.
_Surroundings = tuple[int, str | None, tuple[int, ...], Size | None]


class Allocator:
    """Plans of least modeled loss along the whole latency range of a space."""

    def __init__(
        self,
        space: SearchSpace,
        sensitivity: Sensitivity,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """``weights`` scale each unit's losses; what was measured corrects the model there."""
        self._space = space
        self._importance = sensitivity.importance
        self.units = units_of(space, sensitivity)
        self._weigh(weights or {})
        self._row_ms = lru_cache(maxsize=None)(self._exact_row_ms)
        self._latency_ms: Callable[[Assignment], float] = lru_cache(maxsize=100_000)(
            self._exact_latency_ms
        )
        self._rows = [(i, row, row.module + ".") for i, row in enumerate(space.network.table.rows)]
        self._owners = {la: i for i, u in enumerate(self.units) for la in u.layers}
        self._groups = {u.name: i for i, u in enumerate(self.units) if u.kind == "group"}
        self._changes_ms = lru_cache(maxsize=256)(self._exact_changes_ms)
        self._involved = lru_cache(maxsize=None)(self._units_of_row)
        self._priced = lru_cache(maxsize=200_000)(self._prices_of)
        self._fastest = lru_cache(maxsize=1)(self._find_fastest)
        self._nearest = cache(self._find_nearest)
        self._foreign = cache(self._find_foreign)

    def weighted(self, weights: Mapping[str, float]) -> Allocator:
        """The same with each unit's losses scaled; what is known of latencies is shared."""
        found = copy.copy(self)
        found._weigh(weights)
        return found

    def _weigh(self, weights: Mapping[str, float]) -> None:
        self._losses = [
            np.array([c.loss for c in u.choices]) * weights.get(u.name, 1.0) for u in self.units
        ]
        self._values: list[list[float]] = [losses.tolist() for losses in self._losses]

    @property
    def untouched(self) -> Assignment:
        """Every unit as it is."""
        return (0,) * len(self.units)

    def latency_ms(self, assignment: Assignment) -> float:
        """Analytic latency of an assignment, neighbors' widths included."""
        return self._latency_ms(assignment)

    def loss(self, assignment: Assignment) -> float:
        """Modeled loss: the sum over the units."""
        return sum(map(list.__getitem__, self._values, assignment))

    def fastest_ms(self) -> float:
        """Latency when every unit takes what alone is fastest."""
        return self.latency_ms(self._fastest())

    def plan(self, assignment: Assignment) -> CompressionPlan:
        """The canonical plan of an assignment."""
        kept: dict[str, int] = {}
        bits: dict[str, int] = {}
        removed = []
        size: Size | None = None
        for unit, index in zip(self.units, assignment, strict=True):
            choice = unit.choices[index]
            size = choice.size or size
            if choice.removed:
                removed.append(unit.name)
            if choice.channels is not None and index:
                kept[unit.name] = choice.channels
            if choice.bits is not None:
                bits |= dict.fromkeys(unit.layers, choice.bits)
        full = {g.name: g.channels for g in self._space.network.groups}
        kept = {name: channels for name, channels in kept.items() if channels < full[name]}
        return self._space.canonical(
            {
                "depth": {"removed": removed} if removed else {},
                "pruning": pruning.setting_of(kept, self._importance) if kept else {},
                "quantization": quantization.setting_of(bits) if bits else {},
                "resolution": resolution.setting_of(size) if size else {},
            }
        )

    def assignment(self, plan: CompressionPlan) -> Assignment:
        """The assignment nearest to a plan: exact widths and blocks, the majority of bits."""
        return self._nearest(plan)

    def foreign(self, plan: CompressionPlan) -> frozenset[Statement]:
        """What a plan states and no assignment does: the model knows nothing of what that does."""
        return self._foreign(plan)

    def _find_foreign(self, plan: CompressionPlan) -> frozenset[Statement]:
        return frozenset(each for each in _statements(plan) if each[:3] not in self._own)

    @cached_property
    def _own(self) -> frozenset[tuple[str, str, str]]:
        """Whatever the plans of assignments state, but for numbers: a nearest one will do."""
        alone = (
            (*self.untouched[:index], choice, *self.untouched[index + 1 :])
            for index, unit in enumerate(self.units)
            for choice in range(len(unit.choices))
        )
        return frozenset(each[:3] for one in alone for each in _statements(self.plan(one)))

    def _find_nearest(self, plan: CompressionPlan) -> Assignment:
        kept = plan.settings.get("pruning", {}).get("kept", {})
        bits = plan.settings.get("quantization", {}).get("bits", {})
        removed = plan.settings.get("depth", {}).get("removed", ())
        size = resolution.size_of(plan.settings.get("resolution", {}))
        found = []
        for unit in self.units:
            if unit.kind == "input":
                found.append([choice.size for choice in unit.choices].index(size))
                continue
            if unit.kind == "block":
                found.append(int(unit.name in removed))
                continue
            narrow = sum(bits.get(layer, 32) != 32 for layer in unit.layers)
            width = 8 if 2 * narrow > len(unit.layers) else 32

            def distance(index: int, unit: Unit = unit, width: int = width) -> tuple[int, int]:
                choice = unit.choices[index]
                channels = choice.channels or 0
                wanted = kept.get(unit.name, unit.choices[0].channels or 0)
                return abs(channels - wanted), int((choice.bits or 32) != width)

            found.append(min(range(len(unit.choices)), key=distance))
        return tuple(found)

    def solve(self, latency_ms: float) -> Assignment:
        """The assignment of least loss found whose latency is at most ``latency_ms``.

        Where no assignment is as fast, the fastest one.
        """
        start = self._fastest()
        if self.latency_ms(start) >= latency_ms:
            return start
        best: Assignment | None = None
        current, aim = start, latency_ms
        for _ in range(ROUNDS):
            current = self._solve_additive(current, aim)
            reached = self.latency_ms(current)
            mended = self._mend(current, latency_ms)
            if best is None or self.loss(mended) < self.loss(best):
                best = mended
            aim *= (latency_ms / reached) ** 0.7
        assert best is not None
        return best

    def _exact_latency_ms(self, assignment: Assignment) -> float:
        """As ``space.table(plan).latency_ms``, without building plan and table each time."""
        kept = dict(self._space.network.table.channels)
        bits: dict[str | None, int] = {}
        removed: list[str] = []
        size: Size | None = None
        for unit, index in zip(self.units, assignment, strict=True):
            choice = unit.choices[index]
            size = choice.size or size
            if choice.removed:
                removed.append(unit.name + ".")
            if choice.channels is not None:
                kept[unit.name] = choice.channels
            if choice.bits is not None:
                for layer in unit.layers:
                    bits[layer] = choice.bits
        gone = tuple(removed)
        total, before = 0.0, 32
        for number, row, inside in self._rows:
            if gone and inside.startswith(gone):
                continue
            before = bits.get(row.layer, before if row.layer is None else 32)
            widths = row.in_width.at(kept), row.out_width.at(kept)
            total += self._row_ms(number, *widths, before, size)
        return total

    def _exact_changes_ms(self, around: Assignment) -> list[list[float]]:
        """For each unit and choice the ``latency_ms`` when that alone is changed.

        Only rows that a change touches are priced again, and only in surroundings that were not
        met before.
        """
        chosen = [u.choices[i] for u, i in zip(self.units, around, strict=True)]
        gone = tuple(u.name + "." for u, c in zip(self.units, chosen, strict=True) if c.removed)
        size = next((c.size for c in chosen if c.size), None)
        prices: list[float] = []
        touched: list[list[int]] = [[] for _ in self.units]  # places in prices
        keys: list[list[_Surroundings]] = [[] for _ in self.units]
        source: str | None = None  # the layer whose bits a row runs in
        for number, row, inside in self._rows:
            if gone and inside.startswith(gone):
                continue
            source = row.layer or source
            involved = self._involved(number, source)
            place, choices = len(prices), tuple([around[index] for index in involved])
            key = (number, source, choices, size)
            prices.append(self._priced(key, None)[0])
            for index in involved:
                touched[index].append(place)
                keys[index].append(key)
        found = []
        for index, unit in enumerate(self.units):
            if unit.kind not in ("group", "layer"):
                options = range(len(unit.choices))
                others = [(*around[:index], c, *around[index + 1 :]) for c in options]
                found.append([self.latency_ms(other) for other in others])
                continue
            rows = [self._priced(key, index) for key in keys[index]]
            totals = []
            for choice in range(len(unit.choices)):
                changed = prices.copy()
                for place, row_ms in zip(touched[index], rows, strict=True):
                    changed[place] = row_ms[choice]
                totals.append(sum(changed))
            found.append(totals)
        return found

    def _units_of_row(self, number: int, source: str | None) -> tuple[int, ...]:
        """Units whose choice can change an operator's price; blocks and inputs apart."""
        row = self._space.network.table.rows[number]
        named = [name for name, _ in (*row.in_width.factors, *row.out_width.factors)]
        found = {self._groups[name] for name in named if name in self._groups}
        if source in self._owners:
            found.add(self._owners[source])
        return tuple(sorted(found))

    def _prices_of(self, key: _Surroundings, varied: int | None) -> list[float]:
        """An operator's price for each choice of one of its units; as it stands for None."""
        number, source, choices, size = key
        involved = self._involved(number, source)
        row = self._space.network.table.rows[number]
        now = dict(zip(involved, choices, strict=True))
        options = [now] if varied is None else [
            {**now, varied: choice} for choice in range(len(self.units[varied].choices))
        ]  # fmt: skip
        found = []
        for option in options:
            kept, bits = dict(self._space.network.table.channels), 32
            for index, number_of_choice in option.items():
                unit = self.units[index]
                choice = unit.choices[number_of_choice]
                if choice.channels is not None:
                    kept[unit.name] = choice.channels
                if source in unit.layers and choice.bits is not None:
                    bits = choice.bits
            widths = row.in_width.at(kept), row.out_width.at(kept)
            found.append(self._row_ms(number, *widths, bits, size))
        return found

    def _exact_row_ms(
        self, number: int, in_channels: int, out_channels: int, bits: int, size: Size | None
    ) -> float:
        row = self._space.network.table.rows[number]
        row = row.at_input(size) if size else row
        shape = row.shape_of(in_channels, out_channels)
        return self._space.profile.cost(row.op, shape, bits)

    def _find_fastest(self) -> Assignment:
        """Choice by choice what is fastest, with the choices before it made."""
        current = list(self.untouched)
        for _ in range(2):
            for index, unit in enumerate(self.units):
                options = range(len(unit.choices))
                current[index] = min(
                    options,
                    key=lambda c, i=index: self.latency_ms((*current[:i], c, *current[i + 1 :])),  # type: ignore[misc]
                )
        return tuple(current)

    def _solve_additive(self, around: Assignment, aim_ms: float) -> Assignment:
        """Dynamic program with each choice's latency taken while all else stays as it is."""
        base = self.latency_ms(around)
        found = [np.array(changed) - base for changed in self._changes_ms(around)]
        costs = [cost - cost.min() for cost in found]
        # The sum over the units of the cost above its least; what is left of the base is fixed.
        fixed = base - sum(c[i] for c, i in zip(costs, around, strict=True))
        room = max(aim_ms - fixed, 0.0)
        step = room / BUCKETS if room > 0 else 1.0
        return knapsack(self._losses, [np.ceil(c / step - 1e-9).astype(int) for c in costs])

    def _mend(self, assignment: Assignment, limit_ms: float) -> Assignment:
        """Exact latencies: the cheapest moves until it fits, then what still fits is undone."""
        current = assignment
        while self.latency_ms(current) > limit_ms:
            moved = self._best_move(current, faster=True)
            if moved is None:
                return self._fastest()
            current = moved
        for _ in range(UNDONE_AT_MOST):
            undone = self._best_move(current, faster=False, limit_ms=limit_ms)
            if undone is None:
                break
            current = undone
        return current

    def _best_move(
        self, current: Assignment, *, faster: bool, limit_ms: float = 0.0
    ) -> Assignment | None:
        """The single change with the best exchange of loss for latency; None where none helps."""
        before_ms, before = self.latency_ms(current), self.loss(current)
        changes = self._changes_ms(current)
        best, best_rate = None, 0.0
        for index, values in enumerate(self._values):
            for choice in range(len(values)):
                if choice == current[index]:
                    continue
                if not faster and values[choice] >= values[current[index]]:
                    continue
                candidate = (*current[:index], choice, *current[index + 1 :])
                lost = self.loss(candidate) - before
                if not faster and lost >= 0:
                    continue
                saved_ms = before_ms - changes[index][choice]
                if faster and saved_ms > 1e-9:
                    rate = saved_ms / max(lost, 1e-9)
                elif not faster and before_ms - saved_ms <= limit_ms:
                    rate = -lost / max(-saved_ms, 1e-9)
                else:
                    continue
                if rate > best_rate:
                    best, best_rate = candidate, rate
        return best


def knapsack(
    losses: Sequence[NDArray[np.float64]], costs: Sequence[NDArray[np.int64]]
) -> Assignment:
    """One choice a unit of least total loss, total cost at most ``BUCKETS``.

    Args:
        losses: of each choice, for each unit.
        costs: whole, non-negative, with a choice of cost 0 in each unit.
    """
    best = np.zeros(BUCKETS + 1)
    chosen: list[NDArray[np.int64]] = []
    for loss, cost in zip(losses, costs, strict=True):
        options = np.full((len(loss), BUCKETS + 1), np.inf)
        for index, (each_loss, each_cost) in enumerate(zip(loss, cost, strict=True)):
            if each_cost <= BUCKETS:
                options[index, each_cost:] = best[: BUCKETS + 1 - each_cost] + each_loss
        chosen.append(options.argmin(axis=0))
        best = options.min(axis=0)
    left, found = BUCKETS, []
    for cost, choice in zip(reversed(costs), reversed(chosen), strict=True):
        index = int(choice[left])
        found.append(index)
        left -= int(cost[index])
    return tuple(reversed(found))


def units_of(space: SearchSpace, sensitivity: Sensitivity) -> tuple[Unit, ...]:
    """Units of a network with the losses of their choices."""
    network, profile = space.network, space.profile
    widths_in_bits = profile.bits if len(profile.bits) > 1 else (32,)
    names = {t.name for t in space.techniques}
    found: list[Unit] = []
    capacity = CAPACITY_WEIGHT * _median_loss(sensitivity)
    owned: set[str] = set()
    for group in network.groups if "pruning" in names else ():
        owned.update(group.layers)
        choices = []
        for channels in sorted(pruning.widths(group, profile), reverse=True):
            narrowing = sensitivity.width_loss(group, channels)
            narrowing += capacity * float(np.log2(group.channels / channels))
            for bits in widths_in_bits:
                rounding = sum(sensitivity.bits[la].get(bits, 0.0) for la in group.layers)
                choices.append(Choice(narrowing + rounding, channels, bits))
        found.append(Unit(group.name, "group", group.layers, tuple(choices)))
    for layer in network.layers:
        if layer.name not in owned and len(widths_in_bits) > 1:
            options = (Choice(sensitivity.bits[layer.name][b], None, b) for b in widths_in_bits)
            found.append(Unit(layer.name, "layer", (layer.name,), tuple(options)))
    for block in network.blocks if "depth" in names else ():
        loss = sensitivity.removed[block] + capacity
        choices = [Choice(0.0), Choice(loss, removed=True)]
        found.append(Unit(block, "block", (), tuple(choices)))
    if "resolution" in names and sensitivity.resized:
        height = network.input_shape[1]
        choices = [Choice(0.0)]
        for size in network.sizes:
            loss = sensitivity.resized[resolution.size_name(size)]
            loss += capacity * float(np.log2(height / size[0]))
            choices.append(Choice(loss, size=size))
        found.append(Unit("input", "input", (), tuple(choices)))
    return tuple(found)


def _statements(plan: CompressionPlan) -> Iterator[Statement]:
    """What a plan says, one choice after the other."""
    for technique, setting in plan.settings.items():
        for key, value in setting.items():
            for each in value if isinstance(value, Mapping | list) else [value]:
                number = json.dumps(value[each]) if isinstance(value, Mapping) else ""
                yield technique, key, json.dumps(each), number


def _median_loss(sensitivity: Sensitivity) -> float:
    losses = [v for curve in sensitivity.recovered.values() for v in curve.values() if v > 0]
    return float(np.median(losses)) if losses else 1.0
