"""The seam: a technique says what may be varied, and binds a choice to a model.

One technique, one file. It is found by listing ``spaces.techniques`` (modules with a
``TECHNIQUE``) and the entry points ``compression_search.techniques``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hardware_profiles import HardwareProfile
from spaces.dimension import Dimension, ParamValue
from spaces.tracing.network import Network
from spaces.tracing.table import ShapeTable, Size

ENTRY_POINTS = "compression_search.techniques"
Setting = Mapping[str, Any]


@dataclass(frozen=True)
class PrepareContext:
    """What a technique may look at before training.

    ``images`` are preprocessed calibration images, float32 (N, C, H, W); ``labels`` int64 (N,).
    """

    network: Network
    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class LossInputs:
    """One batch in training: logits (N, classes), the teacher's, and labels int64 (N,).

    The features (N, F) are what the last layers read, the teacher's up to a factor; None where
    either is not known. See ``spaces.files.features``.
    """

    student: torch.Tensor
    teacher: torch.Tensor
    labels: torch.Tensor
    student_features: torch.Tensor | None = None
    teacher_features: torch.Tensor | None = None


@dataclass(frozen=True)
class ExportContext:
    """What a technique may look at when the file is written."""

    profile: HardwareProfile
    images: NDArray[np.float32]
    scratch: Path


@dataclass(frozen=True)
class Hooks:
    """What a bound choice does, each part optional.

    ``prepare`` changes the architecture in place before training; ``refine`` finishes what it
    began, after a first part of the training; ``constrain`` and ``release``
    put training-time constraints (fake quantization) on and take them off again; ``loss`` gives
    the training loss; ``export`` rewrites the exported file; ``input_size`` is the height and
    width of the network's input where they are not those of the data's images.
    """

    prepare: Callable[[nn.Module, PrepareContext], None] | None = None
    refine: Callable[[nn.Module, PrepareContext], None] | None = None
    constrain: Callable[[nn.Module, PrepareContext], None] | None = None
    release: Callable[[nn.Module], None] | None = None
    loss: Callable[[LossInputs], torch.Tensor] | None = None
    export: Callable[[Path, Path, ExportContext], None] | None = None
    input_size: Size | None = None


class Technique:
    """Base of all techniques; ``order`` says who prepares first (lower is earlier)."""

    name: ClassVar[str]
    order: ClassVar[int]
    opt_in: ClassVar[bool] = False  # only searched on request

    def dimensions(self, network: Network, profile: HardwareProfile) -> tuple[Dimension, ...]:
        """What may be varied; names start with the technique's name and a slash."""
        raise NotImplementedError

    def decode(
        self, params: Mapping[str, ParamValue], network: Network, profile: HardwareProfile
    ) -> Setting:
        """The canonical setting for values of this technique's dimensions; empty: no change."""
        raise NotImplementedError

    def encode(
        self, setting: Setting, network: Network, profile: HardwareProfile
    ) -> dict[str, ParamValue]:
        """Values that decode to ``setting``."""
        raise NotImplementedError

    def removes(self, setting: Setting) -> tuple[str, ...]:
        """Modules that the setting leaves out; what others planned for them is dropped."""
        return ()

    def without(self, setting: Setting, modules: tuple[str, ...]) -> Setting:
        """The canonical setting when ``modules``, which the plan leaves out, are gone."""
        return setting

    def reverted(self, setting: Setting, network: Network) -> Iterable[tuple[str, Setting]]:
        """Each choice that the setting makes, in words, and the setting without it."""
        return ((self.name, {}),)

    def reshape(self, setting: Setting, table: ShapeTable) -> ShapeTable:
        """The operators' shapes and widths under the setting."""
        return table

    def bind(self, setting: Setting) -> Hooks:
        """What the setting does to a model and its file."""
        raise NotImplementedError


def inside(layer: str, modules: tuple[str, ...]) -> bool:
    """Whether a layer is one of the modules or lies in one."""
    return any(layer == module or layer.startswith(f"{module}.") for module in modules)


@cache
def discover() -> Mapping[str, Technique]:
    """Every technique by name, in order of preparation."""
    import spaces.techniques

    found: list[Technique] = []
    for info in pkgutil.iter_modules(spaces.techniques.__path__):
        module = importlib.import_module(f"spaces.techniques.{info.name}")
        technique = getattr(module, "TECHNIQUE", None)
        if technique is not None:
            found.append(technique)
    found += [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    return {t.name: t for t in sorted(found, key=lambda t: (t.order, t.name))}
