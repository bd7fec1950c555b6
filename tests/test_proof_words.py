"""What is said of the proof, over everything that can come of it."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from evaluators.tasks.drop import DropBound
from search.telling.proof_words import Kind, ProofOutcome, ordinal

KINDS: list[Kind] = ["untouched", "proved", "failed", "out of turn", "class missing"]
OUTCOMES = [
    ProofOutcome(
        kind,
        DropBound(drop, own_bound, 0.9667 if opening == 1 else 0.99167, 300, 5, 2, "exact"),
        0.03,
        0.95,
        metric,
        opening,
        earlier,
        needed,
        ("crack",) if kind == "class missing" else (),
    )
    for kind, drop, own_bound, metric, opening, earlier, needed in itertools.product(
        KINDS,
        (-0.01, 0.0, 0.012, 0.03, 0.2),
        (-0.002, 0.0222, 0.03, 0.25),
        ("accuracy", "balanced_accuracy"),
        (1, 2),
        (False, True),
        (None, 1180),
    )
]


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_never_contradict_each_other(kind: Kind) -> None:
    for outcome in (o for o in OUTCOMES if o.kind == kind):
        said = outcome.sentences.replace("\u00a0", " ")
        beyond = outcome.bound.drop >= 0.03
        unproven = kind in ("failed", "out of turn", "class missing")
        assert ("Proved: the drop is at most 3 points (95 %" in said) == (kind == "proved")
        assert ("Unproven" in said) == unproven
        assert said.count("read alone") == (kind in ("proved", "failed", "out of turn"))
        # What is not proved is never said to be within or beyond the limit by a bound.
        assert "within" not in said
        assert ("not below the limit" in said) == (kind in ("failed", "out of turn") and beyond)
        in_time = kind == "out of turn" and not beyond
        assert ("safer finalist had failed" in said) == in_time
        enough = kind == "failed" and not beyond and outcome.needed is not None
        assert ("1,180 test images" in said) == enough
        assert ("no images of 'crack'" in said) == (kind == "class missing")
        tested = kind in ("proved", "failed", "out of turn")
        assert ("was tested on these images before" in said) == (tested and outcome.earlier)
        again = tested and outcome.opening == 2 and not outcome.earlier
        assert (
            "for the second time: of the 5 % allowed for errors it had 0.83 %" in said
        ) == again
        assert re.fullmatch(r"(?:[A-Z][^.]*(?:\.\d[^.]*)*\.\s?)+", said), said
        assert ("proved: at most 3" in outcome.verdict.replace("\u00a0", " ")) == (
            kind == "proved"
        )
        assert (outcome.own_bound is None) == (kind in ("untouched", "class missing"))


def test_json_holds_the_claim_and_no_bound_that_does_not_hold() -> None:
    for outcome in OUTCOMES:
        told = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
        assert told["outcome"] == outcome.kind
        assert told["claim"] == outcome.claim
        assert told["own_bound"] == outcome.own_bound
        assert "bound" not in told["own"]


def test_ordinals_are_words_up_to_ten() -> None:
    assert [ordinal(n) for n in (1, 2, 10, 12, 22)] == ["first", "second", "tenth", "12th", "22nd"]
