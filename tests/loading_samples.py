"""Small models and images for the tests of loading."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

NETWORK = """
import torch

def network(classes, channels=1, width=4):
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, width, 3), torch.nn.BatchNorm2d(width), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, classes))
"""


def write_module(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str = NETWORK
) -> None:
    """Writes a module into ``folder``, makes that the current folder, forgets it afterwards."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(folder))])
    monkeypatch.delitem(sys.modules, name, raising=False)


def network(classes: int, channels: int = 1, width: int = 4) -> torch.nn.Sequential:
    """What the module's function builds."""
    names: dict[str, object] = {}
    exec(NETWORK, names)
    built: torch.nn.Sequential = names["network"](classes, channels, width)  # type: ignore[operator]
    return built


def random_pixels(count: int, seed: int = 0, shape: tuple[int, ...] = (8, 8)) -> NDArray[np.uint8]:
    """Different images."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def write_npz(path: Path, **arrays: NDArray[np.generic]) -> str:
    """The name of a .npz file of gray images of two classes, some arrays replaced."""
    given = {"images": random_pixels(40), "labels": np.arange(40) % 2} | arrays
    np.savez(path, **given)
    return f"npz:{path}"


def write_folder(
    root: Path, counts: Mapping[str, int], mode: str = "L", size: tuple[int, int] = (10, 8)
) -> Path:
    """A folder of PNGs with the given number in each class."""
    random = np.random.default_rng(len(str(root)))
    shape = (*size, 3) if mode == "RGB" else size
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = random.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root
