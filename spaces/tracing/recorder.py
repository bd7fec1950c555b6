"""A forward pass as rows of operators: shapes, layers, and how widths follow from groups."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hardware_profiles import OpShape
from spaces.tracing.table import Row, Width

aten = torch.ops.aten
_POOLS = {
    aten.max_pool2d_with_indices.default,
    aten.avg_pool2d.default,
    aten.max_pool2d.default,
}
_GLOBAL = {aten.mean.dim, aten._adaptive_avg_pool2d.default}
_REDUCTIONS = {aten.mean.dim, aten.sum.dim_IntList, aten.amax.default}
_BINARY = {aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor, aten.sub.Tensor}
# Runtimes fuse these into the operator before, or they only move a view.
_FREE = {
    aten.relu.default,
    aten.relu_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.t.default,
    aten.detach.default,
    aten.alias.default,
    aten.clone.default,
    aten.expand.default,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.empty.memory_format,
    aten.dropout.default,
}


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Lets attention run as the operators it is made of, which can be traced and exported."""
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)


@dataclass(frozen=True)
class WeightedCall:
    """A product with a weight of the model: whose weight it is, and the weight's form.

    ``name`` is the layer's for convolutions and linear layers, however they are called, else the
    parameter's. ``form`` is (output channels, input channels of a group, *kernel).
    """

    name: str
    form: tuple[int, ...]


