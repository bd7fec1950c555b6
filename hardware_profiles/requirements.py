"""What the project imports of other people's, and what is said where that isn't installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What pyproject.toml requires, by the names under which it is imported.
REQUIRED = frozenset(
    {
        "PIL",
        "jinja2",
        "matplotlib",
        "mlflow",
        "numpy",
        "onnx",
        "onnxruntime",
        "optuna",
        "pydantic",
        "rich",
        "scipy",
        "sklearn",
        "tomli_w",
        "torch",
        "torch_pruning",
        "torchvision",
    }
)


@contextmanager
def told_when_missing(program: str) -> Iterator[None]:
    """A block that imports and runs a command; ``program`` begins the line that is told.

    Where this Python lacks what ``pyproject.toml`` requires, that is one line on standard error
    and exit code 2. Any other module that is missing, one of the project's own included, is an
    error like all others.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in REQUIRED:
            raise
        print(
            f"{program}: the package {error.name} must be installed, but {sys.executable} does "
            f"not have it; activate the environment that `make search` sets up "
            f"(. .venv/bin/activate), or set up your own: {sys.executable} -m pip install -e .",
            file=sys.stderr,
        )
        sys.exit(2)
