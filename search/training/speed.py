"""How long training takes here, from two steps of it."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from search.task import Task
from search.training.teacher import unasked
from search.training.train import Hardware, TrainSettings, Views, train
from spaces.technique import LossInputs
from spaces.techniques.distillation import DEFAULT, distillation_loss

# A network of so many multiply-accumulates is slow enough to be timed on few images; and on fewer
# still, on a processor, where a step of so many in all would take seconds and gigabytes.
HEAVY_MACS, HEAVY_BATCH, STEP_MACS = 2e8, 16, 2e10


def seconds_per_image(task: Task, model: nn.Module, macs: float, hardware: Hardware) -> float:
    """Seconds of a training step for each image; the model is not changed.

    ``macs`` are its multiply-accumulates for one image. The first step, which has kernels to
    prepare, is not counted.
    """
    on_cpu = hardware.device.type == "cpu"
    # A step on such a network needs gigabytes, and takes as long as three forward passes.
    if on_cpu and macs > STEP_MACS / 2:
        return 3 * _forward_s(task, copy.deepcopy(model))
    settings = TrainSettings(1.0)
    heavy = int(min(HEAVY_BATCH, max(2, STEP_MACS // macs))) if on_cpu else HEAVY_BATCH
    batch = heavy if macs > HEAVY_MACS else settings.batch_size
    count = min(len(task.data.train), 2 * batch)
    views = unasked(task)
    views = Views(views.images[:, :count], views.logits[:, :count], views.labels[:count])
    ends: list[float] = []

    def loss(inputs: LossInputs) -> torch.Tensor:
        return distillation_loss(inputs, **DEFAULT)

    def step(_done: float) -> None:
        ends.append(time.perf_counter())

    begun = time.perf_counter()
    settings = TrainSettings(1.0, batch_size=min(batch, max(count // 2, 1)))
    train(copy.deepcopy(model), views, task.data.preprocess, loss, settings, hardware, step)
    steps = len(ends)
    if steps < 2:
        return (ends[-1] - begun) / count
    return (ends[-1] - ends[0]) / (steps - 1) / settings.batch_size


def _forward_s(task: Task, model: nn.Module) -> float:
    """Seconds of one image without gradients, the second time."""
    image = torch.from_numpy(task.data.preprocess.apply(task.data.train.images[:1]))
    with torch.no_grad():
        model.eval()(image)
        begun = time.perf_counter()
        model(image)
    return time.perf_counter() - begun
