"""What the page says first: what was won, and whether it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search.result import Finalist, SearchResult
from search.telling import words
from search.telling.summary import (
    baseline_of,
    gained,
    simple_of,
    untouched_delivered,
    why_simple_lost,
    winner_of,
)
from search.telling.words import metric_title

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
        return ((untouched_delivered(result), False),)
    parts = [(gained(baseline, winner), True), (" as fast as FP32", False)]
    if simple and simple.trial.number == winner.trial.number:
        parts.append((", itself the strongest simple baseline", False))
    elif simple:
        parts += [
            (" and ", False),
            (gained(simple, winner), True),
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
    winner = result.winner
    if winner is None:
        return Verdict("infeasible", "Infeasible", " ".join(result.blocking))
    outcome = winner.outcome
    said = outcome.sentences.removeprefix(f"{outcome.title}: ")
    bound = outcome.bound
    if outcome.kind != "untouched":
        said += (
            f" {bound.images:,} images that the search never saw: {bound.lost:,} lost, "
            f"{bound.gained:,} gained."
        )
        if why := why_simple_lost(result):
            said += f" {why}"
    is_fine = outcome.kind in ("untouched", "proved")
    return Verdict("proven" if is_fine else "unproven", outcome.title, said[0].upper() + said[1:])
