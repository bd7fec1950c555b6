"""``--dry-run``: what would be searched, and about how long it would take."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from evaluators.latency.analytic import estimate
from hardware_profiles.host import available_bytes
from search.app import Request, check_opt_in, exportable_network, training_epochs
from search.deciding.baselines import simple_plans
from search.inputs.data.assembling import SHARE_OF_MEMORY, needed_bytes
from search.inputs.data.raw import SplitName
from search.inputs.data.splitting import CALIBRATION_IMAGES
from search.task import DataSet
from search.telling import words
from search.training.augment import VIEWS
from search.training.speed import seconds_per_image
from search.training.train import Hardware
from spaces.files.export import export_onnx
from spaces.space import SearchSpace
from spaces.tracing.network import Network

DISK_SHARE = 0.3  # of the untouched model's size: what a plan's files take on the average
# Seconds before the first trial and after the last one, and of a trial beside its training.
_AROUND_S, _OTHERS_S = 20.0, 1.5
_PRUNED_SHARE = 0.12  # of the untouched model's time: what a pruned trial takes on the average


@dataclass(frozen=True)
class Outline:
    """What would be searched; times are estimates."""

    request: Request
    network: Network
    dimensions: int
    baselines: tuple[str, ...]
    latency_ms: float
    epochs: float
    untouched_s: float

    @property
    def trial_s(self) -> float:
        """Seconds of a pruned trial."""
        return self.untouched_s * _PRUNED_SHARE

    @property
    def all_s(self) -> float | None:
        """Seconds of all trials, the baseline's training included; None without their number."""
        trials = self.request.trials
        return (
            None if trials is None else self.untouched_s * (2 + VIEWS / 20) + trials * self.trial_s
        )

    @property
    def fitting(self) -> int | None:
        """How many trials with training the budget has time for; None without a budget."""
        budget_s = self.request.budget_s
        if budget_s is None or self.request.untrained:
            return None
        before_s = _AROUND_S + self.untouched_s * VIEWS / 20
        if self.request.task.weights is None:
            before_s += self.untouched_s * 2
        return max(0, int((budget_s - before_s) / (self.trial_s + _OTHERS_S)))

    @property
    def memory_bytes(self) -> int:
        """Memory for the images, as all splits and the trainings' views need it."""
        data = self.request.task.data
        channels, (height, width) = data.preprocess.channels, data.preprocess.size
        splits: tuple[SplitName, ...] = ("train", "validation", "test")
        return needed_bytes({name: data.count(name) for name in splits}, channels * height * width)

    @property
    def disk_bytes(self) -> float:
        """Disk for the exported files and weights of all trials."""
        trials = self.request.trials or self.fitting or 1
        return 2 * 4 * self.network.table.parameters * (1 + trials * DISK_SHARE)

    def to_json(self) -> dict[str, Any]:
        """One object for the next program."""
        request, network, data = self.request, self.network, self.request.task.data
        return {
            "target": request.profile.name,
            "model": {
                "name": request.task.model_spec,
                "layers": len(network.layers),
                "parameters": network.table.parameters,
                "macs": network.table.macs,
                "latency_ms": self.latency_ms,
                "latency_source": "estimated",
            },
            "data": {
                "name": data.name,
                "train": data.count("train"),
                "calibration": _calibration(data),
                "validation": data.count("validation"),
                "test": data.count("test"),
                "classes": list(data.classes),
                "channels": data.preprocess.channels,
                "size": list(data.preprocess.size),
            },
            "dimensions": self.dimensions,
            "groups": {group.name: group.channels for group in network.groups},
            "not_pruned": dict(network.fixed),
            "widths_bits": list(request.profile.bits),
            "blocks": len(network.blocks),
            "techniques": list(request.opt_in),
            "baselines": list(self.baselines),
            "epochs": self.epochs,
            "untouched_seconds": self.untouched_s,
            "trial_seconds": self.trial_s,
            "seconds": self.all_s,
            "trials": request.trials,
            "budget_seconds": request.budget_s,
            "trials_in_budget": self.fitting,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": round(self.disk_bytes),
        }

    def told(self) -> str:
        """The same for a person."""
        request, network, data = self.request, self.network, self.request.task.data
        size, table = data.preprocess.size, network.table
        lines = [
            f"target    {request.profile.title} ({request.profile.name}), widths "
            f"{_bits(request.profile.bits)}",
            f"model     {request.task.model_spec}: {len(network.layers)} layers, "
            f"{table.parameters / 1e6:.2f} M weights, {table.macs / 1e6:.1f} M MACs, "
            f"about {self.latency_ms:.3g} ms untouched (analytic estimate)",
            f"data      {data.name}: {_splits(data)}; {len(data.classes)} classes, "
            f"{data.preprocess.channels}x{size[0]}x{size[1]}",
            f"searched  {self.dimensions} dimensions:",
            *_groups(network),
            f"          {words.counted(len(network.layers), 'layer')} with a width each",
            *_in_float(network),
            f"          {words.counted(len(network.blocks), 'residual block')} that may be left "
            "out",
            *([f"          {_inputs(network)}"] if "resolution" in request.opt_in else []),
            f"baselines {', '.join(self.baselines)}",
            f"training  {self.epochs:g} epochs a trial; the untouched model takes about "
            f"{self.untouched_s:.0f} s, a pruned trial about {self.trial_s:.0f} s",
            f"in all    {self._total()}",
            *self._fits(),
            f"needs     about {words.size(self.memory_bytes)} of memory for the images and up to "
            f"{words.size(self.disk_bytes)} of disk{self._too_much()}",
        ]
        return "\n".join(lines)

    def _too_much(self) -> str:
        there = SHARE_OF_MEMORY * available_bytes()
        if self.memory_bytes <= there:
            return ""
        return f"; more than {words.size(there)}, two thirds of what is free here: it can't begin"

    def _fits(self) -> list[str]:
        if self.fitting is None:
            return []
        if self.fitting == 0:
            return [
                "          no trial with training fits the budget: int8 and what else needs no "
                "training is evaluated"
            ]
        return [f"          about {words.counted(self.fitting, 'trial')} fit the budget"]

    def _total(self) -> str:
        if self.request.untrained:
            return "nothing is trained: int8, layers left in float and a little pruning, untrained"
        budget_s = self.request.budget_s
        if self.all_s is None:
            return f"the budget, {budget_s:g} s"
        told = f"about {self.all_s:.0f} s for {self.request.trials} trials"
        return told if budget_s is None else f"{told}, at most the budget of {budget_s:g} s"


