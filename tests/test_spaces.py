"""The space: plans from and to values, and what a plan makes of a network and of its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import CLASSES, IMAGE, NETWORKS, Residual, pictures, seeded
from onnx import numpy_helper
from torch import nn

from hardware_profiles import load_profile
from spaces import CompressionPlan
from spaces.dimension import Choice, Dimension, ParamValue, Real
from spaces.files.export import export_onnx
from spaces.files.qdq import layer_nodes, layer_of
from spaces.space import SearchSpace, bind
from spaces.technique import ExportContext, PrepareContext
from spaces.techniques import pruning, quantization
from spaces.techniques.pruning import MAX_RATIO, widths
from spaces.tracing.network import Group, trace

EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)
FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # shrinking such examples takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MORE = settings(FEW, max_examples=40)
PROFILE = load_profile("raspberry-pi-4b")


@cache
def space_of(name: str) -> SearchSpace:
    return SearchSpace.of(trace(seeded(NETWORKS[name]), IMAGE), PROFILE)


def a_value(dimension: Dimension) -> st.SearchStrategy[ParamValue]:
    if isinstance(dimension, Real):
        return st.floats(dimension.low, dimension.high)
    return st.sampled_from(dimension.options)


def any_values(space: SearchSpace) -> st.SearchStrategy[dict[str, ParamValue]]:
    return st.fixed_dictionaries({d.name: a_value(d) for d in space.dimensions})


def prepare_context(space: SearchSpace) -> PrepareContext:
    return PrepareContext(space.network, pictures(8), torch.arange(8) % CLASSES)


def applied(space: SearchSpace, plan: CompressionPlan, model: nn.Module) -> nn.Module:
    """The model as the plan has it before training."""
    for hooks in bind(plan):
        if hooks.prepare:
            hooks.prepare(model, prepare_context(space))
    for hooks in bind(plan):
        if hooks.refine:
            hooks.refine(model, prepare_context(space))
    return model.eval()


def exported(space: SearchSpace, plan: CompressionPlan, model: nn.Module, path: Path) -> Path:
    """The file of the model as the plan has it when it ships."""
    export_onnx(model, path, IMAGE)
    context = ExportContext(space.profile, pictures(16).numpy(), path.parent)
    for hooks in bind(plan):
        if hooks.export:
            hooks.export(path, path.with_suffix(".rewritten.onnx"), context)
            path.with_suffix(".rewritten.onnx").replace(path)
    return path


@dataclass(frozen=True)
class InFile:
    """What a file says of one layer."""

    outputs: int
    inputs: int  # of one group
    bits: int


def layers_in(path: Path) -> dict[str, InFile]:
    """Every layer of a file by name; all calls of one must be alike."""
    model = onnx.load(path)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made_by = {out: node for node in model.graph.node for out in node.output}
    found: dict[str, InFile] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        weight = arrays.get(node.input[1])
        if weight is None:
            dequantize = made_by[node.input[1]]
            assert dequantize.op_type == "DequantizeLinear"
            weight = arrays[dequantize.input[0]]
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type == "Gemm" and not transposed:
            weight = weight.T
        layer = InFile(*weight.shape[:2], bits=8 * weight.dtype.itemsize)
        assert found.setdefault(layer_of(node), layer) == layer
    return found


@EVERY_NETWORK
@MORE
@given(data=st.data())
def test_any_values_give_a_plan_that_encodes_back_to_itself(
    name: str, data: st.DataObject
) -> None:
    space = space_of(name)
    plan = space.decode(data.draw(any_values(space)))
    values = space.encode(plan)
    assert {d.name for d in space.dimensions} == set(values)
    assert all(d.contains(values[d.name]) for d in space.dimensions)
    again = space.decode(values)
    assert again == plan
    assert again.plan_id == plan.plan_id


@EVERY_NETWORK
@FEW
@given(data=st.data())
def test_plan_applied_saved_and_loaded_gives_the_same_network(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    space = space_of(name)
    plan = space.decode(data.draw(any_values(space)))
    model = applied(space, plan, seeded(NETWORKS[name]))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))

    loaded = CompressionPlan.from_json(json.loads((tmp_path / "plan.json").read_text()))
    other = seeded(NETWORKS[name], seed=1)  # as a fresh process builds it
    again = applied(space, loaded, other)
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(model(pictures(4)), again(pictures(4)))


@EVERY_NETWORK
@FEW
@given(data=st.data())
def test_exported_file_has_the_plans_widths_and_bits_and_outputs(
    name: str, data: st.DataObject, tmp_path: Path
) -> None:
    space = space_of(name)
    plan = space.decode(data.draw(any_values(space)))
    model = applied(space, plan, seeded(NETWORKS[name]))
    path = exported(space, plan, model, tmp_path / "model.onnx")
    planned = {
        row.layer: InFile(shape.out_channels, shape.in_channels // shape.groups, row.bits)
        for row, shape in space.table(plan).shapes()
        if row.layer
    }
    assert layers_in(path) == planned
    inputs = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert inputs[0].dim_param == "batch"
    assert [d.dim_value for d in inputs[1:]] == list(IMAGE)


@EVERY_NETWORK
def test_nodes_are_named_after_the_layers_whose_weights_they_hold(
    name: str, tmp_path: Path
) -> None:
    """Batch norms scale the file's weights channel by channel; directions stay."""
    model = seeded(NETWORKS[name])
    export_onnx(model, tmp_path / "model.onnx", IMAGE)
    file = onnx.load(tmp_path / "model.onnx")
    arrays = {t.name: numpy_helper.to_array(t) for t in file.graph.initializer}
    for node in layer_nodes(file):
        weight = model.get_submodule(layer_of(node)).weight.detach().flatten(1).numpy()
        in_file = arrays[node.input[1]].reshape(weight.shape)
        found, expected = (
            rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (in_file, weight)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


@EVERY_NETWORK
@FEW
@given(data=st.data())
def test_table_has_the_shapes_of_the_network_that_is_built(name: str, data: st.DataObject) -> None:
    space = space_of(name)
    plan = space.decode(data.draw(any_values(space)))
    model = applied(space, plan, seeded(NETWORKS[name]))
    table = space.table(plan)
    built = trace(model, IMAGE).table
    assert [(r.op, r.layer, shape) for r, shape in table.shapes()] == [
        (r.op, r.layer, shape) for r, shape in built.shapes()
    ]
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert table.parameters == sum(w.numel() for w in weights)
    assert table.macs == built.macs


def test_macs_are_those_counted_by_hand() -> None:
    table = space_of("grouped").network.table
    # stem 3x3, stride 2; 3x3 in 4 groups; 1x1; linear on 16 maps of 2x2
    assert table.macs == 36 * 16 * 27 + 36 * 32 * 4 * 9 + 36 * 16 * 32 + 64 * CLASSES
    assert table.parameters == 16 * 27 + 32 * 4 * 9 + 16 * 32 + 64 * CLASSES


@EVERY_NETWORK
def test_every_layer_is_in_the_space_and_what_is_never_pruned_is_said(name: str) -> None:
    space = space_of(name)
    model = seeded(NETWORKS[name])
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {layer.name for layer in space.network.layers} == layers
    fixed = {"head"}
    if name == "multiplying":  # its one channel a group can't become less
        fixed |= {"stem.0", "two_each"}
    pruned = {layer for group in space.network.groups for layer in group.layers}
    assert pruned == layers - fixed
    assert set(space.network.fixed) <= fixed
    assert space.network.fixed["head"] == "it carries the model's outputs"


def test_residual_blocks_are_found_and_can_be_left_out() -> None:
    space = space_of("residual")
    assert space.network.blocks == ("low", "high")
    plan = space.canonical({"depth": {"removed": ["low"]}})
    model = applied(space, plan, seeded(Residual))
    assert isinstance(model.get_submodule("low"), nn.Identity)
    assert "low.second" not in {row.layer for row, _ in space.table(plan).shapes()}


def test_grouped_convolution_reads_the_channels_of_its_own_group() -> None:
    """The narrowed network computes what the whole one does when removed channels are zero."""
    space = space_of("grouped")
    plan = CompressionPlan({"pruning": {"kept": {"before.0": 8, "grouped.0": 16}}})
    whole = seeded(NETWORKS["grouped"])
    scores = pruning.importance(
        whole, "magnitude", prepare_context(space), ("before.0", "grouped.0")
    )
    removed = {
        name: pruning._least_important(scores[name], space.network.group(name), count)
        for name, count in (("before.0", 8), ("grouped.0", 16))
    }
    blocks = [[i % 4 for i in removed["before.0"] if i // 4 == b] for b in range(4)]
    assert blocks[0] == blocks[1] == blocks[2] == blocks[3]
    with torch.no_grad():
        for layer, norm in (("before.0", "before.1"), ("grouped.0", "grouped.1")):
            for name in (layer, norm):
                module = whole.get_submodule(name)
                module.weight[removed[layer]] = 0
                if module.bias is not None:
                    module.bias[removed[layer]] = 0
    narrow = applied(space, plan, seeded(NETWORKS["grouped"]))
    assert narrow.get_submodule("grouped.0").weight.shape == (16, 2, 3, 3)
    torch.testing.assert_close(narrow(pictures(4)), whole(pictures(4)))


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat"])
def test_pruning_dead_channels_changes_nothing(name: str) -> None:
    """The least important channels are removed, and everything that reads them follows."""
    space = space_of(name)
    model = seeded(NETWORKS[name])
    group = space.network.groups[0]
    dead = [1, 2, 3, 5, 6, 7, 8, 15]
    with torch.no_grad():
        for layer in group.layers:
            norm = _norm_after(model, layer)
            for module in (model.get_submodule(layer), norm):
                if module is not None:
                    for parameter in module.parameters():
                        parameter[dead] = 0
    before = model(pictures(4))
    plan = CompressionPlan({"pruning": {"kept": {group.name: group.channels - len(dead)}}})
    torch.testing.assert_close(applied(space, plan, model)(pictures(4)), before)


def _norm_after(model: nn.Module, layer: str) -> nn.Module | None:
    """The batch norm that is defined right behind a layer."""
    names = [name for name, m in model.named_modules() if not list(m.children())]
    after = model.get_submodule(names[names.index(layer) + 1])
    return after if isinstance(after, nn.BatchNorm2d) else None


@pytest.mark.parametrize("criterion", pruning.CRITERIA)
def test_each_criterion_scores_every_channel_of_every_group(criterion: str) -> None:
    space = space_of("residual")
    names = tuple(group.name for group in space.network.groups)
    model = seeded(Residual)
    scores = pruning.importance(model, criterion, prepare_context(space), names)
    assert {n: len(s) for n, s in scores.items()} == space.network.table.channels
    assert all(torch.isfinite(s).all() for s in scores.values())
    assert all(p.grad is None for p in model.parameters())


def test_batch_norm_criterion_removes_the_smallest_scales() -> None:
    space = space_of("residual")
    model = seeded(Residual)
    with torch.no_grad():
        model.get_submodule("low.first.1").weight.copy_(torch.arange(16.0, 0, -1))
    context = prepare_context(space)
    pruning.prune(model, {"kept": {"low.first.0": 4}, "importance": "bn_scale"}, context)
    assert model.get_submodule("low.first.1").weight.tolist() == [16, 15, 14, 13]


def test_two_steps_of_pruning_meet_halfway() -> None:
    space = space_of("residual")
    values = space.encode(CompressionPlan())
    values |= {"pruning/stem.0": 0.75, "pruning/high.first.0": 0.3, "pruning/steps": 2}
    setting = space.decode(values).settings["pruning"]
    assert setting == {"kept": {"stem.0": 4, "high.first.0": 16}, "steps": 2}
    hooks = pruning.TECHNIQUE.bind(setting)
    model, context = seeded(Residual), prepare_context(space)
    assert hooks.prepare is not None
    assert hooks.refine is not None

    def widths() -> tuple[int, int]:
        return model.stem[0].out_channels, model.high.first[0].out_channels

    hooks.prepare(model, context)
    assert widths() == (8, 20)  # the roots of 16 * 4 and 24 * 16
    scores = pruning.importance(model, "magnitude", context, ("stem.0",))["stem.0"]
    strongest = model.stem[0].weight[scores.argsort(descending=True, stable=True)[:4].sort()[0]]
    hooks.refine(model, context)
    assert widths() == (4, 16)
    torch.testing.assert_close(model.stem[0].weight, strongest)


def test_narrowing_that_goes_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "narrow", lambda *_: None)
    space = space_of("residual")
    with pytest.raises(ValueError, match=r"'stem\.0' was to keep 8 channels, but has 16"):
        pruning.prune(seeded(Residual), {"kept": {"stem.0": 8}}, prepare_context(space))


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, 24), (0.1, 24), (0.3, 16), (0.6, 8), (0.9, 4)])
def test_ratio_snaps_to_widths_that_the_kernels_like(ratio: float, kept: int) -> None:
    space = space_of("residual")
    values = space.encode(CompressionPlan()) | {"pruning/wider.0": ratio}
    plan = space.decode(values)
    assert space.table(plan).kept.get("wider.0", 24) == kept


