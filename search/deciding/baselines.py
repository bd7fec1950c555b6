"""The simple plans that stand beside every search: what an afternoon of handwork gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces import CompressionPlan
from spaces.space import SearchSpace, planned_table
from spaces.techniques import pruning, quantization

PRUNING_RATIOS = (0.5, 0.75, 0.875, 0.9375)
UNTOUCHED, INT8 = "baseline:fp32", "baseline:int8"


def first_plans(space: SearchSpace) -> tuple[tuple[CompressionPlan, str], ...]:
    """The untouched model and plain int8, which are evaluated without training, with origins."""
    plans = [(CompressionPlan(), UNTOUCHED)]
    if 8 in space.profile.bits:
        int8 = quantization.everywhere(space.network, 8)
        plans.append((CompressionPlan({"quantization": int8}), INT8))
    return tuple(plans)


def simple_plans(space: SearchSpace) -> tuple[tuple[CompressionPlan, str], ...]:
    """The first plans, then uniform pruning in int8 and float, with origins.

    The latter in the order of the time that they train, and first of all the fastest of them by
    the cost model with all removable blocks left out. Int8 is left out where float is as fast by
    the cost model: it rounds nothing, and wins.
    """
    plans: list[tuple[CompressionPlan, str]] = []
    for ratio in sorted(PRUNING_RATIOS, reverse=True):
        plans += _of_ratio(space, ratio)
    if plans and space.network.blocks:
        fastest, origin = min(plans, key=lambda pair: cost_ms(space, pair[0]))
        removed = {"depth": {"removed": list(space.network.blocks)}}
        plans.insert(0, (space.canonical({**fastest.settings, **removed}), f"{origin}-shallow"))
    # On a narrow network several ratios come to the same widths; the largest names them.
    unique: dict[str, tuple[CompressionPlan, str]] = {}
    for plan, origin in (*first_plans(space), *plans):
        unique.setdefault(plan.plan_id, (plan, origin))
    return tuple(unique.values())


def dominated(space: SearchSpace) -> tuple[str, ...]:
    """Origins of simple plans that are left out, as the cost model has others ahead of them."""
    if 8 not in space.profile.bits:
        return ()
    return tuple(
        f"baseline:uniform-{ratio * 100:g}-int8"
        for ratio in PRUNING_RATIOS
        if [origin.rpartition("-")[2] for _, origin in _of_ratio(space, ratio)] == ["fp32"]
    )


def uniform_plan(
    space: SearchSpace, ratio: float, quantized: Mapping[str, Any]
) -> CompressionPlan | None:
    """The same share of channels removed everywhere, with a quantization setting or none.

    None where nothing can be removed.
    """
    pruned = pruning.uniform(space.network, space.profile, ratio)
    if not pruned:
        return None
    settings = {"pruning": pruned}
    return CompressionPlan({**settings, "quantization": quantized} if quantized else settings)


def cost_ms(space: SearchSpace, plan: CompressionPlan) -> float:
    """A plan's latency by the cost model, in milliseconds."""
    return planned_table(space.network, plan).latency_ms(space.profile)


def _of_ratio(space: SearchSpace, ratio: float) -> list[tuple[CompressionPlan, str]]:
    name = f"baseline:uniform-{ratio * 100:g}"
    floating = uniform_plan(space, ratio, {})
    if floating is None:
        return []
    if 8 not in space.profile.bits:
        return [(floating, f"{name}-fp32")]
    int8 = uniform_plan(space, ratio, quantization.everywhere(space.network, 8))
    assert int8 is not None
    if cost_ms(space, floating) <= cost_ms(space, int8):
        return [(floating, f"{name}-fp32")]  # it is no slower, and rounds nothing
    return [(int8, f"{name}-int8"), (floating, f"{name}-fp32")]
