"""One traced look at a model: its layers, its pruning groups, its operators' shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from hardware_profiles import OpShape
from spaces.tracing.recorder import Recorder, plain_attention
from spaces.tracing.table import Row, ShapeTable, Size

# Shares of the input's height and width at which a network is looked at.
INPUT_SHARES = (0.875, 0.75, 0.625, 0.5)

_MISPLACED = 0.1  # of the effect of channels; rounding makes less than 0.001, misplacing about 1


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together.

    ``name`` is the earliest convolution or linear layer whose outputs are in the group;
    ``step`` is the least number of channels that may go (above one for grouped convolutions,
    which lose the same number from each of ``step`` blocks). ``aligned`` says that a grouped
    convolution reads the channels: then each block loses the channels of the same places.
    """

    name: str
    channels: int
    layers: tuple[str, ...]  # whose outputs shrink
    step: int = 1
    aligned: bool = False


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, with its untouched shape."""

    name: str
    op: str
    shape: OpShape


@dataclass(frozen=True)
class Network:
    """What techniques need to know about a model; see ``trace``.

    ``blocks`` are residual blocks whose removal keeps every shape. ``fixed`` says for each
    group that can't be pruned why not. ``sizes`` are smaller inputs (height, width), largest
    first, for which the network gives the same outputs.
    """

    input_shape: tuple[int, int, int]  # channels, height, width
    outputs: int
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    blocks: tuple[str, ...]
    table: ShapeTable
    fixed: Mapping[str, str]
    sizes: tuple[Size, ...] = ()

    @property
    def last_layer(self) -> str | None:
        """The layer that is called last, which reads what the others have made of an image."""
        called = (row.layer for row in reversed(self.table.rows) if row.layer)
        return next(called, None)

    def group(self, name: str) -> Group:
        """The group called ``name``.

        Raises:
            KeyError: there is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)


def example_input(model: nn.Module, input_shape: tuple[int, int, int]) -> torch.Tensor:
    """A fixed random batch of one image for tracing, on the model's device, of its type."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, *input_shape, generator=generator).to(next(model.parameters()))


def dependency_graph(model: nn.Module, input_shape: tuple[int, int, int]) -> Any:
    """torch-pruning's dependency graph of a model in eval mode."""
    model.eval()
    graph = tp.DependencyGraph()
    # The graph is of operators: what a backward pass would need of an image is not kept.
    with torch.autograd.graph.saved_tensors_hooks(_forgotten, _never):
        graph.build_dependency(
            model, example_inputs=example_input(model, input_shape), verbose=False
        )
    return graph


def _forgotten(_: torch.Tensor) -> None:
    return None


def _never(_: None) -> torch.Tensor:
    raise AssertionError("nothing is differentiated here")


def full_groups(model: nn.Module, graph: Any) -> Iterator[tuple[str, Any]]:
    """Every group of coupled channels with its name, all channels in it."""
    names = {module: name for name, module in model.named_modules()}
    order = {name: i for i, name in enumerate(names.values())}
    for group in graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        outs = [names[m] for m in output_layers(group) if m in names]
        if outs:
            root = min(outs, key=lambda name: order[name])
            module = model.get_submodule(root)
            handler = graph.get_pruner_of_module(module).prune_out_channels
            yield root, graph.get_pruning_group(module, handler, list(range(_outputs(module))))


def output_layers(group: Any) -> list[nn.Module]:
    """Convolutions and linear layers whose output channels shrink with the group."""
    found: dict[nn.Module, None] = {}
    for dep, _ in group:
        module = dep.target.module
        if isinstance(module, nn.Conv2d | nn.Linear) and "out_channels" in dep.handler.__name__:
            found[module] = None
    return list(found)


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> Network:
    """Looks at ``model`` once, in eval mode.

    Groups are kept when a copy of the model still runs, with outputs of the same shape, after
    they were narrowed; the others are listed in ``fixed`` with the reason. A model that
    torch-pruning can't trace, or that says why in ``not_prunable``, has no groups and can still
    be quantized.
    """
    model = copy.deepcopy(model).eval()
    groups, fixed = _prunable_groups(model, input_shape)
    owner = {layer: group.name for group in groups for layer in group.layers}
    rows, outputs = _recorded(model, input_shape, owner)
    rows, sizes = _with_sizes(model, input_shape, owner, rows, outputs)
    layers = {row.layer: Layer(row.layer, row.op, row.shape) for row in rows if row.layer}
    return Network(
        input_shape=input_shape,
        outputs=outputs[1],
        layers=tuple(layers.values()),
        groups=groups,
        blocks=_removable_blocks(model, input_shape),
        table=ShapeTable(rows, {g.name: g.channels for g in groups}),
        fixed=fixed,
        sizes=sizes,
    )


