"""An exported program, ``FILE.pt2``: it brings its weights, and is quantized only."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from search.errors import InputError
from search.inputs.models.declared import Brought
from search.inputs.own_code import one_line

if TYPE_CHECKING:
    import torch

    from search.inputs.models.interpreter import Program

PREFIX = "pt2"
USAGE = "FILE.pt2"
SUFFIX = ".pt2"  # names it without the prefix
NOTE = (
    "an exported program has no modules left to prune: it is only quantized (with the "
    "architecture and --weights it would be pruned, too)"
)
TOLERANCE = 1e-3  # relative to the largest score


def check(argument: str) -> None:
    """Accepts the name of a file.

    Raises:
        InputError: there is none.
    """
    if not Path(argument).is_file():
        raise InputError(f"a .pt2 model must be a file, but {argument!r} is not; check the path")


def declared(argument: str) -> None:
    """Nothing: a program doesn't say how its images were normalized."""


def brought(argument: str) -> Brought:
    """The program's own weights, and the size of its images where it is fixed.

    Raises:
        InputError: the file can't be used.
    """
    program, size = _read(str(Path(argument).resolve()))
    return Brought(program.state_dict(), size, NOTE, str(Path(argument).resolve()))


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """The program as a module, with its own weights.

    Raises:
        InputError: the file can't be used, or not with several images at a time.
    """
    program, _ = _read(argument)
    _check_batches(program, channels, size, argument)
    return copy.deepcopy(program)


@lru_cache(maxsize=1)
def _read(path: str) -> tuple[Program, tuple[int, int] | None]:
    from search.inputs.models.archive import REMEDY, read_archive
    from search.inputs.models.interpreter import Program

    archive = read_archive(Path(path))
    sizes = archive.sizes.get(archive.image, ())
    if len(sizes) != 4:
        raise InputError(
            f"a .pt2 model must take images (N, C, H, W), but {path!r} takes {len(sizes)} "
            f"dimensions; export a classifier of images"
        )
    try:
        program = Program(archive, path).eval()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(
            f"a .pt2 model must be a file of torch.export.save, but {path!r} can't be made a "
            f"module ({one_line(error)[:120]}); {REMEDY}"
        ) from error
    height, width = sizes[2:]
    return program, None if height is None or width is None else (height, width)


def _check_batches(program: Program, channels: int, size: tuple[int, int], path: str) -> None:
    """Two images at a time must give the scores of each alone.

    Raises:
        InputError: they don't, or the program doesn't run.
    """
    import torch

    images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        alone = torch.cat([program(image[None]) for image in images])
        try:
            together = program(images)
        except RuntimeError as error:
            raise InputError(
                f"a .pt2 model must take any number of images, but {path!r} was exported for one "
                f"number ({one_line(error)[:80]}); export it with dynamic_shapes=({{0: "
                f"torch.export.Dim.AUTO}},)"
            ) from error
    if together.shape != alone.shape or not torch.allclose(
        together, alone, rtol=0, atol=TOLERANCE * float(alone.abs().max())
    ):
        raise InputError(
            f"a .pt2 model must give an image the same scores whatever others are with it, but "
            f"{path!r} doesn't; export it with dynamic_shapes=({{0: torch.export.Dim.AUTO}},)"
        )
