"""From what a person names or hands over (model, weights, data) to a task that is checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from search.errors import InputError
from search.inputs.data import function
from search.inputs.data.assembling import assemble, check_source, check_splits, planned_counts
from search.inputs.data.folder import load_splits
from search.inputs.data.grouping import groups_of
from search.inputs.data.preprocessing import (
    choose_preprocess,
    choose_resize,
    choose_size,
    read_preprocess,
    told,
)
from search.inputs.data.raw import Pixels, RawData, SplitName
from search.inputs.data.sampling import sampled
from search.inputs.data.splitting import CALIBRATION_IMAGES, stratified_part
from search.inputs.models.build import Build
from search.inputs.models.declared import Declared
from search.inputs.models.fitting import fit
from search.inputs.models.given import GivenBuild, declared_by, name_of, snapshot
from search.inputs.models.peeling import Candidate
from search.inputs.models.weights import check_tensors, read_weights
from search.inputs.sources import find_source
from search.running.fingerprint import data_fingerprint
from search.task import DataSet, Metric, Preprocess, Task

DEFAULT_MODEL = "torchvision:resnet18"
DEFAULT_DATA = "digits"
PREDICTED_AT_ONCE = 64
UNKNOWN = (2, 3, (0, 0))  # classes, channels and size, before the images have been looked at


def load_task(
    model: Any = None,
    weights: Path | None = None,
    data: Any = None,
    *,
    train: Path | None = None,
    val: Path | None = None,
    test: Path | None = None,
    image_size: tuple[int, int] | None = None,
    preprocess: Path | None = None,
    groups: str | None = None,
    seed: int = 0,
    metric: Metric = "accuracy",
    sample: bool = False,
) -> Task:
    """The task that the names stand for; nothing named means ResNet18 on digits.

    Instead of its name, ``model`` may be a module with its weights or a function that makes one,
    and ``data`` whatever a data function may return. ``train``, ``val`` and ``test`` are folders,
    instead of ``data``; ``image_size`` is (height, width) in pixels; ``preprocess`` a JSON file
    of size, resize, mean and std; ``groups`` says which images stay in one split. With the metric
    ``agreement`` the labels are the given model's own predictions. Of a ``sample`` a few images
    are read, and ``counts`` says how many there are.

    Raises:
        InputError: what is named can't be found, doesn't fit together or breaks a rule.
    """
    recipe = _recipe(DEFAULT_MODEL if model is None else model, weights)
    declared, given = recipe.declared, recipe.weights
    if metric == "agreement" and given is None:
        raise InputError(
            "--metric agreement must have a trained model to agree with, but there are no "
            "weights; add --weights FILE"
        )
    stated = None if preprocess is None else read_preprocess(preprocess)
    raw = _load_data(data, train, val, test)
    check_source(raw, metric)
    every = [split.images for split in raw.splits.values()]
    trusts = given is not None and raw.size is None and any(images.photos for images in every)
    trusted = declared if trusts else None
    if recipe.size is not None and image_size not in (None, recipe.size):
        raise InputError(
            f"--image-size must be the one that the model was exported for, "
            f"{recipe.size[0]}x{recipe.size[1]}, but got {image_size[0]}x{image_size[1]}; "
            f"leave it out"
        )
    found = {size for images in every for size in images.sizes}
    size = choose_size(stated, image_size or recipe.size, raw.size, trusted, found, declared)
    resize = choose_resize(stated, trusted, size)

    classes = raw.classes
    channels = max(images.channels for images in every)
    build = replace(recipe.build, classes=max(len(classes), 2), channels=channels, size=size)
    build, fitted, on_weights = fit(build, given, any_classes=metric == "agreement")
    if len(classes) != build.classes:
        classes = tuple(str(number) for number in range(build.classes))

    counts = planned_counts(raw)
    few = sampled(raw, build.channels * size[0] * size[1]) if sample else raw
    sample = any(len(few.splits[n].images) < len(raw.splits[n].images) for n in raw.splits)
    if sample:
        if groups:
            groups_of(raw, groups)  # what can't be told is said here, too
        raw = few
    splits, notes = assemble(raw, size, build.channels, seed, resize, None if sample else groups)
    chosen = choose_preprocess(
        stated, None if fitted is None else declared, splits["train"].images, resize
    )
    if metric == "agreement" and fitted is not None:
        splits = {
            name: replace(split, labels=_predict(build, fitted, chosen, split.images))
            for name, split in splits.items()
        }
    notes += [] if sample else check_splits(splits, classes, metric)
    if fitted is not None:
        notes += _notes_on_weights(raw, told(chosen) if stated is None else None)
    part = stratified_part(splits["train"].labels, CALIBRATION_IMAGES, seed)
    data_set = DataSet(
        name=raw.name,
        train=splits["train"],
        calibration=splits["train"].take(part),
        validation=splits["validation"],
        test=splits["test"],
        classes=classes,
        preprocess=chosen,
        fingerprint=data_fingerprint(splits, chosen),
        notes=(*raw.notes, *recipe.notes, *on_weights, *notes),
        counts=counts if sample else None,
    )
    return Task(model if isinstance(model, str) else build.spec, build, fitted, data_set, metric)


@dataclass(frozen=True)
class _Recipe:
    """How the model is made, and what is known of it; ``size`` is the only one that it takes.

    The build's classes, channels and size are still to be found out.
    """

    build: Build
    declared: Declared | None
    weights: Collection[Candidate] | None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


def _recipe(model: Any, weights: Path | None) -> _Recipe:
    given = None if weights is None else read_weights(weights)
    if isinstance(model, str):
        source, argument = find_source("search.inputs.models", model, "a model")
        source.check(argument)
        if not hasattr(source, "brought"):
            return _Recipe(Build(model, *UNKNOWN), source.declared(argument), given)
        own = source.brought(argument)
        check_tensors(own.weights, repr(argument))
        offered = (Candidate("", own.weights),)
        recipe = _Recipe(Build(own.spec, *UNKNOWN), None, offered, own.size, (own.note,))
    elif not isinstance(model, torch.nn.Module):
        return _Recipe(GivenBuild(name_of(model), *UNKNOWN, function=model), None, given)
    else:
        module = snapshot(model)
        state = module.state_dict()
        check_tensors(state, name_of(model))
        build = GivenBuild(name_of(model), *UNKNOWN, module=module)
        recipe = _Recipe(build, declared_by(model), (Candidate("", state),))
    if given is not None:
        raise InputError(
            f"weights must come with the model or from a file, but {recipe.build.spec!r} has its "
            f"own and there is {str(weights)!r}; leave the file out, or name the architecture"
        )
    return recipe


def _load_data(data: Any, train: Path | None, val: Path | None, test: Path | None) -> RawData:
    folders: dict[SplitName, Path | None] = {"train": train, "validation": val, "test": test}
    named = {split: folder for split, folder in folders.items() if folder is not None}
    if not named:
        if data is not None and not isinstance(data, str):
            return function.read(data, type(data).__name__, "the given data")
        source, argument = find_source("search.inputs.data", data or DEFAULT_DATA, "data")
        raw: RawData = source.load(argument)
        return raw
    if data is not None:
        raise InputError(
            f"data must come from --data or from --train, --val and --test, but got --data "
            f"{data if isinstance(data, str) else type(data).__name__} and a folder; leave one out"
        )
    if "train" not in named:
        raise InputError(
            f"--val and --test must come with --train, but got only "
            f"{', '.join(str(folder) for folder in named.values())}; add --train FOLDER"
        )
    return load_splits(named)


def _predict(
    build: Build, weights: Mapping[str, torch.Tensor], preprocess: Preprocess, images: Pixels
) -> NDArray[np.int64]:
    """The class, int64 (N,), that the given model sees in each image."""
    network = build()
    network.load_state_dict(weights)
    predictions = []
    with torch.inference_mode():
        for start in range(0, len(images), PREDICTED_AT_ONCE):
            pixels = preprocess.apply(images[start : start + PREDICTED_AT_ONCE])
            predictions.append(network(torch.from_numpy(pixels)).argmax(1).numpy())
    return np.concatenate(predictions).astype(np.int64)


def _notes_on_weights(raw: RawData, assumed: str | None) -> list[str]:
    """What a person with weights of their own should know."""
    notes = []
    made = [name for name in ("validation", "test") if name not in raw.splits]
    if made:
        notes.append(
            f"the weights may have been trained on images that are now in {' and '.join(made)}: "
            f"name the folders of the training with --train, --val and --test"
        )
    if assumed is not None:
        notes.append(
            f"how images were prepared for the weights' training is not in their file and was "
            f"assumed ({assumed}): if the baseline's accuracy is too low, state it with "
            f"--preprocess FILE"
        )
    return notes
