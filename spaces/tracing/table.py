"""The network as a table of operator shapes: what a plan costs, without building it.

Widths are linear in the channels that pruning groups keep, so one traced forward pass serves
every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hardware_profiles import HardwareProfile, OpShape

CostFunction = Callable[[str, OpShape, int], float]
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Width:
    """A number of channels: ``fixed`` plus, for each group, ``factor`` per kept channel."""

    fixed: int = 0
    factors: tuple[tuple[str, int], ...] = ()

    def at(self, kept: Mapping[str, int]) -> int:
        """The number of channels when each group keeps ``kept[group]`` channels."""
        return self.fixed + sum(factor * kept[group] for group, factor in self.factors)

    def scaled(self, factor: int) -> Width:
        """Each channel becomes ``factor`` channels, as when a map is flattened."""
        factors = tuple((group, f * factor) for group, f in self.factors)
        return Width(self.fixed * factor, factors)

    def plus(self, other: Width) -> Width:
        """The width of a concatenation."""
        factors = dict(self.factors)
        for group, factor in other.factors:
            factors[group] = factors.get(group, 0) + factor
        return Width(self.fixed + other.fixed, tuple(sorted(factors.items())))


@dataclass(frozen=True)
class Row:
    """One operator. ``layer`` is the module's name for convolutions and linear layers."""

    op: str
    layer: str | None
    module: str  # the innermost module that ran it
    shape: OpShape  # with the untouched widths
    in_width: Width
    out_width: Width
    bits: int = 32
    # (the network's input, this operator's input, its output), for every smaller input.
    sizes: tuple[tuple[Size, Size, Size], ...] = ()

    def at_input(self, size: Size) -> Row:
        """The operator when the network's input has ``size``.

        Raises:
            KeyError: the network was not traced at that size.
        """
        for whole, in_size, out_size in self.sizes:
            if whole == size:
                return replace(self, shape=replace(self.shape, in_size=in_size, out_size=out_size))
        raise KeyError(size)

    def at(self, kept: Mapping[str, int]) -> tuple[Row, OpShape]:
        """The operator and its shape under a choice of widths.

        A grouped convolution that is left with one channel a group is a depthwise one.
        """
        shape = self.shape_of(self.in_width.at(kept), self.out_width.at(kept))
        is_depthwise = self.op == "conv" and shape.groups == shape.in_channels > 1
        return (replace(self, op="depthwise") if is_depthwise else self), shape

    def shape_of(self, in_channels: int, out_channels: int) -> OpShape:
        """The operator's shape with other channel counts."""
        groups = in_channels if self.op == "depthwise" else self.shape.groups
        return replace(
            self.shape, in_channels=in_channels, out_channels=out_channels, groups=groups
        )


@dataclass(frozen=True)
class ShapeTable:
    """Every operator of a network, under a (partial) choice of widths and bits."""

    rows: tuple[Row, ...]
    channels: Mapping[str, int]  # of every prunable group, untouched
    kept: Mapping[str, int] = field(default_factory=dict)

    def with_kept(self, kept: Mapping[str, int]) -> ShapeTable:
        """The same network with some groups narrowed."""
        return replace(self, kept={**self.kept, **kept})

    def with_bits(self, bits: Mapping[str, int]) -> ShapeTable:
        """The same network with other bits for some layers.

        Operators between layers run as the layer before them: the quantizer quantizes what lies
        between quantized layers.
        """
        rows, before = [], 32
        for row in self.rows:
            before = before if row.layer is None else bits.get(row.layer, row.bits)
            rows.append(replace(row, bits=before))
        return replace(self, rows=tuple(rows))

    def at_input(self, size: Size) -> ShapeTable:
        """The same network on a smaller input.

        Raises:
            KeyError: the network was not traced at that size.
        """
        return replace(self, rows=tuple(row.at_input(size) for row in self.rows))

    def without(self, module: str) -> ShapeTable:
        """The same network with one module left out (it becomes the identity)."""
        inside = (module, module + ".")
        rows = (r for r in self.rows if r.module != module and not r.module.startswith(inside[1]))
        return replace(self, rows=tuple(rows))

    def shapes(self) -> tuple[tuple[Row, OpShape], ...]:
        """Every operator with its shape at the chosen widths."""
        kept = {**self.channels, **self.kept}
        return tuple(row.at(kept) for row in self.rows)

    def latency_ms(self, profile: HardwareProfile) -> float:
        """Analytic estimate on one core of the profile, milliseconds."""
        return sum(profile.cost(row.op, shape, row.bits) for row, shape in self.shapes())

    @property
    def parameters(self) -> int:
        """Weights of convolutions and linear layers; biases and norms are left out."""
        return sum(shape.weights for _, shape in self._layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers for one image."""
        return sum(shape.macs for row, shape in self.shapes() if row.layer)

    @property
    def weight_bytes(self) -> float:
        """Bytes of the weights of convolutions and linear layers at their widths."""
        return sum(shape.weights * row.bits / 8 for row, shape in self._layers())

    def _layers(self) -> Iterable[tuple[Row, OpShape]]:
        """Convolutions and linear layers, each once however often it is called."""
        return {row.layer: (row, shape) for row, shape in self.shapes() if row.layer}.values()
