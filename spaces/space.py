"""The search space of one network on one device: named dimensions, and plans from and to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware_profiles import HardwareProfile
from spaces.dimension import Dimension, ParamValue
from spaces.plan import CompressionPlan
from spaces.technique import Hooks, Technique, discover
from spaces.tracing.network import Network
from spaces.tracing.table import ShapeTable, Size


@dataclass(frozen=True)
class SearchSpace:
    """What may be varied together. ``techniques`` are in the order in which they prepare."""

    network: Network
    profile: HardwareProfile
    techniques: tuple[Technique, ...]

    @classmethod
    def of(
        cls, network: Network, profile: HardwareProfile, opt_in: Sequence[str] = ()
    ) -> SearchSpace:
        """The space of every technique that is on by default or asked for in ``opt_in``."""
        chosen = (t for t in discover().values() if not t.opt_in or t.name in opt_in)
        return cls(network, profile, tuple(chosen))

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """All dimensions, technique by technique."""
        return tuple(d for t in self.techniques for d in t.dimensions(self.network, self.profile))

    def decode(self, params: Mapping[str, ParamValue]) -> CompressionPlan:
        """The canonical plan: values that make no difference give the same plan."""
        return self.canonical(
            {t.name: t.decode(params, self.network, self.profile) for t in self.techniques}
        )

    def canonical(self, settings: Mapping[str, object]) -> CompressionPlan:
        """A plan without what was planned for modules that the plan itself leaves out."""
        plan = CompressionPlan(settings)
        gone = tuple(
            module for t in self.techniques for module in t.removes(plan.settings.get(t.name, {}))
        )
        if not gone:
            return plan
        by_name = {t.name: t for t in self.techniques}
        return CompressionPlan(
            {name: by_name[name].without(s, gone) for name, s in plan.settings.items()}
        )

    def encode(self, plan: CompressionPlan) -> dict[str, ParamValue]:
        """Values of all dimensions that decode to ``plan``."""
        params: dict[str, ParamValue] = {}
        for t in self.techniques:
            params |= t.encode(plan.settings.get(t.name, {}), self.network, self.profile)
        return params

    def hooks(self, plan: CompressionPlan) -> tuple[Hooks, ...]:
        """What each of the plan's techniques does, in order.

        Raises:
            KeyError: the plan names a technique that is not installed.
        """
        return bind(plan)

    def table(self, plan: CompressionPlan) -> ShapeTable:
        """Every operator's shape and width under the plan."""
        return planned_table(self.network, plan)


def bind(plan: CompressionPlan) -> tuple[Hooks, ...]:
    """What each of the plan's techniques does, in order of preparation.

    Raises:
        KeyError: the plan names a technique that is not installed.
    """
    known = discover()
    missing = set(plan.settings) - set(known)
    if missing:
        raise KeyError(f"the plan needs techniques that are not installed: {sorted(missing)}")
    return tuple(t.bind(plan.settings[n]) for n, t in known.items() if n in plan.settings)


def input_size(plan: CompressionPlan, images: Size) -> Size:
    """Height and width of a planned network's input; ``images`` are the data's own.

    Raises:
        KeyError: the plan names a technique that is not installed.
    """
    return next((hook.input_size for hook in bind(plan) if hook.input_size), images)


def planned_table(network: Network, plan: CompressionPlan) -> ShapeTable:
    """Every operator's shape and width in a network under a plan."""
    table = network.table
    for name, technique in discover().items():
        if name in plan.settings:
            table = technique.reshape(plan.settings[name], table)
    return table
