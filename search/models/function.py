"""A person's own architecture, ``package.module:function``.

The function is called by keyword with those of ``classes`` (or ``num_classes``), ``channels`` and
``size`` (height, width) that it names as parameters. It must give the same architecture each time.
"""

from __future__ import annotations

import inspect

import torch

from search.errors import InputError
from search.functions import import_function

PREFIX = ""
USAGE = "package.module:function"


def check(argument: str) -> None:
    """Accepts what names a function that can be imported.

    Raises:
        InputError: it doesn't.
    """
    import_function(argument)


def declared(argument: str) -> None:
    """Nothing: a function says nothing about its input."""


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """What the function gives.

    Raises:
        InputError: it isn't a module.
    """
    function = import_function(argument)
    offered = {"classes": classes, "num_classes": classes, "channels": channels, "size": size}
    named = inspect.signature(function).parameters
    model = function(**{name: value for name, value in offered.items() if name in named})
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"a model's function must return a torch.nn.Module, but {argument!r} returned a "
            f"{type(model).__name__}; return the model itself"
        )
    return model
