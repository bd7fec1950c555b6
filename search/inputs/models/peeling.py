"""The network's weights in what a training script saved: wrappers and prefixes are peeled off.

Wrappers of modules put prefixes before the names (``module.`` of DataParallel and AveragedModel,
``_orig_mod.`` of torch.compile, ``model.`` of Lightning), in any order; checkpoints hold several
state dicts beside other things. Which is meant is seen by what fits the architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch

State = Mapping[str, torch.Tensor]

# Parts of prefixes that are no part of a network.
WRAPPERS = frozenset(
    (
        *("module", "_orig_mod", "_forward_module", "model", "net", "network", "backbone"),
        *("encoder", "ema", "ema_model", "model_ema", "student", "averaged_model"),
    )
)
COMPILED = "_orig_mod."  # may stand before any submodule
DEPTH = 3  # of mappings in a checkpoint
AVERAGED = ("ema", "averag")


@dataclass(frozen=True)
class Candidate:
    """A mapping of names to tensors in a checkpoint; ``label`` is where it lies, empty for all."""

    label: str
    state: State


@dataclass(frozen=True)
class Peeled:
    """Weights by the architecture's names, and what was done to get them, in words."""

    state: State
    note: str | None


def candidates(loaded: object, label: str = "", depth: int = DEPTH) -> Iterator[Candidate]:
    """Every mapping with tensors in it, averaged weights first, else outermost first."""
    if not isinstance(loaded, Mapping):
        return
    tensors = {
        name: tensor.detach()
        for name, tensor in loaded.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }
    found = [Candidate(label, tensors)] if tensors else []
    if depth:
        for name, value in loaded.items():
            inner = f"{label}.{name}" if label else str(name)
            found += candidates(value, inner, depth - 1)
    yield from sorted(found, key=lambda c: not any(word in c.label.lower() for word in AVERAGED))


def peel(offered: Collection[Candidate], wanted: Collection[str]) -> Peeled | None:
    """The first candidate that has most of the names, without its prefix.

    Where none has any under a known prefix, None.
    """
    best: tuple[int, Peeled] | None = None
    for candidate in offered:
        state = {name.replace(COMPILED, ""): tensor for name, tensor in candidate.state.items()}
        for prefix in sorted(_prefixes(state, wanted), key=len):
            if not set(prefix.split(".")[:-1]) <= WRAPPERS:
                continue
            fits = sum(prefix + name in state for name in wanted)
            if fits and (best is None or fits > best[0]):
                best = fits, _peeled(candidate, state, prefix, wanted)
    return best[1] if best else None


def unknown_prefix(offered: Collection[Candidate], wanted: Collection[str]) -> str | None:
    """A prefix under which most of the names are, though nobody knows it as a wrapper's."""
    counts = {
        prefix: sum(prefix + name in candidate.state for name in wanted)
        for candidate in offered
        for prefix in _prefixes(candidate.state, wanted)
        if prefix
    }
    best = max(counts, key=lambda prefix: counts[prefix], default=None)
    return best if best is not None and counts[best] > len(wanted) / 2 else None


def _prefixes(state: Mapping[str, object], wanted: Collection[str]) -> set[str]:
    """What stands before wanted names among the names of a state dict."""
    found = {""}
    for name in list(wanted)[:8]:
        found |= {key[: -len(name)] for key in state if key.endswith(f".{name}")}
    return found


def _peeled(candidate: Candidate, state: State, prefix: str, wanted: Collection[str]) -> Peeled:
    inside = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    left_out = len(state) - len(inside)
    said = []
    if state.keys() != candidate.state.keys():
        said.append(f"without {COMPILED!r}")
    if candidate.label:
        said.append(f"from {candidate.label!r}")
    if prefix:
        said.append(f"without the prefix {prefix!r}")
    if left_out:
        said.append(f"{left_out} other tensor(s) beside it were left out")
    note = f"the weights were taken {', '.join(said)}" if said else None
    return Peeled(inside, note)
