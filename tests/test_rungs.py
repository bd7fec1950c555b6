"""Who goes on from rung to rung, by hand."""

from __future__ import annotations

import pytest

from search.deciding.rungs import LAST, RUNGS, Seen, goes_on

SHORT = 1
MAX_DROP = 0.03
# Three plans that were trained in full; of the best, with a point added to both drops, training
# left a third: squared, a ninth.
TRAINED = {
    "a": (Seen(0.02, 4.0, 0.0), Seen(0.01, 4.0, 0.0)),
    "b": (Seen(0.03, 3.0, 0.0), Seen(0.01, 3.0, 0.0)),
    "c": (Seen(0.05, 2.0, 0.02), Seen(0.01, 2.0, 0.0)),
}


def does_it_go_on(mine: Seen) -> bool:
    """Beside the trained plans and five that are better than any newcomer."""
    history: list[dict[str, Seen]] = [{} for _ in RUNGS]
    for plan, (short, full) in TRAINED.items():
        history[SHORT][plan] = short
        history[LAST][plan] = full
    history[SHORT] |= {f"good {n}": Seen(0.0, 1.0 + 0.1 * n, 0.0) for n in range(5)}
    history[SHORT]["mine"] = mine
    return goes_on(SHORT, "mine", history, list(history[LAST].values()), MAX_DROP)


@pytest.mark.parametrize(
    ("drop", "latency_ms", "expected"),
    [
        (0.34, 1.5, True),  # 35 / 9 - 1 = 2.9 points: within the limit, and the fastest of all
        (0.36, 1.5, False),  # 3.1 points at best
        (0.20, 2.0, False),  # 1.3 points at best, where c has 1 point and is as fast
        (0.15, 2.5, True),  # 0.8 points at best: nothing trained has so little
        (0.20, 2.5, False),  # 1.3 points at best, where c has 1 point and is faster
    ],
)
def test_a_plan_goes_on_while_the_best_ratio_squared_carries_it_into_the_front(
    drop: float, latency_ms: float, expected: bool
) -> None:
    assert does_it_go_on(Seen(drop, latency_ms, drop - MAX_DROP)) is expected


def test_the_best_third_goes_on_whatever_it_may_hope_for() -> None:
    assert does_it_go_on(Seen(0.0, 0.9, 0.0))


def test_everything_goes_on_until_there_is_experience() -> None:
    history: list[dict[str, Seen]] = [{} for _ in RUNGS]
    history[SHORT] = {f"good {n}": Seen(0.0, 1.0, 0.0) for n in range(9)}
    history[SHORT]["mine"] = Seen(0.9, 9.0, 0.87)
    assert goes_on(SHORT, "mine", history, [], MAX_DROP)