def weighted_calls(model: nn.Module, example: torch.Tensor) -> list[WeightedCall]:
    """Every product with a weight of the model, in order; transposed convolutions are left out."""
    recorder = Recorder(model, {})
    with torch.no_grad(), plain_attention(), recorder.hooked(), recorder:
        model(example)
    return recorder.calls


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every operator of a forward pass with shapes and symbolic widths."""

    def __init__(self, model: nn.Module, owner: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[Row] = []
        self.calls: list[WeightedCall] = []
        self._model = model
        self._owner = owner
        self._modules = dict(model.named_modules())
        self._weights = _weight_names(model)
        self._stack: list[str] = [""]
        self._widths: dict[int, tuple[int, Width]] = {}  # of a tensor's channels, and their axis
        self._alive: list[torch.Tensor] = []  # ids stay unique only while tensors live

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Keeps the name of the module that runs."""
        handles = []
        for name, module in self._model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        def hook(_module: nn.Module, _args: Any) -> None:
            self._stack.append(name)

        return hook

    def _leave(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        results = [t for t in _flat(out) if isinstance(t, torch.Tensor)]
        if results:
            inputs = [a for a in args if isinstance(a, torch.Tensor)]
            if func is aten.cat.default:
                inputs = list(args[0])
            self._alive += [*inputs, *results]
            self._record(func, args, inputs, results[0])
            for other in results[1:]:
                self._follow(func, args, inputs, other)
        return out

    def _record(self, func: Any, args: Any, inputs: list[torch.Tensor], out: Any) -> None:
        module = self._stack[-1]
        if func is aten.convolution.default:
            transposed, groups = bool(args[6]), int(args[8])
            self._layer(args[0], args[1], out, module, args[3], groups, transposed)
        elif func in (aten.addmm.default, aten.mm.default, aten.bmm.default):
            source, weight = (args[1], args[2]) if func is aten.addmm.default else args[:2]
            if weight.dim() == 3 and self._name(weight, module) is not None:
                weight = weight[0]  # the same for every image
            self._layer(source, weight.mT, out, module)
        elif func is aten.cat.default:
            self._concat(func, args, inputs, out, module)
        elif inputs:
            self._follow(func, args, inputs, out)
            op = _op_of(func, inputs, out)
            if op and out.dim() >= 2:
                source_axis, axis = self._axis(inputs[0]), self._axis(out)
                shape = OpShape(
                    _channels(inputs[0], source_axis),
                    _channels(out, axis),
                    _size(inputs[0], source_axis),
                    _size(out, axis),
                )
                if op == "pool":
                    shape = OpShape(
                        shape.in_channels,
                        shape.out_channels,
                        shape.in_size,
                        shape.out_size,
                        kernel=_pair(args[1]),
                        stride=_pair(args[2] if len(args) > 2 and args[2] else args[1]),
                    )
                widths = self._of(inputs[0], source_axis), self._of(out, axis)
                self.rows.append(Row(op, None, module, shape, *widths))

    def _name(self, weight: torch.Tensor, module: str) -> str | None:
        """The layer or parameter that a weight belongs to; None for a product of results."""
        known = self._weights.get(weight.untyped_storage().data_ptr())
        if known is None and isinstance(self._modules[module], _LAYERS):
            return module  # which computes its weight
        return known

    def _layer(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        out: Any,
        module: str,
        stride: Any = (1, 1),
        groups: int = 0,
        transposed: bool = False,
    ) -> None:
        """Records a convolution or, with no ``groups``, a matrix product."""
        name = self._name(weight, module)
        op = "conv" if groups else "linear"
        axis = x.dim() - 1 if op == "linear" else 1
        in_channels, out_channels = x.shape[axis], out.shape[axis]
        if name is not None and not transposed:
            self.calls.append(WeightedCall(name, tuple(weight.shape)))
        is_layer = name is not None and isinstance(self._modules.get(name), _LAYERS)
        layer = name if is_layer else None
        if op == "conv" and groups == in_channels > 1:
            op = "depthwise"
        kernel = (1, 1) if op == "linear" else _plane(weight.shape[2:])
        group = self._owner.get(layer or "")
        own = Width(0, ((group, 1),)) if group else Width(out_channels)
        if op == "depthwise" and in_channels == out_channels:
            own = self._of(x, axis)
        self._widths[id(out)] = (axis, own)
        rows = math.prod(x.shape[:-1])
        tokens = (rows, 1) if op == "linear" and rows > 1 else None
        shape = OpShape(
            in_channels,
            out_channels,
            tokens or _size(x, axis),
            tokens or _size(out, axis),
            kernel,
            _plane(stride),
            max(groups, 1),
        )
        self.rows.append(Row(op, layer, module, shape, self._of(x, axis), own))

    def _concat(
        self, func: Any, args: Any, inputs: list[torch.Tensor], out: Any, module: str
    ) -> None:
        axis = (args[1] if len(args) > 1 else 0) % out.dim()
        if axis != 1 or any(self._axis(tensor) != 1 for tensor in inputs):
            self._follow(func, args, inputs, out)
            return
        width = Width()
        for tensor in inputs:
            width = width.plus(self._of(tensor, 1))
        self._widths[id(out)] = (1, width)
        shape = OpShape(_channels(out, 1), _channels(out, 1), _size(out, 1), _size(out, 1))
        self.rows.append(Row("concat", None, module, shape, width, width))

    def _axis(self, tensor: torch.Tensor) -> int:
        """Where the channels of a tensor are: second, unless they were followed elsewhere."""
        return self._widths[id(tensor)][0] if id(tensor) in self._widths else 1

    def _of(self, tensor: torch.Tensor, axis: int) -> Width:
        known = self._widths.get(id(tensor))
        return known[1] if known and known[0] == axis else Width(_channels(tensor, axis))

    def _follow(self, func: Any, args: Any, inputs: list[torch.Tensor], out: Any) -> None:
        """Widths follow the first input whose channels are found in the output."""
        for tensor in inputs:
            known = self._widths.get(id(tensor))
            if known is None or not known[1].factors:
                continue
            axis, width = known
            found = _place(func, args, tensor, axis, out)
            if found is not None:
                self._widths[id(out)] = (found[0], width.scaled(found[1]))
                return


_LAYERS = (nn.Conv2d, nn.Linear)


def _weight_names(model: nn.Module) -> dict[int, str]:
    """Layers and other parameters by the address of their weights, the first of shared ones."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            is_weight = isinstance(module, _LAYERS) and own == "weight"
            full = f"{name}.{own}" if name else own
            found.setdefault(parameter.untyped_storage().data_ptr(), name if is_weight else full)
    return found


def _place(
    func: Any, args: Any, source: torch.Tensor, axis: int, out: torch.Tensor
) -> tuple[int, int] | None:
    """Where in ``out`` the channels on ``axis`` of ``source`` are, and how many of each.

    A flattened map has several of each channel. None where they are not found.
    """
    channels = source.shape[axis]
    if func in (aten.permute.default, aten.transpose.int, aten.t.default):
        order = list(range(source.dim()))
        if func is aten.permute.default:
            order = [dim % source.dim() for dim in args[1]]
        else:
            a, b = args[1:3] if func is aten.transpose.int else (0, 1)
            order[a], order[b] = order[b], order[a]
        return order.index(axis), 1
    if source.numel() == out.numel() and source.shape != out.shape:
        inner = math.prod(source.shape[axis + 1 :])
        for place, length in enumerate(out.shape):
            each, rest = divmod(length, channels)
            if rest == 0 and each > 0 and math.prod(out.shape[place + 1 :]) * each == inner:
                return place, each
        return None
    removed = 0
    if out.dim() < source.dim() and func in (
        aten.mean.dim,
        aten.sum.dim_IntList,
        aten.amax.default,
    ):
        removed = sum(dim % source.dim() < axis for dim in args[1])
    elif out.dim() < source.dim() and func is aten.select.int:
        removed = args[1] % source.dim() < axis
    place = axis - removed
    return (place, 1) if place < out.dim() and out.shape[place] == channels else None


def _flat(out: Any) -> list[Any]:
    return list(out) if isinstance(out, tuple | list) else [out]


def _op_of(func: Any, inputs: list[torch.Tensor], out: torch.Tensor) -> str | None:
    if func in _POOLS:
        return "pool"
    if func in _GLOBAL:
        return "global_pool"
    if func in _BINARY and len(inputs) > 1 and out.dim() == 4:
        return "add"
    if func in _FREE or out.dim() != 4 or not out.is_floating_point():
        return None
    return "elementwise"


def _channels(tensor: torch.Tensor, axis: int) -> int:
    return int(tensor.shape[axis]) if tensor.dim() >= 2 else int(tensor.numel())


def _size(tensor: torch.Tensor, axis: int) -> tuple[int, int]:
    """Height and width of a map, whose channels are second or last; a volume's depth is height."""
    if tensor.dim() < 3:
        return (1, 1)
    return _plane(tensor.shape[1:-1] if axis == tensor.dim() - 1 else tensor.shape[2:])


def _plane(sizes: Sequence[int]) -> tuple[int, int]:
    """Two sizes of any number of them: a signal is one row, a volume's slices lie side by side."""
    return (math.prod(sizes[:-1]), int(sizes[-1]))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return (value, value)
    items = list(value)
    return (int(items[0]), int(items[-1]))
