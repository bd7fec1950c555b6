"""One trial from plan to evaluation: what a worker does, wherever it runs.

A worker gets a job and gives an outcome; it shares no state with others and is safe to repeat.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from evaluators import Evaluation, EvaluationContext, discover, evaluate
from evaluators.latency import lease
from evaluators.resize import resized
from search.limits import Limits
from search.task import Preprocess, Task
from search.training.train import Hardware, TrainSettings, Views, recalibrate, train
from spaces import CompressionPlan
from spaces.files.export import export_onnx
from spaces.space import bind, planned_table
from spaces.technique import ExportContext, Hooks, LossInputs, PrepareContext
from spaces.techniques.distillation import DEFAULT, distillation_loss
from spaces.tracing.network import Network

CONSTRAIN_AT = 0.6  # of the training; fake quantization comes when the weights have settled
REFINE_AT = 0.25  # of the training; what was begun before it is finished then
Stage = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Job:
    """A plan to be tried: ``epochs`` of training, with fake quantization where ``constrained``.

    ``checkpoint`` holds the weights of the rung before; without one the plan starts from what
    is left of the baseline's weights, and the cheap facts are looked at first. ``exported`` is
    the file of an earlier search that did the very same: it is only evaluated again. A plan may
    be trained several times: ``training`` counts them from 0, each has its own seed and files.
    """

    plan: CompressionPlan
    epochs: float
    constrained: bool = True
    checkpoint: Path | None = None
    exported: Path | None = None
    training: int = 0

    @property
    def folder(self) -> str:
        """The name of the folder of its files, among those of all plans."""
        return f"{self.plan.plan_id}-{self.training}" if self.training else self.plan.plan_id


@dataclass(frozen=True)
class Outcome:
    """What came of a job. ``reason`` is set when it was rejected before training."""

    evaluation: Evaluation
    violations: Mapping[str, float]
    stages: Mapping[str, float]
    model: Path | None  # None when rejected
    reason: str | None = None
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Workbench:
    """What every trial of a search needs; fixed once the search has begun."""

    task: Task
    weights: Mapping[str, torch.Tensor]
    network: Network
    views: Views
    context: EvaluationContext
    calibration: NDArray[np.float32]  # preprocessed calibration images (N, C, H, W)
    limits: Limits
    settings: TrainSettings
    hardware: Hardware
    folder: Path  # where exported files are kept, one folder a plan


class Stages:
    """Seconds by stage, told to a listener as they begin."""

    def __init__(self, listener: Stage) -> None:
        self.seconds: dict[str, float] = {}
        self._listener = listener

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times one stage; a stage that comes twice is added up."""
        self._listener(name, None)
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def fraction(self, name: str, done: float) -> None:
        """Tells how far the stage is."""
        self._listener(name, done)


def run_job(job: Job, bench: Workbench, listener: Stage) -> Outcome:
    """Builds, checks the cheap facts, trains, exports and evaluates one plan.

    Raises whatever goes wrong in the model's own code; the driver records it and goes on.
    """
    bench = replace(bench, settings=replace(bench.settings, seed=_seed_of(job, bench)))
    stages = Stages(listener)
    if job.exported is not None:
        with stages("evaluate"):
            evaluation = evaluate(job.exported, bench.context)
        violations = bench.limits.violations(evaluation, bench.context.profile)
        return Outcome(evaluation, violations, stages.seconds, job.exported)
    folder = bench.folder / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    hooks = bind(job.plan)
    with stages("build"):
        torch.manual_seed(trial_seed(bench.settings.seed, job.plan))
        in_parts = job.checkpoint is None and any(hook.refine for hook in hooks)
        staged = in_parts and job.epochs > 0
        model, context = build(bench, hooks, begun=staged)
        if job.checkpoint is not None:
            model.load_state_dict(torch.load(job.checkpoint, weights_only=True))
    facts = Evaluation({})
    # The untouched model may break a limit; it is evaluated all the same.
    bounded = job.plan.settings and bench.limits.ceilings(bench.context.profile)
    if job.checkpoint is None and bounded:
        with stages("facts"):
            shipped = refine(copy.deepcopy(model), hooks, context) if staged else model
            facts = cheap_facts(shipped, hooks, bench, folder)
            violations = bench.limits.violations(facts, bench.context.profile)
        broken = {name: v for name, v in violations.items() if v > 0}
        if broken:
            reason = _rejection(broken, facts, bench)
            shutil.rmtree(folder)
            return Outcome(facts, violations, stages.seconds, None, reason)
    macs = planned_table(bench.network, job.plan).macs
    with bench.hardware.threads(macs, bench.settings.batch_size), lease.training():
        # A network that lost nothing has its statistics already.
        if job.checkpoint is None and any(hook.prepare or hook.input_size for hook in hooks):
            with stages("recalibrate"):
                recalibrate(model, bench.views, _preprocess(bench, hooks), bench.hardware)
        if job.epochs > 0:
            with stages("train"):
                _train(model, hooks, context, job, bench, stages, staged)
    with stages("export"):
        path = export(model, hooks, bench, folder)
        checkpoint: Path | None = folder / "weights.pt"
        torch.save(model.state_dict(), folder / "weights.pt")
    with stages("evaluate"):
        evaluation = facts.merged(evaluate(path, bench.context))
    violations = bench.limits.violations(evaluation, bench.context.profile)
    if in_parts and not staged:
        checkpoint = None  # the parts are yet to come
    return Outcome(evaluation, violations, stages.seconds, path, None, checkpoint)


