"""How far the analytic estimate is from the emulated one, on whole networks.

Torchvision networks and pruned ones, float and int8, at several image sizes; none of them is in
the sweep that the analytic kernels are fitted to. Prints a table, then one JSON line, and ends
with 1 when the mean error is above 10 % or the rank correlation below 0.98. Needs the emulator
and a quarter of an hour.

    python benchmarks/analytic_error.py [--target NAME ...] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
import torch_pruning as tp
from scipy.stats import spearmanr
from torch import nn
from torchvision import models

from evaluators.graph import walk
from evaluators.latency.analytic import operator_ms
from hardware_profiles import emulator, load_profile
from hardware_profiles.counts import latency_ms
from spaces.files.export import export_onnx
from spaces.files.qdq import layer_nodes, layer_of, quantize_file

MEAN_ALLOWED_PCT = 10.0
RANK_NEEDED = 0.98


@dataclasses.dataclass(frozen=True)
class Case:
    """A network at an image size; pruned by a ratio to multiples of ``round_to`` channels."""

    network: str
    pixels: int
    ratio: float = 0.0
    round_to: int = 1

    @property
    def name(self) -> str:
        pruned = f" -{self.ratio:.0%} by {self.round_to}" if self.ratio else ""
        return f"{self.network}{pruned} {self.pixels} px"

    def module(self) -> nn.Module:
        """The network with random weights; its biases differ, as after training."""
        torch.manual_seed(0)
        module: nn.Module = getattr(models, self.network)(weights=None).eval()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
            if isinstance(layer, nn.BatchNorm2d | nn.Conv2d) and layer.bias is not None:
                nn.init.normal_(layer.bias, 0, 0.1)
        if self.ratio:
            tp.pruner.BasePruner(
                module,
                torch.zeros(1, 3, self.pixels, self.pixels),
                tp.importance.GroupMagnitudeImportance(),
                pruning_ratio=self.ratio,
                round_to=self.round_to,
                ignored_layers=[m for m in module.modules() if isinstance(m, nn.Linear)],
            ).step()
        return module


CASES = (
    *(Case("resnet18", pixels) for pixels in (32, 64, 128, 224)),
    *(Case("resnet18", pixels, 0.5, 8) for pixels in (32, 64, 128)),
    *(Case("resnet18", pixels, 0.75, 1) for pixels in (32, 64, 128)),
    *(Case("mobilenet_v2", pixels) for pixels in (64, 128, 224)),
    Case("mobilenet_v2", 128, 0.5, 8),
    Case("mobilenet_v2", 128, 0.4, 1),
    *(Case("mnasnet0_5", pixels) for pixels in (64, 128, 224)),
    *(Case("squeezenet1_1", pixels) for pixels in (64, 128, 224)),
    *(Case("shufflenet_v2_x1_0", pixels) for pixels in (64, 128, 224)),
)


def files(case: Case, folder: Path) -> Iterator[tuple[int, Path]]:
    """The case as a float and as an int8 file, exported as a search exports."""
    float_file, int8_file = folder / "float.onnx", folder / "int8.onnx"
    export_onnx(case.module(), float_file, (3, case.pixels, case.pixels))
    yield 32, float_file
    layers = [layer_of(node) for node in layer_nodes(onnx.load(float_file))]
    images = np.random.default_rng(0).standard_normal((2, 3, case.pixels, case.pixels))
    runtime = load_profile("raspberry-pi-4b").runtime
    quantize_file(
        float_file, int8_file, layers=layers, runtime=runtime, images=images.astype(np.float32)
    )
    yield 8, int8_file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", nargs="+", default=["raspberry-pi-4b", "raspberry-pi-5"])
    parser.add_argument("--quick", action="store_true", help="no images above 64 pixels")
    args = parser.parse_args()
    profiles = [load_profile(target) for target in args.target]
    estimates: dict[str, list[tuple[float, float]]] = {profile.name: [] for profile in profiles}
    print(f"{'network':32} {'bits':>4} {'target':22} {'emulated':>9} {'analytic':>9} {'error':>7}")
    for case in CASES:
        if args.quick and case.pixels > 64:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for bits, file in files(case, Path(folder)):
                ops = walk(file)
                for profile in profiles:
                    assert profile.counts is not None
                    counts = emulator.shared(profile.counts.qemu_cpu).count(file).total
                    emulated = latency_ms(profile, counts).latency_ms
                    analytic = sum(operator_ms(profile, ops))
                    estimates[profile.name].append((emulated, analytic))
                    print(
                        f"{case.name:32} {bits:4} {profile.name:22} {emulated:9.2f} "
                        f"{analytic:9.2f} {analytic / emulated - 1:+7.1%}",
                        flush=True,
                    )
    result = {}
    for name, pairs in estimates.items():
        emulated, analytic = np.array(pairs).T
        errors = np.abs(analytic / emulated - 1) * 100
        result[name] = {
            "networks": len(pairs),
            "mean_error_pct": round(float(errors.mean()), 2),
            "largest_error_pct": round(float(errors.max()), 2),
            "rank_correlation": round(float(spearmanr(emulated, analytic)[0]), 4),
        }
    kept = all(
        each["mean_error_pct"] <= MEAN_ALLOWED_PCT and each["rank_correlation"] >= RANK_NEEDED
        for each in result.values()
    )
    print(json.dumps({"targets": result, "kept": kept}))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
