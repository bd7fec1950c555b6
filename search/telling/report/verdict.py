"""What the page says first: what was won, and whether it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search.result import Finalist, SearchResult
from search.telling import words
from search.telling.summary import (
    baseline_of,
    metric_title,
    simple_of,
    speedup,
    why_simple_lost,
    winner_of,
)

Part = tuple[str, bool]  # text, and whether it is stressed


@dataclass(frozen=True)
class Verdict:
    """``kind`` decides sign and color; ``title`` is one word or two, ``text`` the reason."""

    kind: Literal["proven", "unproven", "infeasible"]
    title: str
    text: str


def headline(result: SearchResult) -> tuple[Part, ...]:
    """One sentence in parts."""
    baseline, simple, winner = baseline_of(result), simple_of(result), winner_of(result)
    if winner is None or result.winner is None:
        return (("No candidate meets the limits.", False),)
    if winner.trial.number == baseline.trial.number:
        return (("The untouched model stays: nothing faster meets the limits.", False),)
    parts = [(words.ratio(speedup(baseline, winner)), True), (" as fast as FP32", False)]
    if simple and simple.trial.number == winner.trial.number:
        parts.append((", itself the strongest simple baseline", False))
    elif simple:
        parts += [
            (" and ", False),
            (words.ratio(speedup(simple, winner)), True),
            (" as fast as the strongest simple baseline", False),
        ]
    return (*parts, *_price(result.winner, metric_title(result.metric)))


def _price(winner: Finalist, metric: str) -> tuple[Part, ...]:
    drop = winner.bound.drop
    if drop > 0:
        return (
            (", for ", False),
            (words.points(drop), True),
            (f" of {metric}.", False),
        )
    if drop < 0:
        return ((", with ", False), (words.points(-drop), True), (f" more {metric}.", False))
    return ((f", with no drop in {metric}.", False),)


def verdict(result: SearchResult) -> Verdict:
    """Whether the drop is shown, and what would show it."""
    limit = words.points(result.limits.max_drop)
    winner = result.winner
    if winner is None:
        return Verdict("infeasible", "Infeasible", " ".join(result.blocking))
    bound = winner.bound
    at_most = (
        f"with {words.percent(bound.confidence)} confidence the drop is at most "
        f"{words.points(bound.bound)}"
    )
    seen = (
        f"Tested on {bound.images:,} images that the search never saw: "
        f"{bound.lost:,} lost, {bound.gained:,} gained."
    )
    if why := why_simple_lost(result):
        seen += f" {why}"
    if not winner.trial.plan.settings:
        return Verdict("proven", "Nothing to prove", "The untouched model loses nothing.")
    if winner.proven:
        return Verdict("proven", "Proven", f"{at_most}; the limit is {limit}. {seen}")
    enough = ""
    if winner.images_needed:
        enough = f" About {winner.images_needed:,} test images like these would be enough."
    return Verdict("unproven", "Unproven", f"{at_most}, but the limit is {limit}. {seen}{enough}")
