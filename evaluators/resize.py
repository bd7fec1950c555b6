"""Images made smaller, for files that take smaller inputs than the images are stored with.

Both axes one after the other, each a product with one matrix: a triangle as wide as two pixels
of the result around the center of each, as Pillow's and torchvision's antialiased bilinear
resizing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]  # height, width


@lru_cache(maxsize=32)
def resize_weights(before: int, after: int) -> NDArray[np.float32]:
    """Weights (after, before), each row summing to one, from one side's length to a smaller.

    Raises:
        ValueError: the new side is not the smaller one.
    """
    if not 0 < after <= before:
        raise ValueError(f"images must be made smaller, but {before} pixels were to be {after}")
    scale = before / after
    centers = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centers[:, None]) / scale
    weights = np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    found: NDArray[np.float32] = weights.astype(np.float32)
    return found


def resized(images: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Images (N, C, H, W) at (N, C, *size); unchanged where they have that size.

    Raises:
        ValueError: the images are smaller than ``size``.
    """
    height, width = images.shape[2:]
    if (height, width) == size:
        return images
    rows, columns = resize_weights(height, size[0]), resize_weights(width, size[1])
    found: NDArray[np.float32] = np.ascontiguousarray(rows @ images @ columns.T)
    return found


def resized_pixels(pixels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Stored images (N, C, H, W) at (N, C, *size), rounded to whole gray levels."""
    if pixels.shape[2:] == size:
        return pixels
    found: NDArray[np.uint8] = np.rint(resized(pixels.astype(np.float32), size)).astype(np.uint8)
    return found


def fitted(images: NDArray[np.float32], session: Any) -> NDArray[np.float32]:
    """Images (N, C, H, W) at the size that an onnxruntime session's input states."""
    shape = session.get_inputs()[0].shape
    stated = len(shape) == 4 and all(isinstance(side, int) for side in shape[2:])
    return resized(images, (shape[2], shape[3])) if stated else images
