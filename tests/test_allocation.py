"""The dynamic program's prices: what is looked up equals what is added up."""

from __future__ import annotations

import random

import pytest
from fakes import space_of
from networks import NETWORKS

from search.deciding.allocation import Allocator
from search.deciding.sensitivity import Sensitivity
from spaces.space import SearchSpace
from spaces.techniques import pruning


def made_up(space: SearchSpace) -> Sensitivity:
    draw, network, profile = random.Random(4), space.network, space.profile
    widths = {
        g.name: {w: draw.random() * (g.channels - w) for w in pruning.widths(g, profile)}
        for g in network.groups
    }
    bits = {la.name: {b: draw.random() / b for b in profile.bits} for la in network.layers}
    return Sensitivity("magnitude", widths, widths, bits, dict.fromkeys(network.blocks, 0.5))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_price_of_a_single_change_is_that_of_the_changed_assignment(name: str) -> None:
    space = space_of(name)
    allocator = Allocator(space, made_up(space))
    draw = random.Random(name)
    sizes = [len(unit.choices) for unit in allocator.units]
    around = tuple(draw.randrange(size) for size in sizes)
    for _ in range(12):
        changed = allocator._changes_ms(around)
        for index, size in enumerate(sizes):
            for choice in range(size):
                other = (*around[:index], choice, *around[index + 1 :])
                assert changed[index][choice] == pytest.approx(
                    allocator.latency_ms(other), rel=1e-12
                )
        index = draw.randrange(len(sizes))  # a step, as the search makes them
        around = (*around[:index], draw.randrange(sizes[index]), *around[index + 1 :])


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
def test_solution_is_within_the_latency_and_weights_change_only_losses(share: float) -> None:
    space = space_of("residual")
    prior = Allocator(space, made_up(space))
    aim_ms = max(prior.fastest_ms(), share * prior.latency_ms(prior.untouched))
    found = prior.solve(aim_ms)
    assert prior.latency_ms(found) <= aim_ms
    group = prior.units[0].name
    heavy = prior.weighted({group: 1000.0})
    assert heavy.latency_ms(found) == prior.latency_ms(found)
    assert heavy.solve(aim_ms)[0] <= found[0]
    # The same as one that was made with these weights, and the first is as it was.
    alone = Allocator(space, made_up(space), {group: 1000.0})
    assert alone.solve(aim_ms) == heavy.solve(aim_ms)
    assert prior.solve(aim_ms) == found
