"""What other tools make of a baseline that a search has trained, beside what the search made.

Takes the folder of a finished search on the embedded digits (`make search`), quantizes its
untouched FP32 file with every tool below that is installed, on the same calibration images and
with the tool's own defaults, and evaluates all files on the same test images: accuracy, latency
on this host (interleaved with FP32) and, where the emulator is installed, the estimate for a
Raspberry Pi 4B. Prints a table, then one JSON line. About two minutes.

    pip install nncf
    python benchmarks/other_tools.py --study runs/NAME
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from evaluators.latency.host import close_host_agent, measure
from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import emulator, load_profile
from hardware_profiles.counts import latency_ms
from search.inputs.loading import load_task

Images = NDArray[np.float32]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self.batches = iter([{"input": image[None]} for image in images])

    def get_next(self) -> dict[str, Images] | None:
        return next(self.batches, None)


def by_onnxruntime(source: Path, target: Path, images: Images) -> None:
    """As its documentation has it: QDQ, ranges from the smallest and largest value."""
    quantize_static(source, target, Reader(images), per_channel=True)


def by_onnxruntime_dynamic(source: Path, target: Path, images: Images) -> None:
    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)


def by_nncf(source: Path, target: Path, images: Images) -> None:
    nncf: Any = importlib.import_module("nncf")  # optional, and not among our own packages
    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset([{"input": image[None]} for image in images])
    onnx.save(nncf.quantize(onnx.load(source), dataset), target)


TOOLS: dict[str, tuple[str, Callable[[Path, Path, Images], None]]] = {
    "onnxruntime quantize_static": ("onnxruntime", by_onnxruntime),
    "onnxruntime quantize_dynamic": ("onnxruntime", by_onnxruntime_dynamic),
    "NNCF quantize": ("nncf", by_nncf),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True, help="folder of a finished search")
    args = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    metrics = json.loads((args.study / "best" / "metrics.json").read_text())
    data = load_task().data
    if data.fingerprint != metrics["data"]["fingerprint"]:
        parser.error("the study must have been made on the embedded digits with seed 0")
    calibration = data.preprocess.apply(data.calibration.images)
    images, labels = data.preprocess.apply(data.test.images), data.test.labels
    plans = {
        role: args.study / "plans" / metrics[role]["plan_id"] / "model.onnx"
        for role in ("baseline", "strongest_simple", "winner")
    }
    plans["winner"] = args.study / "best" / "model.onnx"
    profile = load_profile("raspberry-pi-4b")
    boards = [profile] if emulator.is_installed() else []
    with tempfile.TemporaryDirectory() as folder:
        files = {"untouched FP32": plans["baseline"]}
        for number, (title, (package, quantize)) in enumerate(TOOLS.items()):
            if importlib.util.find_spec(package) is None:
                print(f"{title}: not installed (pip install {package})", file=sys.stderr)
                continue
            file = Path(folder) / f"{number}.onnx"
            quantize(plans["baseline"], file, calibration)
            files[f"{title} {importlib.metadata.version(package)}"] = file
        origin = metrics["strongest_simple"]["origin"].removeprefix("baseline:")
        files[f"{origin}, trained (torch-pruning, then static)"] = plans["strongest_simple"]
        files["this search's winner"] = plans["winner"]
        table: dict[str, dict[str, Any]] = {}
        for title, file in files.items():
            right = int((logits(file, images, profile).argmax(1) == labels).sum())
            host = measure(file, plans["baseline"])
            figures = {
                "correct": right,
                "images": len(labels),
                "size_bytes": file.stat().st_size,
                "host_speedup": 1 / host.interval.value,
                "host_ms": host.p50_ms,
            }
            for board in boards:
                assert board.counts is not None
                counts = emulator.shared(board.counts.qemu_cpu).count(file).total
                figures[f"{board.name}_ms"] = latency_ms(board, counts).latency_ms
            table[title] = figures
            board_ms = "".join(f"{figures[f'{b.name}_ms']:11.3f} ms" for b in boards)
            print(
                f"{title:52}{right:5} of {len(labels)}{figures['size_bytes'] / 1e3:11.0f} kB"
                f"{figures['host_speedup']:9.2f}×{board_ms}",
                flush=True,
            )
        close_host_agent()
    print(json.dumps(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
