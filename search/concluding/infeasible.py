"""Infeasible: what was closest, which limits and layers block, and what relaxing a limit buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hardware_profiles import HardwareProfile
from search.deciding.allocation import Allocator
from search.deciding.correction import correct, losses_of
from search.deciding.sensitivity import Sensitivity
from search.limits import Limits
from search.telling import words
from search.telling.figures import figures_of
from search.trial import Trial
from spaces.space import SearchSpace

PARTS = 3
LEAST_SHARE = 0.005  # of a figure; what is less says nothing
NO_WEIGHTS = "the file without weights"
OPTIONS = {"drop": "--max-drop", "latency_ms": "--max-latency", "size_bytes": "--max-size"}
MEMORY_OPTION = "--max-memory"


@dataclass(frozen=True)
class Part:
    """A layer, group or block, and its share of what a limit is on."""

    name: str
    share: float


@dataclass(frozen=True)
class Relaxed:
    """A limit made wider while all others stay, and the fastest plan that it would allow.

    ``option`` is what to type; None where the limit is the device's own. ``trained`` says
    whether the plan's accuracy is known.
    """

    option: str | None
    limit: float
    trial: int
    latency_ms: float
    trained: bool


@dataclass(frozen=True)
class Block:
    """A limit that the closest plan, or every plan, exceeds.

    ``closest`` is the closest plan's figure, None where that was not evaluated; ``parts`` are
    the largest of it.
    """

    name: str
    limit: float
    least: float
    least_trial: int
    least_trained: bool
    closest: float | None
    parts: tuple[Part, ...]
    relaxed: tuple[Relaxed, ...]


Parts = Callable[[str, Trial], tuple[Part, ...]]


def closest_trial(trials: Sequence[Trial], limits: Limits) -> Trial | None:
    """Of the evaluated plans that break a limit the one whose largest excess is the least.

    An excess is relative to its limit; of the drop, to a limit of at least one point. One that
    was rejected untrained counts with what is known of it. None when some trial is feasible.
    """
    known = _known(trials)
    if any(t.feasible for t in known):
        return None
    return min(known, key=lambda t: (worst(t), t.state != "complete"), default=None)


def worst(trial: Trial) -> float:
    """The largest excess of a trial."""
    return max(trial.violations.values())


def blocks(
    trials: Sequence[Trial], limits: Limits, profile: HardwareProfile, parts: Parts
) -> tuple[Block, ...]:
    """The limits that stand in the way, by name; none when some trial is feasible."""
    closest = closest_trial(trials, limits)
    if closest is None:
        return ()
    known, ceilings = _known(trials), {"drop": limits.max_drop, **limits.ceilings(profile)}
    broken = sorted({name for t in known for name in _exceeded(t)})
    found = []
    for name in broken:
        least = min((t for t in known if name in t.violations), key=lambda t: value_of(t, name))
        known_there = name in closest.violations
        found.append(
            Block(
                name,
                ceilings[name],
                value_of(least, name),
                least.number,
                least.state == "complete",
                value_of(closest, name) if known_there else None,
                parts(name, closest) if known_there and closest.violations[name] > 0 else (),
                _relaxed(name, known, _option(name, limits, profile)),
            )
        )
    return tuple(found)


def _relaxed(name: str, known: Sequence[Trial], option: str | None) -> tuple[Relaxed, ...]:
    """The least that this limit has to give, for a trained plan; and for one that was not.

    The second only where it is less, as whether its drop is within the limit is not known.
    """
    alone = [t for t in known if _exceeded(t) == [name]]
    found: list[Relaxed] = []
    for trained in (True, False):
        nearest = min(
            (t for t in alone if (t.state == "complete") == trained),
            key=lambda t: (t.violations[name], value_of(t, "latency_ms")),
            default=None,
        )
        if nearest is None:
            continue
        limit = rounded_up(name, value_of(nearest, name))
        if not found or limit < found[0].limit:
            latency_ms = value_of(nearest, "latency_ms")
            found.append(Relaxed(option, limit, nearest.number, latency_ms, trained))
    return tuple(found)


def _option(name: str, limits: Limits, profile: HardwareProfile) -> str | None:
    """What to type to relax a limit; None where it is the device's own."""
    own = {
        "size_bytes": (limits.max_size_bytes, profile.limits.flash_bytes),
        "peak_memory_bytes": (limits.max_memory_bytes, profile.limits.memory_bytes),
        "peak_tensor_bytes": (limits.max_memory_bytes, profile.limits.memory_bytes),
    }
    asked, device = own.get(name, (0.0, None))
    if asked is None or (device is not None and device <= asked):
        return None
    return OPTIONS.get(name, MEMORY_OPTION)


def rounded_up(name: str, value: float) -> float:
    """A limit that a figure just meets, with few digits: three, and of a drop in points two."""
    step = 1e-4 if name == "drop" else 10.0 ** (math.floor(math.log10(value)) - 2)
    up = math.ceil(value / step - 1e-9)
    while (limit := float(f"{up * step:.12g}")) < value:
        up += 1
    return limit


def typed(name: str, limit: float) -> str:
    """A limit as an option takes it: ``0.02``, ``0.5``, ``36.6kB``."""
    if not name.endswith("_bytes"):
        return f"{limit:g}"
    for factor, unit in ((1e6, "MB"), (1e3, "kB")):
        if limit >= factor:
            return f"{limit / factor:.12g}{unit}"
    return f"{limit:.12g}"


