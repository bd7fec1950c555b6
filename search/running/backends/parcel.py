"""A workbench as named arrays, to be sent to workers once: on disk, or in an object store.

Only numbers and JSON travel, no pickled objects. Training images travel as the teacher's first
view, which is the plain one, and test images not at all: no worker can look at them.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter

from evaluators import EvaluationContext
from evaluators.latency.tier import tier
from hardware_profiles import HardwareProfile
from search.errors import SearchError
from search.inputs.models.build import Build
from search.limits import Limits
from search.running.backends.messages import job_from_json, outcome_to_json
from search.task import BALANCED, DataSet, Preprocess, Split, Task
from search.training.job import Workbench, run_job
from search.training.train import Features, Hardware, TrainSettings, Views
from spaces.tracing.network import Network

Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")
Runner = Callable[[Mapping[str, Any], Callable[[str, float | None], None]], dict[str, Any]]


def pack(bench: Workbench) -> Arrays:
    """All of a workbench but its folders, the test split, and the driver's own hardware."""
    task, data, context = bench.task, bench.task.data, bench.context
    assert isinstance(task.build, Build)  # a recipe that any process can follow
    weights = io.BytesIO()
    torch.save(dict(bench.weights), weights)
    plain = {
        "model_spec": task.model_spec,
        "build": asdict(task.build),
        "metric": task.metric,
        "data": {
            "name": data.name,
            "classes": data.classes,
            "preprocess": data.preprocess.to_json(),
            "fingerprint": data.fingerprint,
        },
        "profile": _plain(HardwareProfile, context.profile),
        "network": _plain(Network, bench.network),
        "limits": asdict(bench.limits),
        "settings": asdict(bench.settings),
        "device": context.device,
        "tier": tier(context),
        "confidence": context.confidence,
        "features": bench.views.features and bench.views.features.layer,
    }
    arrays = {
        "plain": _bytes(json.dumps(plain).encode()),
        "weights": _bytes(weights.getvalue()),
        "views_images": bench.views.images.numpy(),
        "views_logits": bench.views.logits.numpy(),
        "views_labels": bench.views.labels.numpy(),
        "calibration_images": data.calibration.images,
        "calibration_labels": data.calibration.labels,
        "calibration": bench.calibration,
        "validation_images": data.validation.images,
        "validation": context.images,
        "validation_labels": context.labels,
    }
    if bench.views.features is not None:
        arrays["views_features"] = bench.views.features.values.numpy()
    if context.baseline_predictions is not None:
        arrays["baseline_predictions"] = context.baseline_predictions
    return arrays


def open_runner(arrays: Arrays, *, plans: Path, scratch: Path, baseline: Path | None) -> Runner:
    """What runs a job (as JSON) on the bench that was packed, and gives its outcome as JSON.

    Raises:
        SearchError: as ``unpack``.
    """
    logging.disable(logging.WARNING)  # the driver has said where latency comes from
    bench = unpack(arrays, plans=plans, scratch=scratch, baseline=baseline)
    logging.disable(logging.NOTSET)
    return lambda job, listen: outcome_to_json(run_job(job_from_json(job), bench, listen))


def unpack(arrays: Arrays, *, plans: Path, scratch: Path, baseline: Path | None) -> Workbench:
    """The workbench that was packed, with folders and hardware of this process.

    Large arrays are used where they are, not copied.

    Raises:
        SearchError: latency would come from another source here than where it was packed.
    """
    plain = json.loads(arrays["plain"].tobytes())
    weights = torch.load(io.BytesIO(arrays["weights"].tobytes()), weights_only=True)
    views = Views(
        _tensor(arrays["views_images"]),
        _tensor(arrays["views_logits"]),
        _tensor(arrays["views_labels"]),
        plain["features"] and Features(plain["features"], _tensor(arrays["views_features"])),
        plain["metric"] in BALANCED,
    )
    images = arrays["views_images"][0]
    data = DataSet(
        name=plain["data"]["name"],
        train=Split(images, arrays["views_labels"]),
        calibration=Split(arrays["calibration_images"], arrays["calibration_labels"]),
        validation=Split(arrays["validation_images"], arrays["validation_labels"]),
        test=Split(images[:0], arrays["views_labels"][:0]),
        classes=tuple(plain["data"]["classes"]),
        preprocess=Preprocess.from_json(plain["data"]["preprocess"]),
        fingerprint=plain["data"]["fingerprint"],
    )
    task = Task(plain["model_spec"], _value(Build, plain["build"]), weights, data, plain["metric"])
    context = EvaluationContext(
        profile=_value(HardwareProfile, plain["profile"]),
        images=arrays["validation"],
        labels=arrays["validation_labels"],
        scratch=scratch,
        baseline=baseline,
        baseline_predictions=arrays.get("baseline_predictions"),
        device=plain["device"],
        metric=plain["metric"],
        confidence=plain["confidence"],
        counted=plain["tier"] != "analytic",
    )
    here = tier(context)
    if here != plain["tier"]:
        raise SearchError(
            f"all workers must take latency from one source, but the driver's is "
            f"{plain['tier']!r} and this worker's is {here!r}; where the emulator is missing, "
            f"run: python -m hardware_profiles emulator install"
        )
    return Workbench(
        task=task,
        weights=weights,
        network=_value(Network, plain["network"]),
        views=views,
        context=context,
        calibration=arrays["calibration"],
        limits=_value(Limits, plain["limits"]),
        settings=_value(TrainSettings, plain["settings"]),
        hardware=Hardware.detect(),
        folder=plans,
    )


def write_arrays(arrays: Arrays, folder: Path) -> None:
    """One ``.npy`` file an array; what the folder held before is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


def read_arrays(folder: Path) -> Arrays:
    """What ``write_arrays`` wrote, mapped: all processes of a machine share one copy."""
    return {
        path.stem: np.load(path, mmap_mode="c", allow_pickle=False)
        for path in sorted(folder.glob("*.npy"))
    }


def _bytes(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():  # an object store's arrays are read-only, and only read here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _plain(kind: type[T], value: T) -> Any:
    return TypeAdapter(kind).dump_python(value, mode="json")


def _value(kind: type[T], data: Any) -> T:
    return TypeAdapter(kind).validate_python(data)
