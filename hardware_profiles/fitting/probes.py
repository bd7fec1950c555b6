"""Small networks to calibrate a device with: every kind of operator, in float and in int8.

Their weights are arbitrary, since time does not depend on them. Made with the ONNX helpers, so
that calibrating needs no training framework, and with every operator's shape known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hardware_profiles.ops import Op, OpShape

_SCALE = 0.05
_TYPES = {"int8": np.int8, "uint8": np.uint8}


@dataclass(frozen=True)
class ProbeOp:
    """One operator of a probe, as the cost function takes it."""

    op: Op
    shape: OpShape
    bits: int


@dataclass(frozen=True)
class Probe:
    """One network at one width. ``family`` is its architecture, the same at both widths."""

    name: str
    family: str
    bits: int
    model: Any  # onnx.ModelProto
    ops: tuple[ProbeOp, ...]

    def save(self, folder: Path) -> Path:
        """Writes the file and returns its path."""
        path = folder / f"{self.name}.onnx"
        onnx.save(self.model, str(path))
        return path


@dataclass(frozen=True)
class _Tensor:
    name: str
    channels: int
    size: int


class _Net:
    """Adds operators one after the other; at 8 bits each between quantized tensors."""

    def __init__(self, size: int, bits: int, activation_type: str) -> None:
        self.bits = bits
        self.size = size
        self.ops: list[ProbeOp] = []
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []
        self._random = np.random.default_rng(0)
        if bits == 8:
            lowest = np.iinfo(_TYPES[activation_type]).min  # what follows a ReLU is positive
            self._constant("scale", np.float32(_SCALE))
            self._constant("zero", _TYPES[activation_type](lowest))
            self._constant("bias_scale", np.float32(_SCALE * _SCALE))
            self._constant("int8_zero", np.int8(0))
            self._constant("int32_zero", np.int32(0))
        self.input = _Tensor("input", 3, size)

    def conv(
        self, x: _Tensor, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> _Tensor:
        """Convolution with bias and ReLU, padded to keep the size."""
        size = -(-x.size // stride)
        weight = self._weight((channels, x.channels // groups, kernel, kernel))
        pad = kernel // 2
        made = self._node(
            "Conv",
            [self._real(x), weight, self._bias(channels)],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad] * 4,
            group=groups,
        )
        if self.bits == 32:
            made = self._node("Relu", [made])
        op: Op = "depthwise" if groups == x.channels else "conv"
        shape = OpShape(
            x.channels,
            channels,
            (x.size, x.size),
            (size, size),
            (kernel, kernel),
            (stride, stride),
            groups,
        )
        return self._done(op, shape, made)

    def linear(self, x: _Tensor, channels: int) -> _Tensor:
        """Fully connected; flattens a 1x1 map first."""
        flat = self._node("Flatten", [self._real(x)]) if x.size else self._real(x)
        if self.bits == 8 and x.size:
            flat = self._real(_Tensor(self._quantize(flat), x.channels, 0))
        weight = self._weight((channels, x.channels))
        made = self._node("Gemm", [flat, weight, self._bias(channels)], transB=1)
        done = self._done("linear", OpShape(x.channels, channels), made)
        return _Tensor(done.name, channels, 0)

    def add(self, a: _Tensor, b: _Tensor) -> _Tensor:
        """Sum of two maps of the same shape."""
        made = self._node("Add", [self._real(a), self._real(b)])
        return self._done("add", self._same(a), made)

    def concat(self, a: _Tensor, b: _Tensor) -> _Tensor:
        """Two maps of the same size, channels after channels."""
        made = self._node("Concat", [self._real(a), self._real(b)], axis=1)
        channels = a.channels + b.channels
        shape = OpShape(channels, channels, (a.size, a.size), (a.size, a.size))
        return self._done("concat", shape, made)

    def pool(self, x: _Tensor) -> _Tensor:
        """Maximum over 2x2."""
        made = self._node("MaxPool", [self._real(x)], kernel_shape=[2, 2], strides=[2, 2])
        half = x.size // 2
        shape = OpShape(x.channels, x.channels, (x.size, x.size), (half, half), (2, 2), (2, 2))
        return self._done("pool", shape, made)

    def global_pool(self, x: _Tensor) -> _Tensor:
        """Average over the map."""
        made = self._node("GlobalAveragePool", [self._real(x)])
        shape = OpShape(x.channels, x.channels, (x.size, x.size), (1, 1), (x.size, x.size))
        return self._done("global_pool", shape, made)

    def finish(self, family: str, x: _Tensor) -> Probe:
        """Pools, classifies, and gives the network."""
        last = self.linear(self.global_pool(x) if x.size else x, 10)
        self._nodes.append(helper.make_node("Identity", [self._real(last)], ["output"]))
        if self.bits == 8:
            shape = OpShape(3, 3, (self.size, self.size), (self.size, self.size))
            self.ops.insert(0, ProbeOp("quantize", shape, 32))
            self.ops.append(ProbeOp("quantize", OpShape(10, 10), 32))
        graph = helper.make_graph(
            self._nodes,
            family,
            [
                helper.make_tensor_value_info(
                    "input", TensorProto.FLOAT, ["batch", 3, self.size, self.size]
                )
            ],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])],
            self._tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        kind = "int8" if self.bits == 8 else "float"
        return Probe(f"{family}-{kind}", family, self.bits, model, tuple(self.ops))

    def _same(self, x: _Tensor) -> OpShape:
        return OpShape(x.channels, x.channels, (x.size, x.size), (x.size, x.size))

    def _done(self, op: Op, shape: OpShape, made: str) -> _Tensor:
        self.ops.append(ProbeOp(op, shape, self.bits))
        name = self._quantize(made) if self.bits == 8 else made
        return _Tensor(name, shape.out_channels, shape.out_size[0])

    def _real(self, x: _Tensor) -> str:
        """The name under which operators read a tensor."""
        if self.bits == 32:
            return x.name
        quantized = self._quantize(x.name) if x.name == "input" else x.name
        return self._node("DequantizeLinear", [quantized, "scale", "zero"])

    def _quantize(self, name: str) -> str:
        return self._node("QuantizeLinear", [name, "scale", "zero"])

    def _weight(self, shape: tuple[int, ...]) -> str:
        if self.bits == 32:
            # Small enough that nothing overflows, large enough that nothing becomes denormal.
            fan_in = int(np.prod(shape[1:]))
            values = self._random.standard_normal(shape) * (2 / fan_in) ** 0.5
            return self._constant("", values.astype(np.float32))
        name = self._constant("", self._random.integers(-127, 128, shape).astype(np.int8))
        scales = self._constant("", np.full(shape[0], _SCALE, np.float32))
        zeros = self._constant("", np.zeros(shape[0], np.int8))
        return self._node("DequantizeLinear", [name, scales, zeros], axis=0)

    def _bias(self, channels: int) -> str:
        if self.bits == 32:
            return self._constant("", np.full(channels, 0.01, np.float32))
        name = self._constant("", np.ones(channels, np.int32))
        scales = self._constant("", np.full(channels, _SCALE * _SCALE, np.float32))
        zeros = self._constant("", np.zeros(channels, np.int32))
        return self._node("DequantizeLinear", [name, scales, zeros], axis=0)

    def _constant(self, name: str, value: Any) -> str:
        name = name or f"c{len(self._tensors)}"
        self._tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, op_type: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name


def _plain(net: _Net) -> _Tensor:
    """3x3 convolutions and pooling, as in VGG."""
    x = net.conv(net.input, 32, 3, stride=2)
    x = net.pool(net.conv(net.conv(x, 64, 3), 64, 3))
    return net.conv(net.conv(x, 128, 3), 128, 3)


def _residual(net: _Net) -> _Tensor:
    """Pairs of 3x3 convolutions with shortcuts, as in ResNet18."""
    x = net.conv(net.input, 32, 3, stride=2)
    for channels, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
        shortcut = x if stride == 1 else net.conv(x, channels, 1, stride)
        x = net.add(net.conv(net.conv(x, channels, 3, stride), channels, 3), shortcut)
    return x


def _bottleneck(net: _Net) -> _Tensor:
    """1x1, 3x3, 1x1 with shortcuts, as in ResNet50."""
    x = net.conv(net.pool(net.conv(net.input, 64, 3, stride=2)), 128)
    for channels in (128, 256):
        x = net.conv(x, channels)
        for _ in range(2):
            inner = net.conv(net.conv(x, channels // 4), channels // 4, 3)
            x = net.add(net.conv(inner, channels), x)
        x = net.pool(x)
    return x


def _inverted(net: _Net) -> _Tensor:
    """Widen, depthwise 3x3, narrow, as in MobileNetV2."""
    x = net.conv(net.input, 16, 3, stride=2)
    for channels, stride in ((24, 2), (24, 1), (32, 2), (32, 1), (64, 2), (64, 1), (96, 1)):
        wide = 6 * x.channels
        inner = net.conv(net.conv(x, wide), wide, 3, stride, groups=wide)
        narrow = net.conv(inner, channels)
        x = net.add(narrow, x) if stride == 1 and channels == x.channels else narrow
    return net.conv(x, 384)


def _fire(net: _Net) -> _Tensor:
    """Squeeze, expand, concatenate, as in SqueezeNet."""
    x = net.pool(net.conv(net.input, 64, 3, stride=2))
    for squeeze, expand in ((16, 64), (16, 64), (32, 128), (48, 192)):
        small = net.conv(x, squeeze)
        x = net.concat(net.conv(small, expand), net.conv(small, expand, 3))
    return x


def _separable(net: _Net) -> _Tensor:
    """Depthwise and 1x1 on large maps, as at the beginning of MobileNet: memory counts."""
    x = net.conv(net.input, 16, 3, stride=2)
    for channels, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1)):
        x = net.conv(net.conv(x, x.channels, 3, stride, groups=x.channels), channels)
    return x


def _dense(net: _Net) -> _Tensor:
    """Large linear layers after few convolutions, as in AlexNet: weights come from memory."""
    x = net.conv(net.pool(net.conv(net.input, 32, 5, stride=2)), 256, 3, stride=2)
    return net.linear(net.linear(net.global_pool(x), 2048), 1024)


# Architecture and the side of its input.
_FAMILIES: dict[str, tuple[Callable[[_Net], _Tensor], int]] = {
    "plain": (_plain, 64),
    "residual": (_residual, 96),
    "bottleneck": (_bottleneck, 96),
    "inverted": (_inverted, 128),
    "fire": (_fire, 96),
    "separable": (_separable, 160),
    "dense": (_dense, 64),
}


def make_probes(activation_type: str = "int8") -> tuple[Probe, ...]:
    """All networks: seven architectures in float and in int8.

    Args:
        activation_type: ``int8`` or ``uint8``, what the device's runtime prefers.
    """
    probes = []
    for family, (build, size) in _FAMILIES.items():
        for bits in (32, 8):
            net = _Net(size, bits, activation_type)
            probes.append(net.finish(family, build(net)))
    return tuple(probes)
