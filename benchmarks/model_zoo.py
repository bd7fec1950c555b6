"""Which architectures can be pruned, quantized and exported: tried, one after another.

Builds torchvision and timm classifiers with random weights, removes half of every group of
channels, exports, compares the file with the PyTorch model that it was made of, quantizes every
layer and evaluates the file, as a search would for a Raspberry Pi 4B. Each has a process and
--limit seconds of its own. Prints one line a model, then one JSON line, and ends with 1 when
more than 4 of 30 are not pruned and quantized, or one is not even quantized.

    python benchmarks/model_zoo.py [--only NAME ...] [--results FILE]

All of it takes about half an hour on one core. With --results what is in FILE is not done again.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluators import EvaluationContext, discover, evaluate
from evaluators.graph import walk
from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import load_profile
from search.inputs.models.build import Build
from spaces import CompressionPlan
from spaces.files.export import export_onnx
from spaces.space import bind, planned_table
from spaces.technique import ExportContext, PrepareContext
from spaces.techniques import pruning, quantization
from spaces.tracing.network import Network, first, narrow, silence, trace

CLASSES, IMAGES = 10, 16
LEAST_SHARE = 26 / 30
TOLERANCE = 1e-3  # of the spread of the logits; single precision, summed in another order
LEAST_REMOVED = 0.1  # of the multiply-accumulates, or nothing was pruned to speak of
LEAST_COSINE = 0.3  # of float and int8 logits: four deviations from what a wrong file has
TARGET = "raspberry-pi-4b"
# Small images, to be quick; larger ones where the architecture halves the map too often.
PIXELS = {"torchvision:inception_v3": 96}
ZOO = (
    *(
        f"torchvision:{name}"
        for name in (
            "alexnet",
            "convnext_tiny",
            "densenet121",
            "efficientnet_b0",
            "efficientnet_v2_s",
            "googlenet",
            "inception_v3",
            "mnasnet0_5",
            "mnasnet1_0",
            "mobilenet_v2",
            "mobilenet_v3_large",
            "mobilenet_v3_small",
            "regnet_x_400mf",
            "regnet_y_400mf",
            "resnet18",
            "resnet50",
            "resnext50_32x4d",
            "shufflenet_v2_x0_5",
            "shufflenet_v2_x1_0",
            "squeezenet1_1",
            "swin_t",
            "vgg11_bn",
            "vit_b_32",
            "wide_resnet50_2",
        )
    ),
    *(
        f"timm:{name}"
        for name in (
            "convnext_atto",
            "cspresnet50",
            "deit_tiny_patch16_224",
            "dla34",
            "efficientnet_lite0",
            "fbnetc_100",
            "ghostnet_100",
            "hrnet_w18_small",
            "legacy_seresnet18",
            "mixer_s16_224",
            "mobilenetv3_small_100",
            "mobilenetv4_conv_small",
            "mobilevit_xxs",
            "poolformer_s12",
            "repvgg_a0",
            "res2net50_26w_4s",
            "resnest14d",
            "swin_tiny_patch4_window7_224",
            "tinynet_e",
            "vit_tiny_patch16_224",
            "xcit_nano_12_p16_224",
        )
    ),
)
Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], help="models whose name contains one")
    parser.add_argument("--results", type=Path, help="a file of results to continue and keep")
    parser.add_argument("--limit", type=float, default=600, help="seconds a model (default 600)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(attempt(args.worker, PIXELS.get(args.worker, 64))))
        return 0
    chosen = [n for n in ZOO if not args.only or any(part in n for part in args.only)]
    kept: dict[str, Record] = {}
    if args.results and args.results.exists():
        kept = json.loads(args.results.read_text())
    print(f"{'model':42} {'groups':>7} {'MACs':>6} {'file − model':>12} {'int8':>7}  {'time':>6}")
    for name in chosen:
        if name not in kept:
            kept[name] = in_process(name, args.limit)
            if args.results:
                args.results.write_text(json.dumps(kept, indent=1))
        print(line(name, verdict(kept[name])), flush=True)
    records = [verdict(kept[name]) for name in chosen]
    whole = sum(record["pruned"] and record["quantized"] for record in records)
    quantized = sum(record["quantized"] for record in records)
    ok = whole >= LEAST_SHARE * len(records) and quantized == len(records)
    print(f"{len(records)} models: {whole} pruned and quantized, {quantized} quantized")
    why = {n: r["why"] for n, r in zip(chosen, records, strict=True) if r["why"]}
    figures = {"models": len(records), "pruned_and_quantized": whole, "quantized": quantized}
    print(json.dumps({**figures, "why": why, "ok": ok}))
    return 0 if ok else 1


def in_process(name: str, limit_s: float) -> Record:
    """What ``attempt`` finds, in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--worker", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return nothing(f"it took more than {limit_s:.0f} s", limit_s)
    if done.returncode != 0:
        errors = re.findall(r"^[\w.]+(?:Error|Exception): .*", done.stderr, re.MULTILINE)
        last = errors[-1] if errors else f"exit code {done.returncode}"
        return nothing(f"it ended with {last[:200]}", time.monotonic() - began)
    record: Record = json.loads(done.stdout.splitlines()[-1])
    return {**record, "seconds": round(time.monotonic() - began, 1)}


