"""What a device can do: a frozen value, read from one TOML file.

A profile is data. Adding a device is adding one file to ``hardware_profiles/data``; nothing
here names a device.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from hardware_profiles.events import FEATURES
from hardware_profiles.ops import OPS, OpShape
from hardware_profiles.regular_files import read_text, shortened
from hardware_profiles.terms import TERMS, VARIANTS, WEIGHTED, amounts, padded_work, variant

PROFILE_VERSION = 1
LARGEST_BYTES = 2**20
DATA = Path(__file__).parent / "data"
_STRICT = ConfigDict(extra="forbid")

# Operators without a kernel of their own in a profile run like these.
_ALIKE = {"average_pool": "pool", "transpose": "elementwise", "shuffle": "elementwise"}

_Positive = Annotated[float, Field(gt=0)]
_Amount = Annotated[float, Field(ge=0)]
_Count = Annotated[int, Field(ge=1)]


class ProfileError(ValueError):
    """A profile file or name is not usable; the message states the rule, value and remedy."""


@dataclass(frozen=True)
class Kernel:
    """How fast one operator runs at one width on one core.

    ``t = (C^4 + M^4)^(1/4) + overhead``: ``C`` is padded MACs (elements for operators without
    weights) over ``giga_per_s``, ``M`` the bytes moved over the profile's bandwidth. The soft
    maximum of compute and memory is from ``docs/latency.md``.

    A ``fitted`` one, by ``hardware_profiles fit-operators``, has nanoseconds by ``terms.TERMS``
    instead: ``t = C + ns . amounts + overhead``. The caches that the target has are in them.
    """

    __pydantic_config__ = _STRICT

    op: str
    bits: int
    giga_per_s: _Positive  # 1e9 MACs (or elements) per second on one core
    overhead_us: _Amount
    tile_out: _Count = 1  # output channels are computed in multiples of this
    tile_in: _Count = 1
    tile_map: _Count = 1  # pixels of the output map
    tail: _Count = 1  # output channels are stored in multiples of this
    variant: str = ""  # the shapes it serves, by ``terms.variant``; "": any
    fitted: bool = False
    ns: Mapping[str, _Amount] = field(default_factory=dict)

    def compute_ms(self, op: str, shape: OpShape) -> float:
        """Milliseconds of the padded work alone."""
        work = padded_work(op, shape, self.tile_out, self.tile_in, self.tile_map)
        return work / self.giga_per_s * 1e-6

    def terms_ms(self, op: str, shape: OpShape) -> float:
        """Milliseconds of an operator on a fitted kernel."""
        found = amounts(op, shape, self.variant, self.tail, self.tile_in)
        terms_ns = sum(each * found.get(name, 0) for name, each in self.ns.items())
        return self.compute_ms(op, shape) + terms_ns * 1e-6 + self.overhead_us * 1e-3


@dataclass(frozen=True)
class Cpu:
    """The processor. Caches in bytes; ``bandwidth_gb_s`` is 1e9 bytes per second to memory."""

    __pydantic_config__ = _STRICT

    isa: str
    core: str
    cores: _Count
    ghz: _Positive
    bandwidth_gb_s: _Positive
    l1_bytes: int = 32768
    l2_bytes: int = 0
    l3_bytes: int = 0


@dataclass(frozen=True)
class Runtime:
    """How files are run there, and what the quantiser must produce for its kernels."""

    __pydantic_config__ = _STRICT

    threads: _Count = 1
    activation_type: Literal["int8", "uint8"] = "int8"
    weight_type: Literal["int8", "uint8"] = "int8"
    reduce_range: bool = False
    channel_multiple: Mapping[str, int] = field(default_factory=dict)  # by bits: {"8": 16}


@dataclass(frozen=True)
class Limits:
    """Hard limits of the device in bytes; None where the device sets none that matters."""

    __pydantic_config__ = _STRICT

    memory_bytes: int | None = None
    flash_bytes: int | None = None


@dataclass(frozen=True)
class Source:
    """Where a figure of the profile comes from."""

    __pydantic_config__ = _STRICT

    what: str
    where: str


@dataclass(frozen=True)
class ThreadFactors:
    """What is left of each part of the one-thread time when several threads share the work.

    0.25 at four threads is a perfect split; above 1, the threads disturb each other.
    """

    __pydantic_config__ = _STRICT

    instructions: _Positive
    l1_misses: _Positive
    memory: _Positive
    error_pct: _Amount  # mean error on model families held out of the fit
    error_how: str


@dataclass(frozen=True)
class Calibration:
    """From which published latencies ``hardware_profiles fit`` derives the coefficients.

    ``threads`` are the published thread counts, the one of the coefficients first. The bounds
    are the core's: an instruction cannot cost less than its share of the issue width, nor a miss
    of the first cache more than the second one's latency. ``cycles_from`` and ``threads_from``
    name profiles whose coefficients or thread factors are taken where none are published.
    ``documented`` has cycles by feature: instructions by the core's documentation, if nothing
    else ran beside them, and misses as they would be at the caches' latency and the memory's
    bandwidth. The fit is pulled towards them.
    """

    __pydantic_config__ = _STRICT

    device: str  # as in published_latencies.csv
    threads: tuple[_Count, ...]
    issue_width: _Count
    l1_miss_max: _Positive
    documented: Mapping[str, _Amount] = field(default_factory=dict)
    cycles_from: str = ""
    threads_from: str = ""
    note: str = ""  # what a reader of the figures must know about this board's publications


@dataclass(frozen=True)
class CountModel:
    """Cycles per counted event: what turns emulated instruction counts into milliseconds.

    ``cycles`` maps a feature of ``hardware_profiles.counts`` (an instruction class or a kind
    of cache miss) to cycles per event on one core; ``threads`` maps a thread count to what it
    leaves of them. Written by ``hardware_profiles fit``.
    """

    __pydantic_config__ = _STRICT

    qemu_cpu: str  # the emulated core whose counts these coefficients belong to
    calibration_id: str  # changes when any coefficient does
    error_pct: float  # mean error at one thread on model families held out of the fit
    error_how: str
    cycles: Mapping[str, _Amount]
    last_level: Literal["l2m", "l3m"] = "l2m"  # the column of misses that go to memory
    largest_error_pct: float = 0.0
    rank_correlation: float = 0.0
    caveat: str = ""  # shown wherever a figure made with this is shown
    threads: Mapping[str, ThreadFactors] = field(default_factory=dict)
    fit: Calibration | None = None


@dataclass(frozen=True)
class HardwareProfile:
    """A device as the search sees it; every figure has an entry in ``sources``."""

    __pydantic_config__ = _STRICT

    version: int
    name: str
    title: str
    kind: Literal["cpu", "microcontroller"]
    cpu: Cpu
    kernels: tuple[Kernel, ...]
    sources: tuple[Source, ...]
    error_pct: float  # mean error of the analytic estimate on models held out of its fit
    error_how: str  # one sentence: held out of what, how many, compared with what
    aliases: tuple[str, ...] = ()
    runtime: Runtime = Runtime()
    limits: Limits = Limits()
    counts: CountModel | None = None

    @property
    def bits(self) -> tuple[int, ...]:
        """Widths for which convolutions have a kernel, widest first: (32, 8) on most CPUs."""
        return tuple(sorted({k.bits for k in self.kernels if k.op == "conv"}, reverse=True))

    def channel_multiple(self, bits: int) -> int:
        """Channel counts worth having at this width are multiples of this."""
        return self.runtime.channel_multiple.get(str(bits), 1)

    def cost(self, op: str, shape: OpShape, bits: int) -> float:
        """Estimated milliseconds of one operator at batch 1 on one core.

        Args:
            op: one of ``ops.OPS``.
            shape: the operator's shape.
            bits: width of weights and activations; falls back to the float kernel where the
                target has none for this operator at this width, as the runtime does.

        Raises:
            ProfileError: the profile has no kernel at all for ``op``.
        """
        kernel = self.kernel(op, shape, bits)
        if kernel.fitted:
            return kernel.terms_ms(op, shape)
        compute_ms = kernel.compute_ms(op, shape)
        elements = shape.in_elements + shape.out_elements
        if op in WEIGHTED:
            elements += shape.weights
        memory_ms = elements * kernel.bits / 8 / self.cpu.bandwidth_gb_s * 1e-6
        return float((compute_ms**4 + memory_ms**4) ** 0.25 + kernel.overhead_us * 1e-3)

    def kernel(self, op: str, shape: OpShape, bits: int) -> Kernel:
        """The kernel that serves the operator: of its width, else float; its shape, else any.

        Raises:
            ProfileError: the profile has no kernel at all for ``op``.
        """
        for name in (op, _ALIKE.get(op, op)):
            for width in (bits, 32):
                for kind in (variant(op, shape, width), "", None):
                    found = self._kernels.get((name, width, kind))
                    if found is not None:
                        return found
        raise ProfileError(
            f"every operator needs a kernel in the profile, but {self.name!r} has none for "
            f"{op!r}; add a [[kernels]] entry (known operators: {', '.join(OPS)})"
        )

    @cached_property
    def _kernels(self) -> Mapping[tuple[str, int, str | None], Kernel]:
        """By operator, width and kind of shape; under None, the first of any kind."""
        backwards = self.kernels[::-1]
        return {
            **{(kernel.op, kernel.bits, None): kernel for kernel in backwards},
            **{(kernel.op, kernel.bits, kernel.variant): kernel for kernel in backwards},
        }


def read_profile(path: Path) -> HardwareProfile:
    """Reads and validates one TOML file.

    Raises:
        ProfileError: the file is missing, not TOML, of another version, or breaks the schema.
    """
    try:
        raw = tomllib.loads(read_text(path, LARGEST_BYTES))
    except OSError as error:
        raise ProfileError(
            f"a profile must be a readable file, but {shortened(path)} is not: {error.strerror}"
        ) from None
    except (ValueError, RecursionError) as error:  # of tomllib, of numbers, or of the encoding
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ProfileError(f"a profile must be valid TOML, but {path} is not: {why}") from None
    if raw.get("version") != PROFILE_VERSION:
        raise ProfileError(
            f"a profile's version must be {PROFILE_VERSION}, but {path.name} has "
            f"{raw.get('version')!r}; write it anew from a shipped profile"
        )
    try:
        profile = TypeAdapter(HardwareProfile).validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"{path.name}: {where}: {first['msg']}") from None
    except RecursionError:
        raise ProfileError(f"a profile must be flat, but {path} is nested too deeply") from None
    if profile.counts is not None:
        _check_counts(path.name, profile.counts)
    _check_kernels(path.name, profile.kernels)
    return profile


def _check_kernels(name: str, kernels: tuple[Kernel, ...]) -> None:
    for what, known, found in (
        ("variant", VARIANTS, {kernel.variant for kernel in kernels}),
        ("ns", TERMS, {term for kernel in kernels for term in kernel.ns}),
    ):
        unknown = sorted(found - set(known))
        if unknown:
            raise ProfileError(
                f"{name}: {what} of a kernel must be known, but has {', '.join(unknown)}; "
                f"known: {', '.join(filter(None, known))}"
            )


def _check_counts(name: str, model: CountModel) -> None:
    documented = {} if model.fit is None else model.fit.documented
    for where, cycles in (("cycles", model.cycles), ("fit.documented", documented)):
        unknown = [feature for feature in cycles if feature not in FEATURES]
        if unknown:
            raise ProfileError(
                f"{name}: counts.{where} must name known events, but has {', '.join(unknown)}; "
                f"known: {', '.join(FEATURES)}"
            )
    if model.fit is not None and not model.fit.cycles_from:
        missing = [feature for feature in FEATURES if feature not in documented]
        if missing:
            raise ProfileError(
                f"{name}: counts.fit.documented must have every event, but lacks "
                f"{', '.join(missing)}"
            )
    wrong = [count for count in model.threads if not count.isdecimal() or int(count) < 2]
    if wrong:
        raise ProfileError(
            f"{name}: counts.threads must be keyed by thread counts from 2, but has "
            f"{', '.join(wrong)}"
        )


@cache
def shipped_profiles() -> Mapping[str, HardwareProfile]:
    """All profiles of the package, by name; found by listing the folder."""
    profiles = (read_profile(path) for path in sorted(DATA.glob("*.toml")))
    return {profile.name: profile for profile in profiles}