def _recorded(
    model: nn.Module, input_shape: tuple[int, int, int], owner: Mapping[str, str]
) -> tuple[tuple[Row, ...], torch.Size]:
    """Every operator of a forward pass, and the shape of its outputs."""
    recorder = Recorder(model, owner)
    with torch.no_grad(), plain_attention(), recorder.hooked(), recorder:
        output = model(example_input(model, input_shape))
    return tuple(recorder.rows), output.shape


def _with_sizes(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    owner: Mapping[str, str],
    rows: tuple[Row, ...],
    outputs: torch.Size,
) -> tuple[tuple[Row, ...], tuple[Size, ...]]:
    """The operators with their sizes on smaller inputs, and the inputs that the model takes."""
    channels, height, width = input_shape
    found: list[Size] = []
    for share in INPUT_SHARES:
        size = (round(height * share), round(width * share))
        try:
            smaller, shape = _recorded(model, (channels, *size), owner)
        except Exception:  # of the person's model: it can't take every size
            continue
        calls = [(row.op, row.module) for row in rows]
        if shape != outputs or calls != [(row.op, row.module) for row in smaller]:
            continue
        found.append(size)
        rows = tuple(
            replace(row, sizes=(*row.sizes, (size, other.shape.in_size, other.shape.out_size)))
            for row, other in zip(rows, smaller, strict=True)
        )
    return rows, tuple(found)


def narrow(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    removed: Mapping[str, list[int]],
) -> None:
    """Removes the given output channels of the named groups, in place.

    Raises:
        KeyError: a group is not in the model.
    """
    graph = dependency_graph(model, input_shape)
    for name, indices in removed.items():
        if not indices:
            continue
        module = model.get_submodule(name)
        handler = graph.get_pruner_of_module(module).prune_out_channels
        graph.get_pruning_group(module, handler, indices).prune()


def _outputs(module: nn.Module) -> int:
    return int(module.weight.shape[0])  # type: ignore[index]


def _prunable_groups(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[tuple[Group, ...], dict[str, str]]:
    if hasattr(model, "not_prunable"):
        return (), {"": str(model.not_prunable)}
    try:
        graph = dependency_graph(model, input_shape)
        found = list(full_groups(model, graph))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        return (), {"": f"torch-pruning can't follow what this model does with channels ({said})"}
    names = {module: name for name, module in model.named_modules()}
    groups: dict[str, Group] = {}
    for name, group in found:
        layers = output_layers(group)
        channels = _outputs(model.get_submodule(name))
        readers = _grouped(dep.target.module for dep, _ in group if _reads(dep))
        step = math.lcm(*(m.groups for m in [*_grouped(layers), *readers]))
        if channels > step:
            own = tuple(names[m] for m in layers)
            groups[name] = Group(name, channels, own, step, aligned=bool(readers))
    fixed: dict[str, str] = {}
    with torch.no_grad():
        shape = model(example_input(model, input_shape)).shape
    _check(model, input_shape, shape, list(groups.values()), fixed)
    ordered = sorted((g for g in groups.values() if g.name not in fixed), key=_position(names))
    return tuple(ordered), fixed


def _grouped(modules: Iterable[nn.Module]) -> list[nn.Conv2d]:
    """Convolutions in several groups of several channels each."""
    return [m for m in modules if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]


def _reads(dep: Any) -> bool:
    """Whether a dependency narrows a module's input."""
    return "in_channels" in dep.handler.__name__


def _position(names: Mapping[nn.Module, str]) -> Any:
    order = {name: i for i, name in enumerate(names.values())}
    return lambda group: order[group.name]


def _check(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    shape: torch.Size,
    groups: list[Group],
    fixed: dict[str, str],
) -> None:
    """Bisects ``groups`` for those that break the model, and notes them in ``fixed``."""
    if not groups:
        return
    # Channels that are read in pairs go whole where the first ones are taken; an order that is
    # lost shows best there.
    reason = _narrowed_breaks(model, input_shape, shape, groups, first) or _narrowed_breaks(
        model, input_shape, shape, groups, scattered
    )
    if reason is None:
        return
    if len(groups) == 1:
        fixed[groups[0].name] = reason
        return
    middle = len(groups) // 2
    _check(model, input_shape, shape, groups[:middle], fixed)
    _check(model, input_shape, shape, groups[middle:], fixed)


def _narrowed_breaks(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    shape: torch.Size,
    groups: list[Group],
    chosen: Callable[[Group, int], list[int]],
) -> str | None:
    trial = copy.deepcopy(model)
    removed = {g.name: chosen(g, _half(g)) for g in groups}
    image = example_input(trial, input_shape)
    try:
        with torch.no_grad():
            before = trial(image)
        silenced = silence(trial, input_shape, removed)
        with torch.no_grad():
            expected = trial(image)
        narrow(trial, input_shape, removed)
        with torch.no_grad():
            out = trial(image)
    except Exception as error:
        return f"the model does not run when it is narrowed ({type(error).__name__})"
    if out.shape != shape:
        return "it carries the model's outputs"
    for group in groups:
        for layer in group.layers:
            if _outputs(trial.get_submodule(layer)) != group.channels - _half(group):
                return "its layers can't be narrowed alone"
    effect = (expected - before).abs().max()
    if silenced and (out - expected).abs().max() > _MISPLACED * effect + 1e-5:
        return "its channels change places on their way to the next layer"
    return None


def first(group: Group, count: int) -> list[int]:
    """The first ``count`` channels, as many of each block of a grouped convolution."""
    block, each = group.channels // group.step, count // group.step
    return [b * block + i for b in range(group.step) for i in range(each)]


def scattered(group: Group, count: int) -> list[int]:
    """``count`` channels at places without a pattern, as many of each block."""
    block, each = group.channels // group.step, count // group.step
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(block, generator=generator) for _ in range(group.step)]
    if group.aligned:
        orders = [orders[0]] * group.step
    return sorted(b * block + int(i) for b, order in enumerate(orders) for i in order[:each])


