"""torchvision's data sets by name, ``torchvision:CIFAR10`` or ``torchvision:CIFAR10:FOLDER``.

They are looked for in ``FOLDER`` (without it: ``data``). What is missing is downloaded there by
torchvision, which checks its hashes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from search.errors import InputError
from search.inputs.data.encoded import THREADS
from search.inputs.data.items import Items, from_items
from search.inputs.data.raw import SPLIT_NAMES, RawData
from search.inputs.own_code import one_line
from search.inputs.sources import nearest

PREFIX = "torchvision"
USAGE = "torchvision:NAME[:FOLDER]"
DEFAULT_FOLDER = "data"
# The classification data sets, by the argument that chooses a split, and its values. Where
# torchvision has train and validation in one, as ``trainval``, that is divided here.
BY_TRAIN = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS")
BY_SPLIT: Mapping[str, tuple[str, ...]] = {
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "FGVCAircraft": ("train", "val", "test"),
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"),
    "GTSRB": ("train", "test"),
    "Imagenette": ("train", "val"),
    "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "val", "test"),
    "RenderedSST2": ("train", "val", "test"),
    "STL10": ("train", "test"),
    "SVHN": ("train", "test"),
    "StanfordCars": ("train", "test"),
}
WHOLE = ("Caltech256", "EuroSAT", "FakeData", "SEMEION")
KNOWN = (*BY_TRAIN, *BY_SPLIT, *WHOLE)


def suggests(spec: str) -> bool:
    """Whether that is the name of a data set of torchvision."""
    return spec in KNOWN


def check(argument: str) -> None:
    """Accepts the names of torchvision's data sets for classification.

    Raises:
        InputError: another name.
    """
    name = argument.partition(":")[0]
    if name not in KNOWN:
        close = nearest(name, KNOWN)
        hint = f"did you mean torchvision:{close}?" if close else "such as torchvision:CIFAR10"
        raise InputError(
            f"a data set's name must be one of torchvision's {len(KNOWN)} for classification, "
            f"but got {name!r}; {hint}"
        )


def load(argument: str) -> RawData:
    """The images of a data set of torchvision's.

    Raises:
        InputError: no such data set, or it is neither there nor can be downloaded.
    """
    check(argument)
    name, _, folder = argument.partition(":")
    choices: dict[str, dict[str, Any]] = {"train": {}}
    if name in BY_TRAIN:
        choices = {"train": {"train": True}, "test": {"train": False}}
    elif name in BY_SPLIT:
        choices = {split: {"split": split} for split in BY_SPLIT[name]}
    data_sets = {
        SPLIT_NAMES[split.replace("trainval", "train")]: _make(name, folder, choice)
        for split, choice in choices.items()
    }
    return from_items(name, data_sets, f"torchvision:{name}", THREADS)


def _make(name: str, folder: str, choice: dict[str, Any]) -> Items:
    from torchvision import datasets

    make = getattr(datasets, name)
    offered = {"root": folder or DEFAULT_FOLDER, "download": True}
    accepted = inspect.signature(make).parameters
    settings = {key: value for key, value in offered.items() if key in accepted} | choice
    try:
        data_set: Items = make(**settings)
    except (OSError, RuntimeError, ImportError, ValueError) as error:
        raise InputError(
            f"torchvision:{name} must be in {offered['root']!r} or downloadable, but torchvision "
            f"raised {one_line(error)[:160]}; download it elsewhere and name its folder: "
            f"torchvision:{name}:FOLDER"
        ) from error
    return data_set
