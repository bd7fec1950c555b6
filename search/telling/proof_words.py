"""How the proof ended: one value, from which every sentence about it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evaluators.tasks.drop import DropBound
from search.result import Finalist, SearchResult
from search.telling import words

Kind = Literal["untouched", "proved", "failed", "out of turn", "class missing"]


@dataclass(frozen=True)
class ProofOutcome:
    """What the test split says of the model that is delivered.

    ``kind``: ``untouched``, nothing to prove; ``proved``, in its turn; ``failed``, its own bound
    is beyond the limit; ``out of turn``, its bound is within the limit but a safer finalist had
    failed before it, so that nothing follows; ``class missing``, the test split lacks classes of
    the training, ``missing``. ``needed`` is about how many images would show it, where they would.
    """

    kind: Kind
    bound: DropBound
    max_drop: float
    metric: str
    needed: int | None = None
    missing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """One or two words."""
        if self.kind == "untouched":
            return "Nothing to prove"
        return "Proved" if self.kind == "proved" else "Unproven"

    @property
    def claim(self) -> str:
        """What is shown, or that nothing is, in one sentence."""
        limit = words.points(self.max_drop)
        if self.kind == "untouched":
            return "Nothing has to be proved: it is what every drop is counted from."
        if self.kind == "proved":
            sure = words.percent(self.bound.confidence)
            return f"Proved: the drop is at most {limit} ({sure} confidence)."
        return f"Unproven: that the drop is at most {limit} is not shown."

    @property
    def evidence(self) -> str:
        """What was seen on the test split; empty for the untouched model."""
        if self.kind == "untouched":
            return ""
        bound = self.bound
        seen = f"On {bound.images:,} test images its {self.metric} {_changed(bound.drop)}"
        if self.kind == "class missing":
            return f"{seen}."
        return f"{seen}; its own bound, read alone, is {words.points(bound.bound)}."

    @property
    def remedy(self) -> str:
        """Why it is unproven and what would help; empty for what is not."""
        if self.kind in ("untouched", "proved"):
            return ""
        if self.kind == "class missing":
            names = ", ".join(map(repr, self.missing[:5])) + (", …" if self.missing[5:] else "")
            return (
                f"The test split has no images of {names}, of which this metric takes the mean: "
                f"add some."
            )
        if self.kind == "out of turn":
            return (
                "It was looked at after a safer finalist had failed, which proves nothing: more "
                "test images may."
            )
        if self.needed is None:
            return "More images alone would not show it: the drop itself is too near the limit."
        return f"About {self.needed:,} test images like these would be enough."

    @property
    def sentences(self) -> str:
        """All of it, for a paragraph."""
        return " ".join(filter(None, (self.claim, self.evidence, self.remedy)))


def outcome_of(result: SearchResult, finalist: Finalist) -> ProofOutcome:
    """How the proof of a finalist ended."""
    bound, limit = finalist.bound, result.limits.max_drop
    kind: Kind = "failed"
    if not finalist.trial.plan.settings:
        kind = "untouched"
    elif result.missing_classes:
        kind = "class missing"
    elif finalist.proven:
        kind = "proved"
    elif bound.shows(limit):
        kind = "out of turn"
    title = words.metric_title(result.metric)
    needed = finalist.images_needed if kind == "failed" else None
    return ProofOutcome(kind, bound, limit, title, needed, result.missing_classes)


def _changed(drop: float) -> str:
    if drop == 0:
        return "does not drop"
    return f"drops by {words.points(drop)}" if drop > 0 else f"rises by {words.points(-drop)}"