def test_ratios_that_snap_to_one_width_are_one_plan() -> None:
    space = space_of("residual")
    untouched = space.encode(CompressionPlan())
    plans = [space.decode({**untouched, "pruning/stem.0": r}) for r in (0.45, 0.5, 0.55)]
    assert len({plan.plan_id for plan in plans}) == 1
    assert plans[0].settings["pruning"] == {"kept": {"stem.0": 8}}


def test_values_without_effect_give_the_untouched_plan() -> None:
    space = space_of("residual")
    values = space.encode(CompressionPlan())
    values |= {"pruning/importance": "taylor", "quantization/ranges": "entropy"}
    assert space.decode(values) == CompressionPlan()
    assert CompressionPlan().plan_id == space.decode(values).plan_id


def test_widths_end_with_the_untouched_one_and_leave_two_of_sixty_four() -> None:
    group = Group("a", 64, ("a",))
    assert widths(group, PROFILE) == (4, 8, 16, 24, 32, 40, 48, 56, 64)
    assert widths(Group("b", 96, ("b",), step=3), PROFILE)[:2] == (12, 24)
    assert min(widths(Group("c", 512, ("c",)), PROFILE)) == 512 * (1 - MAX_RATIO)


def test_canonical_plan_drops_what_was_planned_for_removed_blocks() -> None:
    space = space_of("residual")
    removed = {"depth": {"removed": ["low"]}}
    inside: Mapping[str, Any] = {
        "pruning": {"kept": {"low.first.0": 8}, "importance": "taylor"},
        "quantization": {"bits": {"low.first.0": 8, "low.second": 8}, "ranges": "entropy"},
    }
    assert space.canonical({**removed, **inside}) == CompressionPlan(removed)
    outside = {"pruning": {"kept": {"stem.0": 8, "low.first.0": 8}}}
    kept = space.canonical({**removed, **outside})
    assert kept == CompressionPlan({**removed, "pruning": {"kept": {"stem.0": 8}}})
    assert space.canonical(inside) == CompressionPlan(inside)


