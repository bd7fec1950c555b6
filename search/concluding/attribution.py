"""Why this plan: what each of its choices saves and costs, found by reverting it alone.

Milliseconds and bytes of weights come from the table of shapes, the very one that the plan was
chosen with. What a width in bits costs is measured: the trained weights are exported with that
one layer in float and evaluated again. Channels and blocks that are gone can't be brought back
to trained weights, so their cost is estimated from the sensitivity, corrected by what the
search has measured.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from evaluators import Evaluation
from evaluators.accuracy import EVALUATOR as ACCURACY
from search.deciding.allocation import Allocator
from search.deciding.correction import correct, losses_of
from search.deciding.sensitivity import Sensitivity
from search.training.job import Workbench, build, rewrite
from search.trial import Trial
from spaces import CompressionPlan
from spaces.files.export import export_onnx
from spaces.space import SearchSpace, bind

BY_EXPORT = ("quantization",)  # techniques that leave the trained weights as they are
MEASURE_S = 10.0
SAVINGS_SHARE = 0.25  # of what a budget keeps for the end


@dataclass(frozen=True)
class Saving:
    """One of the winner's choices, found by reverting it alone.

    Reverting it costs ``saves_ms`` and ``saves_bytes`` and gives ``costs`` of the metric back;
    None where that was not evaluated. ``source`` is that of ``costs``.
    """

    choice: str
    saves_ms: float | None
    saves_bytes: float | None
    costs: float | None
    source: Literal["measured", "estimated"] | None = None


@dataclass(frozen=True)
class Reverted:
    """A plan without one of its choices, which belongs to ``technique``."""

    technique: str
    choice: str
    plan: CompressionPlan


Measure = Callable[[CompressionPlan], float | None]
Estimate = Callable[[CompressionPlan, CompressionPlan], float | None]


def reverts(plan: CompressionPlan, space: SearchSpace) -> Iterator[Reverted]:
    """The plan without each of its choices in turn."""
    for technique in space.techniques:
        setting = plan.settings.get(technique.name, {})
        if not setting:
            continue
        for choice, without in technique.reverted(setting, space.network):
            settings = {**plan.settings, technique.name: without}
            yield Reverted(technique.name, choice, space.canonical(settings))


def savings(
    plan: CompressionPlan, space: SearchSpace, estimate: Estimate, measure: Measure
) -> tuple[Saving, ...]:
    """What each choice saves and costs, what saves most time first.

    Args:
        plan: the winner's.
        space: where it is from.
        estimate: by how much the first plan drops more than the second; None where it can't
            tell.
        measure: the drop of the winner's weights under another plan, as a fraction; None when
            there is no time for it. It is asked for the plan itself first, and then for those
            that differ in a technique that can be changed after training.
    """
    before = space.table(plan)
    before_ms, before_bytes = before.latency_ms(space.profile), before.weight_bytes
    found = []
    for reverted in reverts(plan, space):
        after = space.table(reverted.plan)
        saved_ms = after.latency_ms(space.profile) - before_ms
        saved_bytes = after.weight_bytes - before_bytes
        if saved_ms or saved_bytes:
            found.append((reverted, Saving(reverted.choice, saved_ms, saved_bytes, None)))
    found.sort(key=lambda item: -(item[1].saves_ms or 0.0))
    by_export = [r for r, _ in found if r.technique in BY_EXPORT]
    own = measure(plan) if by_export else None
    priced = []
    for reverted, saving in found:
        drop = None
        if own is not None and reverted.technique in BY_EXPORT:
            drop = measure(reverted.plan)
        if own is not None and drop is not None:
            priced.append(replace(saving, costs=own - drop, source="measured"))
            continue
        costs = estimate(plan, reverted.plan)
        if costs is not None:
            saving = replace(saving, costs=costs, source="estimated")
        priced.append(saving)
    return tuple(priced)


def estimator(
    space: SearchSpace, sensitivity: Sensitivity | None, trials: tuple[Trial, ...]
) -> Estimate:
    """Estimates drops by the sensitivity, corrected by the finished trials.

    It can't tell between plans that differ in something of which the sensitivity knows nothing.
    """
    if sensitivity is None:
        return lambda plan, other: None
    allocator = Allocator(space, sensitivity)
    finished = [t for t in trials if t.state == "complete" and t.evaluation is not None]
    correction = correct(allocator, finished)
    if correction is None:
        return lambda plan, other: None

    def drop(plan: CompressionPlan) -> float:
        return correction.drop(losses_of(plan, allocator.units, sensitivity.bits))

    def estimate(plan: CompressionPlan, other: CompressionPlan) -> float | None:
        if allocator.foreign(plan) != allocator.foreign(other):
            return None
        return drop(plan) - drop(other)

    return estimate


class Reexport:
    """Drops of a trial's trained weights under plans that leave the weights alone.

    The float file is exported once; each plan's techniques then rewrite a copy of it.
    """

    def __init__(
        self,
        trial: Trial,
        bench: Workbench,
        folder: Path,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``folder`` is the study's. No plan is begun that would end after ``seconds``."""
        assert trial.model is not None
        self._plan = trial.plan
        self._weights = folder / trial.model.with_name("weights.pt")
        self._bench = replace(bench, folder=bench.context.scratch / "reverted")
        self._clock = clock
        self._ends = clock() + seconds
        # Until one was done: what the trial took to be built and exported, as that comes first.
        self._needed_s = sum(trial.stages.get(stage, 0.0) for stage in ("build", "export"))
        self._float: Path | None = None

    def __call__(self, plan: CompressionPlan) -> float | None:
        """The drop on the validation images; None when there is no time, or are no weights."""
        if self._clock() + self._needed_s > self._ends or not self._weights.is_file():
            return None
        first = self._float is None
        exported = self._exported()
        began = self._clock()
        drop = self._drop(plan, exported)
        spent_s = self._clock() - began
        self._needed_s = spent_s if first else max(self._needed_s, spent_s)
        return drop

    def close(self) -> None:
        """Removes the files."""
        shutil.rmtree(self._bench.folder, ignore_errors=True)

    def _drop(self, plan: CompressionPlan, exported: Path) -> float:
        folder = self._bench.folder / plan.plan_id
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        shutil.copyfile(exported, path)
        rewrite(path, bind(plan), self._bench)
        found = Evaluation.of(ACCURACY.evaluate(path, self._bench.context))
        return found.value("drop")

    def _exported(self) -> Path:
        """The weights as a float file."""
        if self._float is None:
            hooks = bind(self._plan)
            model, context = build(self._bench, hooks)
            model.load_state_dict(torch.load(self._weights, weights_only=True))
            path = self._bench.folder / "float.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            export_onnx(model, path, tuple(context.images.shape[1:]))  # type: ignore[arg-type]
            self._float = path
        return self._float
