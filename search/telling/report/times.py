"""Where the time of a search went."""

from __future__ import annotations

from dataclasses import dataclass

from search.result import SearchResult


@dataclass(frozen=True)
class Stage:
    """Seconds of one stage over all trials, and its share of them."""

    name: str
    seconds: float
    share: float


def stages(result: SearchResult) -> list[Stage]:
    """Longest first. With trials in parallel their sum may exceed the search's own time."""
    spent: dict[str, float] = {}
    for trial in result.trials:
        for name, seconds in trial.stages.items():
            spent[name] = spent.get(name, 0.0) + seconds
    rest = result.seconds - sum(spent.values())
    if rest > 0:
        spent["outside of trials (set-up, proof, export)"] = rest
    total = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return [Stage(name, s, s / total) for name, s in ordered if total]
