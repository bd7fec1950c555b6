"""Reads a file of trained weights without ever running code from it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from search.errors import InputError
from search.inputs.models.weights_file import REMEDY, check_weights_file
from search.inputs.own_code import one_line
from search.optional import import_optional

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")  # only used while training


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file of ``torch.save`` or safetensors, by the model's own names.

    A state dict inside a checkpoint (``state_dict``, ``model_state_dict``, ``model``) is taken
    out; the prefixes of ``DataParallel`` and ``torch.compile`` are taken off.

    Raises:
        InputError: the file is missing, damaged, holds more than tensors, or a NaN.
    """
    check_weights_file(path)
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(loaded, path)
    check_finite(state, repr(str(path)))
    return state


def check_finite(state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Looks for numbers that are none; ``origin`` is what messages call the weights' source.

    Raises:
        InputError: there is a NaN or an infinity.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"weights must be finite, but {name!r} in {origin} has NaN or infinity; "
                f"use a checkpoint from before the training diverged"
            )


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of here is refused just below
            loaded: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"weights must be tensors only, but {str(path)!r} holds pickled code or objects, "
            f"which are never run; {REMEDY}"
        ) from error
    except Exception as error:  # damaged bytes make the reader raise anything
        raise InputError(
            f"weights must be a readable file of torch.save or safetensors, but {str(path)!r} is "
            f"truncated, damaged or something else ({one_line(error)[:120]}); copy it again, or "
            f"{REMEDY}"
        ) from error
    return loaded


def _read_safetensors(path: Path) -> object:
    safetensors = import_optional("safetensors.torch", "a .safetensors file")
    try:
        return safetensors.load_file(path)
    except Exception as error:  # its own SafetensorError, OSError, ValueError
        raise InputError(
            f"weights must be a readable safetensors file, but {str(path)!r} is truncated or "
            f"damaged ({one_line(error)[:120]}); copy it again"
        ) from error


def _unwrap(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(
            f"weights must be a state dict, but {str(path)!r} holds a {type(loaded).__name__}"
            f"{' that is empty' if loaded == {} else ''}; {REMEDY}"
        )
    state: dict[str, torch.Tensor] = {}
    for name, tensor in loaded.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"a state dict must map names to tensors, but {name!r} in {str(path)!r} is a "
                f"{type(tensor).__name__}; {REMEDY}"
            )
        state[name] = tensor.detach()
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
