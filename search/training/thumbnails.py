"""What comparing thumbnails knows of the images: the least that a trained network should know."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from search.task import Split

SIDE, MOST_KNOWN, MOST_ASKED = 8, 2_000, 1_000


def nearest_labels(known: Split, asked: Split, seed: int = 0) -> tuple[NDArray[np.int64], ...]:
    """Indices of up to 1,000 asked images and, for each, the label of the nearest known one.

    Nearest by the squared difference of gray thumbnails of 8x8 pixels, each with zero mean and
    the same spread; of up to 2,000 known images. Both results are (n,).
    """
    chance = np.random.default_rng(seed)
    chosen = np.sort(chance.permutation(len(asked))[:MOST_ASKED])
    shown = np.sort(chance.permutation(len(known))[:MOST_KNOWN])
    ours, theirs = _thumbnails(known.images[shown]), _thumbnails(asked.images[chosen])
    nearest = (theirs @ ours.T).argmax(axis=1)  # of vectors of equal length
    return chosen, known.labels[shown][nearest]


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, C, H, W) to (N, 64)."""
    gray = images.mean(axis=1).astype(np.uint8)
    small = [
        np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
        for image in gray
    ]
    flat = np.stack(small).reshape(len(images), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit: NDArray[np.float32] = flat / np.maximum(length, 1e-6)
    return unit
