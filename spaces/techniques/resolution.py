"""Resolution: a smaller input, for networks that take one.

Only on request: whoever makes the pixels has to make them smaller, too. The bundle's
``preprocess.json`` says how large.
"""

from __future__ import annotations

from collections.abc import Mapping

from hardware_profiles import HardwareProfile
from spaces.dimension import Choice, Dimension, ParamValue
from spaces.technique import Hooks, Setting, Technique
from spaces.tracing.network import Network
from spaces.tracing.table import ShapeTable, Size


class Resolution(Technique):
    """Height and width of the input: ``{"size": "96x128"}``."""

    name = "resolution"
    order = 5
    opt_in = True

    def dimensions(self, network: Network, profile: HardwareProfile) -> tuple[Dimension, ...]:
        """One choice, where the network gives the same outputs for smaller inputs."""
        if not network.sizes:
            return ()
        sizes = (network.input_shape[1:], *network.sizes)
        return (Choice("resolution/size", tuple(size_name(size) for size in sizes)),)

    def decode(
        self, params: Mapping[str, ParamValue], network: Network, profile: HardwareProfile
    ) -> Setting:
        """The size, unless it is that of the images."""
        chosen = params.get("resolution/size")
        named = (size for size in network.sizes if size_name(size) == chosen)
        return next((setting_of(size) for size in named), {})

    def encode(
        self, setting: Setting, network: Network, profile: HardwareProfile
    ) -> dict[str, ParamValue]:
        """The size's name."""
        if not network.sizes:
            return {}
        return {"resolution/size": size_name(size_of(setting) or network.input_shape[1:])}

    def reshape(self, setting: Setting, table: ShapeTable) -> ShapeTable:
        """Smaller maps."""
        size = size_of(setting)
        return table.at_input(size) if size else table

    def bind(self, setting: Setting) -> Hooks:
        """States the size; whoever feeds the network heeds it."""
        return Hooks(input_size=size_of(setting))


TECHNIQUE = Resolution()


def setting_of(size: Size) -> Setting:
    """The setting of a size other than the images' own."""
    return {"size": size_name(size)}


def size_of(setting: Setting) -> Size | None:
    """Height and width; None where the setting leaves them."""
    if not setting:
        return None
    height, width = map(int, setting["size"].split("x"))
    return (height, width)


def size_name(size: Size) -> str:
    """``96x128``: height and width."""
    return f"{size[0]}x{size[1]}"
