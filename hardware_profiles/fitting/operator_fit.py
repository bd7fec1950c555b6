"""Kernels of the analytic estimate, fitted on operators whose time is known.

The time of an operator is linear in what ``terms.amounts`` counts, with coefficients that are
not negative. They are found by least squares on relative errors, reweighted so that sums over
networks are not biased; the tiles are those with which the fit is best.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hardware_profiles.counts import features, latency_ms
from hardware_profiles.events import COUNT_COLUMNS, MISSES
from hardware_profiles.ops import OpShape
from hardware_profiles.profile import DATA, CountModel, HardwareProfile, Kernel, ProfileError
from hardware_profiles.terms import TERMS, WEIGHTED, amounts, padded_work, variant

OPERATOR_COUNTS = DATA / "operator_counts.csv"
OPERATOR_TIMES = DATA / "operator_times.csv"
FOLDS = 5
_MEMORY = MISSES[1:]  # those of the last cache
_NOT_LIMITED = 1e5  # giga_per_s of a kernel whose time does not grow with its work
_FLOOR_MS = 0.01  # an operator's error below this hardly matters
_TIMED_FLOOR_MS = 0.002  # the same for processors on which operators are timed, which are faster
_POWER = 0.75  # weights are times to the minus this: between relative errors and unbiased sums
_ROUNDS = 5

Array = NDArray[np.float64]
Network = tuple[str, str]  # its number and "float" or "int8"


@dataclass(frozen=True)
class TimedOperator:
    """One operator of a network and its milliseconds."""

    network: Network
    op: str
    shape: OpShape
    bits: int
    ms: float


@dataclass(frozen=True)
class CountedOperator:
    """One operator of a network and its events by ``COUNT_COLUMNS``."""

    runtime: str
    network: Network
    core: str
    op: str
    shape: OpShape
    bits: int
    counts: Mapping[str, float]


@dataclass(frozen=True)
class Fitted:
    """Kernels, and their error on networks that were left out of the fit."""

    kernels: tuple[Kernel, ...]
    error_pct: float  # mean over networks, of the network's whole time
    largest_pct: float
    networks: int


@dataclass(frozen=True)
class _Kind:
    """Operators that one kernel serves."""

    op: str
    bits: int
    variant: str


def read_operator_counts(path: Path = OPERATOR_COUNTS) -> tuple[CountedOperator, ...]:
    """The rows that ``benchmarks/operator_sweep.py`` wrote.

    Raises:
        ProfileError: the file is missing or is not such a table.
    """
    return tuple(_counted(row) for row in _table(path))


def read_operator_times(path: Path = OPERATOR_TIMES) -> dict[str, tuple[TimedOperator, ...]]:
    """By profile, the rows that ``benchmarks/operator_sweep.py --host`` wrote.

    Raises:
        ProfileError: the file is missing or is not such a table.
    """
    found: dict[str, list[TimedOperator]] = {}
    for row in _table(path):
        network = (row["network"], row["file"])
        timed = TimedOperator(network, row["op"], _shape(row), int(row["bits"]), float(row["ms"]))
        found.setdefault(row["profile"], []).append(timed)
    return {profile: tuple(timed) for profile, timed in found.items()}


def runtime_of(path: Path) -> str:
    """The runtime, with its version, under which a table was made.

    Raises:
        ProfileError: the file is missing or is not such a table.
    """
    return ", ".join(sorted({row["runtime"] for row in _table(path)}))


def fit_from_times(profile: HardwareProfile, timed: Sequence[TimedOperator]) -> Fitted:
    """Kernels of a processor on which operators of many networks were timed.

    Where its float kernels work on blocks of channels, others serve shapes off these blocks, at
    another speed: from those nothing is learned, as no plan has them.
    """
    kept = [each for each in timed if _in_blocks(profile, each)]
    totals_ms: dict[Network, float] = {}
    for each in kept:
        totals_ms[each.network] = totals_ms.get(each.network, 0.0) + each.ms
    return fit(kept, totals_ms, _TIMED_FLOOR_MS)


def _in_blocks(profile: HardwareProfile, each: TimedOperator) -> bool:
    """Whether plans have such channels; those of images can't be chosen."""
    if each.op not in WEIGHTED:
        return True
    block = profile.channel_multiple(32)
    inputs, outputs = each.shape.in_channels, each.shape.out_channels
    return outputs % block == 0 and (inputs % block == 0 or inputs < block)


def _table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            _shape(row)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ProfileError(
            f"operators must be a table of benchmarks/operator_sweep.py, but {path} is "
            f"not: {error}"
        ) from None
    return rows


