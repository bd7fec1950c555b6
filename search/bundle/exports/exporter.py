"""The seam: an exporter writes the winner in another format, and runs what it wrote."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from search.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from hardware_profiles import HardwareProfile


class ExportError(Exception):
    """A format can't hold this model; the message says why in one sentence."""


@dataclass(frozen=True)
class Source:
    """The winner. ``model`` has its float weights and its pruned shape, in eval mode.

    ``quantized`` are the layers that run in 8 bits, over ranges found by ``ranges`` on
    ``images``: calibration images, preprocessed, (N, C, H, W).
    """

    model: nn.Module
    onnx: Path
    quantized: tuple[str, ...]
    ranges: str
    images: NDArray[np.float32]
    profile: HardwareProfile

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        _, channels, height, width = self.images.shape
        return channels, height, width


class Exporter(Protocol):
    """One format. ``file`` is what it writes, ``seconds`` about how long that takes."""

    name: str  # what ``--export`` takes
    title: str
    file: str
    seconds: float
    runtime: str  # what ``outputs`` runs it with

    def check(self) -> None:
        """Looks whether it can be used, before the search begins.

        Raises:
            InputError: a package is missing.
        """
        ...

    def write(self, source: Source, target: Path) -> None:
        """Writes the file, and what goes with it, into a folder of its own.

        Raises:
            ExportError: the format can't hold this model.
        """
        ...

    def outputs(
        self, file: Path, images: NDArray[np.float32], threads: int
    ) -> NDArray[np.float32]:
        """What the format's own runtime makes of images (N, C, H, W): (N, classes)."""
        ...


@dataclass(frozen=True)
class Exported:
    """A format, and what became of it: the figures of its file, or why there is none.

    ``value`` is the search's metric on the test images, ``agreement`` the share of them in which
    the file sees the class that the ONNX file sees. ``file`` is relative to the study's folder.
    """

    name: str
    title: str
    file: Path | None = None
    size_bytes: int | None = None
    value: float | None = None
    agreement: float | None = None
    images: int | None = None
    how: str | None = None
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in ``metrics.json``."""
        return asdict(self) | {"file": self.file and self.file.name}


@cache
def exporters() -> Mapping[str, Exporter]:
    """Every exporter by name."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    is_one = re.compile(r"^EXPORTER\b", re.MULTILINE)
    names = [file.stem for file in files if is_one.search(file.read_text(encoding="utf-8"))]
    found = [importlib.import_module(f"search.bundle.exports.{name}").EXPORTER for name in names]
    return {exporter.name: exporter for exporter in found}


def check_exports(names: Sequence[str]) -> tuple[str, ...]:
    """The formats that were asked for, each once and ready to be used.

    Raises:
        InputError: there is none of that name, or a package is missing.
    """
    known = exporters()
    for name in names:
        if name not in known:
            raise InputError(
                f"--export must be one of {', '.join(known)}, but got {name!r}; the ONNX file is "
                f"always handed over"
            )
        known[name].check()
    return tuple(dict.fromkeys(names))
