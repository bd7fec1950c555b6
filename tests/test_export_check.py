"""The exported file against the model, before anything is trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import IMAGE, NETWORKS, seeded
from torch import nn

from hardware_profiles import load_profile
from search.errors import InputError
from search.training.export_check import check_export
from spaces.files.export import certain_pairs
from spaces.tracing.network import Network, trace


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, *IMAGE)).astype(np.float32)


def checked(model: nn.Module) -> Network:
    return check_export(model, trace(model, IMAGE), images(), load_profile("arm"))


@pytest.mark.parametrize("name", NETWORKS)
def test_network_that_answers_alike_keeps_its_layers(name: str) -> None:
    model = seeded(NETWORKS[name])
    assert checked(model) == trace(model, IMAGE)


class Branching(nn.Module):
    """Takes another way for dark images than for the one that is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(IMAGE[0], 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        return (x * -3 if x.sum() < 0 else x).mean((2, 3))


class Chance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(IMAGE[0], 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.layer(x.mean((2, 3))), 0.5, training=True)


@pytest.mark.parametrize("make", [Branching, Chance])
def test_file_that_answers_otherwise_is_refused(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match="of 4 calibration images"):
        checked(make().eval())


class Odd(nn.Module):
    """Layers of which the file has its own idea, among others."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(IMAGE[0], 6, 3, padding="same", dilation=2)
        self.up = nn.ConvTranspose2d(6, 6, 2, 2)
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Conv2d(6, 8, 3))
        self.attention = nn.Conv1d(1, 1, 3, padding=1)
        self.recurrent = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normed(self.up(self.same(x).relu()).relu()).relu()
        x = x * self.attention(x.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid()
        hidden, _ = self.recurrent(x.mean(3).transpose(1, 2))
        return self.head(hidden[:, -1])


def test_layers_that_are_not_found_again_are_left_alone() -> None:
    torch.manual_seed(0)
    named = {layer.name for layer in checked(Odd().eval()).layers}
    assert named >= {"same", "normed"}
    assert named <= {"same", "normed", "head"}


@pytest.mark.parametrize(
    ("expected", "found", "pairs"),
    [
        ([1, 2, 3], [1, 2, 3], {0: 0, 1: 1, 2: 2}),
        ([1, 1], [1, 1], {0: 0, 1: 1}),
        ([1, 9, 9, 2], [1, 2], {0: 0, 3: 1}),
        ([1, 1, 2], [1, 2], {2: 1}),  # either may be the first
        ([1, 2], [3], {}),
        ([1, 2, 1], [2, 1, 2], {}),
    ],
)
def test_pairs_are_only_those_that_are_certain(
    expected: list[int], found: list[int], pairs: dict[int, int]
) -> None:
    assert certain_pairs([(e,) for e in expected], [(f,) for f in found]) == pairs
