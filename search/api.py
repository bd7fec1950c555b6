"""The search from Python, with the options, defaults and errors of the command line."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from search.cli import build_parser, request_of, search_for
from search.masking import masked, masked_command
from search.running.interruption import caught

if TYPE_CHECKING:
    import torch

    from search.compression import Compression


class Images(Protocol):
    """A data set of (image, label), such as torch's."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


Data = str | Images | tuple[Any, Any] | Mapping[str, Any]


def compress(
    model: str | torch.nn.Module | Callable[..., torch.nn.Module] | None = None,
    data: Data | None = None,
    *,
    target: str,
    max_drop: float,
    budget: str | None = None,
    trials: int | None = None,
    no_training: bool = False,
    device: str | None = None,
    max_latency: float | None = None,
    max_size: str | None = None,
    max_memory: str | None = None,
    confidence: float | None = None,
    require_proof: bool = False,
    weights: str | Path | None = None,
    train: str | Path | None = None,
    val: str | Path | None = None,
    test: str | Path | None = None,
    image_size: int | str | None = None,
    preprocess: str | Path | None = None,
    groups: str | None = None,
    technique: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    keep_width: Sequence[str] = (),
    exclude: Sequence[str] = (),
    metric: Literal["accuracy", "balanced_accuracy", "f1", "agreement"] | None = None,
    sampler: Literal["tpe", "gp", "nsga2", "random"] | None = None,
    train_epochs: float | None = None,
    train_lr: float | None = None,
    seed: int | None = None,
    workers: int | None = None,
    cpus_per_trial: int | None = None,
    backend: str | None = None,
    address: str | None = None,
    gpus_per_trial: float | None = None,
    study: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    export: Sequence[str] = (),
    storage: str | None = None,
    tracking_uri: str | None = None,
    register: str | None = None,
    no_cache: bool = False,
) -> Compression:
    """Searches for the fastest compressed version of an image classifier; blocks until the end.

    What is left out has the command line's default, which ``python -m search --help`` tells, and
    is written as there: ``budget="30m"``, ``max_size="500kB"``. Progress goes to standard error.
    A first Ctrl-C ends the search with the best so far.

    Args:
        model: a module with its trained weights (which is copied, never changed), a function or
            class that makes one (called with those of ``classes``, ``channels`` and ``size`` that
            it names; trained here, unless ``weights`` names a file), or a name as for ``--model``.
        data: a pair of arrays (images, labels); arrays by name, such as ``train_images`` and
            ``train_labels``; a data set of (image, label); a mapping of ``train``, ``val`` and
            ``test`` to such data sets; or a name as for ``--data``.
        target: the device, such as ``arm`` or ``host``.
        max_drop: the largest allowed drop of the metric, absolute: 0.03 is three points.

    Returns:
        The result, also when nothing meets the limits (then ``best`` is None).

    Raises:
        InputError: something given breaks a rule.
        SearchError: the search could not go on; what was measured is kept, and ``resume`` goes on.
    """
    given = dict(locals())
    began = time.monotonic()
    objects = {n: given.pop(n) for n in ("model", "data") if not isinstance(given[n], str | None)}
    args = build_parser().parse_args(_arguments(given))
    with (
        caught(ends_process=False),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(sys.stderr),
    ):
        request = request_of(args, _command(given, objects), **objects)
        names = {"model": request.task.model_spec, "data": request.task.data.name}
        vars(args).update({name: names[name] for name in objects})  # for the tracker to show
        result = search_for(request, args, began)
    from search.compression import Compression

    return Compression(result)


def _arguments(given: Mapping[str, Any]) -> list[str]:
    """The command line that says the same."""
    said: list[str] = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            said.append(option)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            said += [f"{option}={each}" for each in value]
        elif value is not None and value is not False:
            said.append(f"{option}={value}")
    return said


def _command(given: Mapping[str, Any], objects: Mapping[str, Any]) -> str:
    """What reproduces the search: a command line or, with objects, a call."""
    given = {name: value for name, value in given.items() if name not in ("resume", "study")}
    if not objects:
        return masked_command(["python", "-m", "search", *_arguments(given)])
    shown = {name: f"<{type(value).__name__}>" for name, value in objects.items()}
    shown |= {n: repr(v) for n, v in given.items() if v not in (None, False, ())}
    return masked(f"compress({', '.join(f'{name}={text}' for name, text in shown.items())})")
