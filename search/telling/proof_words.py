"""What the test split says of a model, and every sentence about it: all made of this one value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evaluators.tasks.drop import DropBound
from search.telling import words

VERSION = 1
Kind = Literal["untouched", "proved", "failed", "out of turn", "class missing"]
_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    "tenth",
)


@dataclass(frozen=True)
class ProofOutcome:
    """How the proof of one model ended.

    ``kind``: ``untouched``, nothing to prove; ``proved``, in its turn; ``failed``, in its turn
    its own bound was beyond the limit; ``out of turn``, looked at after a safer finalist had
    failed, so that nothing follows; ``class missing``, the test split lacks classes of the
    training, ``missing``. ``confidence`` is that of the claim, over all openings of these test
    images; that of ``bound`` is what this opening, the ``opening``-th, was left with. ``earlier``:
    an opening before this search's has tested this very file. ``needed`` is about how many images
    would show it, where they would.
    """

    kind: Kind
    bound: DropBound
    max_drop: float
    confidence: float
    metric: str
    opening: int = 1
    earlier: bool = False
    needed: int | None = None
    missing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """One or two words."""
        if self.kind == "untouched":
            return "Nothing to prove"
        return "Proved" if self.kind == "proved" else "Unproven"

    @property
    def verdict(self) -> str:
        """A few words for a cell of a table."""
        if self.kind == "proved":
            return f"proved: at most {words.points(self.max_drop)}"
        return {
            "untouched": "nothing to prove",
            "failed": "not proved",
            "out of turn": "not proved: out of turn",
            "class missing": "not proved: a class is missing",
        }[self.kind]

    @property
    def own_bound(self) -> float | None:
        """The bound read alone; None where there is none that holds or says something."""
        if self.kind in ("untouched", "class missing") or not math.isfinite(self.bound.bound):
            return None
        return self.bound.bound

    @property
    def claim(self) -> str:
        """What is shown, or that nothing is, in one sentence."""
        limit = words.points(self.max_drop)
        if self.kind == "untouched":
            return "Nothing has to be proved: it is what every drop is counted from."
        if self.kind == "proved":
            sure = words.percent(self.confidence)
            return f"Proved: the drop is at most {limit} ({sure} confidence)."
        return f"Unproven: that the drop is at most {limit} is not shown."

    @property
    def evidence(self) -> str:
        """What was seen on the test split; empty for the untouched model."""
        if self.kind == "untouched":
            return ""
        title = words.metric_title(self.metric)
        groups = "" if self.bound.groups is None else f" of {self.bound.groups:,} groups"
        seen = (
            f"On {self.bound.images:,} test images{groups} its {title} {_changed(self.bound.drop)}"
        )
        if self.own_bound is None:
            return f"{seen}."
        level = words.percent(self.bound.confidence)
        return (
            f"{seen}; its own bound, read alone, is {words.points(self.own_bound)} (at {level})."
        )

    @property
    def spent(self) -> str:
        """What earlier openings have to do with it; empty where there were none."""
        if self.kind in ("untouched", "class missing"):
            return ""
        if self.earlier:
            return "This file was tested on these images before; what was found stands."
        if self.opening < 2:
            return ""
        left, all_of_it = 1 - self.bound.confidence, 1 - self.confidence
        return (
            f"These test images were opened for the {ordinal(self.opening)} time: of the "
            f"{words.percent(all_of_it)} allowed for errors it had {words.percent(left)}."
        )

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
        if self.bound.drop >= self.max_drop:
            return "That is not below the limit, so that more test images would not show it."
        if self.kind == "out of turn":
            return (
                "It was looked at after a safer finalist had failed, which proves nothing: more "
                "test images may."
            )
        if self.needed is None:
            return "More test images may show it."
        like = "" if self.bound.groups is None else ", of as many more groups,"
        return f"About {self.needed:,} test images like these{like} would be enough."

    @property
    def sentences(self) -> str:
        """All of it, for a paragraph."""
        return " ".join(filter(None, (self.claim, self.evidence, self.remedy, self.spent)))

    def to_json(self) -> dict[str, Any]:
        """For programs; ``own_bound`` is null where the metric has none that holds."""
        counts = asdict(self.bound)
        counts.pop("bound")
        return {
            "version": VERSION,
            "outcome": self.kind,
            "claim": self.claim,
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "own_bound": self.own_bound,
            "own": counts,
            "opening": self.opening,
            "earlier": self.earlier,
            "images_needed": self.needed,
            "missing_classes": list(self.missing),
        }


def ordinal(number: int) -> str:
    """``second``; from the eleventh on in digits: ``22nd``."""
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10)
    return f"{number}{ending or 'th'}"


def _changed(drop: float) -> str:
    if drop == 0:
        return "does not drop"
    return f"drops by {words.points(drop)}" if drop > 0 else f"rises by {words.points(-drop)}"
