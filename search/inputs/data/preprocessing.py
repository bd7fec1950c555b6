"""How images become the network's input: whose size, resizing, mean and deviation are used.

Size, first of these that is known: ``--preprocess``, ``--image-size``, what the data source
prefers, with weights and for photos what the model's source declares, the one size that all
images have, what the model's source declares.
Resizing: ``--preprocess``; with weights and for photos what the model's source declares; else
squashed bilinearly. Arrays are no photos: they are taken for what the network was trained on.
Mean and deviation: ``--preprocess``; with weights what the model's source declares for three
channels; else those of the training split.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware_profiles.regular_files import read_text
from search.errors import InputError
from search.inputs.data.photo import SQUASHED, Interpolation, Mode, Resize
from search.inputs.data.raw import Pixels
from search.inputs.models.declared import Declared
from search.task import PREPROCESS_VERSION, Preprocess

Side = Annotated[int, Field(ge=1, le=4096)]
Sides = Annotated[list[Side], Field(min_length=2, max_length=2)]
Mean = Annotated[float, Field(allow_inf_nan=False)]
Std = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ResizeFile(BaseModel):
    """How photos are resized: see ``Resize``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    mode: Mode
    sides: Sides | None = None
    interpolation: Interpolation = "bilinear"


class PreprocessFile(BaseModel):
    """What ``--preprocess FILE`` may state; a bundle's ``preprocess.json`` is such a file.

    Where the bundle's network has a smaller input than the images were ``stored`` with, a search
    begins with these again.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    version: Annotated[int, Field(ge=1, le=PREPROCESS_VERSION)] = PREPROCESS_VERSION
    size: Sides | None = None
    stored: Sides | None = None
    resize: ResizeFile | None = None
    channels: Annotated[int, Field(ge=1, le=3)] | None = None
    mean: Annotated[list[Mean], Field(min_length=1, max_length=3)] | None = None
    std: Annotated[list[Std], Field(min_length=1, max_length=3)] | None = None


def parse_image_size(text: str) -> tuple[int, int]:
    """Height and width of ``128`` or ``96x128``.

    Raises:
        InputError: something else, or a side of less than 1 or more than 4096.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower(), re.ASCII)
    if match:
        height, width = int(match[1]), int(match[2] or match[1])
        if 1 <= height <= 4096 and 1 <= width <= 4096:
            return height, width
    raise InputError(
        f"--image-size must be a side or HEIGHTxWIDTH of 1 to 4096 pixels, but got {text[:40]!r}; "
        f"write 128 or 96x128"
    )


def read_preprocess(path: Path) -> PreprocessFile:
    """The statements of a file.

    Raises:
        InputError: it can't be read, or breaks a rule.
    """
    try:
        return PreprocessFile.model_validate_json(read_text(path))
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise _broken_rule(error, path) from error
        raise InputError(
            f"--preprocess must be a readable JSON file, but {str(path)!r} is not "
            f"({getattr(error, 'strerror', None) or 'not UTF-8'}); check the path"
        ) from error


def _broken_rule(error: ValidationError, path: Path) -> InputError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    return InputError(
        f"--preprocess must hold size [height, width], mean and std (above 0, for pixels in "
        f"0..1) or resize (mode, sides, interpolation), but in {str(path)!r} {where}: "
        f"{first['msg']}; correct it"
    )