def test_plan_json_is_versioned_and_round_trips() -> None:
    plan = CompressionPlan({"pruning": {"kept": {"stem.0": 8}}, "depth": {}})
    data = json.loads(json.dumps(plan.to_json()))
    assert data == {"version": 1, "settings": {"pruning": {"kept": {"stem.0": 8}}}}
    assert CompressionPlan.from_json(data) == plan
    with pytest.raises(ValueError, match="version must be 1, but got 99"):
        CompressionPlan.from_json({**data, "version": 99})


def test_plan_id_is_stable_whatever_the_order() -> None:
    one = CompressionPlan({"a": {"x": 1, "y": 2}, "b": {"z": 3}})
    other = CompressionPlan({"b": {"z": 3}, "a": {"y": 2, "x": 1}})
    assert one == other
    assert one.plan_id == other.plan_id == "42ccebb40a41"
    with pytest.raises(TypeError):
        one.settings["a"] = {}  # type: ignore[index]


def test_plan_of_an_unknown_technique_is_refused() -> None:
    with pytest.raises(KeyError, match="not installed: \\['magic'\\]"):
        bind(CompressionPlan({"magic": {"on": True}}))


def test_profile_with_one_width_has_nothing_to_quantize() -> None:
    import dataclasses

    kernels = tuple(kernel for kernel in PROFILE.kernels if kernel.bits == 32)
    space = SearchSpace.of(
        space_of("residual").network, dataclasses.replace(PROFILE, kernels=kernels)
    )
    assert not [d for d in space.dimensions if d.name.startswith("quantization/")]
    assert "quantization" not in space.decode(space.encode(CompressionPlan())).settings


