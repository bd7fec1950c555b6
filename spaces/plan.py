"""What is done to a model: a frozen, versioned value with a stable identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

PLAN_VERSION = 1


@dataclass(frozen=True)
class CompressionPlan:
    """Settings by technique name, each that technique's own JSON.

    A technique that changes nothing is left out, so that the untouched model is the empty plan
    and equal networks have equal plans.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {name: setting for name, setting in self.settings.items() if setting}
        frozen = json.loads(json.dumps(kept, sort_keys=True, allow_nan=False))
        object.__setattr__(self, "settings", MappingProxyType(frozen))

    def __hash__(self) -> int:
        return hash(self.plan_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompressionPlan) and self.settings == other.settings

    def __reduce__(self) -> tuple[Any, ...]:
        return (CompressionPlan, (dict(self.settings),))

    @cached_property
    def plan_id(self) -> str:
        """Twelve hex digits of the SHA-256 of the canonical JSON."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """A versioned JSON object; ``from_json`` gives an equal plan back."""
        return {"version": PLAN_VERSION, "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CompressionPlan:
        """The plan that ``to_json`` wrote.

        Raises:
            ValueError: another version, or not a plan.
        """
        if data.get("version") != PLAN_VERSION:
            raise ValueError(
                f"a plan's version must be {PLAN_VERSION}, but got {data.get('version')!r}; "
                f"search again with this release"
            )
        return cls(data["settings"])