def _shape(row: Mapping[str, str]) -> OpShape:
    def pair(name: str) -> tuple[int, int]:
        return int(row[f"{name}_height"]), int(row[f"{name}_width"])

    return OpShape(
        in_channels=int(row["in_channels"]),
        out_channels=int(row["out_channels"]),
        in_size=pair("in"),
        out_size=pair("out"),
        kernel=pair("kernel"),
        stride=pair("stride"),
        groups=int(row["groups"]),
    )


def _counted(row: Mapping[str, str]) -> CountedOperator:
    counts = {name: float(row.get(name, 0)) for name in COUNT_COLUMNS}
    network = (row["network"], row["file"])
    return CountedOperator(
        row["runtime"], network, row["core"], row["op"], _shape(row), int(row["bits"]), counts
    )


def fit_from_counts(profile: HardwareProfile, counted: Iterable[CountedOperator]) -> Fitted:
    """Kernels of a profile that has coefficients for counts.

    What a miss of the last cache costs depends on the whole network's stores and misses; here
    it is taken as linear in both, which is exact for the mix that is usual.

    Raises:
        ProfileError: the profile has no [counts] section, or nothing was counted on its core.
    """
    model = profile.counts
    if model is None:
        raise ProfileError(
            f"operators are fitted to a profile with a [counts] section, but {profile.name!r} "
            "has none"
        )
    own = [each for each in counted if each.core == model.qemu_cpu]
    if not own:
        raise ProfileError(f"no operator was counted on {model.qemu_cpu}, the core of the profile")
    by_network: dict[Network, list[CountedOperator]] = {}
    for each in own:
        by_network.setdefault(each.network, []).append(each)
    totals_ms = {
        network: latency_ms(profile, _sum(operators)).latency_ms
        for network, operators in by_network.items()
    }
    without = {
        network: math.fsum(_without_memory_ms(profile, model, each.counts) for each in operators)
        for network, operators in by_network.items()
    }
    sums = {network: _sum(operators) for network, operators in by_network.items()}
    # Milliseconds for a miss and for a store, as shares of each network's time.
    events = np.array(
        [[sums[n][model.last_level], sums[n]["vstore"]] for n in by_network], dtype=np.float64
    )
    total = np.array([totals_ms[n] for n in by_network])
    rest = total - np.array([without[n] for n in by_network])
    memory_ms, _ = nnls(events / total[:, None], rest / total)
    timed = [
        TimedOperator(
            each.network,
            each.op,
            each.shape,
            each.bits,
            _without_memory_ms(profile, model, each.counts)
            + memory_ms[0] * each.counts[model.last_level]
            + memory_ms[1] * each.counts["vstore"],
        )
        for each in own
    ]
    return fit(timed, totals_ms)


def _sum(operators: Sequence[CountedOperator]) -> dict[str, float]:
    return {name: math.fsum(each.counts[name] for each in operators) for name in COUNT_COLUMNS}


def _without_memory_ms(
    profile: HardwareProfile, model: CountModel, counts: Mapping[str, float]
) -> float:
    found = features(counts, model.last_level)
    kept = {name: each for name, each in model.cycles.items() if name not in _MEMORY}
    return sum(each * found[name] for name, each in kept.items()) / profile.cpu.ghz * 1e-6


def fit(
    timed: Sequence[TimedOperator], totals_ms: Mapping[Network, float], floor_ms: float = _FLOOR_MS
) -> Fitted:
    """Kernels from times of operators, cross-validated by network.

    Args:
        timed: operators of many networks.
        totals_ms: whole time of each of these networks, against which the error is.
        floor_ms: an operator's error below this hardly matters.
    """
    kernels = _fit_all(timed, floor_ms)
    tiles = {(kernel.op, kernel.bits, kernel.variant): kernel for kernel in kernels}
    networks = sorted(totals_ms)
    errors = []
    for fold in range(FOLDS):
        left_out = set(networks[fold::FOLDS])
        rest = [each for each in timed if each.network not in left_out]
        seen = _fit_all(rest, floor_ms, tiles)
        estimates = dict.fromkeys(left_out, 0.0)
        for each in timed:
            if each.network in left_out:
                estimates[each.network] += _estimate_ms(seen, each)
        errors += [abs(estimates[n] / totals_ms[n] - 1) * 100 for n in sorted(left_out)]
    return Fitted(kernels, float(np.mean(errors)), float(np.max(errors)), len(errors))


def _kind(each: TimedOperator) -> _Kind:
    found = variant(each.op, each.shape, each.bits)
    # A depthwise convolution that multiplies channels runs as a grouped one.
    op = "conv" if found == "grouped" else each.op
    return _Kind(op, each.bits, found)


