"""One trial: what is trained in two parts, and what a later rung builds on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benches import a_bench

from hardware_profiles.profile import Limits as DeviceLimits
from search.training import job as worker
from search.training.job import Job, run_job
from spaces import CompressionPlan
from spaces.space import bind
from spaces.techniques import pruning


def ignore(_stage: str, _done: float | None) -> None:
    pass


def widths(path: Path) -> dict[str, int]:
    state = torch.load(path, weights_only=True)
    return {name: len(value) for name, value in state.items() if name.endswith("weight")}


def test_pruning_in_two_steps_ends_as_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = a_bench(tmp_path)
    setting = pruning.uniform(bench.network, bench.context.profile, 0.5)
    once, twice = (
        CompressionPlan({"pruning": pruning.setting_of(setting["kept"], steps=steps)})
        for steps in (1, 2)
    )
    seen: list[tuple[int, float]] = []
    train = worker.train

    def watched(model, views, preprocess, loss, settings, *rest, **given) -> None:  # type: ignore[no-untyped-def]
        seen.append((model.stem[0].out_channels, settings.epochs))
        train(model, views, preprocess, loss, settings, *rest, **given)

    monkeypatch.setattr(worker, "train", watched)
    done: list[float] = []

    def listen(stage: str, fraction: float | None) -> None:
        if stage == "train" and fraction is not None:
            done.append(fraction)

    first, second = run_job(Job(once, 2.0), bench, ignore), run_job(Job(twice, 2.0), bench, listen)
    assert seen == [(8, 2.0), (11, 0.5), (8, 1.5)]
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert widths(first.checkpoint) == widths(second.checkpoint)
    for figure in ("size_bytes", "macs", "parameters"):
        assert first.evaluation[figure].value == second.evaluation[figure].value

    # The next rung goes on from the final widths, in one part.
    seen.clear()
    run_job(Job(twice, 2.0, checkpoint=second.checkpoint), bench, ignore)
    assert seen == [(8, 2.0)]

    # A rung without training leaves the two parts to the next one.
    seen.clear()
    untrained = run_job(Job(twice, 0.0), bench, ignore)
    assert untrained.evaluation["macs"].value == second.evaluation["macs"].value
    run_job(Job(twice, 2.0, checkpoint=untrained.checkpoint), bench, ignore)
    assert seen == [(11, 0.5), (8, 1.5)]
    assert run_job(Job(once, 0.0), bench, ignore).checkpoint is not None
    model, _ = worker.build(bench, bind(twice))
    assert model.stem[0].out_channels == 8


def test_facts_are_those_of_the_model_that_ships(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    kept = pruning.uniform(bench.network, bench.context.profile, 0.5)["kept"]
    plan = CompressionPlan({"pruning": pruning.setting_of(kept, steps=2)})
    size = run_job(Job(plan, 0.0), bench, ignore).evaluation.value("size_bytes")
    tight, loose = (
        replace(bench, limits=replace(bench.limits, max_size_bytes=size * factor))
        for factor in (0.95, 1.01)
    )
    assert run_job(Job(plan, 1.0), tight, ignore).reason is not None
    assert run_job(Job(plan, 1.0), loose, ignore).reason is None


def test_untouched_model_is_evaluated_though_the_device_is_too_small_for_it(
    tmp_path: Path,
) -> None:
    bench = a_bench(tmp_path)
    small = replace(bench.context.profile, limits=DeviceLimits(flash_bytes=100.0))
    bench = replace(bench, context=replace(bench.context, profile=small))
    untouched = run_job(Job(CompressionPlan(), 0.0), bench, ignore)
    assert "accuracy" in untouched.evaluation
    assert untouched.model is not None
    assert untouched.violations["size_bytes"] > 0
    pruned = CompressionPlan({"pruning": pruning.uniform(bench.network, small, 0.5)})
    assert "size_bytes must be at most 100" in (
        run_job(Job(pruned, 0.0), bench, ignore).reason or ""
    )
