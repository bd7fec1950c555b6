"""``--dry-run``: what would be searched, and about how long it would take."""

from __future__ import annotations

import time

import torch

from search.app import Request, check_opt_in, training_epochs
from search.baselines import simple_plans
from search.teacher import VIEWS
from search.train import Hardware, TrainSettings, Views, train
from spaces.distillation import DEFAULT, distillation_loss
from spaces.network import Network, trace
from spaces.space import SearchSpace
from spaces.technique import LossInputs

_SAMPLE_BATCHES = 4
_PRUNED_SHARE = 0.12  # of the untouched model's time: what a pruned trial takes on the average


def outline(request: Request) -> str:
    """Groups, layers, sizes and estimated seconds, as text; trains only a few batches."""
    task, profile = request.task, request.profile
    model = task.build()
    preprocess = task.data.preprocess
    network = trace(model, (preprocess.channels, *preprocess.size))
    space = SearchSpace.of(network, profile, request.opt_in)
    check_opt_in(space, request.opt_in)
    epochs = training_epochs(len(task.data.train))
    epoch_s = _epoch_seconds(request, model)
    lines = [
        f"target    {profile.title} ({profile.name}), widths {_bits(profile.bits)}",
        f"model     {task.model_spec}: {len(network.layers)} layers, "
        f"{network.table.parameters / 1e6:.2f} M weights, {network.table.macs / 1e6:.1f} M MACs, "
        f"about {network.table.latency_ms(profile):.3g} ms untouched (analytic estimate)",
        f"data      {task.data.name}: {_splits(request)}; {len(task.data.classes)} classes, "
        f"{preprocess.channels}x{preprocess.size[0]}x{preprocess.size[1]}",
        f"searched  {len(space.dimensions)} dimensions:",
        *_groups(network),
        f"          {len(network.layers)} layers with a width each",
        f"          {len(network.blocks)} residual blocks that may be left out",
        *([f"          {_inputs(network)}"] if "resolution" in request.opt_in else []),
        f"baselines {', '.join(o.removeprefix('baseline:') for _, o in simple_plans(space))}",
        f"training  {epochs:g} epochs; untouched about {epochs * epoch_s:.0f} s, a pruned trial "
        f"about {epochs * epoch_s * _PRUNED_SHARE:.0f} s",
        f"in all    {_total(request, epochs * epoch_s)}",
    ]
    return "\n".join(lines)


def _inputs(network: Network) -> str:
    return f"smaller inputs: {', '.join(f'{h}x{w}' for h, w in network.sizes)}"


def _groups(network: Network) -> list[str]:
    lines = [f"          {len(network.groups)} groups of channels to prune:"]
    lines += [f"            {g.name}: {g.channels} channels" for g in network.groups]
    lines += [f"            ({name}: not pruned, {why})" for name, why in network.fixed.items()]
    return lines


def _splits(request: Request) -> str:
    data = request.task.data
    return (
        f"{len(data.train)} train ({len(data.calibration)} of them for calibration), "
        f"{len(data.validation)} validation, {len(data.test)} test images"
    )


def _bits(bits: tuple[int, ...]) -> str:
    return " and ".join(f"{b}-bit" for b in bits)


def _epoch_seconds(request: Request, model: torch.nn.Module) -> float:
    """Seconds of one epoch of the untouched model, from a few batches."""
    task, settings = request.task, TrainSettings(1.0)
    count = min(len(task.data.train), settings.batch_size * _SAMPLE_BATCHES)
    images = torch.from_numpy(task.data.train.images[:count])
    labels = torch.from_numpy(task.data.train.labels[:count])
    logits = torch.zeros(1, count, len(task.data.classes))

    def loss(batch: LossInputs) -> torch.Tensor:
        return distillation_loss(batch, **DEFAULT)

    begun = time.perf_counter()
    train(
        model,
        Views(images[None], logits, labels),
        task.data.preprocess,
        loss,
        settings,
        Hardware.detect(),
        lambda _: None,
    )
    return (time.perf_counter() - begun) / count * len(task.data.train)


def _total(request: Request, untouched_s: float) -> str:
    trials = request.trials
    if trials is None:
        return f"the budget, {request.budget_s:g} s"
    told = f"about {untouched_s * (2 + VIEWS / 20 + trials * _PRUNED_SHARE):.0f} s"
    if request.budget_s is not None:
        return f"{told} for {trials} trials, at most the budget of {request.budget_s:g} s"
    return f"{told} for {trials} trials"
