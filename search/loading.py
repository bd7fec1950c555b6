"""From what a person names (model, weights, data) to a task that is checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from search.data.raw import Pixels, RawData, SplitName
from search.data.splitting import (
    CALIBRATION_IMAGES,
    group_duplicates,
    missing_shares,
    split_indices,
    stratified_part,
)
from search.errors import InputError
from search.fingerprint import data_fingerprint
from search.models.build import Build
from search.sources import find_source
from search.task import DataSet, Metric, Preprocess, Split, Task

DEFAULT_MODEL = "torchvision:resnet18"
DEFAULT_DATA = "digits"


def load_task(
    model: str | None = None,
    weights: Path | None = None,
    data: str | None = None,
    *,
    seed: int = 0,
    metric: Metric = "accuracy",
) -> Task:
    """The task that the names stand for; nothing named means ResNet18 on digits.

    Raises:
        InputError: what is named can't be found, doesn't fit together or breaks a rule.
    """
    spec = model or DEFAULT_MODEL
    source, argument = find_source("search.models", spec, "a model")
    source.check(argument)
    if weights is not None:
        raise InputError("weights are not read yet")
    data_source, data_argument = find_source("search.data", data or DEFAULT_DATA, "data")
    raw: RawData = data_source.load(data_argument)
    assert raw.size is not None
    splits = _split(raw, raw.size, seed)
    preprocess = _normalization(splits["train"].images)
    part = stratified_part(splits["train"].labels, CALIBRATION_IMAGES, seed)
    calibration = Split(splits["train"].images[part], splits["train"].labels[part])
    data_set = DataSet(
        name=raw.name,
        train=splits["train"],
        calibration=calibration,
        validation=splits["validation"],
        test=splits["test"],
        classes=raw.classes,
        preprocess=preprocess,
        fingerprint=data_fingerprint(splits, preprocess),
        notes=raw.notes,
    )
    build = Build(spec, len(raw.classes), preprocess.channels, preprocess.size)
    return Task(spec, build, None, data_set, metric)


def _split(raw: RawData, size: tuple[int, int], seed: int) -> dict[SplitName, Split]:
    splits: dict[SplitName, Split] = {}
    for name, given in raw.splits.items():
        assert given.labels is not None
        splits[name] = Split(given.images.pixels(size), given.labels)
    shares = missing_shares(list(splits))
    whole = splits["train"]
    parts = split_indices(whole.labels, group_duplicates(whole.images), shares, seed)
    divided: Mapping[SplitName, Split] = {
        name: Split(whole.images[indices], whole.labels[indices])
        for name, indices in parts.items()
    }
    return {**splits, **divided}


def _normalization(train: Pixels) -> Preprocess:
    """Mean and standard deviation of each channel of the training split, of pixels in 0..1."""
    scaled = train.astype(np.float64) / 255
    # Six decimals: more would only record in which order this machine sums.
    mean = tuple(round(float(value), 6) for value in scaled.mean((0, 2, 3)))
    std = tuple(round(max(float(value), 1 / 255), 6) for value in scaled.std((0, 2, 3)))
    height, width = train.shape[2:]
    return Preprocess((height, width), train.shape[1], mean, std)
