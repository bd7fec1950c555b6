"""torchvision's classifiers by name, such as ``torchvision:resnet18``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.inputs.data.photo import Resize
from search.inputs.models.declared import Declared
from search.inputs.models.registered import check_spelled, registered, unknown

if TYPE_CHECKING:
    import torch

PREFIX = "torchvision"
USAGE = "torchvision:NAME"
EXAMPLE = "resnet18"


def suggests(spec: str) -> bool:
    """Whether that is the name of a classifier of torchvision."""
    return spec in registered(PREFIX)


def check(argument: str) -> None:
    """Accepts the names of torchvision's classifiers.

    Raises:
        InputError: another name.
    """
    check_spelled(PREFIX, argument, EXAMPLE)


def declared(argument: str) -> Declared:
    """The input of torchvision's own weights.

    Raises:
        InputError: it has no such classifier.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if argument not in known:
        raise unknown(PREFIX, argument, known, EXAMPLE)
    preset = models.get_model_weights(argument).DEFAULT.transforms()
    side, shorter = preset.crop_size[0], preset.resize_size[0]
    resize = Resize("crop", (shorter, shorter), preset.interpolation.value)
    return Declared((side, side), tuple(preset.mean), tuple(preset.std), resize)


def build(argument: str, classes: int, channels: int, size: tuple[int, int]) -> torch.nn.Module:
    """The named architecture with fresh weights, without auxiliary heads."""
    from torchvision import models

    from search.inputs.models.channels import set_input_channels

    settings: dict[str, Any] = {"weights": None, "num_classes": classes}
    if argument in ("googlenet", "inception_v3"):
        settings |= {"aux_logits": False, "init_weights": True}
    if argument.startswith("vit_"):
        settings |= {"image_size": size[0]}
    if argument.startswith("maxvit"):
        settings |= {"input_size": size}
    model: torch.nn.Module = models.get_model(argument, **settings)
    set_input_channels(model, channels)
    return model