def test_network_that_cannot_be_traced_can_still_be_quantized() -> None:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():  # torch-pruning follows gradients
                x = self.conv(x).mean((2, 3))
            return self.head(x)

    network = trace(seeded(Untraceable), IMAGE)
    assert [layer.name for layer in network.layers] == ["conv", "head"]
    assert "conv" not in {group.name for group in network.groups}
    assert quantization.everywhere(network, 8) == {"bits": {"conv": 8, "head": 8}}


@pytest.mark.parametrize("bad", [Choice, Real])
def test_dimension_without_values_is_refused(bad: type) -> None:
    with pytest.raises(ValueError, match=r"must (hold|be distinct)"):
        Choice("a", (1, 1)) if bad is Choice else Real("a", 1.0, 0.0)


def test_latency_and_size_fall_with_width_and_bits() -> None:
    space = space_of("residual")
    whole = space.table(CompressionPlan())
    narrow = space.table(CompressionPlan({"pruning": {"kept": {"wider.0": 8}}}))
    int8 = space.table(
        CompressionPlan({"quantization": quantization.everywhere(space.network, 8)})
    )
    assert narrow.latency_ms(PROFILE) < whole.latency_ms(PROFILE)
    assert narrow.weight_bytes < whole.weight_bytes
    assert int8.weight_bytes == whole.weight_bytes / 4
    assert np.isclose(
        whole.latency_ms(PROFILE),
        sum(PROFILE.cost(row.op, shape, 32) for row, shape in whole.shapes()),
    )
