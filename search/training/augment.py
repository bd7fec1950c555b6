"""Views of the training images: small shifts, and mirror images where they keep their meaning."""

from __future__ import annotations

from collections.abc import Iterator

import torch

VIEWS = 6  # of each image, the first as it is
SHIFT = 1 / 16  # of the image's size, at most, in each direction
_AT_ONCE = 256  # images, so that hardly any memory is needed beside the views


def shift(images: torch.Tensor, into: torch.Tensor, generator: torch.Generator) -> None:
    """Each image (N, C, H, W) moved by its own small random offset; edges are repeated."""
    count, _, height, width = images.shape
    most_y, most_x = max(1, round(height * SHIFT)), max(1, round(width * SHIFT))
    down = torch.randint(0, 2 * most_y + 1, (count, 1), generator=generator) - most_y
    right = torch.randint(0, 2 * most_x + 1, (count, 1), generator=generator) - most_x
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    for part in _parts(count):
        some = images[part]
        index = torch.arange(len(some))[:, None, None]
        moved = some[index, :, rows[part, :, None], columns[part, None, :]]
        into[part] = moved.permute(0, 3, 1, 2)


def mirror(images: torch.Tensor, axes: tuple[int, ...], generator: torch.Generator) -> None:
    """Mirrors each image along each of ``axes`` (2: upside down, 3: left to right) or not."""
    for axis in axes:
        chosen = torch.rand(len(images), generator=generator) < 0.5
        for part in _parts(len(images)):
            some = images[part]
            some.copy_(torch.where(chosen[part, None, None, None], some.flip(axis), some))


def _parts(count: int) -> Iterator[slice]:
    return (slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE))