def _fit_all(
    timed: Sequence[TimedOperator],
    floor_ms: float,
    known: Mapping[tuple[str, int, str], Kernel] | None = None,
) -> tuple[Kernel, ...]:
    """A kernel for every kind; with ``known``, its tiles are taken from there."""
    kinds: dict[_Kind, list[TimedOperator]] = {}
    for each in timed:
        kinds.setdefault(_kind(each), []).append(each)
    kernels = []
    for kind, operators in sorted(kinds.items(), key=lambda item: repr(item[0])):
        given = (known or {}).get((kind.op, kind.bits, kind.variant))
        tiles = _tiles(kind) if given is None else [_tiles_of(given)]
        fits = [_fit_kind(kind, operators, floor_ms, *each) for each in tiles]
        # Of fits that are equally good the first, with the smallest tiles.
        best = min(error for error, _ in fits)
        kernel = next(kernel for error, kernel in fits if error <= best + 2e-4)
        kernels.append(kernel)
        if kind.variant == "grouped":
            kernels.append(dataclasses.replace(kernel, op="depthwise"))
    return tuple(kernels)


def _tiles(kind: _Kind) -> list[tuple[int, int, int, int]]:
    """Candidates for tile_out, tile_in, tile_map and tail."""
    if kind.op not in WEIGHTED:
        return [(1, 1, 1, 1)]
    depthwise = kind.variant.startswith("depthwise")
    maps = (1,) if depthwise or kind.op == "linear" else (1, 4, 8, 16)
    ins = (1, 4, 8, 16) if kind.bits == 8 and not depthwise else (1,)
    return list(itertools.product((1, 2, 4, 8, 16), ins, maps, (4, 8, 16)))


def _tiles_of(kernel: Kernel) -> tuple[int, int, int, int]:
    return kernel.tile_out, kernel.tile_in, kernel.tile_map, kernel.tail


def _fit_kind(
    kind: _Kind,
    operators: Sequence[TimedOperator],
    floor_ms: float,
    tile_out: int,
    tile_in: int,
    tile_map: int,
    tail: int,
) -> tuple[float, Kernel]:
    """The kernel with these tiles, and its mean error."""
    rows, names = [], ("fixed", "work", *TERMS)
    for each in operators:
        found: dict[str, float] = dict(
            amounts(each.op, each.shape, kind.variant, tail, tile_in),
            fixed=1,
            work=padded_work(each.op, each.shape, tile_out, tile_in, tile_map),
        )
        rows.append([found.get(name, 0) for name in names])
    given, times = np.array(rows, dtype=np.float64), np.array([each.ms for each in operators])
    found_ms = _solve(given, times)
    error = np.mean(np.abs(given @ found_ms - times) / (times + floor_ms))
    by_name = dict(zip(names, found_ms.tolist(), strict=True))
    fixed_ms, work_ms = by_name.pop("fixed"), by_name.pop("work")
    kernel = Kernel(
        op=kind.op,
        bits=kind.bits,
        giga_per_s=_short(min(1e-6 / work_ms, _NOT_LIMITED) if work_ms else _NOT_LIMITED),
        overhead_us=_short(fixed_ms * 1e3),
        tile_out=tile_out,
        tile_in=tile_in,
        tile_map=tile_map,
        tail=tail,
        variant=kind.variant,
        fitted=True,
        ns={name: _short(ms * 1e6) for name, ms in by_name.items() if ms},
    )
    return float(error), kernel


def _solve(given: Array, times: Array) -> Array:
    """Non-negative coefficients, shape (columns,), of ``given @ coefficients = times``."""
    scale = np.maximum(given.max(axis=0), 1e-12)
    scaled = given / scale
    expected = times
    for _ in range(_ROUNDS):
        weights = (np.maximum(expected, 0) + _FLOOR_MS) ** -_POWER
        found, _ = nnls(scaled * weights[:, None], times * weights)
        expected = scaled @ found
    return np.asarray(found / scale)


def _estimate_ms(kernels: Sequence[Kernel], each: TimedOperator) -> float:
    kind = _kind(each)
    for kernel in kernels:
        if (kernel.op, kernel.bits, kernel.variant) == (kind.op, kind.bits, kind.variant):
            return kernel.terms_ms(each.op, each.shape)
    raise ProfileError(
        f"every kind of operator must be in enough networks, but {kind} is in too few to leave "
        "any out; sweep more networks"
    )


def _short(value: float) -> float:
    return float(f"{value:.4g}")
