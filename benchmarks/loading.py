"""Whether loading is ever the bottleneck: the share of a training step that batches take.

Images are decoded once, before the first trial, and held as 8-bit pixels; a step takes its batch
from there, normalizes it, and trains. Measured for an untouched ResNet18 and for one that is
narrowed to an eighth of its channels (of all trials, the fastest to train), on random images.
Decoding is set beside the training of one epoch: a search trains for hundreds.

Exits 1 when batches take more than a tenth of a step.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from search.inputs.data.folder import load
from search.task import Preprocess
from search.training.train import Hardware, TrainSettings, Views, train
from spaces.technique import LossInputs
from spaces.techniques.distillation import DEFAULT, distillation_loss
from spaces.tracing.network import first, narrow, trace

MOST = 0.10
IMAGES, CLASSES, SOURCE_SIDE = 512, 10, 256


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96], help="pixels of images")
    args = parser.parse_args()
    found = []
    for side in args.sides:
        for channels_left in (1.0, 0.125):
            found.append(measured(side, channels_left))
            print(
                "{side:4d} pixels, {left:5.1%} of channels: step {step_ms:7.2f} ms, of it batch "
                "{batch_ms:5.3f} ms ({share:.1%})".format(**found[-1])
            )
        decoded = decoding(side)
        found.append(decoded)
        print(
            "{side:4d} pixels: {images_per_s:.0f} JPEGs of {source} pixels a second are decoded "
            "and resized, once; an epoch of the narrow network trains {trained_per_s:.0f}".format(
                **decoded, source=SOURCE_SIDE, trained_per_s=64e3 / found[-2]["step_ms"]
            )
        )
    worst = max(each["share"] for each in found if "share" in each)
    print(json.dumps({"worst_share": worst, "most": MOST, "figures": found}))
    return int(worst > MOST)


def measured(side: int, channels_left: float) -> dict[str, float]:
    """Milliseconds of a step, and of taking and normalizing its batch."""
    import torchvision

    model = torchvision.models.resnet18(num_classes=CLASSES)
    shape = (3, side, side)
    if channels_left < 1:
        groups = trace(model, shape).groups
        narrow(
            model,
            shape,
            {g.name: first(g, round(g.channels * (1 - channels_left))) for g in groups},
        )
    images = torch.randint(0, 256, (1, IMAGES, *shape), dtype=torch.uint8)
    views = Views(images, torch.zeros(1, IMAGES, CLASSES), torch.randint(0, CLASSES, (IMAGES,)))
    preprocess = Preprocess((side, side), 3, (0.5,) * 3, (0.25,) * 3)
    hardware, settings = Hardware.detect(), TrainSettings(epochs=2.0)

    def loss(batch: LossInputs) -> torch.Tensor:
        return distillation_loss(batch, **DEFAULT)

    times: list[float] = []
    train(
        model,
        views,
        preprocess,
        loss,
        settings,
        hardware,
        lambda _: times.append(time.perf_counter()),
    )
    steps = np.diff(times)[1:]  # the first ones warm up
    begun = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    count = 0
    for _ in range(3):
        for batch in views.batches(settings.batch_size, generator):
            hardware.network_input(batch.images, preprocess)
            count += 1
    batch_ms = (time.perf_counter() - begun) / count * 1e3
    step_ms = float(np.median(steps)) * 1e3
    return {
        "side": side,
        "left": channels_left,
        "step_ms": step_ms,
        "batch_ms": batch_ms,
        "share": batch_ms / step_ms,
    }


def decoding(side: int) -> dict[str, float]:
    """Images a second from a folder of JPEG files, decoded and resized."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        for label in ("a", "b"):
            (Path(name) / label).mkdir()
            for index in range(IMAGES // 2):
                coarse = random.integers(0, 256, (16, 16, 3), np.uint8)
                image = Image.fromarray(coarse).resize((SOURCE_SIDE, SOURCE_SIDE))
                image.save(Path(name) / label / f"{index}.jpg")
        begun = time.perf_counter()
        load(name).splits["train"].images.pixels((side, side))
        return {"side": side, "images_per_s": IMAGES / (time.perf_counter() - begun)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
