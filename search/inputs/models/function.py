"""A person's own architecture, ``package.module:function``.

The function is called by keyword with those of ``classes`` (or ``num_classes``), ``channels`` and
``size`` (height, width) that it names as parameters. It must give the same architecture each time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from search.errors import InputError
from search.inputs.own_code import check_module, import_function

if TYPE_CHECKING:
    import torch

PREFIX = ""
USAGE = "package.module:function"


def check(argument: str) -> None:
    """Accepts what names a module that is there; importing it is for later.

    Raises:
        InputError: it isn't there.
    """
    check_module(argument)


def declared(argument: str) -> None:
    """Nothing: a function says nothing about its input.

    Raises:
        InputError: there is no such function.
    """
    import_function(argument)


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """What the function gives.

    Raises:
        InputError: it isn't a module.
    """
    return called(import_function(argument), argument, classes, channels, size)


def called(
    function: Callable[..., Any], name: str, classes: int, channels: int, size: tuple[int, int]
) -> torch.nn.Module:
    """What a function gives that is called with those keywords that it names.

    Raises:
        InputError: it isn't a module.
    """
    offered = {"classes": classes, "num_classes": classes, "channels": channels, "size": size}
    import torch

    named = inspect.signature(function).parameters
    model = function(**{name: value for name, value in offered.items() if name in named})
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            f"a model's function must return a torch.nn.Module, but {name!r} returned a "
            f"{type(model).__name__}; return the model itself"
        )
    return model
