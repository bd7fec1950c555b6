"""What an evaluation depends on: all that could change it, as parts of a key.

A part too many costs a training that was not needed; one too few, a wrong answer. So code and
packages count as a whole, and results of one kind of processor serve no other.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

import evaluators
import hardware_profiles
import search
import spaces
from evaluators.latency.tier import tier
from hardware_profiles import HardwareProfile, emulator
from hardware_profiles.devices.device import file_sha256
from hardware_profiles.host import cpu_flags, cpu_name
from search.running.backends import Resources
from search.running.fingerprint import model_fingerprint
from search.running.plugin_code import plugin_code
from search.training.job import Job, Workbench
from spaces.space import SearchSpace
from spaces.techniques.pruning import widths

PACKAGES = (
    *("torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxruntime", "numpy", "scipy"),
    "scikit-learn",
)
_OURS = (hardware_profiles, spaces, evaluators, search)
_CODE = {".py", ".c", ".toml", ".csv"}


def bench_parts(bench: Workbench, backend: str, resources: Resources) -> Mapping[str, str]:
    """What all evaluations of a search have in common, part by part.

    The exported baseline stands for the forward pass of the person's model, whatever code it
    comes from; what training does beside that is covered by the code's own text.
    """
    task, context = bench.task, bench.context
    assert context.baseline is not None
    return {
        "weights": model_fingerprint(task, bench.weights),
        "baseline": file_sha256(context.baseline),
        "model code": _digest(_sources_of(task.build())),
        "data": task.data.fingerprint,
        "target": _digest(TypeAdapter(HardwareProfile).dump_python(context.profile, mode="json")),
        "latency": f"{tier(context)} {context.device}",
        "settings": repr(bench.settings),
        "views": repr(tuple(bench.views.images.shape)),
        "metric": f"{context.metric} {context.confidence}",
        "ceilings": repr(sorted(bench.limits.ceilings(context.profile).items())),
        "machine": repr((cpu_name(), sorted(cpu_flags()), platform.machine())),
        "hardware": repr((bench.hardware, bench.hardware.gpu_name)),
        "threads": repr((backend, resources, torch.get_num_threads())),
        "packages": repr(_packages(tier(context) == "emulated")),
        "code": _code(),
    }


def job_key(parts: Mapping[str, str], job: Job) -> str:
    """64 hex digits that stand for everything that decides about a job's outcome."""
    content = {
        "plan": job.plan.to_json(),
        "checkpoint": None if job.checkpoint is None else file_sha256(job.checkpoint),
        "exported": None,  # an answer from here
    }
    plain = {f.name: getattr(job, f.name) for f in fields(job) if f.name not in content}
    return _digest({**parts, "job": plain | content})


def sensitivity_key(weights: str, data: str, space: SearchSpace) -> str:
    """64 hex digits that stand for everything that decides about a sensitivity.

    Args:
        weights: fingerprint of the untouched model.
        data: fingerprint of the images and their split.
        space: its choices of widths, bits, blocks and input sizes are what is looked at.
    """
    network, profile = space.network, space.profile
    content = {
        "weights": weights,
        "data": data,
        "widths": {group.name: widths(group, profile) for group in network.groups},
        "bits": profile.bits,
        "blocks": network.blocks,
        "layers": [layer.name for layer in network.layers],
        "sizes": network.sizes,
        "techniques": [each.name for each in space.techniques],
        "packages": _packages(emulated=False),
        "code": _code(),
    }
    return _digest(content)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _packages(emulated: bool) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = [("python", platform.python_version())]
    for name in PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, None))
    if emulated:
        found += [(f"emulated {name}", v) for name, v in emulator.find().versions().items()]
    return found


@cache
def _code() -> str:
    """Of this project and of what others added to it."""
    texts = {
        f"{package.__name__}/{path.relative_to(folder)}": file_sha256(path)
        for package in _OURS
        for folder in (_folder(package),)
        for path in sorted(folder.rglob("*"))
        if path.suffix in _CODE and path.is_file()
    }
    return _digest([texts, plugin_code()])


def _sources_of(model: nn.Module) -> dict[str, str]:
    """Hashes of the files of a model's classes, and of all else of the person's own code."""
    others = tuple(
        f"{folder}/"
        for folder in (
            *(sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib")),
            *map(_folder, _OURS),
        )
    )
    own = [
        module
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None))
        and file.endswith(".py")
        and not file.startswith(others)
    ]
    return _texts([*{type(each) for each in model.modules()}, *own])


def _texts(objects: Iterable[Any]) -> dict[str, str]:
    found = {}
    for each in objects:
        try:
            file = inspect.getsourcefile(each)
        except (TypeError, OSError):  # compiled, or made at run time: the baseline stands for it
            continue
        if file is not None and Path(file).is_file():
            found[f"{each.__name__} in {Path(file).name}"] = file_sha256(Path(file))
    return found


def _folder(package: Any) -> Path:
    return Path(package.__file__).parent
