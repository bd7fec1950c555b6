"""Makes the formats that were asked for; what goes wrong with one is told, and stops nothing."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators.runtimes.onnxruntime import logits
from evaluators.tasks.metrics import METRICS
from search.bundle.exports.exporter import Exported, Exporter, ExportError, Source, exporters
from search.inputs.own_code import one_line
from search.task import Metric, Split
from search.training.job import Workbench, build
from search.trial import Trial
from spaces.space import bind, input_size
from spaces.techniques.quantization import METHODS

log = logging.getLogger(__name__)


def make_exports(
    names: Sequence[str], trial: Trial, bench: Workbench, root: Path, test: Split
) -> tuple[Exported, ...]:
    """Writes ``root/exports``, a folder a format, and runs each file on the test images.

    ``trial`` is the winner; ``root`` the study's folder.
    """
    if not names:
        return ()
    folder = root / "exports"
    known = exporters()
    try:
        source = source_of(trial, bench, root)
    except (OSError, RuntimeError) as error:
        why = f"the winner's weights can't be read again ({one_line(error)[:160]})"
        return tuple(Exported(name, known[name].title, failure=why) for name in names)
    stated = bench.task.data.preprocess
    images = replace(stated, size=input_size(trial.plan, stated.size)).apply(test.images)
    expected = logits(source.onnx, images, source.profile).argmax(axis=1)
    return tuple(
        _made(known[name], source, folder, images, expected, test.labels, bench.task.metric)
        for name in names
    )


def source_of(trial: Trial, bench: Workbench, root: Path) -> Source:
    """The winner as exporters need it.

    Raises:
        OSError: its weights are gone.
        RuntimeError: they are damaged.
    """
    assert trial.model is not None
    model, context = build(bench, bind(trial.plan))
    weights = root / trial.model.parent / "weights.pt"
    model.load_state_dict(torch.load(weights, weights_only=True))
    setting = trial.plan.settings.get("quantization", {})
    return Source(
        model.eval(),
        root / trial.model,
        tuple(setting.get("bits", ())),
        setting.get("ranges", METHODS[0]),
        context.images.numpy(),
        bench.context.profile,
    )


def _made(
    exporter: Exporter,
    source: Source,
    folder: Path,
    images: NDArray[np.float32],
    expected: NDArray[np.int64],
    labels: NDArray[np.int64],
    metric: Metric,
) -> Exported:
    target = folder / exporter.name / exporter.file
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir(parents=True)
    try:
        exporter.write(source, target)
        outputs = exporter.outputs(target, images, source.profile.runtime.threads)
    except ExportError as error:
        return Exported(exporter.name, exporter.title, failure=str(error))
    except Exception as error:  # of another project's converter: anything
        log.warning("%s could not be made", exporter.title, exc_info=True)
        return Exported(exporter.name, exporter.title, failure=one_line(error)[:300])
    seen = outputs.argmax(axis=1)
    return Exported(
        exporter.name,
        exporter.title,
        target.relative_to(folder.parent),
        target.stat().st_size,
        METRICS[metric](labels, seen),
        float((seen == expected).mean()),
        len(images),
        f"{exporter.runtime} on {len(images)} test images",
    )