def _half(group: Group) -> int:
    """Half of the channels, as the group allows."""
    return max(group.channels // 2 // group.step, 1) * group.step


def silence(
    model: nn.Module, input_shape: tuple[int, int, int], removed: Mapping[str, list[int]]
) -> bool:
    """Lets the given channels give zeros, in place.

    The model then computes what it does without them. False where that is not so, which is for
    the mean that a layer or group norm takes.
    """
    graph = dependency_graph(model, input_shape)
    for name, indices in removed.items():
        module = model.get_submodule(name)
        handler = graph.get_pruner_of_module(module).prune_out_channels
        for dep, places in graph.get_pruning_group(module, handler, indices):
            target = dep.target.module
            if isinstance(target, nn.LayerNorm | nn.GroupNorm):
                return False
            if isinstance(target, nn.Parameter):
                target.data.movedim(dep.target.pruning_dim, 0)[places] = 0
            elif "out_channels" in dep.handler.__name__:
                for parameter in target.parameters(recurse=False):
                    parameter.data[places] = 0
    return True


def _removable_blocks(model: nn.Module, input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Modules with several layers inside whose output is their input plus something.

    Found by zeroing: when every layer inside gives zeros, a residual block without projection
    returns (an activation of) its input, so leaving it out keeps every shape.
    """
    candidates: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    handles = []

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, args: Any, output: Any) -> None:
            if (
                len(args) == 1
                and isinstance(args[0], torch.Tensor)
                and isinstance(output, torch.Tensor)
                and args[0].shape == output.shape
            ):
                candidates[name] = (args[0], output)

        return hook

    for name, module in model.named_modules():
        inside = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        if name and len(inside) > 1:
            handles.append(module.register_forward_hook(remember(name)))
    with torch.no_grad():
        model(example_input(model, input_shape))
    for handle in handles:
        handle.remove()
    blocks: list[str] = []
    for name, (seen, _) in candidates.items():
        module = copy.deepcopy(model.get_submodule(name))
        with torch.no_grad():
            for inner in module.modules():
                for parameter in inner.parameters(recurse=False):
                    parameter.zero_()
                for buffer_name, buffer in inner.named_buffers(recurse=False):
                    if buffer_name == "running_mean":
                        buffer.zero_()
            probe = seen.abs() + 0.1
            if torch.equal(module(probe), probe):
                blocks.append(name)
    # The innermost ones only: a stage of removable blocks is removed block by block.
    innermost = (b for b in blocks if not any(o.startswith(b + ".") for o in blocks))
    return tuple(block for block in innermost if _runs_without(model, block, input_shape))


def leave_out(model: nn.Module, module: str) -> None:
    """Puts the identity in a module's place."""
    model.set_submodule(module, nn.Identity())


def _runs_without(model: nn.Module, block: str, input_shape: tuple[int, int, int]) -> bool:
    """Whether nothing else of the model looks into the block."""
    image = example_input(model, input_shape)
    shorter = copy.deepcopy(model)
    leave_out(shorter, block)
    try:
        with torch.no_grad():
            return bool(shorter(image).shape == model(image).shape)
    except Exception:  # of the person's model: anything
        return False
