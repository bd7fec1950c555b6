"""Whether an architecture, its weights and the images go together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from search.errors import InputError
from search.inputs.models.build import Build
from search.inputs.models.channels import first_convolution
from search.inputs.models.given import check_module
from search.inputs.models.peeling import Candidate, peel, unknown_prefix
from search.inputs.models.weights import AUXILIARY_HEADS, check_finite, masks_of
from search.inputs.own_code import one_line

SHOWN = 3  # names in a message
State = dict[str, torch.Tensor]


class Fitted(NamedTuple):
    """A recipe, weights for it, and what a person should know of how they were taken."""

    build: Build
    state: State | None
    notes: tuple[str, ...]


def fit(build: Build, offered: Collection[Candidate] | None, any_classes: bool = False) -> Fitted:
    """The recipe for as many input channels as the network has, and weights that load strictly.

    Gray images can be repeated for a network of three channels. With ``any_classes`` the recipe
    takes its number of classes from the weights. Of the weights that are ``offered`` those are
    taken that fit.

    Raises:
        InputError: the architecture can't be built, can't take the images, or doesn't fit the
            weights or the number of classes.
    """
    model = _try_build(build)
    notes: tuple[str, ...] = ()
    weights: Mapping[str, torch.Tensor] | None = None
    if offered is not None:
        peeled = peel(offered, model.state_dict().keys())
        weights = next(iter(offered)).state if peeled is None else peeled.state
        notes = (peeled.note,) if peeled is not None and peeled.note else ()
    fitted = replace(build, channels=_channels(build, model, weights))
    if weights is not None and any_classes:
        fitted = replace(fitted, classes=_classes(build, model.state_dict(), weights))
    if fitted != build:
        model = _try_build(fitted)
    shape = _output_shape(fitted, model)
    if any_classes and isinstance(shape, tuple) and len(shape) == 2:
        fitted = replace(fitted, classes=max(shape[1], 2))  # some models can't be told how many
    state: State | None = None
    if weights is not None and offered is not None:
        prefix = unknown_prefix(offered, model.state_dict().keys())
        state = _fit_weights(fitted, model.state_dict(), weights, prefix)
        check_finite(state, f"the weights for {fitted.spec!r}", masks_of(model))
    if shape != (1, fitted.classes):
        raise InputError(
            f"a model must give one score per class, (1, {fitted.classes}) for one image, but "
            f"{fitted.spec!r} gave {shape}; return the logits of the data's {fitted.classes} "
            f"classes"
        )
    return Fitted(fitted, state, notes)


def _try_build(build: Build) -> torch.nn.Module:
    """The architecture; the global random state is left as it was."""
    try:
        with torch.random.fork_rng(devices=[]):
            model = build()
        check_module(model, build.spec)
        return model
    except InputError:
        raise
    except Exception as error:  # of the architecture's own code: anything
        raise InputError(
            f"a model must be buildable for {_wanted(build)}, but {build.spec!r} raised "
            f"{one_line(error)[:200]}; correct it, or try another --image-size"
        ) from error


def _channels(
    build: Build, model: torch.nn.Module, weights: Mapping[str, torch.Tensor] | None
) -> int:
    """How many channels the network takes: as its weights say, else its first convolution.

    A stem that moves pixels into channels reads more; a network that runs on the images as they
    are takes their channels.
    """
    found = first_convolution(model)
    if found is None:
        return build.channels
    channels = found[1].in_channels
    kernel = None if weights is None else weights.get(f"{found[0]}.weight")
    if kernel is not None and kernel.ndim == 4 and found[1].groups == 1:
        channels = kernel.shape[1]
    if channels == build.channels or (channels == 3 and build.channels == 1):
        return channels
    if kernel is None and _runs(build, model):
        return build.channels
    if build.channels == 1 and _runs(replace(build, channels=3), model):
        return 3
    remedy = "convert the images to gray" if channels == 1 else "use one of 1 or 3 channels"
    raise InputError(
        f"a network must take as many channels as the images have, but {build.spec!r} takes "
        f"{channels} and the images have {build.channels}; {remedy}"
    )


def _fit_weights(
    build: Build,
    wanted: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    prefix: str | None,
) -> State:
    """The weights, complete and in the types of the architecture."""
    classes = _classes(build, wanted, weights)
    if classes != build.classes:
        raise InputError(
            f"weights and data must have the same number of classes, but the weights have "
            f"{classes} and the data {build.classes}; use data with the classes of the training"
        )
    # Checkpoints from before torch 0.4.1 have no such counters: those of the build are kept.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    extra = [name for name in weights if name not in wanted]
    mismatched = [
        f"{name} {_shape(weights[name])} for {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in wanted if name not in weights and name not in counters],
        "unexpected": [name for name in extra if not name.startswith(AUXILIARY_HEADS)],
        "of another shape": mismatched,
    }
    differences = [
        f"{kind} ({len(names)}): {', '.join(names[:SHOWN])}{' …' if len(names) > SHOWN else ''}"
        for kind, names in kinds.items()
        if names
    ]
    if differences:
        remedy = "name the --model (and --image-size) that they were trained with"
        if prefix is not None:
            remedy = f"without the prefix {prefix!r} most of them would fit: save that part"
        raise InputError(
            f"weights must fit the architecture, but for {build.spec!r} these keys don't: "
            f"{'; '.join(differences)}; {remedy}"
        )
    return {
        name: weights[name].to(tensor.dtype).clone() if name in weights else tensor
        for name, tensor in wanted.items()
    }


def _classes(
    build: Build, wanted: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]
) -> int:
    """The number of classes of the weights, or that of the recipe where it can't be told.

    Where the tensors whose first dimension differs all have the same two lengths, and the
    recipe's is its number of classes, they are the head.
    """
    pairs = {
        (weights[name].shape[0], tensor.shape[0])
        for name, tensor in wanted.items()
        if name in weights
        and weights[name].ndim == tensor.ndim >= 1
        and weights[name].shape[0] != tensor.shape[0]
    }
    found, built = pairs.pop() if len(pairs) == 1 else (-1, -1)
    return int(found) if built == build.classes else build.classes


def _runs(build: Build, model: torch.nn.Module) -> bool:
    """Whether the network takes an image of the recipe's channels and size."""
    try:
        with torch.no_grad():
            model(torch.zeros(1, build.channels, *build.size))
    except Exception:  # of the architecture's own code: anything
        return False
    return True


def _output_shape(build: Build, model: torch.nn.Module) -> tuple[int, ...] | str:
    """The shape of what the network makes of one black image; its type where it is no tensor."""
    image = torch.zeros(1, build.channels, *build.size)
    try:
        with torch.no_grad():
            output = model(image)
    except Exception as error:  # of the architecture's own code: anything
        raise InputError(
            f"a model must take an image of {_wanted(build)}, but {build.spec!r} raised "
            f"{one_line(error)[:200]}; try another --image-size"
        ) from error
    return tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__


def _wanted(build: Build) -> str:
    height, width = build.size
    return f"{build.classes} classes and {height}x{width}, {build.channels} channel(s)"


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(length) for length in tensor.shape) or "scalar"
