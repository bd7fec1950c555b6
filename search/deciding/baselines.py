"""The simple plans that stand beside every search: what twenty minutes of handwork give."""

from __future__ import annotations

from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.techniques import pruning, quantization

PRUNING_RATIOS = (0.5, 0.75)
UNTOUCHED = "baseline:fp32"


def simple_plans(space: SearchSpace) -> tuple[tuple[CompressionPlan, str], ...]:
    """The untouched model, uniform pruning in int8 and float, and plain int8, with origins.

    In the order of the time that they take to train, so that a short budget gets far.
    """
    plans = [(CompressionPlan(), UNTOUCHED)]
    int8 = quantization.everywhere(space.network, 8) if 8 in space.profile.bits else {}
    for ratio in sorted(PRUNING_RATIOS, reverse=True):
        pruned = pruning.uniform(space.network, space.profile, ratio)
        if not pruned:
            continue
        percent = f"baseline:uniform-{ratio * 100:g}"
        if int8:
            both = CompressionPlan({"pruning": pruned, "quantization": int8})
            plans.append((both, f"{percent}-int8"))
        plans.append((CompressionPlan({"pruning": pruned}), f"{percent}-fp32"))
    if int8:
        plans.append((CompressionPlan({"quantization": int8}), "baseline:int8"))
    return tuple(plans)
