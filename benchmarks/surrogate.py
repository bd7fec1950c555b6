"""What a plan that is not in a recorded table would have shown, learned from those that are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from recorded import Header, Recorded
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from search.deciding.allocation import Allocator
from search.deciding.rungs import RUNGS
from spaces import CompressionPlan
from spaces.techniques.distillation import DEFAULT

SOFTENING = 0.01  # drops are learned as logarithms above it: one point is about what is told apart
TREES, FOLDS = 200, 5


class Surrogate:
    """Drop and seconds of any plan at every rung; trees on what the plan leaves of each unit."""

    def __init__(self, header: Header, rows: Sequence[Recorded], trees: int = TREES) -> None:
        self._header = header
        self._rows = rows
        self._trees = trees
        self._prior = Allocator(header.space, header.sensitivity)
        self._seen = np.array([self._features(row.plan) for row in rows])
        self._drops = {}
        self._seconds = {}
        for rung in (r.name for r in RUNGS):
            self._drops[rung] = self._forest().fit(self._seen, _to_log(self._recorded(rung)))
            self._seconds[rung] = make_pipeline(StandardScaler(), RidgeCV()).fit(
                self._seen, [np.log(row.seconds[rung]) for row in rows]
            )

    @property
    def plans(self) -> int:
        """So many were learned from."""
        return len(self._rows)

    def held_out_error(self) -> dict[str, float]:
        """Mean error of the drops of plans that were not learned from, by rung."""
        found = {}
        for rung in (r.name for r in RUNGS):
            drops, folds = self._recorded(rung), KFold(FOLDS, shuffle=True, random_state=0)
            guessed = cross_val_predict(self._forest(), self._seen, _to_log(drops), cv=folds)
            found[rung] = float(np.abs(_from_log(guessed) - drops).mean())
        return found

    def _recorded(self, rung: str) -> NDArray[np.float64]:
        return np.array([max(row.drops[rung], 0.0) for row in self._rows])

    def _forest(self) -> ExtraTreesRegressor:
        return ExtraTreesRegressor(
            self._trees, max_features=0.5, min_samples_leaf=2, n_jobs=1, random_state=0
        )

    def drops(self, plan: CompressionPlan) -> dict[str, float]:
        """By rung; never below zero."""
        row = self._features(plan)[None]
        return {name: float(_from_log(m.predict(row))[0]) for name, m in self._drops.items()}

    def seconds(self, plan: CompressionPlan) -> dict[str, float]:
        """Of each rung alone."""
        row = self._features(plan)[None]
        return {name: float(np.exp(m.predict(row)[0])) for name, m in self._seconds.items()}

    def _features(self, plan: CompressionPlan) -> NDArray[np.float64]:
        """Modeled loss, kept channels and bits of every unit; sizes and distillation of all."""
        space = self._header.space
        assignment = self._prior.assignment(plan)
        choices = [u.choices[i] for u, i in zip(self._prior.units, assignment, strict=True)]
        untouched = [u.choices[0].channels or 1 for u in self._prior.units]
        table = space.table(plan)
        distillation = {**DEFAULT, **plan.settings.get("distillation", {})}
        return np.array(
            [c.loss for c in choices]
            + [np.log2((c.channels or n) / n) for c, n in zip(choices, untouched, strict=True)]
            + [float(c.bits == 8) for c in choices]
            + [float(c.removed) for c in choices]
            + [np.log(table.macs), np.log(table.parameters)]
            + [np.log(table.latency_ms(space.profile)), sum(c.loss for c in choices)]
            + [distillation["temperature"], distillation["weight"]]
        )


def _to_log(drops: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(drops + SOFTENING)


def _from_log(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(np.exp(values) - SOFTENING, 0.0)