def nothing(why: str, seconds: float) -> Record:
    return {"failed": why, "seconds": round(seconds, 1)}


def line(name: str, record: Record) -> str:
    """One line of the table, and a second one that says why where something is not."""
    groups = f"{record['groups']}/{record['all_groups']}" if "groups" in record else "–"
    macs = f"−{record['removed_macs']:.0%}" if "removed_macs" in record else "–"
    apart = f"{record['apart']:.0e}" if "apart" in record else "–"
    int8 = f"{record['cosine']:.4f}" if "cosine" in record else "–"
    text = f"{name:42} {groups:>7} {macs:>6} {apart:>12} {int8:>7}  {record['seconds']:5.0f} s"
    return text + (f"\n    {record['why']}" if record["why"] else "")


def attempt(name: str, pixels: int) -> Record:
    """Builds, prunes, exports, quantizes and evaluates one architecture."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = (3, pixels, pixels)
    model = Build(name, CLASSES, 3, (pixels, pixels))()
    settle(model, shape)
    network = trace(model, shape)
    profile = load_profile(TARGET)
    images = smooth_images(IMAGES, shape, seed=1)
    labels = torch.arange(IMAGES) % CLASSES
    setting = pruning.uniform(network, profile, 0.5)
    plan = CompressionPlan(
        {"pruning": setting, "quantization": quantization.everywhere(network, 8)}
    )
    before, after = network.table.macs, planned_table(network, plan).macs
    record: Record = {
        "groups": len(network.groups),
        "all_groups": len(network.groups) + len(network.fixed),
        "fixed": sorted(set(network.fixed.values())),
        "layers": len(network.layers),
        "removed_macs": 1 - after / before,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    record["silenced"] = silenced_difference(model, network, setting.get("kept", {}), images)
    hooks = bind(plan)
    for hook in hooks:
        if hook.prepare:
            hook.prepare(model, PrepareContext(network, images, labels))
    recalibrate(model, shape)
    record["parameters_pruned"] = sum(p.numel() for p in model.parameters())
    record["macs_agree"] = trace(model, shape).table.macs == after
    with tempfile.TemporaryDirectory() as name_of_folder, torch.no_grad():
        folder = Path(name_of_folder)
        file = folder / "float.onnx"
        export_onnx(model, file, shape)
        expected = model(images).numpy()
        spread = float(expected.std(0).mean())
        found = logits(file, images.numpy(), profile)
        record["spread"] = spread
        record["apart"] = float(np.abs(found - expected).max()) / spread
        int8 = folder / "int8.onnx"
        (rewrite,) = (hook.export for hook in hooks if hook.export)
        rewrite(file, int8, ExportContext(profile, images.numpy(), folder))
        record["cosine"] = cosine(logits(int8, images.numpy(), profile), found)
        names = {layer.name for layer in network.layers}
        run = {op.name.partition(":")[0].partition("#")[0] for op in walk(int8) if op.bits == 8}
        record["int8_layers"] = len(names & run)
        record["not_int8"] = sorted(names - run)[:8]
        context = EvaluationContext(profile, images.numpy(), labels.numpy(), folder)
        cheap = [e for e in discover() if e.cheap and e.applies(context)]
        figures = evaluate(int8, context, cheap)
        record["latency_ms"] = figures.value("latency_ms")
        record["size_bytes"] = figures.value("size_bytes")
    return record


def smooth_images(count: int, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Random images (count, C, H, W) that differ as photographs do: in color and coarse shape.

    Images of noise are all alike once a network has averaged them.
    """
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, *shape)
    for cells in (1, 3, 8):
        coarse = torch.randn(count, channels, cells, cells, generator=generator)
        images += nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return images + 0.3 * torch.randn(count, *shape, generator=generator)


