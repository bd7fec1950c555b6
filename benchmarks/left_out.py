"""What is left out of the search, and what it would bring: measured.

ResNet18 with random weights, 64 px, one thread, on this host and, where the emulator is
installed, counted for a Raspberry Pi 4B and a 5:

- unstructured sparsity: 50, 90 and 99 % of all weights set to zero, in the same float file;
- block sparsity: of every four weights of an output channel two set to zero (2:4), the same;
- dynamic quantization: ranges found at run time, so convolutions run as ConvInteger;
- half float: weights and activations in 16 bits;
- 4-bit weights: one scale a channel, unpacked where they are used;
- static int8, which the search does use, for comparison.

Then DeiT-tiny with random weights, 224 px, in static int8, on the boards: a third of the attention
heads taken out, which the search does not do, beside a third of the width of the MLPs, which it
does.

Prints two tables, then one JSON line, and ends with 1 when one of the first five is faster than
static int8: then it should not be left out. Takes about six minutes.

    python benchmarks/left_out.py [--pixels N]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torchvision import models

from evaluators.latency.host import close_host_agent, measure
from hardware_profiles import HardwareProfile, emulator, load_profile
from hardware_profiles.counts import latency_ms
from spaces.files.export import export_onnx
from spaces.files.qdq import layer_nodes, layer_of, quantize_file

BOARDS = ("raspberry-pi-4b", "raspberry-pi-5")
SPARSITIES = (0.5, 0.9, 0.99)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=64, help="of the square image (default 64)")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # the quantizers talk there
    profiles = [load_profile(name) for name in BOARDS] if emulator.is_installed() else []
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), args.pixels)
        plain = files["float"]
        table: dict[str, dict[str, float]] = {}
        boards = "".join(f"{profile.title:>28}" for profile in profiles)
        print(f"{'':22}{'size':>10}{'zipped':>10}{'on this host':>22}{boards}")
        for name, file in files.items():
            figures: dict[str, float] = {"size_bytes": file.stat().st_size}
            figures["zipped_bytes"] = len(zlib.compress(file.read_bytes(), 6))
            host = measure(file, plain)
            figures |= {"host_ms": host.p50_ms, "host_speedup": 1 / host.interval.value}
            half = host.interval.half_width
            text = f"{host.p50_ms:9.2f} ms {figures['host_speedup']:5.2f}× ±{half:3.0%}"
            text += _on_boards(file, profiles, figures, table.get("float", figures))
            table[name] = figures
            sizes = f"{figures['size_bytes'] / 1e6:7.2f} MB{figures['zipped_bytes'] / 1e6:7.2f} MB"
            print(f"{name:22}{sizes}{text}", flush=True)
        close_host_agent()
        heads = {}
        if profiles:
            print(f"\n{'':42}{boards}")
            heads = heads_table(make_transformers(Path(folder)), profiles)
    best = table["static int8"]
    faster = [
        name
        for name, figures in table.items()
        if name != "static int8"
        and any(figures[what] > best[what] for what in best if what.endswith("_speedup"))
    ]
    found = {"pixels": args.pixels, "figures": table, "faster": faster, "heads": heads}
    print(json.dumps(found))
    return 1 if faster else 0


def _on_boards(
    file: Path,
    profiles: Sequence[HardwareProfile],
    figures: dict[str, float],
    whole: dict[str, float],
) -> str:
    """Adds milliseconds and speed-up over ``whole`` on each board; the cells of the table."""
    text = ""
    for profile in profiles:
        assert profile.counts is not None
        counts = emulator.shared(profile.counts.qemu_cpu).count(file).total
        ms = latency_ms(profile, counts).latency_ms
        figures[f"{profile.name}_ms"] = ms
        figures[f"{profile.name}_speedup"] = whole[f"{profile.name}_ms"] / ms
        text += f"{ms:17.2f} ms {figures[f'{profile.name}_speedup']:6.2f}×"
    return text


def heads_table(
    files: Mapping[str, Path], profiles: Sequence[HardwareProfile]
) -> dict[str, dict[str, float]]:
    """What each of the transformers takes on each board, against the first; printed as found."""
    table: dict[str, dict[str, float]] = {}
    for name, file in files.items():
        figures: dict[str, float] = {"size_bytes": file.stat().st_size}
        text = _on_boards(file, profiles, figures, next(iter(table.values()), figures))
        table[name] = figures
        print(f"{name:32}{figures['size_bytes'] / 1e6:7.2f} MB{text}", flush=True)
    return table


def make_transformers(folder: Path) -> dict[str, Path]:
    """DeiT-tiny in static int8, whole and with a third taken out in two ways; the whole first."""
    shape = (3, 224, 224)
    images = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    runtime = load_profile(BOARDS[0]).runtime
    files = {}
    for name in ("DeiT-tiny", "without a third of the heads", "without a third of the MLPs"):
        torch.manual_seed(0)
        model = timm.create_model("deit_tiny_patch16_224", num_classes=10).eval()
        for block in model.blocks:
            heads, width = block.attn.num_heads, block.attn.head_dim
            if "heads" in name:
                block.attn = Attention(
                    heads * width, heads * 2 // 3, attn_head_dim=width, qkv_bias=True
                )
            if "MLPs" in name:
                block.mlp = Mlp(heads * width, block.mlp.fc1.out_features * 2 // 3)
        plain, files[name] = folder / "plain.onnx", folder / f"{name}.onnx"
        export_onnx(model.eval(), plain, shape)
        layers = [layer_of(node) for node in layer_nodes(onnx.load(plain))]
        quantize_file(plain, files[name], layers=layers, runtime=runtime, images=images)
    return files


def make_files(folder: Path, pixels: int) -> dict[str, Path]:
    """Every variant of one network, by name; the float file first."""
    torch.manual_seed(0)
    shape = (3, pixels, pixels)
    model = models.resnet18(weights=None, num_classes=10).eval()
    names = ["float", *(f"{share:.0%} of weights zero" for share in SPARSITIES)]
    names += ["2 of 4 weights zero", "dynamic int8", "half float", "4-bit weights", "static int8"]
    files = {name: folder / f"{number}.onnx" for number, name in enumerate(names)}
    plain = files["float"]
    export_onnx(model, plain, shape)
    for share in SPARSITIES:
        _sparse(plain, files[f"{share:.0%} of weights zero"], share)
    _two_of_four(plain, files["2 of 4 weights zero"])
    # Of weights only QUInt8 has a ConvInteger kernel that takes uint8 images.
    quantize_dynamic(plain, files["dynamic int8"], weight_type=QuantType.QUInt8)
    _half(plain, files["half float"])
    _four_bits(plain, files["4-bit weights"])
    images = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
    layers = [layer_of(node) for node in layer_nodes(onnx.load(plain))]
    runtime = load_profile(BOARDS[0]).runtime
    quantize_file(plain, files["static int8"], layers=layers, runtime=runtime, images=images)
    return files


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    names = {node.input[1] for node in layer_nodes(model)}
    return [tensor for tensor in model.graph.initializer if tensor.name in names]


def _sparse(source: Path, target: Path, share: float) -> None:
    """The smallest weights of every layer become zero."""
    model = onnx.load(source)
    for tensor in _weights(model):
        values = numpy_helper.to_array(tensor).copy()
        values[np.abs(values) < np.quantile(np.abs(values), share)] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, target)


def _two_of_four(source: Path, target: Path) -> None:
    """The two smallest of every four weights in a row of an output channel become zero."""
    model = onnx.load(source)
    for tensor in _weights(model):
        values = numpy_helper.to_array(tensor)
        rows = values.reshape(len(values), -1)
        whole = rows.shape[1] // 4 * 4  # the first layer's rows have three more
        fours = rows[:, :whole].reshape(-1, 4).copy()
        np.put_along_axis(fours, np.abs(fours).argsort(axis=1)[:, :2], 0, axis=1)
        zeroed = np.hstack([fours.reshape(len(rows), whole), rows[:, whole:]])
        tensor.CopyFrom(numpy_helper.from_array(zeroed.reshape(values.shape), tensor.name))
    onnx.save(model, target)


def _half(source: Path, target: Path) -> None:
    """All tensors in 16 bits; input and output stay float."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    graph, begin, end = model.graph, model.graph.input[0].name, model.graph.output[0].name
    for node in graph.node:
        node.input[:] = ["half_input" if name == begin else name for name in node.input]
        node.output[:] = ["half_output" if name == end else name for name in node.output]
    cast = helper.make_node("Cast", [begin], ["half_input"], to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", ["half_output"], [end], to=TensorProto.FLOAT)
    graph.node.insert(0, cast)
    graph.node.append(back)
    del graph.value_info[:]
    onnx.save(model, target)


def _four_bits(source: Path, target: Path) -> None:
    """Weights in 4 bits with one scale a channel, dequantized where they are used (opset 21)."""
    model = onnx.load(source)
    graph = model.graph
    added = []
    for tensor in _weights(model):
        values = numpy_helper.to_array(tensor)
        scale = np.abs(values.reshape(len(values), -1)).max(1).astype(np.float32) / 7
        codes = np.round(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
        name = tensor.name
        packed = helper.make_tensor(
            f"{name}_codes", TensorProto.INT4, codes.shape, codes.flatten().tolist()
        )
        graph.initializer.remove(tensor)
        graph.initializer.extend([packed, numpy_helper.from_array(scale, f"{name}_scale")])
        inputs = [f"{name}_codes", f"{name}_scale"]
        added.append(helper.make_node("DequantizeLinear", inputs, [name], axis=0))
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    model.opset_import[0].version = 21  # where INT4 begins; the other operators are the same
    model.ir_version = 10
    onnx.save(model, target)


if __name__ == "__main__":
    sys.exit(main())
