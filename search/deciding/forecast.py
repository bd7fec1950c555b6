"""How long a training will take, from those that are done."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from search.deciding.rungs import FULL_SHARE, LAST, RUNGS
from search.trial import Trial
from spaces import CompressionPlan

MARGIN = 1.2  # what was seen may have been lucky
RECENT = 5


@dataclass(frozen=True)
class Untouched:
    """What is known of the untouched model before anything was trained.

    Its multiply-accumulates, seconds that its full training would take, by a few steps of it,
    and seconds that the rest of a job takes.
    """

    macs: float
    train_s: float
    others_s: float


@dataclass(frozen=True)
class _Seen:
    """Of one trial: its multiply-accumulates, and seconds of one full training."""

    macs: float
    train_s: float


class Experience:
    """Expected seconds of jobs, rather too long than too short."""

    def __init__(
        self, macs: Callable[[CompressionPlan], float], untouched: Untouched | None = None
    ) -> None:
        """``macs`` are a plan's multiply-accumulates for one image."""
        self._macs = macs
        self._untouched = untouched
        self._seen: list[_Seen] = []
        self._others_s: deque[float] = deque(maxlen=RECENT)

    def learn(self, trial: Trial) -> None:
        """Takes a finished trial into account.

        One that trained nothing says nothing, nor does one that was trained in an earlier search.
        """
        if "cached" in trial.stages:
            return
        rungs = [rung for rung in RUNGS if rung.name in trial.seen]
        whole = RUNGS[LAST] in rungs
        share = FULL_SHARE if whole else sum(rung.share for rung in rungs)
        train_s = trial.stages.get("train", 0.0)
        if share > 0 and train_s > 0:
            self._seen.append(_Seen(self._macs(trial.plan), train_s / share))
            self._others_s.append((trial.seconds - train_s) / len(rungs))

    def expected_s(self, plan: CompressionPlan, share: float) -> float:
        """Seconds of a job with so large a ``share`` of the full training; 0 if nothing is known.

        A training takes time for every step and time for every multiply-accumulate. So a plan
        takes at most what a larger one took, and at most what a smaller one took times the
        ratio of their multiply-accumulates: the least of these bounds is the best. Until a
        training was seen, half of the untouched model's time is taken to be for its steps.
        """
        macs = self._macs(plan)
        bounds = (seen.train_s * max(1.0, macs / seen.macs) for seen in self._seen)
        train_s = min(bounds, default=math.nan)
        if math.isnan(train_s):
            if self._untouched is None:
                return 0.0
            train_s = self._untouched.train_s * (1 + macs / self._untouched.macs) / 2
            return MARGIN * (share * train_s + self._untouched.others_s)
        return MARGIN * (share * train_s + max(self._others_s))
