"""What every technique, evaluator, profile, data source and sampler must do.

``test_contracts.py`` holds everything that ships to it. Somebody else's own test is one line:

    from contracts import check_technique
    check_technique(MINE, NETWORKS["residual"])
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from networks import CLASSES, IMAGE, pictures, seeded
from torch import nn

from evaluators import Evaluation, EvaluationContext, Evaluator
from hardware_profiles import OPS, HardwareProfile, OpShape, load_profile
from search.deciding.samplers import make_sampler
from search.errors import InputError
from search.inputs.data.raw import SPLIT_NAMES, RawData
from spaces import CompressionPlan
from spaces.dimension import Dimension, ParamValue, Real
from spaces.files.export import export_onnx
from spaces.technique import ExportContext, Hooks, LossInputs, PrepareContext, Technique
from spaces.tracing.network import trace

UNITS = {"_ms": "ms", "_bytes": "bytes"}
SHAPES = {
    "conv": OpShape(32, 64, (16, 16), (16, 16), (3, 3)),
    "depthwise": OpShape(64, 64, (16, 16), (16, 16), (3, 3), groups=64),
    "linear": OpShape(512, 10),
}


def any_value(dimension: Dimension, draw: random.Random) -> ParamValue:
    """Some value of a dimension."""
    if isinstance(dimension, Real):
        return draw.uniform(dimension.low, dimension.high)
    return draw.choice(dimension.options)


def check_technique(
    technique: Technique, make: Callable[[], nn.Module], profile: HardwareProfile | None = None
) -> None:
    """Dimensions, settings and hooks of a technique on one of the networks of ``networks.py``."""
    profile = profile or load_profile("raspberry-pi-4b")
    network = trace(seeded(make), IMAGE)
    assert technique.name.isidentifier()
    dimensions = technique.dimensions(network, profile)
    names = [dimension.name for dimension in dimensions]
    assert len(set(names)) == len(names)
    assert all(name.startswith(f"{technique.name}/") for name in names)

    identity = technique.encode({}, network, profile)
    assert set(identity) == set(names)
    assert all(d.contains(identity[d.name]) for d in dimensions)
    assert technique.decode(identity, network, profile) == {}
    assert technique.reshape({}, network.table) == network.table

    draw = random.Random(0)
    for _ in range(6):
        values = {d.name: any_value(d, draw) for d in dimensions}
        setting = technique.decode(values, network, profile)
        assert json.loads(json.dumps(setting, allow_nan=False)) == setting
        encoded = technique.encode(setting, network, profile)
        assert all(d.contains(encoded[d.name]) for d in dimensions)
        assert technique.decode(encoded, network, profile) == setting
        assert technique.without(setting, ()) == setting
        if setting:
            kept = CompressionPlan({technique.name: setting}).settings[technique.name]
            hooks = technique.bind(kept)
            _check_hooks(technique, hooks, make, profile)
            if hooks.input_size:
                model = seeded(make)
                smaller = trace(model, (IMAGE[0], *hooks.input_size)).table.shapes()
                planned = technique.reshape(kept, network.table).shapes()
                assert [shape for _, shape in planned] == [shape for _, shape in smaller]


def _check_hooks(
    technique: Technique,
    hooks: Hooks,
    make: Callable[[], nn.Module],
    profile: HardwareProfile,
) -> None:
    model = seeded(make)
    context = PrepareContext(trace(model, IMAGE), pictures(8), torch.arange(8) % CLASSES)
    if hooks.prepare:
        hooks.prepare(model, context)
    if hooks.refine:
        begun = [p.shape for p in model.parameters()]
        assert model(pictures(4)).shape == (4, CLASSES)
        hooks.refine(model, context)
        assert [p.shape for p in model.parameters()] != begun
    shape, images = (4, CLASSES), pictures(4)
    if hooks.input_size:
        assert all(s < whole for s, whole in zip(hooks.input_size, IMAGE[1:], strict=True))
        images = images[:, :, : hooks.input_size[0], : hooks.input_size[1]]
    assert model.eval()(images).shape == shape
    keys = set(model.state_dict())
    if hooks.constrain:
        assert hooks.release, f"{technique.name} puts constraints on and can't take them off"
        hooks.constrain(model, context)
        assert model.train()(images).shape == shape
        hooks.release(model)
    assert set(model.state_dict()) == keys
    if hooks.loss:
        student = torch.randn(4, CLASSES, requires_grad=True)
        batch = LossInputs(student, torch.randn(4, CLASSES), torch.arange(4))
        value = hooks.loss(batch)
        assert value.shape == ()
        seen = {"student_features": torch.rand(4, 3), "teacher_features": torch.rand(4, 7)}
        assert torch.isfinite(hooks.loss(replace(batch, **seen)))
        value.backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
    if hooks.export:
        _check_export(hooks, model, profile)


def _check_export(hooks: Hooks, model: nn.Module, profile: HardwareProfile) -> None:
    import tempfile

    from evaluators.runtimes.onnxruntime import logits

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        export_onnx(model, source, IMAGE)
        before = source.read_bytes()
        images = pictures(8).numpy()
        assert hooks.export is not None
        hooks.export(source, target, ExportContext(profile, images, Path(folder)))
        assert source.read_bytes() == before
        found = logits(target, images, profile)
        assert found.shape == (8, CLASSES)
        assert np.isfinite(found).all()


def check_evaluator(evaluator: Evaluator, model: Path, context: EvaluationContext) -> None:
    """The figures of an evaluator that applies: finite, with unit, source and how."""
    assert evaluator.name
    assert isinstance(evaluator.cheap, bool)
    assert evaluator.applies(context)
    found = evaluator.evaluate(model, context)
    assert found
    names = [figure.name for figure in found]
    assert len(set(names)) == len(names)
    for figure in found:
        assert math.isfinite(figure.value), figure.name
        assert figure.source in ("measured", "estimated", "exact")
        assert len(figure.how) > 10, f"{figure.name} must say how, but says {figure.how!r}"
        assert "\n" not in figure.how
        for suffix, unit in UNITS.items():
            assert figure.name.endswith(suffix) == (figure.unit == unit), figure.name
        assert (figure.low is None) == (figure.high is None)
        if figure.low is not None and figure.high is not None:
            assert figure.low <= figure.value <= figure.high
    repeatable = {figure.name: figure.value for figure in found if figure.repeatable}
    again = {figure.name: figure.value for figure in evaluator.evaluate(model, context)}
    for name, value in repeatable.items():
        # Of a process' memory a few pages are chance.
        rel = 0.05 if name.startswith("peak_memory") else 0.0
        assert again[name] == pytest.approx(value, rel=rel, abs=0.0), f"{name} must be repeatable"
    evaluation = Evaluation.of(found)
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json()))) == evaluation


def check_profile(profile: HardwareProfile) -> None:
    """A device: kernels for everything that is walked, errors and sources for every figure."""
    for op in OPS:
        shape = SHAPES.get(op, OpShape(64, 64, (16, 16), (16, 16), (2, 2), (2, 2)))
        assert 0 < profile.cost(op, shape, 32) < 1e4
    for op, shape in SHAPES.items():
        wide = OpShape(
            4 * shape.in_channels,
            4 * shape.out_channels,
            shape.in_size,
            shape.out_size,
            shape.kernel,
            groups=4 * shape.groups if shape.groups > 1 else 1,
        )
        for bits in profile.bits:
            assert profile.cost(op, wide, bits) > profile.cost(op, shape, bits)
    assert profile.bits[0] == 32
    assert all(profile.channel_multiple(bits) >= 1 for bits in profile.bits)
    assert profile.error_pct > 0
    assert len(profile.error_how) > 10
    assert profile.sources
    assert all(len(source.what) > 2 and len(source.where) > 10 for source in profile.sources)
    if profile.kind == "microcontroller":
        assert profile.limits.flash_bytes
        assert profile.limits.memory_bytes


def check_data(load: Callable[[str], RawData], argument: str, unusable: str) -> None:
    """A source of data: images with labels in known splits; what is unusable is refused."""
    raw = load(argument)
    assert raw.name
    assert set(raw.splits) <= set(SPLIT_NAMES.values())
    assert "train" in raw.splits
    assert len(set(raw.classes)) == len(raw.classes)
    for split in raw.splits.values():
        assert split.images.channels in (1, 3)
        pixels = split.images.pixels((9, 7))
        assert pixels.dtype == np.uint8
        assert pixels.shape == (len(split.images), split.images.channels, 9, 7)
        if split.labels is not None:
            assert split.labels.dtype == np.int64
            assert len(split.labels) == len(split.images)
            assert set(split.labels.tolist()) <= set(range(len(raw.classes)))
    with pytest.raises(InputError) as caught:
        load(unusable)
    assert "\n" not in str(caught.value)


def check_sampler(name: str) -> None:
    """The same seed proposes the same after the same trials, another something else."""

    def proposals(seed: int) -> list[object]:
        study = optuna.create_study(directions=["maximize", "minimize"])
        found = []
        for number in range(10):
            study.sampler = make_sampler(name, seed + number)
            trial = study.ask()
            x, bits = trial.suggest_float("x", 0, 1), trial.suggest_categorical("b", [8, 32])
            assert 0 <= x <= 1
            trial.set_constraint("size", x - 0.5)
            study.tell(trial, [x, bits])
            found.append((x, bits))
        return found

    assert proposals(1) == proposals(1) != proposals(2)
