"""A few images that stand for all: enough for an outline, whatever the size of the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.inputs.data.raw import RawData, RawSplit
from search.inputs.data.splitting import stratified_part

SAMPLE_BYTES = 64_000_000  # of all splits' pixels together
LEAST_IMAGES = 8  # of each split, however large they are


def sampled(raw: RawData, image_bytes: int) -> RawData:
    """The data with at most so many images in each split that little memory is needed.

    Classes keep their proportions. What names images or their groups is left out.
    """
    most = max(LEAST_IMAGES, SAMPLE_BYTES // image_bytes // len(raw.splits))
    splits = {}
    for name, split in raw.splits.items():
        count = len(split.images)
        labels = np.zeros(count, np.int64) if split.labels is None else split.labels
        chosen = stratified_part(labels, most, 0)
        kept = None if split.labels is None else labels[chosen]
        splits[name] = RawSplit(split.images.take(chosen), kept)
    return replace(raw, splits=splits, names={}, column=None)
