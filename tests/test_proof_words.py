"""What is said of the proof, over everything that can come of it."""

from __future__ import annotations

import itertools
import re

import pytest

from evaluators.tasks.drop import DropBound
from search.telling.proof_words import Kind, ProofOutcome

KINDS: tuple[Kind, ...] = ("untouched", "proved", "failed", "out of turn", "class missing")


@pytest.mark.parametrize(
    ("kind", "drop", "own_bound", "needed"),
    itertools.product(KINDS, (-0.01, 0.0, 0.012), (-0.002, 0.0222, 0.03, 0.05), (None, 1180)),
)
def test_sentences_never_contradict_each_other(
    kind: Kind, drop: float, own_bound: float, needed: int | None
) -> None:
    bound = DropBound(drop, own_bound, 0.95, 300, 5, 2, "exact")
    missing = ("crack",) if kind == "class missing" else ()
    outcome = ProofOutcome(kind, bound, 0.03, "accuracy", needed, missing)
    said = outcome.sentences.replace("\u00a0", " ")
    assert ("Proved: the drop is at most 3 points (95 %" in said) == (kind == "proved")
    assert ("Unproven" in said) == (kind in ("failed", "out of turn", "class missing"))
    assert said.count("read alone") == (kind in ("proved", "failed", "out of turn"))
    # What is not proved is never said to be within or beyond the limit by a bound.
    assert "within" not in said
    assert ("safer finalist had failed" in said) == (kind == "out of turn")
    assert ("More images alone would not" in said) == (kind == "failed" and needed is None)
    assert ("1,180 test images" in said) == (kind == "failed" and needed is not None)
    assert ("no images of 'crack'" in said) == (kind == "class missing")
    assert re.fullmatch(r"(?:[A-Z][^.]*(?:\.\d[^.]*)*\.\s?)+", said), said