def _seed_of(job: Job, bench: Workbench) -> int:
    """The search's seed, or what another training of a plan has in its place."""
    seed = bench.settings.seed
    if not job.training:
        return seed
    return int(hashlib.sha256(f"{seed}, training {job.training}".encode()).hexdigest()[:8], 16)


def trial_seed(seed: int, plan: CompressionPlan) -> int:
    """A seed for training that depends on the search's seed and the plan alone."""
    return int(hashlib.sha256(f"{seed}:{plan.plan_id}".encode()).hexdigest()[:8], 16)


def build(
    bench: Workbench, hooks: tuple[Hooks, ...], begun: bool = False
) -> tuple[nn.Module, PrepareContext]:
    """The planned architecture with what is left of the baseline's weights.

    One that is only ``begun`` is to be refined after a part of the training.
    """
    model = copy.deepcopy(_untouched(bench))
    context = PrepareContext(
        bench.network,
        torch.from_numpy(_calibration(bench, hooks)),
        torch.from_numpy(bench.task.data.calibration.labels),
    )
    for hook in hooks:
        if hook.prepare:
            hook.prepare(model, context)
    return model.eval() if begun else refine(model, hooks, context), context


# Random weights that are replaced at once take longer than a copy of the untouched model.
_latest: list[tuple[Mapping[str, torch.Tensor], nn.Module]] = []


def _untouched(bench: Workbench) -> nn.Module:
    """The untouched model; kept from one trial of a search to the next."""
    if not _latest or _latest[0][0] is not bench.weights:
        model = bench.task.build()
        model.load_state_dict(bench.weights)
        _latest[:] = [(bench.weights, model)]
    return _latest[0][1]


def _preprocess(bench: Workbench, hooks: tuple[Hooks, ...]) -> Preprocess:
    """The data's preprocessing, to the size of the planned network's input."""
    stated = bench.task.data.preprocess
    size = next((hook.input_size for hook in hooks if hook.input_size), stated.size)
    return replace(stated, size=size)


def _calibration(bench: Workbench, hooks: tuple[Hooks, ...]) -> NDArray[np.float32]:
    """Calibration images (N, C, H, W) as the planned network takes them."""
    return resized(bench.calibration, _preprocess(bench, hooks).size)


def refine(model: nn.Module, hooks: tuple[Hooks, ...], context: PrepareContext) -> nn.Module:
    """The model, in which what was begun when it was built is finished."""
    for hook in hooks:
        if hook.refine:
            hook.refine(model, context)
    return model.eval()


def cheap_facts(
    model: nn.Module, hooks: tuple[Hooks, ...], bench: Workbench, folder: Path
) -> Evaluation:
    """Figures of the untrained export that don't depend on the weights' values."""
    path = export(model, hooks, bench, folder)
    return evaluate(path, bench.context, [e for e in discover() if e.cheap])


def export(model: nn.Module, hooks: tuple[Hooks, ...], bench: Workbench, folder: Path) -> Path:
    """Writes ``model.onnx`` as it ships: exported once, then rewritten by each technique."""
    path = folder / "model.onnx"
    preprocess = _preprocess(bench, hooks)
    export_onnx(model, path, (preprocess.channels, *preprocess.size))
    rewrite(path, hooks, bench)
    return path


def rewrite(path: Path, hooks: tuple[Hooks, ...], bench: Workbench) -> None:
    """Lets each technique rewrite a float file in its place."""
    images = _calibration(bench, hooks)
    context = ExportContext(bench.context.profile, images, bench.context.scratch)
    for number, hook in enumerate(hooks):
        if hook.export:
            rewritten = path.with_name(f"rewritten-{number}.onnx")
            hook.export(path, rewritten, context)
            rewritten.replace(path)


def _train(
    model: nn.Module,
    hooks: tuple[Hooks, ...],
    context: PrepareContext,
    job: Job,
    bench: Workbench,
    stages: Stages,
    staged: bool,
) -> None:
    """Trains in one go or, where ``staged``, in two with the refinement between."""
    preprocess = _preprocess(bench, hooks)
    losses = [hook.loss for hook in hooks if hook.loss]

    def loss(batch: LossInputs) -> torch.Tensor:
        if not losses:
            return distillation_loss(batch, **DEFAULT)
        return torch.stack([one(batch) for one in losses]).sum()

    def constrain(student: nn.Module) -> None:
        for hook in hooks:
            if job.constrained and hook.constrain:
                hook.constrain(student, context)

    def run(begun: float, end: float) -> None:
        """From one fraction of the training to another."""

        def after_batch(done: float) -> None:
            lease.yield_to_measurements()
            stages.fraction("train", begun + done * (end - begun))

        seed = trial_seed(bench.settings.seed, job.plan)
        settings = replace(bench.settings, epochs=job.epochs * (end - begun), seed=seed)
        at = (CONSTRAIN_AT - begun) / (end - begun)
        train(
            model,
            bench.views,
            preprocess,
            loss,
            settings,
            bench.hardware,
            after_batch,
            constrain=constrain,
            constrain_at=at,
        )

    if staged:
        run(0.0, REFINE_AT)
        refine(model, hooks, context)
        recalibrate(model, bench.views, preprocess, bench.hardware)
    run(REFINE_AT if staged else 0.0, 1.0)
    for hook in hooks:
        if hook.release:
            hook.release(model)


def _rejection(broken: Mapping[str, float], facts: Evaluation, bench: Workbench) -> str:
    ceilings = bench.limits.ceilings(bench.context.profile)
    parts = (
        f"{name} must be at most {ceilings[name]:g}, but the untrained export has "
        f"{facts.value(name):g} ({1 + excess:.3g} times as much)"
        for name, excess in broken.items()
    )
    return "; ".join(parts)
