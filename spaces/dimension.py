"""Named dimensions with ranges; no sampler's types inside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Real:
    """A real number in [low, high], on a logarithmic scale where ``log``."""

    name: str
    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(
                f"`low <= high` must hold, but {self.name!r} has low={self.low}, high={self.high}"
            )

    def contains(self, value: object) -> bool:
        """Whether ``value`` is a number in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of a few values, such as the widths for which the target has kernels."""

    name: str
    options: tuple[int | str | bool, ...]

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(
                f"options must be distinct and at least one, but {self.name!r} has {self.options}"
            )

    def contains(self, value: object) -> bool:
        """Whether ``value`` is one of the options."""
        return value in self.options


Dimension = Real | Choice
ParamValue = float | int | str | bool
