"""Writes ``best/``: whole or not at all."""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from evaluators import resize
from evaluators.resize import resized_pixels
from search.bundle.card import model_card
from search.bundle.golden import golden_split, outputs_of
from search.bundle.manifest import write_manifest
from search.bundle.metrics import metrics_json
from search.inputs.data import photo
from search.result import Finalist, SearchResult
from search.task import Split
from search.telling import words
from search.telling.figures import figures_of, find
from spaces.space import input_size

BUNDLE = "best"
CHECKS_VERSION = 1
MIN_AGREEMENT = 0.995  # int8 kernels of another architecture may round a borderline image
_FILES = Path(__file__).parent / "files"
# What of the search the bundle's own files use: the same steps in both.
_SHARED = tuple(Path(inspect.getfile(module)) for module in (photo, resize))


def write_bundle(folder: Path, result: SearchResult, finalist: Finalist, model: Path) -> Path:
    """Writes ``folder/best`` and returns it; a bundle that is there already is replaced.

    The new bundle is written beside the old one and renamed, so that there is never half of
    one under that name.

    Args:
        folder: the study's folder; made where it is missing.
        result: the search, for the figures and their provenance.
        finalist: what is handed over.
        model: its exported ONNX file, (batch, C, H, W) -> (batch, classes).
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{BUNDLE}-", dir=folder))
    try:
        staging.chmod(0o755)  # mkdtemp makes it private; a bundle is there to be copied
        _fill(staging, result, finalist, model)
        target, old = folder / BUNDLE, staging.with_name(staging.name + ".old")
        if target.exists():
            target.rename(old)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _fill(bundle: Path, result: SearchResult, finalist: Finalist, model: Path) -> None:
    data, threads = result.data, result.profile.runtime.threads
    size = input_size(finalist.trial.plan, data.preprocess.size)
    preprocess = data.preprocess.with_input(size)
    shutil.copyfile(model, bundle / "model.onnx")
    golden = golden_split(data.test)
    golden = replace(golden, images=resized_pixels(golden.images, size))
    outputs = outputs_of(bundle / "model.onnx", golden.images, preprocess, threads)
    for export in result.exports:
        if export.file is not None:
            made = result.folder / export.file.parent
            shutil.copytree(made, bundle / "exports" / export.name)
    (bundle / "golden").mkdir()
    for name, array in (
        ("images", golden.images),
        ("labels", golden.labels),
        ("outputs", outputs),
    ):
        np.save(bundle / "golden" / f"{name}.npy", array, allow_pickle=False)
    _write_json(bundle / "plan.json", finalist.trial.plan.to_json())
    _write_json(bundle / "metrics.json", metrics_json(result, finalist))
    _write_json(bundle / "preprocess.json", preprocess.to_json())
    _write_json(bundle / "classes.json", list(data.classes))
    accuracy = float((outputs.argmax(1) == golden.labels).mean())
    _write_json(bundle / "checks.json", _checks(finalist, golden, accuracy, threads))
    card = model_card(result, finalist, len(golden))
    (bundle / "README.md").write_text(card, encoding="utf-8")
    for name in ("verify.py", "example.py"):
        shutil.copyfile(_FILES / name, bundle / name)
    for path in _SHARED:
        shutil.copyfile(path, bundle / path.name)
    write_manifest(bundle)


def _checks(finalist: Finalist, golden: Split, accuracy: float, threads: int) -> dict[str, Any]:
    """What ``verify.py`` holds the model to; accuracy may fall by what agreement allows."""
    latency = find(figures_of(finalist.trial, finalist.test), "latency_ms")
    claim = latency and {
        "ms": latency.value,
        "source": latency.source,
        "how": words.brief(latency),
    }
    return {
        "version": CHECKS_VERSION,
        "images": len(golden),
        "min_agreement": MIN_AGREEMENT,
        "accuracy": accuracy,
        "min_accuracy": accuracy - (1 - MIN_AGREEMENT),
        "threads": threads,
        "onnxruntime": ort.__version__,
        "latency": claim,
    }


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
