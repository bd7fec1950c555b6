"""The untouched model: its weights, what it says of the training images, and its cache."""

from __future__ import annotations

import copy
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from hardware_profiles import atomic
from search.errors import InputError
from search.inputs.data.splitting import stratified_part
from search.inputs.own_code import one_line
from search.running.fingerprint import model_fingerprint
from search.task import BALANCED, Split, Task
from search.training.augment import VIEWS, mirror, shift
from search.training.step_clock import Pace
from search.training.train import Features, Hardware, TrainSettings, Views, train
from spaces.files.features import watched
from spaces.technique import LossInputs

BASELINE = TrainSettings(epochs=15, learning_rate=1e-3)
# A mirror image keeps its meaning where the model is hardly worse on it.
MIRROR_LOSS = 0.02
_BATCH = 128


def cache_folder() -> Path:
    """Where trained baselines are kept between searches."""
    root = os.environ.get("COMPRESSION_SEARCH_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "compression-search"


def baseline_weights(
    task: Task,
    seed: int,
    hardware: Hardware,
    progress: Callable[[float], None],
    pace: Pace | None = None,
    shortened: Path | None = None,
    training: TrainSettings = BASELINE,
) -> Mapping[str, torch.Tensor]:
    """The task's weights, or those of a model trained on its data (cached by content).

    ``training`` has the epochs and the learning rate.

    A training that ``pace`` cuts short is no use to other searches: its weights go to the file
    ``shortened``, from which a resumed search has them again. ``pace.share`` tells of it.

    Raises:
        InputError: the model can't be trained.
    """
    if task.weights is not None:
        return task.weights
    if pace is not None and shortened is not None and shortened.exists():
        kept = torch.load(shortened, weights_only=True)
        pace.share = kept["share"]
        cut: Mapping[str, torch.Tensor] = kept["weights"]
        return cut
    torch.manual_seed(seed)
    model = task.build()
    fresh = model_fingerprint(task, model.state_dict())
    balanced = task.metric in BALANCED
    of = f"1:{fresh}:{task.data.fingerprint}:{seed}:{training}{':balanced' if balanced else ''}"
    key = hashlib.sha256(of.encode())
    path = cache_folder() / "baselines" / f"{key.hexdigest()[:24]}.pt"
    if path.exists():
        try:
            state: Mapping[str, torch.Tensor] = torch.load(path, weights_only=True)
            return state
        except (RuntimeError, EOFError, ValueError):
            path.unlink()  # a write that was cut short: train again
    split = task.data.train
    blank = torch.zeros(VIEWS, len(split), len(task.data.classes))
    images = _views(split, (), seed)
    views = Views(images, blank, torch.from_numpy(split.labels), balanced=balanced)
    settings = replace(training, seed=seed)
    try:
        train(
            model,
            views,
            task.data.preprocess,
            _labels_only,
            settings,
            hardware,
            progress,
            pace=pace,
        )
    except RuntimeError as error:
        raise InputError(
            f"a model without weights must be trainable on the data, but that raised "
            f"{one_line(error)[:300]}; correct it, or add --weights FILE"
        ) from error
    if pace is not None and shortened is not None and pace.share < 1:
        _save({"weights": model.state_dict(), "share": pace.share}, shortened)
    else:
        _save(model.state_dict(), path)
    return model.state_dict()


def _save(content: object, path: Path) -> None:
    with atomic.replacing(path) as part:
        torch.save(content, part)


def teacher_views(
    task: Task,
    teacher: nn.Module,
    hardware: Hardware,
    seed: int,
    layer: str | None = None,
    until: float | None = None,
) -> Views:
    """Augmented views of the training images with the teacher's logits on each.

    ``layer`` is the network's last: what it reads is kept, too. Where all views aren't done by
    ``until``, on the monotonic clock, there are fewer views, then fewer images.
    """
    begun = time.monotonic()
    teacher = copy.deepcopy(teacher)  # it moves to the device that trains; others use the model
    axes = mirror_axes(task, teacher, hardware)
    image_s = (time.monotonic() - begun) / (3 * len(task.data.calibration))
    left_s = float("inf") if until is None else until - time.monotonic()
    split, views = affordable(task.data.train, left_s / image_s, seed)
    images = _views(split, axes, seed, views)
    answers = [_answers(task, teacher, hardware, view, layer) for view in images]
    logits = torch.stack([given for given, _ in answers])
    read = [features for _, features in answers if features is not None]
    features = Features(layer, _half(torch.stack(read))) if layer and read else None
    labels = torch.from_numpy(split.labels)
    return Views(images, logits, labels, features, task.metric in BALANCED)


def unasked(task: Task) -> Views:
    """The training images as they are, one view of each, before a teacher is asked: zeros."""
    split = task.data.train
    images = torch.from_numpy(np.ascontiguousarray(split.images))[None]
    logits = torch.zeros(1, len(split), len(task.data.classes))
    return Views(images, logits, torch.from_numpy(split.labels))


def affordable(split: Split, passes: float, seed: int) -> tuple[Split, int]:
    """The images and the number of views of each that so many passes of an image are enough for.

    At least one view of one batch, whatever it takes; fewer images are of all classes.
    """
    if passes >= len(split):
        return split, int(min(VIEWS, passes // len(split)))
    part = stratified_part(split.labels, max(_BATCH, int(passes)), seed)
    return Split(split.images[part], split.labels[part]), 1


def _half(features: torch.Tensor) -> torch.Tensor:
    """As float16, scaled by their largest value to fit."""
    return (features / features.abs().amax().clamp_min(1e-12)).half()


def mirror_axes(task: Task, teacher: nn.Module, hardware: Hardware) -> tuple[int, ...]:
    """The axes (2, 3) along which mirroring hardly costs the teacher accuracy."""
    split = task.data.calibration
    images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)

    def score(x: torch.Tensor) -> float:
        logits, _ = _answers(task, teacher, hardware, x, None)
        return float((logits.argmax(1) == labels).float().mean())

    plain = score(images)
    return tuple(axis for axis in (2, 3) if score(images.flip(axis)) >= plain - MIRROR_LOSS)


def _views(split: Split, axes: tuple[int, ...], seed: int, views: int = VIEWS) -> torch.Tensor:
    """The images as they are, then augmented ones: uint8 (views, N, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.from_numpy(np.ascontiguousarray(split.images))
    images = torch.empty((views, *plain.shape), dtype=torch.uint8)
    images[0] = plain
    for view in images[1:]:
        shift(plain, view, generator)
        mirror(view, axes, generator)
    return images


def _answers(
    task: Task, teacher: nn.Module, hardware: Hardware, pixels: torch.Tensor, layer: str | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Logits (N, classes) and, where ``layer`` is one of the teacher's, features (N, F)."""
    model = hardware.place(teacher).eval()
    logits, features = [], []
    with torch.no_grad(), hardware.autocast(), watched(model, layer) as watch:
        for start in range(0, len(pixels), _BATCH):
            x = hardware.network_input(pixels[start : start + _BATCH], task.data.preprocess)
            logits.append(model(x).float().cpu())
            if watch.features is not None:
                features.append(watch.features.float().cpu())
    return torch.cat(logits), torch.cat(features) if features else None


def _labels_only(batch: LossInputs) -> torch.Tensor:
    return functional.cross_entropy(batch.student, batch.labels)
