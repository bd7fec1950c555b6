"""Depth: whole residual blocks left out.

On small networks the cost per operator rules, and narrower channels stop helping; fewer
operators do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from hardware_profiles import HardwareProfile
from spaces.dimension import Choice, Dimension, ParamValue
from spaces.technique import Hooks, PrepareContext, Setting, Technique
from spaces.tracing.network import Network, leave_out
from spaces.tracing.table import ShapeTable


class Depth(Technique):
    """Keeps or leaves out each residual block that has no projection: ``{"removed": [block]}``."""

    name = "depth"
    order = 10

    def dimensions(
        self,
        network: Network,
        profile: HardwareProfile,
    ) -> tuple[Dimension, ...]:
        """One choice for each removable block."""
        return tuple(Choice(f"depth/{block}", ("keep", "remove")) for block in network.blocks)

    def decode(
        self,
        params: Mapping[str, ParamValue],
        network: Network,
        profile: HardwareProfile,
    ) -> Setting:
        """The blocks to leave out."""
        removed = [b for b in network.blocks if params[f"depth/{b}"] == "remove"]
        return {"removed": removed} if removed else {}

    def encode(
        self,
        setting: Setting,
        network: Network,
        profile: HardwareProfile,
    ) -> dict[str, ParamValue]:
        """Remove or keep, block by block."""
        removed = setting.get("removed", ())
        return {f"depth/{b}": "remove" if b in removed else "keep" for b in network.blocks}

    def removes(self, setting: Setting) -> tuple[str, ...]:
        """The blocks themselves."""
        return tuple(setting.get("removed", ()))

    def reverted(self, setting: Setting, network: Network) -> Iterable[tuple[str, Setting]]:
        """Block by block; one that is back is as it was before."""
        removed = setting["removed"]
        for name in removed:
            others = [block for block in removed if block != name]
            yield f"{name}: left out", {"removed": others} if others else {}

    def reshape(self, setting: Setting, table: ShapeTable) -> ShapeTable:
        """Without the blocks' operators."""
        for block in self.removes(setting):
            table = table.without(block)
        return table

    def bind(self, setting: Setting) -> Hooks:
        """Puts the identity in the blocks' place."""

        def prepare(model: nn.Module, context: PrepareContext) -> None:
            for block in self.removes(setting):
                leave_out(model, block)

        return Hooks(prepare=prepare)


TECHNIQUE = Depth()
