"""Reads a file of trained weights without ever running code from it."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from search.errors import InputError
from search.inputs.models.peeling import Candidate, candidates
from search.inputs.models.weights_file import REMEDY, check_weights_file
from search.inputs.own_code import one_line
from search.optional import import_optional

AUXILIARY_HEADS = ("AuxLogits.", "aux1.", "aux2.")  # only used while training
LARGEST_EXPANDED = 2**30  # bytes of a tensor that repeats what little the file holds
PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_weights(path: Path) -> tuple[Candidate, ...]:
    """The state dicts in a file of ``torch.save`` or safetensors; ``fit`` chooses among them.

    Raises:
        InputError: the file is missing, damaged, holds no tensors, or odd ones.
    """
    check_weights_file(path)
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    origin = repr(str(path))
    offered = tuple(candidates(loaded))
    if not offered and isinstance(loaded, Mapping) and loaded:
        name, value = next(iter(loaded.items()))
        raise InputError(
            f"a state dict must map names to tensors, but {name!r} in {origin} is a "
            f"{type(value).__name__}; {REMEDY}"
        )
    if not offered:
        empty = " that is empty" if loaded == {} else ""
        raise InputError(
            f"weights must be a state dict, but {origin} holds a {type(loaded).__name__}{empty}"
            f"; {REMEDY}"
        )
    for candidate in offered:
        check_tensors(candidate.state, origin)
    return offered


def check_tensors(state: Mapping[str, torch.Tensor], origin: str) -> None:
    """Looks for what is no plain array of real numbers; ``origin`` names the weights' source.

    Raises:
        InputError: a tensor is of another kind.
    """
    for name, tensor in state.items():
        kind = _odd_kind(tensor)
        if kind:
            raise InputError(
                f"weights must be plain tensors of real numbers, but {name!r} in {origin} is "
                f"{kind}; convert it before it is saved, such as with .float()"
            )


def _odd_kind(tensor: torch.Tensor) -> str | None:
    """What is odd about a tensor; None for a plain one."""
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        return "not initialized (of a lazy layer): run one batch through the model"
    if tensor.is_meta:
        return "without data (on the meta device)"
    if tensor.is_quantized:
        return "quantized"
    if tensor.layout != torch.strided:
        return f"of the layout {tensor.layout}"
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point() and tensor.dtype not in PLAIN:
        return f"of {tensor.dtype}"
    nominal = tensor.numel() * tensor.element_size()
    if nominal > max(tensor.untyped_storage().nbytes(), LARGEST_EXPANDED):
        return f"expanded to {nominal / 1e9:,.0f} GB"
    return None


def check_finite(
    state: Mapping[str, torch.Tensor], origin: str, masks: Container[str] = ()
) -> None:
    """Looks for numbers that are none; ``masks`` are buffers that may hold infinities.

    Raises:
        InputError: there is a NaN or an infinity.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        wrong = torch.isnan(tensor) if name in masks else ~torch.isfinite(tensor)
        if bool(wrong.any()):
            raise InputError(
                f"weights must be finite, but {name!r} in {origin} has NaN or infinity; "
                f"use a checkpoint from before the training diverged"
            )


def masks_of(model: torch.nn.Module) -> frozenset[str]:
    """Buffers that are no statistics: attention masks are of minus infinity."""
    return frozenset(
        name for name, _ in model.named_buffers() if not name.endswith(("_mean", "_var"))
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
