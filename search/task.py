"""What is compressed: the person's model, their images, and how the two meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from search.inputs.data.photo import SQUASHED, Resize
from search.inputs.data.raw import SplitName

if TYPE_CHECKING:
    import torch

PREPROCESS_VERSION = 2  # 1 had neither resize, squashing bilinearly, nor stored
# Metrics in which rare classes count as much as others: training sees them as often, too.
# (Digits with five classes of 100 images and five of 8, mean of three seeds: balanced accuracy
# .40 as the images come, .54 so; macro F1 .36 and .48.)
BALANCED = frozenset({"balanced_accuracy", "f1"})
Metric = Literal["accuracy", "balanced_accuracy", "f1", "agreement"]


@dataclass(frozen=True)
class Preprocess:
    """From stored pixels to the network's input: ``(pixel / 255 - mean) / std`` per channel.

    Images are stored with ``channels`` and at ``size`` (height, width) already, so that this is
    all that training, evaluation and the bundle's ``verify.py`` have to do. Where a plan has a
    smaller input, its ``size`` is that, and larger images are made smaller.

    ``resize`` is how photos came to be stored, for the bundle's ``example.py``; ``stored`` is at
    which size, None where that is the input's.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = SQUASHED
    stored: tuple[int, int] | None = None

    def apply(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Network input, float32 (N, C, H, W), of pixels, uint8 (N, C, H, W)."""
        from evaluators.resize import resized  # brings scipy along, for which typos needn't wait

        shape = (1, self.channels, 1, 1)
        mean = np.asarray(self.mean, np.float32).reshape(shape)
        std = np.asarray(self.std, np.float32).reshape(shape)
        scaled = pixels.astype(np.float32)
        scaled /= np.float32(255)  # in place: there may be many images
        scaled -= mean
        scaled /= std
        return np.ascontiguousarray(resized(scaled, self.size), dtype=np.float32)

    def with_input(self, size: tuple[int, int]) -> Preprocess:
        """The same for a network whose input has that size, which may be smaller."""
        stored = self.stored or self.size
        return replace(self, size=size, stored=None if size == stored else stored)

    def to_json(self) -> dict[str, Any]:
        """A versioned JSON object; ``from_json`` gives an equal value back."""
        return {"version": PREPROCESS_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocess:
        """The value that ``to_json`` wrote.

        Raises:
            ValueError: another version.
        """
        if data.get("version") != PREPROCESS_VERSION:
            raise ValueError(
                f"a preprocessing's version must be {PREPROCESS_VERSION}, "
                f"but got {data.get('version')!r}"
            )
        mean, std, rule = tuple(data["mean"]), tuple(data["std"]), data["resize"]
        resize = Resize(rule["mode"], _size(rule["sides"]), rule["interpolation"])
        height, width = data["size"]
        size = (height, width)
        return cls(size, data["channels"], mean, std, resize, _size(data["stored"]))


def _size(sides: Sequence[int] | None) -> tuple[int, int] | None:
    return None if sides is None else (sides[0], sides[1])


@dataclass(frozen=True)
class Split:
    """Images, uint8 (N, C, H, W), and their classes, int64 (N,).

    ``groups``, int64 (N,), are shared by images that are not independent; None where all are.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.integer[Any]]) -> Split:
        """The images at ``indices``."""
        groups = None if self.groups is None else self.groups[indices]
        return Split(self.images[indices], self.labels[indices], groups)


@dataclass(frozen=True)
class DataSet:
    """Images in four disjoint splits (calibration is a part of train).

    Training uses ``train``; quantization ranges and sensitivity ``calibration``; the search is
    guided by ``validation``; ``test`` is only ever seen by the final proof.
    """

    name: str
    train: Split
    calibration: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    preprocess: Preprocess
    fingerprint: str  # SHA-256 over pixels, labels and normalization
    notes: tuple[str, ...] = ()  # warnings for the person, such as a possible leak
    counts: Mapping[SplitName, int] | None = None  # of all images, where these are a sample

    def count(self, split: SplitName) -> int:
        """How many images a split has, also where a few stand for all."""
        return len(getattr(self, split)) if self.counts is None else self.counts[split]


@dataclass(frozen=True)
class Task:
    """The job. ``build`` makes the untouched architecture with fresh weights, in eval mode.

    ``weights`` is the trained state dict, or None where the project has to train the baseline
    itself (the embedded default). ``model_spec`` is what the person wrote; ``fingerprint``
    identifies architecture and weights.
    """

    model_spec: str
    build: Callable[[], torch.nn.Module]
    weights: Mapping[str, torch.Tensor] | None
    data: DataSet
    metric: Metric = "accuracy"
