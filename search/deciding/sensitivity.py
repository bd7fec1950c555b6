"""How much each single choice hurts: one pass over the calibration images, no training.

The loss of a choice is the mean divergence from the teacher's distribution on the calibration
images when that choice alone is made. For pruning it is taken twice, as pruned and after the
batch norms are re-estimated. Wider is never worse than narrower: curves are made monotone.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from evaluators.resize import resized
from hardware_profiles import HardwareProfile, atomic
from search.training.train import Hardware
from spaces.files import fake_quantization as fakequant
from spaces.technique import PrepareContext
from spaces.techniques import pruning
from spaces.techniques.depth import TECHNIQUE as DEPTH
from spaces.techniques.resolution import size_name
from spaces.tracing.network import Group, Network
from spaces.tracing.table import Size

SENSITIVITY_VERSION = 2
POINTS = 5  # widths tried for each group; the others are interpolated
IMAGES = 128
HEAVY_MACS, HEAVY_IMAGES = 2e8, 64
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Sensitivity:
    """Loss increases by choice; widths as kept channels, widths in bits as numbers.

    ``pruned`` and ``recovered`` map group to {channels: loss}, ``bits`` layer to {bits: loss},
    ``removed`` block to loss, ``resized`` a smaller input (as ``24x24``) to loss.
    ``importance`` is the criterion that hurts least at half width.
    """

    importance: str
    pruned: Mapping[str, Mapping[int, float]]
    recovered: Mapping[str, Mapping[int, float]]
    bits: Mapping[str, Mapping[int, float]]
    removed: Mapping[str, float]
    resized: Mapping[str, float] = field(default_factory=dict)

    def width_loss(self, group: Group, channels: int) -> float:
        """Loss after recovery at any width, interpolated over the logarithm of the width."""
        return interpolate(self.recovered[group.name], channels)

    def to_json(self) -> dict[str, Any]:
        """A versioned JSON object; ``from_json`` gives an equal value back."""
        return {"version": SENSITIVITY_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sensitivity:
        """The value that ``to_json`` wrote.

        Raises:
            ValueError: another version.
        """
        if data.get("version") != SENSITIVITY_VERSION:
            raise ValueError(f"version must be {SENSITIVITY_VERSION}, got {data.get('version')!r}")

        def curves(name: str) -> dict[str, dict[int, float]]:
            return {k: {int(w): v for w, v in c.items()} for k, c in data[name].items()}

        return cls(
            data["importance"],
            curves("pruned"),
            curves("recovered"),
            curves("bits"),
            data["removed"],
            data["resized"],
        )


def interpolate(curve: Mapping[int, float], channels: int) -> float:
    """Piecewise linear in the logarithm of the width; constant beyond the ends."""
    known = sorted(curve)
    if channels <= known[0]:
        return curve[known[0]]
    for low, high in itertools.pairwise(known):
        if channels <= high:
            share = math.log(channels / low) / math.log(high / low)
            return curve[low] + share * (curve[high] - curve[low])
    return curve[known[-1]]


def monotone(curve: Mapping[int, float]) -> dict[int, float]:
    """The curve with the losses of narrower widths raised to those of all wider ones."""
    found: dict[int, float] = {}
    worst = 0.0
    for width in sorted(curve, reverse=True):
        worst = found[width] = max(worst, curve[width])
    return dict(sorted(found.items()))


def cached_sensitivity(path: Path, measure: Callable[[], Sensitivity]) -> Sensitivity:
    """What an earlier search with the same content found, else ``measure`` and keep it."""
    try:
        return Sensitivity.from_json(json.loads(path.read_text()))
    except (OSError, ValueError):  # not there yet, cut short, or of another version
        found = measure()
    atomic.write_text(path, json.dumps(found.to_json()))
    return found


def measure_sensitivity(
    model: nn.Module,
    network: Network,
    profile: HardwareProfile,
    images: torch.Tensor,
    labels: torch.Tensor,
    hardware: Hardware,
    progress: Progress,
    sizes: Sequence[Size] = (),
) -> Sensitivity:
    """Looks at every choice once.

    Args:
        model: the trained, untouched model; not changed.
        network: its trace.
        profile: whose widths and bits are worth having.
        images: preprocessed calibration images, float32 (N, C, H, W).
        labels: their classes, int64 (N,).
        hardware: where to run.
        progress: told the fraction done.
        sizes: smaller inputs to look at.
    """
    count = HEAVY_IMAGES if network.table.macs > HEAVY_MACS else IMAGES
    probe = _Probe(model, images[:count], hardware)
    context = PrepareContext(network, images[:count], labels[:count])
    plans = [(g, w) for g in network.groups for w in _spread(pruning.widths(g, profile))]
    narrow = [b for b in profile.bits if b != 32]
    steps = len(plans) + len(network.layers) * len(narrow) + len(network.blocks) + len(sizes) + 3
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(done / steps)

    importance = _best_criterion(model, context, profile, probe, step)
    scores = pruning.importance(
        copy.deepcopy(model), importance, context, tuple(g.name for g in network.groups)
    )
    pruned: dict[str, dict[int, float]] = {g.name: {g.channels: 0.0} for g in network.groups}
    recovered: dict[str, dict[int, float]] = {g.name: {g.channels: 0.0} for g in network.groups}
    for group, width in plans:
        student = copy.deepcopy(model)
        pruning.prune_by(student, {group.name: width}, scores, context)
        pruned[group.name][width] = probe.loss(student)
        recovered[group.name][width] = probe.recovered_loss(student)
        step()
    bits: dict[str, dict[int, float]] = {}
    for layer in network.layers:
        bits[layer.name] = {32: 0.0}
        for width in narrow:
            bits[layer.name][width] = _rounding_loss(model, layer.name, width, probe)
            step()
    removed = {}
    for block in network.blocks:
        student = copy.deepcopy(model)
        prepare = DEPTH.bind({"removed": [block]}).prepare
        assert prepare is not None
        prepare(student, context)
        removed[block] = max(0.0, probe.recovered_loss(student))
        step()
    smaller = {}
    for size in sizes:
        smaller[size_name(size)] = max(0.0, probe.recovered_loss(copy.deepcopy(model), size))
        step()
    return Sensitivity(
        importance,
        {name: monotone(curve) for name, curve in pruned.items()},
        {name: monotone(curve) for name, curve in recovered.items()},
        bits,
        removed,
        smaller,
    )


def rounding_losses(
    model: nn.Module, network: Network, images: torch.Tensor, hardware: Hardware
) -> dict[str, float]:
    """The loss of each layer in 8 bits alone, on images, float32 (N, C, H, W)."""
    probe = _Probe(model, images, hardware)
    return {la.name: _rounding_loss(model, la.name, 8, probe) for la in network.layers}


def _rounding_loss(model: nn.Module, layer: str, bits: int, probe: _Probe) -> float:
    student = copy.deepcopy(model)
    fakequant.insert(student, {layer: bits})
    return max(0.0, probe.loss(student))


class _Probe:
    """The divergence of a student from the untouched model on fixed images."""

    def __init__(self, model: nn.Module, images: torch.Tensor, hardware: Hardware) -> None:
        self._hardware = hardware
        layout = torch.channels_last if hardware.bfloat16 else torch.contiguous_format
        self._layout = layout
        self._images = images.to(hardware.device).contiguous(memory_format=layout)
        self._teacher = functional.log_softmax(self._logits(copy.deepcopy(model)), dim=1)

    def loss(self, student: nn.Module, size: Size | None = None) -> float:
        """Mean KL divergence from the teacher's distribution, on images of another size."""
        own = functional.log_softmax(self._logits(student, size=size), dim=1)
        found = functional.kl_div(own, self._teacher, reduction="batchmean", log_target=True)
        return float(found) if torch.isfinite(found) else 1e3

    def recovered_loss(self, student: nn.Module, size: Size | None = None) -> float:
        """The same after the batch norms have seen the images."""
        norms = [m for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        student.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        if norms:
            self._logits(student, eval_mode=False, size=size)
        return self.loss(student, size)

    def _logits(
        self, model: nn.Module, eval_mode: bool = True, size: Size | None = None
    ) -> torch.Tensor:
        model = self._hardware.place(model)
        if eval_mode:
            model.eval()
        with torch.no_grad(), self._hardware.autocast():
            found: torch.Tensor = model(self._at(size))
        return found.float().cpu()

    def _at(self, size: Size | None) -> torch.Tensor:
        if size is None:
            return self._images
        smaller = torch.from_numpy(resized(self._images.cpu().numpy(), size))
        return smaller.to(self._images.device).contiguous(memory_format=self._layout)


def _spread(widths: Sequence[int]) -> list[int]:
    """Up to POINTS of the widths below the untouched one, evenly over the logarithm."""
    below = list(widths[:-1])
    if len(below) <= POINTS:
        return below
    low, high = math.log(below[0]), math.log(below[-1])
    wanted = [math.exp(low + i / (POINTS - 1) * (high - low)) for i in range(POINTS)]
    return sorted({min(below, key=lambda w: abs(math.log(w / x))) for x in wanted})


def _best_criterion(
    model: nn.Module,
    context: PrepareContext,
    profile: HardwareProfile,
    probe: _Probe,
    step: Callable[[], None],
) -> str:
    """The importance criterion that hurts least when half of all channels go."""
    losses = {}
    kept = pruning.uniform(context.network, profile, 0.5).get("kept", {})
    for criterion in pruning.CRITERIA:
        student = copy.deepcopy(model)
        pruning.prune(student, {"kept": kept, "importance": criterion}, context)
        losses[criterion] = probe.recovered_loss(student)
        step()
    return min(losses, key=lambda criterion: losses[criterion])
