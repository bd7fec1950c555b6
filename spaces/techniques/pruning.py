"""Structured pruning: how many channels each dependency group keeps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.nn import functional

from hardware_profiles import HardwareProfile
from spaces.dimension import Choice, Dimension, ParamValue, Real
from spaces.technique import Hooks, PrepareContext, Setting, Technique, inside
from spaces.tracing.network import Group, Network, dependency_graph, full_groups, narrow
from spaces.tracing.table import ShapeTable

MAX_RATIO = 0.96875  # 2 of 64 channels stay
CRITERIA = ("magnitude", "taylor", "bn_scale")


class Pruning(Technique):
    """One ``pruning_ratio`` (fraction of channels removed) for each group; criterion and steps.

    The setting holds *kept channels*, so that ratios which snap to the same width are one plan:
    ``{"kept": {group: channels}, "importance": criterion, "steps": 2}``. In two steps a group
    loses channels down to half its way, on the logarithm, then trains a little, then the rest.
    """

    name = "pruning"
    order = 20

    def dimensions(
        self,
        network: Network,
        profile: HardwareProfile,
    ) -> tuple[Dimension, ...]:
        """One ratio for each group, the importance criterion, and the number of steps."""
        if not network.groups:
            return ()
        ratios = (Real(f"pruning/{g.name}", 0.0, MAX_RATIO) for g in network.groups)
        criterion = Choice("pruning/importance", CRITERIA)
        return (*ratios, criterion, Choice("pruning/steps", (1, 2)))

    def decode(
        self, params: Mapping[str, ParamValue], network: Network, profile: HardwareProfile
    ) -> Setting:
        """Ratios become kept channels, snapped to the widths that are worth having."""
        if not network.groups:
            return {}
        kept = {}
        for group in network.groups:
            wanted = group.channels * (1 - float(params[f"pruning/{group.name}"]))
            channels = min(widths(group, profile), key=lambda w: (abs(w - wanted), w))
            if channels < group.channels:
                kept[group.name] = channels
        return setting_of(kept, str(params["pruning/importance"]), int(params["pruning/steps"]))

    def encode(
        self,
        setting: Setting,
        network: Network,
        profile: HardwareProfile,
    ) -> dict[str, ParamValue]:
        """The exact ratios of the kept channels."""
        if not network.groups:
            return {}
        kept = setting.get("kept", {})
        params: dict[str, ParamValue] = {
            f"pruning/{g.name}": min(1 - kept.get(g.name, g.channels) / g.channels, MAX_RATIO)
            for g in network.groups
        }
        params["pruning/importance"] = setting.get("importance", CRITERIA[0])
        return params | {"pruning/steps": setting.get("steps", 1)}

    def without(self, setting: Setting, modules: tuple[str, ...]) -> Setting:
        """Only what was planned for groups outside ``modules``."""
        kept = {g: n for g, n in setting.get("kept", {}).items() if not inside(g, modules)}
        return setting_of(kept, setting.get("importance", CRITERIA[0]), setting.get("steps", 1))

    def reverted(self, setting: Setting, network: Network) -> Iterable[tuple[str, Setting]]:
        """Group by group."""
        kept = setting["kept"]
        for name, channels in kept.items():
            others = {group: n for group, n in kept.items() if group != name}
            told = f"{name}: {channels} of {network.group(name).channels} channels"
            yield told, {**setting, "kept": others} if others else {}

    def reshape(self, setting: Setting, table: ShapeTable) -> ShapeTable:
        """Narrower groups."""
        return table.with_kept(setting.get("kept", {}))

    def bind(self, setting: Setting) -> Hooks:
        """Removes the least important channels before training, or some of them then."""

        def prepare(model: nn.Module, context: PrepareContext) -> None:
            prune(model, setting, context)

        def begin(model: nn.Module, context: PrepareContext) -> None:
            kept = halfway(setting["kept"], context.network)
            prune(model, {**setting, "kept": kept}, context)

        if setting.get("steps", 1) == 1:
            return Hooks(prepare=prepare)
        return Hooks(prepare=begin, refine=prepare)


TECHNIQUE = Pruning()


def setting_of(kept: Mapping[str, int], importance: str = CRITERIA[0], steps: int = 1) -> Setting:
    """The canonical setting: untouched groups, default criterion and one step are left unsaid."""
    if not kept:
        return {}
    setting: dict[str, Any] = {"kept": dict(kept)}
    if importance != CRITERIA[0]:
        setting["importance"] = importance
    if steps != 1:
        setting["steps"] = steps
    return setting


def widths(group: Group, profile: HardwareProfile) -> tuple[int, ...]:
    """Channel counts worth having for a group on a device, ascending; the last is untouched.

    Multiples of the float kernels' tile where that is below the int8 kernels' tile, multiples
    of the latter above it, and always multiples of what the group itself demands.
    """
    fine = math.lcm(profile.channel_multiple(32), group.step)
    coarse = math.lcm(profile.channel_multiple(8) if 8 in profile.bits else fine, fine)
    counts = {*range(fine, coarse, fine), *range(coarse, group.channels, coarse)}
    least = math.ceil(group.channels * (1 - MAX_RATIO))
    return (*sorted(c for c in counts if least <= c < group.channels), group.channels)


def uniform(network: Network, profile: HardwareProfile, pruning_ratio: float) -> Setting:
    """The setting that removes the same fraction of channels everywhere."""
    kept = {}
    for group in network.groups:
        wanted = group.channels * (1 - pruning_ratio)
        channels = min(widths(group, profile), key=lambda w: (abs(w - wanted), w))
        if channels < group.channels:
            kept[group.name] = channels
    return setting_of(kept)


def halfway(kept: Mapping[str, int], network: Network) -> dict[str, int]:
    """Widths between the untouched ones and ``kept``, in the middle of the logarithm."""
    found = {}
    for name, channels in kept.items():
        group = network.group(name)
        middle = math.sqrt(group.channels * channels) / group.step
        found[name] = max(channels, round(middle) * group.step)
    return found


def prune(model: nn.Module, setting: Setting, context: PrepareContext) -> None:
    """Narrows the groups of ``model`` in place, least important channels first.

    Raises:
        ValueError: a group did not end with the planned number of channels.
    """
    kept = setting.get("kept", {})
    if not kept:
        return
    scores = importance(model, setting.get("importance", CRITERIA[0]), context, tuple(kept))
    prune_by(model, kept, scores, context)


def prune_by(
    model: nn.Module,
    kept: Mapping[str, int],
    scores: Mapping[str, torch.Tensor],
    context: PrepareContext,
) -> None:
    """Narrows groups in place by given scores, one for each channel that each group has.

    Raises:
        ValueError: a group did not end with the planned number of channels.
    """
    removed = {}
    for name, channels in kept.items():
        group = context.network.group(name)
        removed[name] = _least_important(scores[name], group, len(scores[name]) - channels)
    narrow(model, context.network.input_shape, removed)
    for name, channels in kept.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        if weight.shape[0] != channels:
            raise ValueError(
                f"group {name!r} was to keep {channels} channels, but has {weight.shape[0]}"
            )


def importance(
    model: nn.Module, criterion: str, context: PrepareContext, groups: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Importance of every channel of the named groups, one value a channel.

    Criteria are torch-pruning's: ``magnitude`` (group L2 norm), ``taylor`` (first-order Taylor
    expansion of the loss on the calibration images: Molchanov et al. 2019), ``bn_scale``
    (Liu et al. 2017; groups without batch norm fall back to magnitude).
    """
    if not groups:  # of a model, too, that torch-pruning can't follow
        return {}
    measures = {
        "magnitude": tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance(),
        "bn_scale": tp.importance.BNScaleImportance(),
    }
    model.eval()
    if criterion == "taylor":
        model.zero_grad()
        loss = functional.cross_entropy(model(context.images), context.labels)
        loss.backward()  # type: ignore[no-untyped-call]
    graph = dependency_graph(model, context.network.input_shape)
    scores = {}
    for name, group in full_groups(model, graph):
        if name in groups:
            score = measures[criterion](group)
            if score is None:
                score = measures["magnitude"](group)
            scores[name] = score.detach().cpu()
    model.zero_grad()
    return scores


def _least_important(scores: torch.Tensor, group: Group, count: int) -> list[int]:
    """Indices to remove; the same number from each block of a grouped convolution, and the
    same places in each where one reads them.
    """
    blocks = scores.reshape(group.step, -1)
    if group.aligned:
        blocks = blocks.mean(0, keepdim=True).expand_as(blocks)
    each = count // group.step
    order = torch.argsort(blocks, dim=1, stable=True)[:, :each]
    offsets = torch.arange(group.step).unsqueeze(1) * blocks.shape[1]
    return sorted(int(i) for i in (order + offsets).flatten())
