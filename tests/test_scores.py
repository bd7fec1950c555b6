"""Networks that return more than scores."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading_samples import random_pixels
from torch import nn

from search import compress
from search.inputs.models.scores import scores_alone, scores_of

LOGITS, OTHER = torch.ones(2, 3), torch.zeros(2, 5)
Pair = namedtuple("Pair", "aux logits")


@dataclass
class Answer:
    hidden: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "returned",
    [
        LOGITS,
        {"hidden": OTHER, "logits": LOGITS},
        OrderedDict(loss=None, logits=LOGITS),
        {"anything": LOGITS, "hidden": OTHER},
        (LOGITS, OTHER),
        [None, LOGITS],
        Pair(OTHER, LOGITS),
        Answer(OTHER, LOGITS),
    ],
)
def test_scores_are_found_in_what_networks_return(returned: Any) -> None:
    assert scores_of(returned) is LOGITS


@pytest.mark.parametrize("returned", [None, 3, "text", [], {"loss": 0.1}])
def test_what_holds_no_scores_is_left_as_it_is(returned: Any) -> None:
    assert scores_of(returned) is returned


class Returning(nn.Module):
    """A classifier that returns its scores in some way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.body(x).mean((2, 3))
        scores = self.head(hidden)
        return {"dict": {"hidden": hidden, "logits": scores}, "tuple": (scores, hidden)}[self.how]


def test_modules_keep_their_names() -> None:
    model = Returning("dict")
    names = [name for name, _ in model.named_modules()]
    assert isinstance(scores_alone(model)(torch.zeros(1, 1, 8, 8)), torch.Tensor)
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dict", "tuple"])
def test_such_networks_are_searched(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path / "cache"))
    model = Returning(how)
    images = random_pixels(240, shape=(12, 12))
    result = compress(
        model,
        (images, np.arange(240) % 2),
        target="x86-avx2",
        max_drop=0.9,
        trials=3,
        output=tmp_path / "runs",
    )
    assert result.best is not None
    assert result.best.latency_ms <= result.baseline.latency_ms
    assert isinstance(model(torch.zeros(1, 1, 12, 12)), dict if how == "dict" else tuple)