def outline(request: Request) -> Outline:
    """Groups, layers, sizes and estimated seconds; trains only a few batches."""
    task, profile = request.task, request.profile
    model = task.build()
    network = exportable_network(request)
    space = SearchSpace.of(network, profile, request.opt_in)
    check_opt_in(space, request.opt_in)
    images = task.data.count("train")
    epochs = training_epochs(images)
    return Outline(
        request=request,
        network=network,
        dimensions=len(space.dimensions),
        baselines=tuple(o.removeprefix("baseline:") for _, o in simple_plans(space)),
        latency_ms=_untouched_ms(model, request),
        epochs=epochs,
        untouched_s=epochs
        * images
        * seconds_per_image(task, model, network.table.macs, Hardware.detect()),
    )


def _untouched_ms(model: nn.Module, request: Request) -> float:
    """The untouched model's analytic estimate, made from its file as in a search."""
    preprocess = request.task.data.preprocess
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(model.eval(), path, (preprocess.channels, *preprocess.size))
        return estimate(path, request.profile).value


def _inputs(network: Network) -> str:
    return f"smaller inputs: {', '.join(f'{h}x{w}' for h, w in network.sizes)}"


def _groups(network: Network) -> list[str]:
    lines = [f"          {len(network.groups)} groups of channels to prune:"]
    lines += [f"            {g.name}: {g.channels} channels" for g in network.groups]
    for name, why in network.fixed.items():
        lines.append(f"            ({f'{name}: ' if name else ''}not pruned, {why})")
    return lines


def _in_float(network: Network) -> list[str]:
    """Layers with weights that have no width to choose."""
    chosen = {layer.name for layer in network.layers}
    others = dict.fromkeys(row.layer for row in network.table.rows if row.layer)
    kept = [name for name in others if name not in chosen]
    told = f"          {words.counted(len(kept), 'layer')} in float: {', '.join(kept)}"
    return [told] if kept else []


def _splits(data: DataSet) -> str:
    return (
        f"{data.count('train')} train ({_calibration(data)} of them for calibration), "
        f"{data.count('validation')} validation, {data.count('test')} test images"
    )


def _calibration(data: DataSet) -> int:
    return min(CALIBRATION_IMAGES, data.count("train"))


def _bits(bits: tuple[int, ...]) -> str:
    return " and ".join(f"{b}-bit" for b in bits)
