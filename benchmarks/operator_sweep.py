"""Counts every operator of random small networks on the emulated cores.

The networks are drawn from a fixed seed so that they hold what convolutional networks are made
of: dense, strided, grouped and depthwise convolutions, linear layers, additions, pools,
concatenations, channel shuffles and activations, on maps of 2 to 112 pixels, with channel
counts on and off the kernels' tiles, as float and as int8. No published network is among them.

    python benchmarks/operator_sweep.py [--networks N] [--out CSV]
    python benchmarks/operator_sweep.py --host x86-vnni --out CSV

writes one row for each executed operator; ``python -m hardware_profiles fit-operators`` turns
them into the analytic tier's costs. With --host they are timed on this machine, which then
stands for that profile: let it be idle.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from evaluators.graph import GraphOp, executed, is_kernel, label, read_model, walk
from hardware_profiles import emulator, load_profile
from hardware_profiles.counts import COUNT_COLUMNS
from hardware_profiles.fitting.operator_fit import OPERATOR_COUNTS

SHAPE_COLUMNS = (
    *("op", "bits", "in_channels", "out_channels", "in_height", "in_width"),
    *("out_height", "out_width", "kernel_height", "kernel_width"),
    *("stride_height", "stride_width", "groups"),
)
# Without the sums, the streams, and the instructions that no kernel of these cores has.
LEFT_OUT = ("total", "acc", "l1s", "l2s", "l3s", "fmla16", "mmla")
COUNTS = tuple(name for name in COUNT_COLUMNS if name not in LEFT_OUT)
FILES = ("float", "int8")
COLUMNS = ("runtime", "network", "file", "core", *SHAPE_COLUMNS, *COUNTS)
RUNS = 120  # of a network that is timed
MACS_AN_OPERATOR = 2e7
MACS_A_NETWORK = 8e7
WEIGHTS_AN_OPERATOR = 1_500_000

# What a measuring function gives for one file: its operators with a figure for each column.
Measure = Callable[[Path], Iterator[tuple[GraphOp, dict[str, float]]]]


class Network:
    """A chain of random operators, as it grows."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = self._channels(64)
        self.size = draw.choice([2, 4, 7, 8, 14, 16, 20, 28, 32, 40, 56, 64, 112])
        self.image = (1, self.channels, self.size, self.size)
        self.last = "image"
        self.macs = 0.0
        self.seen = {}  # (channels, size) to a tensor of that shape

    def _channels(self, most: int) -> int:
        on_tile = [8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024]
        if self.draw.random() < 0.55:
            return self.draw.choice([count for count in on_tile if count <= most])
        return round(math.exp(self.draw.uniform(math.log(3), math.log(most))))

    def _add(self, op: str, inputs: list[str], **attributes: Any) -> None:
        name = f"op{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.last = name

    def _weight(self, *dims: int) -> str:
        name = f"w{len(self.weights)}"
        fan_in = math.prod(dims[1:]) or 1
        values = np.random.default_rng(len(self.weights)).standard_normal(dims) / fan_in**0.5
        self.weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, kernel: int, stride: int = 1, groups: str = "one") -> None:
        out_size = -(-self.size // stride)
        for _ in range(30):
            out = self._channels(1024)
            group = 1
            if groups == "depthwise":
                out = group = self.channels
            elif groups == "some":
                options = [g for g in (2, 3, 4, 8, 16, 32) if self.channels % g == 0]
                group = self.draw.choice(options or [1])
                out = -(-out // group) * group
            weights = out * (self.channels // group) * kernel**2
            macs = weights * out_size**2
            if macs <= MACS_AN_OPERATOR and weights <= WEIGHTS_AN_OPERATOR:
                break
        else:
            return
        before = self.last
        self._add(
            "Conv",
            [before, self._weight(out, self.channels // group, kernel, kernel), self._weight(out)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[(kernel - 1) // 2] * 4,
            group=group,
        )
        same = out == self.channels and stride == 1
        self.channels, self.size, self.macs = out, out_size, self.macs + macs
        if same and self.draw.random() < 0.3:
            self._add("Add", [self.last, before])
        if self.draw.random() < 0.8:
            self._add("Relu", [self.last])

    def pool(self, op: str, kernel: int, stride: int) -> None:
        pad = (kernel - 1) // 2
        out = (self.size + 2 * pad - kernel) // stride + 1
        if out < 1:
            return
        shape = {"kernel_shape": [kernel, kernel], "strides": [stride, stride], "pads": [pad] * 4}
        self._add(op, [self.last], **shape)
        self.size = out

    def activation(self) -> None:
        if self.draw.random() < 0.5:
            self._add("Sigmoid", [self.last])
        else:
            before = self.last
            self._add("HardSigmoid", [before], alpha=1 / 6, beta=0.5)
            self._add("Mul", [self.last, before])

    def concat(self) -> None:
        alike = [t for (_, size), t in self.seen.items() if size == self.size and t != self.last]
        channels = {t: c for (c, _), t in self.seen.items()}
        if not alike:
            return
        other = self.draw.choice(alike)
        if self.channels + channels[other] > 1024:
            return
        self._add("Concat", [self.last, other], axis=1)
        self.channels += channels[other]

    def shuffle(self) -> None:
        if self.channels % 2:
            return
        half, size = self.channels // 2, self.size
        for dims in ([1, 2, half, size, size], None, [1, 2 * half, size, size]):
            if dims is None:
                self._add("Transpose", [self.last], perm=[0, 2, 1, 3, 4])
                continue
            name = f"w{len(self.weights)}"
            self.weights.append(onnx.numpy_helper.from_array(np.array(dims, np.int64), name))
            self._add("Reshape", [self.last, name])

    def grow(self) -> None:
        steps: list[tuple[float, Callable[[], None]]] = [
            (24, lambda: self.conv(3)),
            (24, lambda: self.conv(1)),
            (9, lambda: self.conv(3, 2)),
            (4, lambda: self.conv(1, 2)),
            (3, lambda: self.conv(5)),
            (2, lambda: self.conv(7, 2)),
            (12, lambda: self.conv(3, 1, "depthwise")),
            (5, lambda: self.conv(3, 2, "depthwise")),
            (3, lambda: self.conv(5, 1, "depthwise")),
            (5, lambda: self.conv(3, 1, "some")),
            (2, lambda: self.conv(1, 1, "some")),
            (3, lambda: self.pool("MaxPool", 3, 2)),
            (2, lambda: self.pool("MaxPool", 2, 2)),
            (2, lambda: self.pool("AveragePool", 3, 1)),
            (3, self.activation),
            (4, self.concat),
            (4, self.shuffle),
        ]
        for _ in range(self.draw.randint(6, 16)):
            if self.macs > MACS_A_NETWORK:
                break
            self.seen[self.channels, self.size] = self.last
            self.draw.choices([step for _, step in steps], [share for share, _ in steps])[0]()

    def finish(self) -> onnx.ModelProto:
        self._add("GlobalAveragePool", [self.last])
        self._add("Flatten", [self.last])
        for _ in range(self.draw.randint(1, 2)):
            out = self._channels(1024)
            inputs = [self.last, self._weight(out, self.channels), self._weight(out)]
            self._add("Gemm", inputs, transB=1)
            self.channels = out
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "sweep",
            [value("image", TensorProto.FLOAT, self.image)],
            [value(self.last, TensorProto.FLOAT, (1, self.channels))],
            self.weights,
        )
        opset = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opset, ir_version=9)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: tuple[int, ...]) -> None:
        draw = np.random.default_rng(0)
        self.left = iter([{"image": draw.standard_normal(shape).astype(np.float32)}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


class ImageNetwork(Network):
    """One that begins with an image, as classifiers do: one or three channels, many pixels."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__(draw)
        self.channels, self.size = draw.choice([1, 3]), draw.choice([28, 32, 64, 96, 128, 160])
        self.image = (1, self.channels, self.size, self.size)

    def _channels(self, most: int) -> int:
        return super()._channels(min(most, 64) if len(self.nodes) < 2 else most)

    def grow(self) -> None:
        self.conv(*self.draw.choice([(7, 2), (3, 2), (3, 1), (5, 1)]))
        if self.draw.random() < 0.5:
            self.pool("MaxPool", self.draw.choice([2, 3]), 2)
        super().grow()


class NarrowNetwork(ImageNetwork):
    """What is left of a network by pruning: few channels, where an operator itself costs most."""

    def _channels(self, most: int) -> int:
        return super()._channels(min(most, self.draw.choice([16, 32, 64])))


# Of those that are timed, in turn.
TIMED = (Network, ImageNetwork, NarrowNetwork)


def network_files(
    seed: int,
    folder: Path,
    kind: type[Network] = Network,
    activations: QuantType = QuantType.QInt8,
) -> tuple[Path, Path]:
    """The network of that seed as a float and as an int8 file."""
    network = kind(random.Random(seed))
    network.grow()
    model = network.finish()
    onnx.checker.check_model(model)
    float_file, int8_file = folder / f"{seed}.onnx", folder / f"{seed}_int8.onnx"
    onnx.save(model, str(float_file))
    quantize_static(
        float_file,
        int8_file,
        Reader(network.image),
        quant_format=QuantFormat.QDQ,
        activation_type=activations,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return float_file, int8_file


def counted(core: str) -> Measure:
    """Measures with an emulated core: figures are the counts of each operator."""
    machine = emulator.shared(core)

    def measure(file: Path) -> Iterator[tuple[GraphOp, dict[str, float]]]:
        labelled = label(read_model(file))
        named = file.with_name("named.onnx")
        onnx.save(labelled, str(named))
        kernels = machine.count(file, named).kernels
        ops = executed(labelled, [kernel.event for kernel in kernels])
        for kernel, op in zip(kernels, ops, strict=True):
            if op is not None:
                yield op, {name: kernel.counts[name] for name in COUNTS}

    return measure


def timed(file: Path) -> Iterator[tuple[GraphOp, dict[str, float]]]:
    """Measures on this machine: milliseconds of each operator.

    The runtime's profile has whole microseconds, so means are taken, without the tenth that
    took longest. Keeping it costs about two microseconds an operator, where a small operator
    takes less than one; so what the operators are too long for the network, without profile, is
    taken from all alike. What the network takes beyond its operators is their share alike.
    """
    labelled = label(read_model(file))
    image = labelled.graph.input[0].type.tensor_type.shape.dim
    fed = {"image": np.zeros([dim.dim_value for dim in image], np.float32)}

    def session(profiled: bool) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = profiled
        options.profile_file_prefix = str(file.with_suffix(""))
        return ort.InferenceSession(labelled.SerializeToString(), options)

    whole, profiled = session(False), session(True)
    whole_s = []
    for _ in range(RUNS):
        began = time.perf_counter()
        whole.run(None, fed)
        whole_s.append(time.perf_counter() - began)
        profiled.run(None, fed)
    events = json.loads(Path(profiled.end_profiling()).read_text())
    runs: dict[str, list[float]] = {}
    kernels = {event["name"]: event for event in events if is_kernel(event)}
    for event in filter(is_kernel, events):
        runs.setdefault(event["name"], []).append(event["dur"] * 1e-3)
    kept_ms = {name: _mean_of_fast(each) for name, each in runs.items()}
    whole_ms = _mean_of_fast(whole_s) * 1e3
    profile_ms = max(math.fsum(kept_ms.values()) - whole_ms, 0.0) / len(kept_ms)
    own_ms: list[float] = []
    for name, op in zip(kernels, executed(labelled, kernels.values()), strict=True):
        each_ms = max(kept_ms[name] - profile_ms, 0.0)
        if name.startswith("Reorder") and own_ms:
            own_ms[-1] += each_ms  # to or from a layout in blocks, which shapes off them need most
        elif op is not None and not name.startswith("Reorder"):
            own_ms.append(each_ms)
    # Shapes are those before the runtime's own layouts, in the same order.
    ops = walk(file, arm=False)
    if len(ops) != len(own_ms):
        return
    others_ms = max(whole_ms - math.fsum(own_ms), 0.0) / len(ops)
    for op, each_ms in zip(ops, own_ms, strict=True):
        yield op, {"ms": each_ms + others_ms}


def _mean_of_fast(times: list[float]) -> float:
    kept = sorted(times)[: max(1, int(0.9 * len(times)))]
    return math.fsum(kept) / len(kept)


def shape_row(op: GraphOp) -> tuple[Any, ...]:
    shape = op.shape
    sizes = (*shape.in_size, *shape.out_size, *shape.kernel, *shape.stride)
    return (
        op.op,
        op.bits,
        shape.in_channels,
        shape.out_channels,
        *sizes,
        shape.groups,
    )


def sweep_host(profile: str, networks: int, out: Path) -> int:
    """Writes the table of operators that were timed here."""
    unsigned = load_profile(profile).runtime.activation_type == "uint8"
    activations = QuantType.QUInt8 if unsigned else QuantType.QInt8
    with out.open("w", newline="") as file, tempfile.TemporaryDirectory() as folder:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("runtime", "network", "file", "profile", *SHAPE_COLUMNS, "ms"))
        for seed in range(networks):
            begin = TIMED[seed % len(TIMED)]
            files = network_files(seed, Path(folder), begin, activations)
            for kind, path in zip(FILES, files, strict=True):
                for op, figures in timed(path):
                    ms = f"{figures['ms']:.5f}"
                    runtime = f"onnxruntime {ort.__version__}"
                    table.writerow([runtime, seed, kind, profile, *shape_row(op), ms])
            file.flush()
            print(f"{seed + 1}/{networks}", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=50)
    parser.add_argument("--out", type=Path, default=OPERATOR_COUNTS)
    parser.add_argument("--host", metavar="PROFILE", help="the profile that this machine is for")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer's advice, for each network
    if args.host:
        return sweep_host(args.host, args.networks, args.out)
    with args.out.open("w", newline="") as file, tempfile.TemporaryDirectory() as folder:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        runtime = f"onnxruntime {emulator.find().versions()['onnxruntime']}"
        for seed in range(args.networks):
            files = network_files(seed, Path(folder))
            for core in emulator.CORES:
                measure = counted(core)
                for kind, path in zip(FILES, files, strict=True):
                    for op, figures in measure(path):
                        counts = [figures[name] for name in COUNTS]
                        table.writerow([runtime, seed, kind, core, *shape_row(op), *counts])
            file.flush()
            print(f"{seed + 1}/{args.networks}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
