"""How much faster int8 files for ARM answer here with their activations moved to uint8.

    python benchmarks/evaluation.py [--size 224] [--images 32]

The exported int8 ResNet18 answers as it is and moved, in turns, on one thread and on two; prints
images a second, their ratio, and whether all bits are the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision

from evaluators.runtimes.onnxruntime import open_session
from evaluators.runtimes.shifted import with_unsigned_activations
from hardware_profiles import load_profile
from spaces.files.export import export_onnx
from spaces.files.qdq import layer_nodes, layer_of, quantize_file

ROUNDS = 5


def main() -> None:
    """Prints one line a number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="pixels (default 224)")
    parser.add_argument("--images", type=int, default=32, help="images a round (default 32)")
    args = parser.parse_args()
    profile = load_profile("raspberry-pi-4b")
    images = np.random.default_rng(0).standard_normal((args.images, 3, args.size, args.size))
    batch = images.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=10).eval()
        export_onnx(model, source, (3, args.size, args.size))
        quantize(source, target, batch[:4])
        moved = with_unsigned_activations(target)
        assert moved is not None
        for threads in (1, 2):
            sessions = [open_session(file, profile, threads) for file in (target, moved)]
            name = sessions[0].get_inputs()[0].name
            runs = [lambda s=s, n=name: s.run(None, {n: batch})[0] for s in sessions]
            same = np.array_equal(runs[0](), runs[1]())
            as_it_is, as_moved = (statistics.median(each) for each in in_turns(runs))
            print(
                f"{threads} thread(s): {args.images / as_it_is:.0f} images/s as it is, "
                f"{args.images / as_moved:.0f} moved: {as_it_is / as_moved:.1f}x; "
                f"{'the same bits' if same else 'OTHER BITS'}"
            )


def quantize(source: Path, target: Path, images: np.ndarray) -> None:
    """All layers in int8, as the search does it for ARM."""
    import onnx

    layers = sorted({layer_of(node) for node in layer_nodes(onnx.load(source))})
    runtime = load_profile("raspberry-pi-4b").runtime
    quantize_file(source, target, layers=layers, runtime=runtime, images=images)


def in_turns(runs: list[Callable[[], object]]) -> list[list[float]]:
    """Seconds of each run, by turns."""
    spent: list[list[float]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for seconds, run in zip(spent, runs, strict=True):
            begun = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begun)
    return spent


if __name__ == "__main__":
    main()