def settle(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Scales and statistics like a trained model's, so that the logits depend on the image.

    Fresh layer scales and last norms of blocks are (almost) zero, and without norms the signal
    fades: both would hide whatever goes wrong inside. Layers are scaled to outputs of unit
    variance one after another (Mishkin & Matas 2016), then batch norms average two batches.
    """
    for name, parameter in model.named_parameters():
        if (parameter.dim() == 1 and not name.endswith("bias")) or "layer_scale" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if not layer.weight.any():
            nn.init.normal_(layer.weight)  # heads that begin with zeros
    with torch.no_grad():
        handles = [layer.register_forward_hook(_to_unit_variance) for layer in layers]
        recalibrate(model, shape)
        for handle in handles:
            handle.remove()
    recalibrate(model, shape)


def recalibrate(model: nn.Module, shape: tuple[int, int, int]) -> None:
    """Batch norms average two batches anew, as a search does after pruning; then eval mode."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # a plain average
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        for batch in smooth_images(2 * IMAGES, shape, seed=0).chunk(2):
            model(batch)
        for norm in norms:  # channels that hardly vary are not blown up, nor is rounding in them
            assert norm.running_var is not None
            norm.running_var.clamp_(min=float(norm.running_var.mean()))
    model.eval()


def _to_unit_variance(layer: nn.Module, _: Any, out: torch.Tensor) -> torch.Tensor:
    scale = out.std()
    for parameter in layer.parameters(recurse=False):
        parameter.div_(scale)
    return out / scale


def silenced_difference(
    model: nn.Module, network: Network, kept: Mapping[str, int], images: torch.Tensor
) -> float | None:
    """How far the narrowed model is from the whole one whose removed channels give zeros.

    As a share of the logits' spread: a channel that is read by another layer than the one it
    was removed from shows here, though the model runs. None where zeros are not the same as
    nothing, which is so for the mean of a layer or group norm.
    """
    if not kept:
        return None
    removed = {
        name: first(network.group(name), network.group(name).channels - width)
        for name, width in kept.items()
    }
    images = images.double()
    whole, narrowed = copy.deepcopy(model).double(), copy.deepcopy(model).double()
    narrow(narrowed, network.input_shape, removed)
    if not silence(whole, network.input_shape, removed):
        return None
    with torch.no_grad():
        silenced = whole(images)
        difference = (narrowed(images) - silenced).abs().max()
        return float(difference / silenced.std(0).mean())


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Of two sets of logits (N, classes), each without the mean over the images."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def verdict(record: Record) -> Record:
    """The record with what it amounts to, and why where that is less than all.

    Rounding to int8 grows on its way through random layers, most of all where batch norms take
    the mean away, and what a search does against it is training. So the logits of the int8 file
    only have to be those of the float file beyond chance.
    """
    if "failed" in record:
        return {**record, "pruned": False, "quantized": False, "why": record["failed"]}
    unpruned, unquantized = [], []
    if not record["groups"]:
        unpruned.append(f"not pruned: {', '.join(record['fixed'])}")
    elif record["removed_macs"] < LEAST_REMOVED:
        unpruned.append(
            f"half of every prunable group is {record['removed_macs']:.0%} of the work"
            + (f"; of the others: {', '.join(record['fixed'])}" if record["fixed"] else "")
        )
    if record["apart"] > TOLERANCE:
        unpruned.append(f"the file's logits differ from the model's by {record['apart']:.1e}")
    if (record["silenced"] or 0) > TOLERANCE:
        unpruned.append(f"narrowing disconnects channels ({record['silenced']:.1e})")
    if not record["macs_agree"]:
        unpruned.append("the table of shapes is not that of the narrowed model")
    if record["cosine"] < LEAST_COSINE:
        unquantized.append(f"the int8 file's logits turn by cosine {record['cosine']:.2f}")
    if record["int8_layers"] < record["layers"]:
        unquantized.append(f"{record['int8_layers']} of {record['layers']} layers run in int8")
    return {
        **record,
        "pruned": not unpruned,
        "quantized": not unquantized,
        "why": "; ".join([*unpruned, *unquantized]),
    }


if __name__ == "__main__":
    sys.exit(main())
