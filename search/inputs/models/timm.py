"""timm's classifiers by name, such as ``timm:efficientnet_lite0``; timm is optional."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from math import floor
from typing import TYPE_CHECKING, Any, get_args

from search.inputs.data.photo import Interpolation, Mode, Resize
from search.inputs.models.declared import Declared
from search.inputs.models.registered import check_spelled, unknown
from search.optional import import_optional

if TYPE_CHECKING:
    import torch

PREFIX = "timm"
USAGE = "timm:NAME"
EXAMPLE = "efficientnet_lite0"


def _timm() -> Any:
    return import_optional("timm", "a model of timm")


def check(argument: str) -> None:
    """Accepts the names of timm's models, with or without the tag of a set of weights.

    Raises:
        InputError: another name, or timm is not installed.
    """
    if find_spec(PREFIX) is None:
        _timm()  # says how to install it
    check_spelled(PREFIX, argument.partition(".")[0], EXAMPLE)


def declared(argument: str) -> Declared | None:
    """The input of timm's own weights, where there are any.

    Raises:
        InputError: it has no such model.
    """
    timm = _timm()
    if not timm.is_model(argument):
        raise unknown(PREFIX, argument, timm.list_models(), EXAMPLE)
    config = timm.get_pretrained_cfg(argument)
    return None if config is None else of_config(config.to_dict())


def of_config(config: Mapping[str, Any]) -> Declared:
    """What a ``pretrained_cfg`` of timm's states; what it leaves out is timm's own default.

    Its mode ``border``, which no classifier of timm 1.0 has, is taken for squashing.
    """
    height, width = config["input_size"][1:]
    kept = config.get("crop_pct") or 0.875
    mode: Mode = "crop" if config.get("crop_mode", "center") == "center" else "squash"
    stated: Any = config.get("interpolation")
    interpolation: Interpolation = stated if stated in get_args(Interpolation) else "bicubic"
    resize = Resize(mode, (floor(height / kept), floor(width / kept)), interpolation)
    return Declared((height, width), tuple(config["mean"]), tuple(config["std"]), resize)


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """The named architecture with fresh weights."""
    timm = _timm()
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels}
    config = timm.get_pretrained_cfg(argument)
    if config is not None and config.fixed_input_size:
        settings["img_size"] = size
    model: torch.nn.Module = timm.create_model(argument, pretrained=False, **settings)
    return model
