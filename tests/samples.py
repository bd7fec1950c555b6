"""Synthetic searches for tests: data, ONNX files and results, all made from a seed.

The figures follow a simple law (latency and accuracy from kept width and bits), so that a
sample looks like a search; none of them was measured.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from evaluators import Evaluation, Measurement
from evaluators.tasks.drop import drop_bound_of_counts
from hardware_profiles import HardwareProfile, load_profile
from search.result import Finalist, Limits, SearchResult
from search.task import DataSet, Preprocess, Split
from search.telling.proof_words import Kind, ProofOutcome
from search.trial import State, Trial
from spaces import CompressionPlan
from spaces.files.qdq import quantize_file

GROUPS: Mapping[str, int] = {
    "conv1": 64,
    "layer1.0.conv1": 64,
    "layer1.1.conv1": 64,
    "layer2.0.conv1": 128,
    "layer2.1.conv1": 128,
    "layer3.0.conv1": 256,
    "layer3.1.conv1": 256,
    "layer4.0.conv1": 512,
    "layer4.1.conv1": 512,
}
Winner = Literal["proven", "unproven", "none"]


def chain_onnx(
    path: Path,
    widths: Mapping[str, int],
    *,
    classes: int = 3,
    channels: int = 1,
    kernel: int = 3,
    seed: int = 0,
) -> Path:
    """A working classifier, (batch, channels, 8, 8) -> (batch, classes), as an ONNX file.

    Convolutions of the given names and widths, global pooling, and one linear layer (``fc``),
    with random weights and a dynamic batch.
    """
    rng = np.random.default_rng(seed)
    weights = []

    def weight(name: str, *shape: int) -> str:
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        array = (scale * rng.normal(size=shape)).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"{name}.weight"))
        return f"{name}.weight"

    at, width, nodes = "input", channels, []
    window = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
    for name, outputs in widths.items():
        inputs = [at, weight(name, outputs, width, kernel, kernel)]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.out"], name=name, **window))
        at, width = f"{name}.relu", outputs
        nodes.append(helper.make_node("Relu", [f"{name}.out"], [at], name=f"{name}.relu"))
    fc = weight("fc", classes, width)
    nodes += [
        helper.make_node("GlobalAveragePool", [at], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", fc], ["output"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", classes])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def tiny_onnx(
    path: Path, *, width: int = 8, classes: int = 3, channels: int = 1, seed: int = 0
) -> Path:
    """The smallest of them: ``conv1`` with ``width`` channels, ``conv2`` with twice as many."""
    widths = {"conv1": width, "conv2": 2 * width}
    return chain_onnx(path, widths, classes=classes, channels=channels, seed=seed)


def sample_data(
    classes: Sequence[str] = ("crack", "dark cell", "sound"),
    *,
    test: int = 300,
    channels: int = 1,
    seed: int = 0,
) -> DataSet:
    """Random 8x8 images with skewed classes: each has half the images of the one before."""
    rng = np.random.default_rng(seed)
    share = np.array([0.5 ** min(i, 6) for i in range(len(classes))])

    def split(count: int) -> Split:
        images = rng.integers(0, 256, (count, channels, 8, 8), dtype=np.uint8)
        return Split(images, rng.choice(len(classes), count, p=share / share.sum()))

    train = split(4 * test)
    calibration = Split(train.images[:64], train.labels[:64])
    size, mean, std = (8, 8), (0.5,) * channels, (0.25,) * channels
    return DataSet(
        name="sample",
        train=train,
        calibration=calibration,
        validation=split(test),
        test=split(test),
        classes=tuple(classes),
        preprocess=Preprocess(size, channels, mean, std),
        fingerprint="5" * 64,
        notes=("Training and validation come from one folder: they may share near-duplicates.",),
    )


def sample_result(
    folder: Path,
    *,
    trials: int = 24,
    winner: Winner = "proven",
    classes: Sequence[str] = ("crack", "dark cell", "sound"),
    stopped_by: str = "trials",
    target: str = "raspberry-pi-4b",
    detail: bool = True,
    seed: int = 0,
) -> SearchResult:
    """A search of ``trials`` trials: baselines first, some rejected and failed, then a winner.

    ``winner`` is how it ended: with a proof, without one, or infeasible. ``detail=False`` leaves
    out all figures but accuracy and latency, and every ``detail``.
    """
    rng = random.Random(seed)
    profile = load_profile(target)
    impossible = winner == "none"
    limits = Limits(max_drop=0.03, max_latency_ms=0.5 if impossible else None)
    fixed = [(1.0, 32), (1.0, 8), (0.5, 32), (0.5, 8), (0.25, 32), (0.25, 8)]
    names = ["fp32", "int8", "uniform-50-fp32", "uniform-50-int8"]
    names += ["uniform-75-fp32", "uniform-75-int8"]
    made: list[Trial] = []
    for number in range(trials):
        if number < len(fixed):
            kept, bits = fixed[number]
            origin, skill = f"baseline:{names[number]}", 0.0
        else:
            kept, bits = rng.choice([0.1, 0.15, 0.2, 0.3, 0.4, 0.6]), rng.choice([8, 8, 32])
            origin = "warm" if number < 14 else "sampler:tpe"
            skill = 0.2 + 0.15 * rng.random() * min(1, number / 40)
        made.append(
            _trial(number, kept, bits, origin, skill, profile, limits, detail, rng, classes)
        )
    done = tuple(made)
    usable = [t for t in done if t.state == "complete"]
    front = _front(usable)
    feasible = sorted((t for t in front if t.feasible), key=_latency)
    simple = [t for t in usable if t.is_baseline and t.feasible and t.number]
    strongest = min(simple, key=_latency, default=None)
    proven = winner == "proven"
    baseline_test = _test(done[0], _accuracy(done[0]) - 0.001)
    finalists = [_finalist(t, baseline_test, proven, i) for i, t in enumerate(feasible[2::-1])]
    best = finalists[-1] if finalists and not impossible else None
    data = sample_data(classes)
    return SearchResult(
        study="solar-cells",
        folder=folder,
        profile=profile,
        limits=limits,
        metric="accuracy",
        data=data,
        model_spec="torchvision:resnet18",
        trials=done,
        front=front,
        baseline=done[0],
        strongest_simple=strongest,
        winner=best,
        finalists=() if impossible else tuple(finalists),
        baseline_test=baseline_test,
        simple_test=_test(strongest, _accuracy(strongest) - 0.002) if strongest else None,
        near_misses=tuple(sorted(usable, key=_latency)[:3]) if impossible else (),
        blocking=(
            "--max-latency 0.5 ms blocked every plan: the fastest within the drop needs "
            "2.1 ms; at 2.2 ms three plans would pass.",
        )
        if impossible
        else (),
        stopped_by=stopped_by,
        seconds=sum(t.seconds for t in done) + 41.0,
        command="python -m search --model torchvision:resnet18 --data npz:cells.npz "
        f"--target {target} --max-drop 0.03 --trials {trials} --seed {seed}",
        environment={
            "onnxruntime": "1.31.1",
            "processor": "x86-64, 2 cores",
            "python": "3.11.7",
            "seed": str(seed),
            "torch": "2.14.0",
        },
        tracking_uri="sqlite:///runs/mlflow.db",
    )


def _trial(
    number: int,
    kept: float,
    bits: int,
    origin: str,
    skill: float,
    profile: HardwareProfile,
    limits: Limits,
    detail: bool,
    rng: random.Random,
    classes: Sequence[str],
) -> Trial:
    widths = {
        group: max(8, round(channels * min(1.0, kept * (1 + skill * rng.uniform(-1, 1))) / 8) * 8)
        for group, channels in GROUPS.items()
    }
    settings: dict[str, Any] = {}
    if kept < 1:
        settings["pruning"] = {"kept": widths}
    if bits < 32:
        settings["quantization"] = {"bits": dict.fromkeys((*GROUPS, "fc"), bits)}
    if number > 5:
        settings["distillation"] = {"temperature": 2.5, "weight": 0.8}
    share = sum(w / c for w, c in zip(widths.values(), GROUPS.values(), strict=True)) / len(GROUPS)
    widths, share = (dict(GROUPS), 1.0) if kept == 1 else (widths, share)
    latency_ms = (1.1 + 186.9 * share**1.8) * (1 if bits == 32 else 0.62) * (1 - 0.6 * skill)
    drop = 0.048 * (1 - share) ** 3 * (1 - 2 * skill) + (0.004 if bits == 8 else 0)
    if skill and rng.random() < 0.15:
        drop += rng.uniform(0.02, 0.2)
    accuracy = 0.9712 - drop - (rng.uniform(-0.004, 0.004) if number else 0)
    state: State = "complete"
    reason = None
    if number > 8 and number % 11 == 0:
        state, reason = "rejected", "latency 61.2 ms cannot enter the front"
    if number > 8 and number % 17 == 0:
        state, reason = "failed", "RuntimeError: a layer has no channels left"
    figures = [
        Measurement(
            "accuracy",
            accuracy,
            "",
            "measured",
            "onnxruntime 1.31.1 on 300 images",
            detail={"images": 300, "per_class": _per_class(classes, rng)} if detail else None,
        ),
        Measurement(
            "drop",
            0.9712 - accuracy,
            "",
            "measured",
            "onnxruntime 1.31.1 on 300 images, paired",
            detail={"lost": 4, "gained": 2, "images": 300} if detail else None,
        ),
        Measurement(
            "latency_ms",
            latency_ms,
            "ms",
            "estimated",
            f"emulated for {profile.title}, 1 thread, batch 1, onnxruntime 1.31.1; held-out "
            "error 6.1 %",
            latency_ms / 1.061,
            latency_ms * 1.061,
            {"operators": _operators(latency_ms, widths, bits)} if detail else None,
        ),
    ]
    if detail:
        size = 44.7e6 * share**2 * bits / 32 + 21e3
        for name, value, unit in (
            ("size_bytes", size, "bytes"),
            ("peak_memory_bytes", 63e6 + size * 1.7, "bytes"),
            ("peak_memory_above_floor_bytes", size * 1.7, "bytes"),
            ("macs", 1.8e9 * share**2, ""),
            ("parameters", size / bits * 8, ""),
        ):
            figures.append(Measurement(name, float(value), unit, "measured", "this host"))
    evaluation = Evaluation.of(figures)
    return Trial(
        number=number,
        plan=CompressionPlan(settings),
        state=state,
        origin=origin,
        evaluation=evaluation if state == "complete" else None,
        violations=limits.violations(evaluation, profile) if state == "complete" else {},
        reason=reason,
        stages={
            "build": 0.4,
            "train": rng.uniform(3, 9),
            "export": 0.8,
            "evaluate": rng.uniform(0.5, 2),
        }
        if state == "complete"
        else {"build": 0.2},
        model=Path(f"models/{number:04d}.onnx") if state == "complete" else None,
    )


def _per_class(classes: Sequence[str], rng: random.Random) -> dict[str, dict[str, float | int]]:
    rows: dict[str, dict[str, float | int]] = {}
    for index in range(len(classes)):
        change = round(rng.uniform(-0.03, 0.012), 3)
        images = max(4, 150 >> min(index, 6))
        rows[str(index)] = {"images": images, "accuracy": 0.97 + change, "change": change}
    return rows


def _operators(total_ms: float, widths: Mapping[str, int], bits: int) -> list[dict[str, Any]]:
    """Every group's layer, pooling and ``fc``, with shares that follow the widths."""
    parts = {name: ("conv", 4.0 + width**0.5) for name, width in widths.items()}
    parts |= {"pool": ("global_pool", 0.6), "fc": ("linear", 1.2)}
    whole = sum(part for _, part in parts.values())
    return [
        {
            "name": name,
            "op": op,
            "bits": bits,
            "ms": total_ms * part / whole,
            "share": part / whole,
        }
        for name, (op, part) in parts.items()
    ]