def sentences(
    trials: Sequence[Trial], limits: Limits, found: Sequence[Block]
) -> tuple[str, ...]:  # fmt: skip
    """What to say: the closest plan, then each limit, with who blocks and what relaxing buys."""
    closest = closest_trial(trials, limits)
    if closest is None:
        return ()
    told = []
    if not any(t.plan.settings for t in _known(trials)):
        told.append("No candidate was tried before the search ended; raise --budget or --trials.")
    named = {t.number: f"trial {t.number} ({words.origin(t.origin)})" for t in _known(trials)}
    told += [_sentence(block, closest, named) for block in found]
    if not any(block.relaxed for block in found):
        together = " and ".join(
            f"{figure(n, rounded_up(n, value_of(closest, n)))} of {words.LIMITED.get(n, n)}"
            for n in _exceeded(closest)
        )
        told.append(
            f"No plan breaks one limit alone; trial {closest.number}, the closest, needs "
            f"{together}."
        )
    return tuple(told)


def _sentence(block: Block, closest: Trial, named: Mapping[int, str]) -> str:
    untrained = "" if block.least_trained else ", untrained"
    told = (
        f"{_capital(words.LIMITED.get(block.name, block.name))} is limited to "
        f"{figure(block.name, block.limit)}; the least of all plans "
        f"is {figure(block.name, block.least)} (trial {block.least_trial}{untrained})"
    )
    for relaxed in block.relaxed:
        limit = figure(block.name, relaxed.limit)
        instead = f"a device that allows {limit}"
        if relaxed.option is not None:
            instead = f"{relaxed.option} {typed(block.name, relaxed.limit)}"
        at = f"{named[relaxed.trial]}, {words.latency(relaxed.latency_ms)}"
        told += f"; {instead} instead of {_instead_of(block, relaxed)} would allow {at}"
        told += "" if relaxed.trained else ", whose accuracy is not known as it was not trained"
    told += "."
    if block.parts:
        parts = ", ".join(f"{p.name} {words.percent(round(p.share, 2))}" for p in block.parts)
        own = figure(block.name, block.closest or 0.0)
        told += f" Most of the {own} of trial {closest.number}, the closest: {parts}."
    return told


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _instead_of(block: Block, relaxed: Relaxed) -> str:
    if relaxed.option is None:
        return figure(block.name, block.limit)
    return typed(block.name, block.limit)


def figure(name: str, value: float) -> str:
    """A figure with its unit, as people read it."""
    if name == "drop":
        return words.points(value)
    return words.size(value) if name.endswith("_bytes") else words.latency(value)


def value_of(trial: Trial, name: str) -> float:
    """A figure of an evaluated trial."""
    assert trial.evaluation is not None
    return trial.evaluation.value(name)


def parts_of(
    space: SearchSpace, sensitivity: Sensitivity | None, trials: Sequence[Trial]
) -> Parts:  # fmt: skip
    """The largest parts of a trial's figure, largest first.

    Of latency as it was evaluated operator by operator, else by the table of kernels; of size
    the layers' weights; of memory each layer's input and output, which are there together; of
    the drop what the sensitivity, corrected by the finished trials, makes of each choice.
    """

    def parts(name: str, trial: Trial) -> tuple[Part, ...]:
        if name == "drop":
            shares = _of_drop(trial, space, sensitivity, trials)
        elif name == "latency_ms":
            shares = _of_latency(trial, space)
        else:
            shares = _of_bytes(name, trial, space)
        ordered = sorted(shares.items(), key=lambda item: -item[1])[:PARTS]
        return tuple(Part(layer, share) for layer, share in ordered if share >= LEAST_SHARE)

    return parts


def _of_latency(trial: Trial, space: SearchSpace) -> dict[str, float]:
    latency = figures_of(trial).measurements["latency_ms"]
    rows = (latency.detail or {}).get("operators")
    shares: dict[str, float] = {}
    if rows:
        for row in rows:
            shares[row["name"]] = shares.get(row["name"], 0.0) + row["share"]
        return shares
    table = space.table(trial.plan)
    total = table.latency_ms(space.profile)
    for row, shape in table.shapes():
        name = row.layer or f"{row.op} in {row.module or 'the network'}"
        own = space.profile.cost(row.op, shape, row.bits) / total
        shares[name] = shares.get(name, 0.0) + own
    return shares


def _of_bytes(name: str, trial: Trial, space: SearchSpace) -> dict[str, float]:
    whole, shares = value_of(trial, name), {}
    for row, shape in space.table(trial.plan).shapes():
        if row.layer is None:
            continue
        held = shape.weights
        if name != "size_bytes":
            held = shape.in_channels * math.prod(shape.in_size)
            held += shape.out_channels * math.prod(shape.out_size)
        shares[row.layer] = held * row.bits / 8 / whole
    if name == "size_bytes":
        shares[NO_WEIGHTS] = 1.0 - math.fsum(shares.values())
    return shares


def _of_drop(
    trial: Trial, space: SearchSpace, sensitivity: Sensitivity | None, trials: Sequence[Trial]
) -> dict[str, float]:
    if sensitivity is None:
        return {}
    allocator = Allocator(space, sensitivity)
    finished = [t for t in trials if t.state == "complete" and t.evaluation is not None]
    correction = correct(allocator, finished)
    losses = losses_of(trial.plan, allocator.units, sensitivity.bits)
    if correction is not None:
        losses = {unit: loss * correction.weights[unit] for unit, loss in losses.items()}
    total = sum(losses.values())
    return {unit: loss / total for unit, loss in losses.items()} if total else {}


def _known(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.state != "failed" and t.evaluation is not None]


def _exceeded(trial: Trial) -> list[str]:
    return sorted(name for name, excess in trial.violations.items() if excess > 0)


__all__ = ["Block", "Part", "Relaxed", "blocks", "closest_trial", "parts_of", "sentences"]
