"""What can be had without any training: int8, some layers left in float, a little pruning.

Ten lines of handwork give as much, so that no search gives less, however short its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from search.deciding.baselines import INT8, uniform_plan
from search.trial import Trial
from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.techniques import quantization

Losses = Mapping[str, float]  # of each layer in 8 bits alone

FALLBACKS = (1, 3, 8)  # most sensitive layers that stay in float
MILD_RATIOS = (0.0625, 0.125, 0.25)
UNTRAINED = "untrained:"


def next_untrained(
    space: SearchSpace, trials: Sequence[Trial], losses: Callable[[], Losses]
) -> tuple[CompressionPlan, str] | None:
    """The next plan to evaluate as it is, and its origin; None where nothing better is known.

    Where int8 breaks the limit of the drop, ever more of the most sensitive layers stay in float
    until it is met. From what meets it, ever more channels are left out until it is not.
    ``losses`` is asked for only where it is needed.
    """
    tried = {trial.plan.plan_id: trial for trial in trials}
    if 8 in space.profile.bits and not _met(trials, (INT8, f"{UNTRAINED}float")):
        for count in FALLBACKS:
            plan = fallback(space, losses(), count)
            if plan is not None and plan.plan_id not in tried:
                return plan, f"{UNTRAINED}float-{count}"
    bits: Mapping[str, int] = {}
    fastest = _met(trials, (INT8, f"{UNTRAINED}float"))
    if fastest is not None:
        bits = fastest.plan.settings.get("quantization", {})
    for ratio in MILD_RATIOS:
        plan = uniform_plan(space, ratio, bits)
        if plan is None:
            continue
        known = tried.get(plan.plan_id)
        if known is None:
            return plan, f"{UNTRAINED}uniform-{100 * ratio:g}"
        if not known.feasible:
            return None
    return None


def fallback(space: SearchSpace, losses: Losses, count: int) -> CompressionPlan | None:
    """Int8 but for the ``count`` layers that lose most by it; None where too few are left."""
    ordered = sorted(losses, key=lambda layer: -losses[layer])
    kept = set(ordered[:count])
    if len(kept) >= len(space.network.layers):
        return None
    setting = quantization.everywhere(space.network, 8)
    bits = {layer: width for layer, width in setting["bits"].items() if layer not in kept}
    return CompressionPlan({"quantization": {**setting, "bits": bits}})


def _met(trials: Sequence[Trial], origins: tuple[str, ...]) -> Trial | None:
    """The fastest trial of these origins that meets every limit."""
    met = [t for t in trials if t.feasible and t.origin.startswith(origins)]
    return min(met, key=_latency_ms, default=None)


def _latency_ms(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("latency_ms")
