"""Evaluations that were made once by the project's own trials, to replay searches from.

A table is a file of JSON lines: first what the evaluations are of (with the sensitivity that the
search starts from), then one line a plan with its drop and its seconds at every rung.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hardware_profiles import load_profile
from search.deciding.sensitivity import Sensitivity
from search.inputs.models.build import Build
from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.tracing.network import Network, trace

TABLE_VERSION = 1
FOLDER = Path(__file__).with_name("data")


@dataclass(frozen=True)
class Recorded:
    """One plan: drop of the accuracy on validation images and CPU seconds, by rung.

    ``seconds`` are those of the rung alone, on one core.
    """

    plan: CompressionPlan
    source: str
    drops: Mapping[str, float]
    seconds: Mapping[str, float]

    def to_line(self) -> str:
        return json.dumps(
            {
                "settings": self.plan.to_json()["settings"],
                "source": self.source,
                "drops": {k: round(v, 5) for k, v in self.drops.items()},
                "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_line(cls, line: str) -> Recorded:
        data = json.loads(line)
        return cls(
            CompressionPlan(data["settings"]), data["source"], data["drops"], data["seconds"]
        )


@dataclass(frozen=True)
class Header:
    """What a table's evaluations are of."""

    model: str
    data: str
    classes: int
    input_shape: tuple[int, int, int]
    target: str
    baseline_accuracy: float
    sensitivity: Sensitivity

    @cached_property
    def network(self) -> Network:
        """The network, with random weights: only shapes matter here."""
        channels, *size = self.input_shape
        return trace(
            Build(self.model, self.classes, channels, (size[0], size[1]))(), self.input_shape
        )

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace.of(self.network, load_profile(self.target))

    def to_line(self) -> str:
        fields: dict[str, Any] = {**self.__dict__, "sensitivity": self.sensitivity.to_json()}
        kept = {name: fields[name] for name in self.__dataclass_fields__}
        return json.dumps({"version": TABLE_VERSION, **kept}, separators=(",", ":"))

    @classmethod
    def from_line(cls, line: str) -> Header:
        data = json.loads(line)
        if data.pop("version") != TABLE_VERSION:
            raise ValueError(f"a table must be of version {TABLE_VERSION}; record it again")
        data["input_shape"] = tuple(data["input_shape"])
        data["sensitivity"] = Sensitivity.from_json(data["sensitivity"])
        return cls(**data)


def at_least_one(text: str) -> int:
    """A number of plans or seeds, as argparse takes it.

    Raises:
        ValueError: it is none, or less than one.
    """
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def load(path: Path) -> tuple[Header, list[Recorded]]:
    """A table; a last line that was cut off by a kill is left out.

    Raises:
        SystemExit: there is none yet.
    """
    if not path.exists():
        print(
            f"{path} must be recorded first: python benchmarks/record.py --help", file=sys.stderr
        )
        raise SystemExit(2)
    text = path.read_text()
    lines = text[: text.rfind("\n") + 1].splitlines()
    return Header.from_line(lines[0]), [Recorded.from_line(line) for line in lines[1:]]
