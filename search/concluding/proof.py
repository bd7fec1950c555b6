"""Whether a drop is shown, not hoped: bounds on paired differences, and who is tested in turn.

A *drop* is the baseline's score minus the candidate's on the same images; a gain is a negative
drop. A bound is one-sided: over repetitions, the true drop lies above it in at most
``1 - confidence`` of them. A finalist is *proved* when its bound on the test split is at most
the limit. How and why is in ``docs/proof.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from evaluators.tasks.drop import DropBound

P = TypeVar("P")


@dataclass(frozen=True)
class Finalist(Generic[P]):
    """A candidate for the proof with what is known of it *without* the test split."""

    payload: P
    latency_ms: float
    validation: DropBound


@dataclass(frozen=True)
class Tested(Generic[P]):
    """A finalist and its bound on the test split."""

    finalist: Finalist[P]
    test: DropBound


@dataclass(frozen=True)
class Proof(Generic[P]):
    """Which finalists are proved, each faster than the one before it.

    ``failed`` is the first whose bound exceeded the limit; ``untested`` come after it.
    """

    max_drop: float
    proved: tuple[Tested[P], ...]
    failed: Tested[P] | None
    untested: tuple[Finalist[P], ...]

    @property
    def winner(self) -> Tested[P] | None:
        """The fastest finalist that is proved, or None."""
        return self.proved[-1] if self.proved else None


def safest_first(finalists: Iterable[Finalist[P]]) -> tuple[Finalist[P], ...]:
    """Safest first by the bound on the validation split, and each next one faster.

    A finalist that is no faster than a safer one could not win, and its failure would stop the
    sequence, so that it is left out. Of equally safe ones the slower comes first.
    """
    order: list[Finalist[P]] = []
    for finalist in sorted(finalists, key=lambda f: (f.validation.bound, -f.latency_ms)):
        if not order or finalist.latency_ms < order[-1].latency_ms:
            order.append(finalist)
    return tuple(order)


def prove(
    finalists: Iterable[Finalist[P]], test: Callable[[P], DropBound], max_drop: float
) -> Proof[P]:
    """Tests finalists in ``safest_first`` until one fails: fixed-sequence testing.

    Because the order is fixed before the test split is seen and testing stops at the first
    failure, each test may use the whole error allowance: some finalist whose true drop exceeds
    the limit is proved with probability at most ``1 - confidence``, however many there are
    (Maurer, Hothorn & Lehmacher 1995). ``test`` gives a finalist's bound on the test split; it
    is asked only for those whose turn comes.
    """
    order = safest_first(finalists)
    proved: list[Tested[P]] = []
    for position, finalist in enumerate(order):
        tested = Tested(finalist, test(finalist.payload))
        if not tested.test.shows(max_drop):
            return Proof(max_drop, tuple(proved), tested, order[position + 1 :])
        proved.append(tested)
    return Proof(max_drop, tuple(proved), None, ())
