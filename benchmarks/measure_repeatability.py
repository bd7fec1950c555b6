"""Do two measurements of the same file on this host agree within their intervals?

Measures three files (ResNet18 at 32 px in float and int8, SqueezeNet at 64 px in float), each
beside the float ResNet18 as a search does, then all of them again, until every pair is done.
Two measurements agree when their intervals of the ratio overlap. At least 95 of 100 pairs
must; exit code 1 when fewer do. Takes about 7 minutes for 100 pairs; a busy machine is fine,
it makes the intervals wider.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torchvision
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from evaluators.latency.host import SEARCH_BUDGET_S, HostLatency, close_host_agent, measure

REQUIRED_SHARE = 0.95


def export(model: torch.nn.Module, size: int, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.randn(1, 3, size, size),),
            str(path),
            input_names=["input"],
            dynamo=False,
        )
    return path


class Noise(CalibrationDataReader):
    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        shape = (1, 3, size, size)
        self.batches = iter([{"input": rng.standard_normal(shape, np.float32)} for _ in range(8)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def make_files(folder: Path) -> dict[str, Path]:
    torch.manual_seed(0)
    logging.getLogger().setLevel(logging.ERROR)  # the quantiser advises at length
    resnet = export(torchvision.models.resnet18(num_classes=10), 32, folder / "resnet18.onnx")
    prepared, int8 = folder / "prepared.onnx", folder / "resnet18-int8.onnx"
    quant_pre_process(str(resnet), str(prepared))
    quantize_static(
        str(prepared), str(int8), Noise(32), per_channel=True, activation_type=QuantType.QUInt8
    )
    squeezenet = torchvision.models.squeezenet1_1(num_classes=10)
    return {
        "resnet18": resnet,
        "resnet18-int8": int8,
        "squeezenet": export(squeezenet, 64, folder / "squeezenet.onnx"),
    }


def log_reach(result: HostLatency) -> float:
    return float(np.log(result.interval.high / result.interval.value))


def within_difference(a: HostLatency, b: HostLatency) -> bool:
    """Stricter than overlap: the difference within the interval of the difference."""
    gap = abs(np.log(a.interval.value / b.interval.value))
    return bool(gap <= np.hypot(log_reach(a), log_reach(b)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100)
    pairs = parser.parse_args().pairs
    start = time.monotonic()
    found: dict[str, list[tuple[HostLatency, HostLatency]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder))
        names = list(files)
        baseline = files["resnet18"]
        for first in range(0, pairs, len(names)):
            turn = names[: pairs - first]
            once = [measure(files[name], baseline) for name in turn]
            again = [measure(files[name], baseline) for name in turn]
            for name, a, b in zip(turn, once, again, strict=True):
                found.setdefault(name, []).append((a, b))
    close_host_agent()

    print(
        f"{'file':16}{'pairs':>6}{'agree':>7}{'strict':>8}{'p50 ms':>9}{'ratio':>8}"
        f"{'+- %':>7}{'gap %':>7}{'noisy':>7}{'s':>6}"
    )
    everything = [pair for each in found.values() for pair in each]
    for name, each in [*found.items(), ("all", everything)]:
        results = [result for pair in each for result in pair]
        gaps = [abs(np.log(a.interval.value / b.interval.value)) for a, b in each]
        print(
            f"{name:16}{len(each):6}{sum(a.interval.overlaps(b.interval) for a, b in each):7}"
            f"{sum(within_difference(a, b) for a, b in each):8}"
            f"{np.median([r.p50_ms for r in results]):9.3f}"
            f"{np.median([r.interval.value for r in results]):8.4f}"
            f"{100 * np.median([r.interval.half_width for r in results]):7.2f}"
            f"{100 * np.median(gaps):7.2f}{sum(bool(r.noise) for r in results):7}"
            f"{np.median([r.seconds for r in results]):6.2f}"
        )
    print(
        "agree: intervals of the ratio overlap; strict: the difference lies within its own 95 % "
        "interval\n+- %: median half-width; gap %: median difference of the two; noisy: "
        "measurements that say so"
    )
    agree = sum(a.interval.overlaps(b.interval) for a, b in everything)
    figures = {
        "pairs": len(everything),
        "agree": agree,
        "agree_required": int(np.ceil(REQUIRED_SHARE * len(everything))),
        "strict": sum(within_difference(a, b) for a, b in everything),
        "median_half_width_pct": 100
        * float(np.median([r.interval.half_width for pair in everything for r in pair])),
        "noisy": sum(bool(r.noise) for pair in everything for r in pair),
        "budget_s": SEARCH_BUDGET_S,
        "seconds": time.monotonic() - start,
    }
    print(json.dumps(figures))
    return 0 if agree >= figures["agree_required"] else 1


if __name__ == "__main__":
    sys.exit(main())
