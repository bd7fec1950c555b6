"""Quantization: one width for each convolution and linear layer.

Only widths for which the target has kernels are offered: others save bytes and cost time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from hardware_profiles import HardwareProfile
from spaces.dimension import Choice, Dimension, ParamValue
from spaces.files import fake_quantization as fakequant
from spaces.files.qdq import quantize_file
from spaces.technique import (
    ExportContext,
    Hooks,
    PrepareContext,
    Setting,
    Technique,
    inside,
)
from spaces.tracing.network import Network
from spaces.tracing.table import ShapeTable

METHODS = ("minmax", "percentile", "entropy")


class Quantization(Technique):
    """Width of each layer, and how activation ranges are calibrated.

    The setting lists the layers that are not float, and the method unless it is the default:
    ``{"bits": {layer: 8}, "ranges": method}``.
    """

    name = "quantization"
    order = 30

    def dimensions(self, network: Network, profile: HardwareProfile) -> tuple[Dimension, ...]:
        """One width for each layer, and the calibration method."""
        if len(profile.bits) < 2:
            return ()
        layers = (Choice(f"quantization/{la.name}", profile.bits) for la in network.layers)
        return (*layers, Choice("quantization/ranges", METHODS))

    def decode(
        self, params: Mapping[str, ParamValue], network: Network, profile: HardwareProfile
    ) -> Setting:
        """Layers that are not float."""
        if len(profile.bits) < 2:
            return {}
        bits = {la.name: int(params[f"quantization/{la.name}"]) for la in network.layers}
        return setting_of(bits, str(params["quantization/ranges"]))

    def encode(
        self, setting: Setting, network: Network, profile: HardwareProfile
    ) -> dict[str, ParamValue]:
        """The width of every layer."""
        if len(profile.bits) < 2:
            return {}
        bits = setting.get("bits", {})
        params: dict[str, ParamValue] = {
            f"quantization/{la.name}": bits.get(la.name, 32) for la in network.layers
        }
        return params | {"quantization/ranges": setting.get("ranges", METHODS[0])}

    def without(self, setting: Setting, modules: tuple[str, ...]) -> Setting:
        """Only the widths of layers outside ``modules``."""
        bits = {la: b for la, b in setting.get("bits", {}).items() if not inside(la, modules)}
        return setting_of(bits, setting.get("ranges", METHODS[0]))

    def reverted(self, setting: Setting, network: Network) -> Iterable[tuple[str, Setting]]:
        """Layer by layer."""
        bits = setting["bits"]
        for name, width in bits.items():
            others = {layer: b for layer, b in bits.items() if layer != name}
            yield f"{name}: int{width}", {**setting, "bits": others} if others else {}

    def reshape(self, setting: Setting, table: ShapeTable) -> ShapeTable:
        """The layers' widths."""
        return table.with_bits(setting.get("bits", {}))

    def bind(self, setting: Setting) -> Hooks:
        """Fake quantization in training, and quantization of the exported file."""
        bits = dict(setting["bits"])

        def constrain(model: nn.Module, context: PrepareContext) -> None:
            fakequant.insert(model, bits)

        def export(source: Path, target: Path, context: ExportContext) -> None:
            quantize_file(
                source,
                target,
                layers=tuple(bits),
                runtime=context.profile.runtime,
                images=context.images,
                ranges=setting.get("ranges", METHODS[0]),
            )

        return Hooks(constrain=constrain, release=fakequant.remove, export=export)


TECHNIQUE = Quantization()


def setting_of(bits: Mapping[str, int], ranges: str = METHODS[0]) -> Setting:
    """The canonical setting: float layers and the default method are left unsaid."""
    narrow = {layer: width for layer, width in bits.items() if width != 32}
    if not narrow:
        return {}
    return {"bits": narrow} | ({"ranges": ranges} if ranges != METHODS[0] else {})


def everywhere(network: Network, bits: int) -> Setting:
    """The setting that gives every layer the same width."""
    return setting_of({layer.name: bits for layer in network.layers})
