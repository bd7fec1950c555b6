"""No plan meets the limits: what is told of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from fakes import space_of
from hypothesis import example, given
from hypothesis import strategies as st
from test_finish import PROFILE, trial

from evaluators import Evaluation, Measurement
from search.concluding.infeasible import (
    Part,
    blocks,
    closest_trial,
    parts_of,
    rounded_up,
    sentences,
    typed,
)
from search.deciding.allocation import units_of
from search.deciding.sensitivity import Sensitivity
from search.durations import size_bytes
from search.limits import Limits
from search.trial import Trial
from spaces import CompressionPlan

PARTS = (Part("conv1", 0.6), Part("fc", 0.125))


def told(trials: list[Trial], limits: Limits) -> list[str]:
    found = blocks(trials, limits, PROFILE, lambda name, trial: PARTS)
    return [plain(text) for text in sentences(trials, limits, found)]


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_nothing_blocks_when_something_is_feasible() -> None:
    limits = Limits(0.03)
    trials = [trial(0, 0.90, 10.0), trial(1, 0.5, 1.0)]
    assert told(trials, limits) == []
    assert closest_trial(trials, limits) is None


def test_each_limit_says_how_far_off_and_what_relaxing_it_would_buy() -> None:
    limits = Limits(0.03, max_latency_ms=2.0, max_size_bytes=1000)
    trials = [
        trial(0, 0.90, 10.0, limits=limits, size_bytes=500),
        trial(1, 0.89, 5.0, limits=limits, size_bytes=400),
        trial(2, 0.80, 1.5, limits=limits, size_bytes=300),
        trial(3, 0.80, 4.0, limits=limits, size_bytes=5000),
        trial(4, 0.0, 3.0, state="rejected", limits=limits, size_bytes=2000),
    ]
    closest = closest_trial(trials, limits)
    assert closest is not None
    # Trial 4 exceeds latency by half and size by one, and its drop is not known.
    assert closest.number == 4
    assert told(trials, limits) == [
        "The drop is limited to 3 points; the least of all plans is 0 points (trial 0); "
        "--max-drop 0.1 instead of 0.03 would allow trial 2 (warm start), 1.5 ms.",
        "Latency is limited to 2 ms; the least of all plans is 1.5 ms (trial 2); "
        "--max-latency 5 instead of 2 would allow trial 1 (warm start), 5 ms. Most of the 3 ms of "
        "trial 4, the closest: conv1 60 %, fc 12 %.",
        "Size is limited to 1 kB; the least of all plans is 300 B (trial 2). Most of the "
        "2 kB of trial 4, the closest: conv1 60 %, fc 12 %.",
    ]


def test_plans_that_were_never_trained_count_where_they_need_less() -> None:
    limits = Limits(0.03, max_size_bytes=1000)
    trials = [
        trial(0, 0.90, 10.0, limits=limits, size_bytes=36502),
        trial(1, 0.0, 1.0, state="rejected", limits=limits, size_bytes=2440),
    ]
    (sentence,) = told(trials, limits)
    assert sentence.startswith(
        "Size is limited to 1 kB; the least of all plans is 2.44 kB (trial 1, untrained); "
        "--max-size 36.6kB instead of 1kB would allow trial 0 (warm start), 10 ms; "
        "--max-size 2.44kB instead of 1kB would allow trial 1 (warm start), 1 ms, whose accuracy "
        "is not known as it was not trained. "
    )


def test_limit_of_the_device_is_no_option() -> None:
    small = replace(PROFILE, limits=replace(PROFILE.limits, flash_bytes=2e6))
    over = replace(trial(1, 0.90, 10.0, size_bytes=3e6), violations={"size_bytes": 0.5})
    for limits in (Limits(0.03), Limits(0.03, max_size_bytes=4e6)):
        found = blocks([over], limits, small, lambda name, trial: ())
        assert [block.relaxed[0].option for block in found] == [None]
        (sentence,) = sentences([over], limits, found)
        assert "a device that allows 3 MB instead of 2 MB would allow" in plain(sentence)
    (block,) = blocks([over], Limits(0.03, max_size_bytes=1e6), small, lambda name, trial: ())
    assert (block.limit, block.relaxed[0].option) == (1e6, "--max-size")


def test_two_limits_that_are_broken_together_are_told_together() -> None:
    limits = Limits(0.03, max_latency_ms=2.0)
    trials = [trial(1, 0.85, 3.0, limits=limits), trial(2, 0.80, 4.0, limits=limits)]
    assert told(trials, limits)[-1] == (  # 0.90 - 0.85 is a little above 0.05
        "No plan breaks one limit alone; trial 1, the closest, needs 5.01 points of the "
        "drop and 3 ms of latency."
    )


def test_search_that_tried_nothing_says_so() -> None:
    limits = Limits(0.03, max_latency_ms=2.0)
    sentence = told([trial(0, 0.9, 3.0, limits=limits)], limits)[0]
    assert sentence.startswith("No candidate was tried")


@given(st.floats(1e-3, 1e9))
@example(1.06)
def test_limit_that_is_told_is_one_that_the_figure_meets(value: float) -> None:
    """Also when it is typed, and it is not needlessly wide."""
    for name, factor in (("latency_ms", 1e-3), ("size_bytes", 1.0)):
        own = value * factor
        up = rounded_up(name, own)
        text = typed(name, up)
        parsed = size_bytes(text) if name == "size_bytes" else float(text)
        assert own <= parsed
        assert parsed <= own * 1.0101
    drop = min(value / 1e9, 1.0)
    assert drop <= float(typed("drop", rounded_up("drop", drop))) <= drop + 1.0001e-4


SPACE = space_of()


def sensitivity() -> Sensitivity:
    """Losses that can be added by hand: 0.1 for half a group, 0.01 for a layer in int8."""
    network = SPACE.network
    widths = {g.name: {g.channels // 2: 0.1, g.channels: 0.0} for g in network.groups}
    bits = {layer.name: {32: 0.0, 8: 0.01} for layer in network.layers}
    return Sensitivity("magnitude", widths, widths, bits, dict.fromkeys(network.blocks, 0.2))


def evaluated(plan: CompressionPlan, **detail: object) -> Trial:
    table = SPACE.table(plan)
    figures = [
        Measurement("latency_ms", 1.0, "ms", "estimated", "made up", detail=detail or None),
        Measurement("size_bytes", 2 * table.weight_bytes, "bytes", "measured", "made up"),
        Measurement("drop", 0.05, "", "measured", "made up"),
    ]
    return Trial(1, plan, "complete", "warm", Evaluation.of(figures))


def test_parts_of_latency_are_its_operators() -> None:
    rows = [{"name": n, "share": s} for n, s in (("a", 0.2), ("b", 0.1), ("a", 0.3), ("c", 0.4))]
    trial = evaluated(CompressionPlan(), operators=rows)
    found = parts_of(SPACE, None, [])("latency_ms", trial)
    assert found == (Part("a", 0.5), Part("c", 0.4), Part("b", 0.1))


def test_parts_of_latency_are_those_of_the_table_where_it_was_not_taken_apart() -> None:
    found = parts_of(SPACE, None, [])("latency_ms", evaluated(CompressionPlan()))
    table, profile = SPACE.table(CompressionPlan()), SPACE.profile
    by_layer = {r.layer: profile.cost(r.op, s, r.bits) for r, s in table.shapes() if r.layer}
    name, ms = max(by_layer.items(), key=lambda item: item[1])
    assert found[0].name == name
    assert found[0].share == pytest.approx(ms / table.latency_ms(profile))


def test_parts_of_size_are_weights_and_of_memory_what_a_layer_reads_and_writes() -> None:
    found = parts_of(SPACE, None, [])("size_bytes", evaluated(CompressionPlan()))
    weights = {la.name: la.shape.weights for la in SPACE.network.layers}
    largest = max(weights, key=lambda name: weights[name])
    # The file that is made up is twice as large as its weights.
    assert (found[0].name, found[0].share) == ("the file without weights", pytest.approx(0.5))
    assert found[1].name == largest
    assert found[1].share == pytest.approx(weights[largest] / sum(weights.values()) / 2)


def test_parts_of_the_drop_are_modeled_losses() -> None:
    """Half of a group loses 0.1 and, for having half, half a median loss, which is 0.1."""
    group, layer = SPACE.network.groups[0], SPACE.network.groups[1].layers[0]
    kept = {group.name: group.channels // 2}
    plan = CompressionPlan({"pruning": {"kept": kept}, "quantization": {"bits": {layer: 8}}})
    found = parts_of(SPACE, sensitivity(), [])("drop", evaluated(plan))
    owner = SPACE.network.groups[1].name
    assert [part.name for part in found] == [group.name, owner]
    assert [part.share for part in found] == pytest.approx([0.15 / 0.16, 0.01 / 0.16])
    assert math.isclose(units_of(SPACE, sensitivity())[0].choices[0].loss, 0.0)
