"""A workbench that is quick to make and to train on."""

from __future__ import annotations

from pathlib import Path

import torch
from networks import CLASSES, IMAGE
from samples import sample_data, tiny_onnx

from evaluators import EvaluationContext
from hardware_profiles import load_profile
from search.inputs.models.build import Build
from search.limits import Limits
from search.task import Task
from search.training.job import Workbench
from search.training.train import Features, Hardware, TrainSettings, Views
from spaces.tracing.network import trace


def a_bench(folder: Path, target: str = "arm") -> Workbench:
    """A bench on random images, small enough to train on in a second, with a group to prune."""
    data = sample_data(("a", "b", "c", "d"), test=24, channels=IMAGE[0])
    build = Build("networks:Residual", CLASSES, IMAGE[0], (8, 8), str(Path(__file__).parent))
    torch.manual_seed(0)
    teacher = build()
    images = torch.from_numpy(data.train.images)
    context = EvaluationContext(
        profile=load_profile(target),
        images=data.preprocess.apply(data.validation.images),
        labels=data.validation.labels,
        scratch=folder,
        baseline=tiny_onnx(folder / "baseline.onnx", classes=CLASSES, channels=IMAGE[0]),
        baseline_predictions=data.validation.labels,
    )
    return Workbench(
        task=Task("networks:Residual", build, None, data),
        weights=teacher.state_dict(),
        network=trace(teacher, (IMAGE[0], 8, 8)),
        views=Views(
            torch.stack([images, images.flip(3)]),
            torch.randn(2, len(images), CLASSES),
            torch.from_numpy(data.train.labels),
            Features("head", torch.rand(2, len(images), 24).half()),
        ),
        context=context,
        calibration=data.preprocess.apply(data.calibration.images),
        limits=Limits(0.03),
        settings=TrainSettings(1.0),
        hardware=Hardware.detect(),
        folder=folder / "plans",
    )
