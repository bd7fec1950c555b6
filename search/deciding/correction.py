"""What measured drops say about the losses that were modeled before anything was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from search.deciding.allocation import Allocator, Choice, Unit
from search.deciding.rungs import LAST, RUNGS
from search.trial import Trial
from spaces import CompressionPlan
from spaces.techniques import resolution

LEAST_TRIALS = 3
PRIOR_STRENGTH = 0.3  # of the prior belief that every unit's loss counts the same
LEAST_WEIGHT = 0.05
LARGEST_DROP = 0.5  # beyond it a network guesses, and says nothing about its parts


@dataclass(frozen=True)
class Correction:
    """A drop is about ``scale`` times the sum of the units' losses, each with its weight."""

    scale: float
    weights: Mapping[str, float]

    def drop(self, losses: Mapping[str, float]) -> float:
        """The estimated drop of a plan with these losses by unit."""
        return self.scale * sum(loss * self.weights[unit] for unit, loss in losses.items())


def correct(model: Allocator, finished: Sequence[Trial]) -> Correction | None:
    """Ridge regression of measured drops on modeled losses, toward equal weights, none negative.

    Plans that were not trained in full are left out: most of what they lost comes back. So are
    those with settings that are foreign to the model: what these do, no unit has done.
    None when fewer than three compressed plans are left, or nothing could have been lost.
    """
    pruned = [
        t
        for t in finished
        if t.plan.settings and t.rung == RUNGS[LAST].name and not model.foreign(t.plan)
    ]
    if len(pruned) < LEAST_TRIALS:
        return None
    units = model.units
    rows, drops = [], []
    for trial in pruned:
        chosen = zip(units, model.assignment(trial.plan), strict=True)
        rows.append([unit.choices[index].loss for unit, index in chosen])
        assert trial.evaluation is not None
        drops.append(min(max(trial.evaluation.value("drop"), 0.0), LARGEST_DROP))
    losses, measured = np.array(rows), np.array(drops)
    total = losses.sum(axis=1)
    if not total.any():
        return None
    if not measured.any():
        return Correction(0.0, {unit.name: 1.0 for unit in units})
    scale = float(total @ measured / (total @ total))
    typical = float(np.abs(measured).mean())
    prior = math.sqrt(PRIOR_STRENGTH * len(pruned)) * typical
    weights, _ = nnls(
        np.vstack([losses * scale, prior * np.eye(len(units))]),
        np.concatenate([measured, np.full(len(units), prior)]),
    )
    found = {u.name: float(max(w, LEAST_WEIGHT)) for u, w in zip(units, weights, strict=True)}
    return Correction(scale, found)


def losses_of(
    plan: CompressionPlan, units: Sequence[Unit], bits: Mapping[str, Mapping[int, float]]
) -> dict[str, float]:
    """Modeled losses of a plan by unit; ``bits`` maps layers to {width in bits: loss}.

    Exact layer by layer, where an allocator gives all layers of a group the same bits.
    """
    kept = plan.settings.get("pruning", {}).get("kept", {})
    chosen = plan.settings.get("quantization", {}).get("bits", {})
    removed = plan.settings.get("depth", {}).get("removed", ())
    size = resolution.size_of(plan.settings.get("resolution", {}))
    losses = {}
    for unit in units:
        if unit.kind == "block":
            losses[unit.name] = unit.choices[1].loss if unit.name in removed else 0.0
        elif unit.kind == "input":
            losses[unit.name] = next(c.loss for c in unit.choices if c.size == size)
        else:
            rounding = sum(bits.get(la, {}).get(chosen.get(la, 32), 0.0) for la in unit.layers)
            losses[unit.name] = _narrowing(unit, kept.get(unit.name)) + rounding
    return losses


def _narrowing(unit: Unit, channels: int | None) -> float:
    """The loss of the width alone: that of the nearest float choice."""
    if channels is None:
        return 0.0

    def distance(choice: Choice) -> tuple[int, int]:
        return abs((choice.channels or 0) - channels), 32 - (choice.bits or 32)

    return min(unit.choices, key=distance).loss
