"""Views of the training images: small shifts, and mirror images where they keep their meaning."""

from __future__ import annotations

import torch
from torch.nn import functional

SHIFT = 1 / 16  # of the image's size, at most, in each direction


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image (N, C, H, W) moved by its own small random offset; edges are repeated."""
    height, width = images.shape[2:]
    pad_y, pad_x = max(1, round(height * SHIFT)), max(1, round(width * SHIFT))
    padded = functional.pad(images.float(), (pad_x, pad_x, pad_y, pad_y), mode="replicate")
    count = len(images)
    top = torch.randint(0, 2 * pad_y + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * pad_x + 1, (count, 1), generator=generator)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    index = torch.arange(count)[:, None, None]
    moved = padded[index, :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).to(images.dtype)


def mirrored(
    images: torch.Tensor, axes: tuple[int, ...], generator: torch.Generator
) -> torch.Tensor:
    """Each image mirrored along each of ``axes`` (2: upside down, 3: left to right) or not."""
    for axis in axes:
        chosen = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(axis), images)
    return images