def write_models(result: SearchResult) -> None:
    """Writes the exported files of the baseline and the winner where the result has them."""
    for trial in filter(None, (result.baseline, result.winner and result.winner.trial)):
        assert trial.model is not None
        kept = trial.plan.settings.get("pruning", {"kept": GROUPS})["kept"]
        path = result.folder / trial.model
        chain_onnx(path, kept, classes=len(result.data.classes), kernel=1)
        bits = trial.plan.settings.get("quantization", {}).get("bits")
        if bits:
            quantize_file(
                path,
                path,
                layers=tuple(bits),
                runtime=result.profile.runtime,
                images=result.data.preprocess.apply(result.data.calibration.images),
            )


def _accuracy(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("accuracy")


def _latency(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("latency_ms")


def _front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    best, front = -1.0, []
    for trial in sorted(trials, key=_latency):
        assert trial.evaluation is not None
        if trial.evaluation.value("accuracy") > best:
            best = trial.evaluation.value("accuracy")
            front.append(trial)
    return tuple(front)


def _test(trial: Trial, value: float) -> Evaluation:
    assert trial.evaluation is not None
    accuracy = trial.evaluation["accuracy"]
    return Evaluation.of([replace(accuracy, name="accuracy_test", value=value)])


def _finalist(trial: Trial, baseline: Evaluation, proven: bool, risk: int) -> Finalist:
    """The later in the order, the faster and the riskier."""
    lost, gained = (3 + risk, 2) if proven else (9 + risk, 3)
    bound = drop_bound_of_counts(lost, gained, 300, 0.95)
    test = _test(trial, baseline.value("accuracy_test") - bound.drop)
    kind: Kind = "proved" if bound.shows(0.03) else "failed"
    needed = None if proven else 1180
    return Finalist(trial, test, ProofOutcome(kind, bound, 0.03, 0.95, "accuracy", needed=needed))
