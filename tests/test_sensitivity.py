"""Sensitivity: which criterion prunes, curves that never fall, what is kept between searches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import CLASSES, IMAGE, NETWORKS, pictures, seeded
from torch import nn

from hardware_profiles import load_profile
from search.deciding.sensitivity import (
    Sensitivity,
    cached_sensitivity,
    interpolate,
    measure_sensitivity,
    monotone,
)
from search.training.train import Hardware
from spaces.techniques import pruning
from spaces.tracing.network import trace

PROFILE = load_profile("raspberry-pi-4b")
CPU = Hardware(torch.device("cpu"), bfloat16=False)
CURVE = st.dictionaries(st.integers(1, 64), st.floats(0, 10), min_size=1)


def measured(model: nn.Module) -> Sensitivity:
    network = trace(model, IMAGE)
    labels = torch.arange(32) % CLASSES
    return measure_sensitivity(model, network, PROFILE, pictures(32), labels, CPU, lambda _: None)


def half_dead(weight: float) -> nn.Module:
    """Half of the channels say nothing; the weights that make them are scaled by ``weight``."""
    torch.manual_seed(0)
    conv, norm, head = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, CLASSES)
    dead = torch.arange(16) % 2 == 0
    with torch.no_grad():
        conv.weight[dead] *= weight
        norm.weight[dead] = 0
        head.weight *= 10
        model = nn.Sequential(conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        norm.momentum = None  # its statistics are those of the images already
        model.train()(pictures(32))
    return model.eval()


def test_criterion_is_the_one_that_hurts_least() -> None:
    found = measured(half_dead(50.0))
    # Large weights of channels that are scaled to nothing mislead the magnitude alone.
    assert found.importance in ("taylor", "bn_scale")
    assert found.recovered["0"][8] < 1e-4 < found.recovered["0"][4]


def test_every_choice_alone_is_measured_and_wider_is_never_worse() -> None:
    model = seeded(NETWORKS["residual"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network, found = trace(model, IMAGE), measured(model)
    assert set(found.recovered) == set(found.pruned) == {g.name for g in network.groups}
    assert set(found.bits) == {layer.name for layer in network.layers}
    assert set(found.removed) == set(network.blocks)
    for curve in [*found.pruned.values(), *found.recovered.values()]:
        losses = [curve[width] for width in sorted(curve)]
        assert losses == sorted(losses, reverse=True)
        assert losses[0] > losses[-1] == 0
    assert all(curve[32] == 0 <= curve[8] for curve in found.bits.values())
    assert all(loss > 0 for loss in found.removed.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@given(CURVE)
def test_monotone_curves_lie_on_or_above_and_stay(curve: dict[int, float]) -> None:
    found = monotone(curve)
    assert set(found) == set(curve)
    assert all(found[width] >= curve[width] for width in curve)
    losses = [found[width] for width in sorted(found)]
    assert losses == sorted(losses, reverse=True)
    assert monotone(found) == found


def test_losses_between_widths_follow_the_logarithm() -> None:
    curve = {4: 3.0, 16: 1.0, 64: 0.0}
    assert interpolate(curve, 8) == pytest.approx(2.0)
    assert interpolate(curve, 32) == pytest.approx(0.5)
    assert interpolate(curve, 2) == 3.0
    assert interpolate(curve, 16) == 1.0
    assert interpolate(curve, 128) == 0.0


def test_what_was_found_is_kept_and_cut_short_files_are_measured_anew(tmp_path: Path) -> None:
    found = Sensitivity("taylor", {"a": {1: 2.0}}, {"a": {1: 1.0}}, {}, {}, {"8x8": 0.5})
    path = tmp_path / "cache" / "s.json"
    assert cached_sensitivity(path, lambda: found) == found
    assert cached_sensitivity(path, lambda: pytest.fail("measured twice")) == found
    path.write_text(path.read_text()[:40])
    assert cached_sensitivity(path, lambda: found) == found
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    asked = []
    cached_sensitivity(path, lambda: asked.append(1) or found)  # type: ignore[func-returns-value]
    assert asked


def test_network_that_can_not_be_pruned_is_measured_in_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that torch-pruning can't follow, whose graph nobody may ask for then."""
    model = seeded(NETWORKS["residual"])
    network = replace(trace(model, IMAGE), groups=(), blocks=())

    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pruning, "dependency_graph", fails)
    labels = torch.arange(32) % CLASSES
    found = measure_sensitivity(model, network, PROFILE, pictures(32), labels, CPU, lambda _: None)
    assert found.bits.keys() == {layer.name for layer in network.layers}
    assert found.pruned == {}