def choose_size(
    stated: PreprocessFile | None,
    asked: tuple[int, int] | None,
    preferred: tuple[int, int] | None,
    trusted: Declared | None,
    found: Iterable[tuple[int, int]],
    declared: Declared | None,
) -> tuple[int, int]:
    """Height and width of the stored images, in pixels.

    ``trusted`` is what comes before the sizes that are found among the images.

    Raises:
        InputError: two statements differ, or nothing says.
    """
    if stated is not None and (sides := stated.stored or stated.size) is not None:
        size = (sides[0], sides[1])
        if asked not in (None, size):
            raise InputError(
                f"--image-size and --preprocess must agree, but got {asked} and {size}; "
                f"leave one of them out"
            )
        return size
    sizes = sorted(set(found))
    native = sizes[0] if len(sizes) == 1 else None
    known = asked or preferred or (trusted.size if trusted else native)
    known = known or (declared.size if declared else None)
    if known is None:
        (low_h, low_w), (high_h, high_w) = sizes[0], sizes[-1]
        raise InputError(
            f"images must have one size, or --image-size must say to which they are resized, but "
            f"they have {len(sizes)} sizes from {low_h}x{low_w} to {high_h}x{high_w}; "
            f"add such as --image-size 224"
        )
    return known


def choose_resize(
    stated: PreprocessFile | None, trusted: Declared | None, size: tuple[int, int]
) -> Resize:
    """How images come to ``size``, with nothing left open."""
    if stated is not None and stated.resize is not None:
        given = stated.resize
        sides = None if given.sides is None else (given.sides[0], given.sides[1])
        chosen = Resize(given.mode, sides, given.interpolation)
    elif trusted is None or (stated is not None and stated.version == 1):
        chosen = SQUASHED
    else:
        chosen = trusted.resize_to(size)
    return replace(chosen, sides=chosen.sides or size)


def choose_preprocess(
    stated: PreprocessFile | None,
    declared: Declared | None,
    train: Pixels,
    resize: Resize = SQUASHED,
) -> Preprocess:
    """The preprocessing for images of the training split, uint8 (N, C, H, W).

    ``declared`` is None unless it is to be used before the training split's own figures;
    ``resize`` is how its photos came to their size.

    Raises:
        InputError: what is stated is for another number of channels.
    """
    channels = train.shape[1]
    mean, std = _moments(train)
    if declared is not None and len(declared.mean) == channels:
        mean, std = declared.mean, declared.std
    if stated is not None:
        mean = _stated(stated.mean, "mean", mean)
        std = _stated(stated.std, "std", std)
        if stated.channels not in (None, channels):
            raise InputError(
                f"--preprocess must be for as many channels as the network takes, {channels}, but "
                f"got {stated.channels}; correct the file"
            )
    return Preprocess((train.shape[2], train.shape[3]), channels, mean, std, resize)


def told(preprocess: Preprocess) -> str:
    """In a few words, for a person."""
    rule, stored = preprocess.resize, preprocess.stored or preprocess.size
    sides = rule.sides or stored
    how = "squashed to" if rule.mode == "squash" else "resized to cover"
    steps = [f"{how} {_by(sides)} ({rule.interpolation})"]
    if rule.mode == "crop" or sides != stored:
        steps.append(f"the center {_by(stored)} of it")
    if stored != preprocess.size:
        steps.append(f"made {_by(preprocess.size)}")
    for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        steps.append(f"{name} {' '.join(f'{value:.4g}' for value in values)}")
    return ", ".join(steps)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _stated(values: list[float] | None, name: str, other: tuple[float, ...]) -> tuple[float, ...]:
    if values is None:
        return other
    if len(values) not in (1, len(other)):
        raise InputError(
            f"--preprocess must have one {name} for each of {len(other)} channel(s), but got "
            f"{len(values)}; correct the file"
        )
    return tuple(values) if len(values) == len(other) else tuple(values) * len(other)


def _moments(train: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of pixels in 0..1, from a histogram: exact and small."""
    mean: list[float] = []
    std: list[float] = []
    values = np.arange(256) / 255
    for channel in range(train.shape[1]):
        counts = np.bincount(train[:, channel].ravel(), minlength=256)
        average = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - average) ** 2).sum() / counts.sum())
        # Six decimals: more would only record in which order this machine sums.
        mean.append(round(average, 6))
        std.append(round(max(variance**0.5, 1 / 255), 6))  # a constant channel has no deviation
    return tuple(mean), tuple(std)
