"""A module that runs the calls of an exported program one by one.

Convolutions and linear layers become modules under their own names again, so that each can be
given a width and be trained; all else is called as it was exported. Only the operators that are
listed here are ever called.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from search.errors import InputError
from search.inputs.models.archive import Archive, Node

_ATEN = """
    _adaptive_avg_pool2d abs adaptive_avg_pool2d adaptive_max_pool2d add add_ alias avg_pool2d
    batch_norm bmm cat celu channel_shuffle chunk clamp clamp_ clamp_max clamp_min clone
    constant_pad_nd contiguous conv2d copy_ div div_ dropout dropout_ elu elu_ eq exp
    feature_dropout fill_ flatten full gelu group_norm hardsigmoid hardsigmoid_ hardswish
    hardswish_ hardtanh hardtanh_ index instance_norm layer_norm leaky_relu leaky_relu_
    linalg_vector_norm linear log_softmax masked_fill masked_fill_ matmul max_pool2d mean mish
    mish_ mul mul_ ne neg new_full new_ones new_zeros ones_like pad permute pow prelu reciprocal
    relu relu6 relu6_ relu_ roll rsqrt rsub scaled_dot_product_attention select selu selu_
    sigmoid sigmoid_ silu silu_ slice softmax softplus split split_with_sizes sqrt squeeze stack
    sub sub_ sum t tanh tanh_ transpose unbind unflatten unsqueeze upsample_bilinear2d
    upsample_nearest2d where zeros_like
"""
_NUMBERS = "add eq floordiv ge getitem gt le lt mod mul ne sub"
_RESHAPES = frozenset({"view", "reshape", "_unsafe_view"})
_TRAINS = {"batch_norm": 5, "dropout": 2, "dropout_": 2, "feature_dropout": 2}  # argument's place


@dataclass(frozen=True)
class _Of:
    """The value of a name."""

    name: str


class _Batch:
    """The number of images."""


class _Dropped:
    """An argument about memory or devices, which are settled by what the tensors are."""


@dataclass(frozen=True)
class _Call:
    """What is called (a layer by its name, else an operator), with what, and what comes out."""

    operator: str
    layer: str | None
    positional: tuple[Any, ...]
    keyword: Mapping[str, Any]
    outputs: tuple[str, ...]
    is_tuple: bool


class Program(nn.Module):
    """An exported program as a module. ``not_prunable`` is for ``spaces.tracing.network``."""

    not_prunable = "an exported program has no modules left to prune"

    def __init__(self, archive: Archive, path: str) -> None:
        """Raises InputError for what is not listed here, or was not in eval mode."""
        super().__init__()
        self._image, self._scores = archive.image, archive.scores
        self._named = dict(archive.named)
        batch = archive.sizes[archive.image][0]
        self._calls: list[_Call] = []
        for node in archive.nodes:
            call = _parsed(node, path)
            if call.operator.startswith("aten._assert"):
                continue
            call = _for_any_batch(call, batch, archive)
            self._calls.append(replace(call, layer=self._make_layer(call, archive)))
        for key, tensor in archive.tensors.items():
            self._keep(key, tensor, key in archive.parameters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of images (N, C, H, W)."""
        values: dict[str, Any] = {n: self._tensor(key) for n, key in self._named.items()}
        values[self._image] = x

        def filled(value: Any) -> Any:
            if isinstance(value, list):
                return [filled(each) for each in value]
            if isinstance(value, _Of):
                return values[value.name]
            return x.shape[0] if isinstance(value, _Batch) else value

        for call in self._calls:
            if call.layer is not None:
                values[call.outputs[0]] = self.get_submodule(call.layer)(
                    filled(call.positional[0])
                )
                continue
            keyword = {name: filled(value) for name, value in call.keyword.items()}
            found = _run(call.operator)(*(filled(v) for v in call.positional), **keyword)
            if call.is_tuple:
                values.update(zip(call.outputs, found, strict=True))
            elif call.outputs:
                values[call.outputs[0]] = found
        scores: torch.Tensor = values[self._scores]
        return scores

    def extra_repr(self) -> str:
        """The calls: programs with the same modules may differ in them."""
        return "\n".join(map(str, self._calls))

    def _tensor(self, key: str) -> torch.Tensor:
        parent, _, name = key.rpartition(".")
        tensor: torch.Tensor = getattr(self.get_submodule(parent), name)
        return tensor

    def _place(self, path: str) -> nn.Module:
        """The module at a path, with empty ones on the way where there are none."""
        module: nn.Module = self
        for name in filter(None, path.split(".")):
            if name not in module._modules:
                module.add_module(name, nn.Module())
            module = module.get_submodule(name)
        return module

    def _keep(self, key: str, tensor: torch.Tensor, is_parameter: bool) -> None:
        parent, _, name = key.rpartition(".")
        module = self._place(parent)
        if name in module._parameters and module._parameters[name] is not None:
            return  # of a layer
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if is_parameter:
            module.register_parameter(name, nn.Parameter(tensor, tensor.is_floating_point()))
        else:
            module.register_buffer(name, tensor)

    def _make_layer(self, call: _Call, archive: Archive) -> str | None:
        """The name of the module that the call becomes; None where it stays a call."""
        kinds: Mapping[str, Callable[..., nn.Module | None]]
        kinds = {"aten.conv2d": _convolution, "aten.linear": _linear}
        base = call.operator.rpartition(".")[0]
        if base not in kinds or len(call.positional) < 2:
            return None
        weight, bias = (_key(call, place, archive) for place in (1, 2))
        path = weight.removesuffix(".weight") if weight else ""
        if not path or weight == path or bias not in (None, f"{path}.bias"):
            return None
        tensors = archive.tensors
        made = kinds[base](tensors[f"{path}.weight"], bias and tensors[bias], call)
        if made is None:
            return None
        parent, _, name = path.rpartition(".")
        place = self._place(parent)
        there = place._modules.get(name)
        if there is None:
            place.add_module(name, made)
        elif repr(there) != repr(made):  # called twice, in different ways
            return None
        return path


def _convolution(weight: torch.Tensor, bias: torch.Tensor | None, call: _Call) -> nn.Module | None:
    names = ("stride", "padding", "dilation", "groups")
    settings = dict(zip(names, call.positional[3:], strict=False)) | {
        name: call.keyword[name] for name in names if name in call.keyword
    }
    groups = settings.pop("groups", 1)
    shapes: dict[str, Any] = {
        n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()
    }
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        groups=groups,
        bias=bias is not None,
        **shapes,
    )
    return _with(layer, weight, bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, _call: _Call) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _with(layer, weight, bias)


def _with(
    layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None
) -> nn.Module:
    layer.weight = nn.Parameter(weight.float())
    if bias is not None:
        layer.bias = nn.Parameter(bias.float())
    return layer


def _key(call: _Call, place: int, archive: Archive) -> str | None:
    """The stored parameter that an argument is; None where it is none."""
    value = call.positional[place] if len(call.positional) > place else call.keyword.get("bias")
    key = archive.named.get(value.name) if isinstance(value, _Of) else None
    return key if key in archive.parameters else None


def _parsed(node: Node, path: str) -> _Call:
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)|_operator\.(\w+)", node.target)
    name, overload, number = match.groups() if match else (None, None, None)
    is_aten = name in _ATEN.split() and overload in getattr(torch.ops.aten, name).overloads()
    if not (is_aten or name in _ODD or number in _NUMBERS.split()):
        raise InputError(
            f"an exported program must be made of the operators that image classifiers have, but "
            f"{path!r} calls {node.target}; export the module itself, without run_decompositions, "
            f"or give the architecture and --weights"
        )
    values = [(each, _value(each.arg)) for each in node.inputs]
    known = [(each, value) for each, value in values if not isinstance(value, _Dropped)]
    positional = tuple(value for each, value in known if each.kind != 2)  # 2: by keyword
    keyword = {each.name: value for each, value in known if each.kind == 2}
    place = _TRAINS.get(name or "", len(positional))
    if len(positional) > place and positional[place] is True:
        raise InputError(
            f"a model must be exported in eval mode, but {path!r} calls {name} for training; call "
            f"model.eval() before torch.export.export"
        )
    outputs = [given for output in node.outputs for given in _outputs(output)]
    is_tuple = len(node.outputs) > 1 or any("as_tensors" in output for output in node.outputs)
    called = f"operator.{number}" if number else f"aten.{name}.{overload}"
    return _Call(called, None, positional, keyword, tuple(outputs), is_tuple)


def _value(arg: Mapping[str, Any]) -> Any:
    ((kind, content),) = arg.items()
    if kind == "as_none":
        return None
    if kind in ("as_memory_format", "as_layout", "as_device"):
        return _Dropped()
    if kind in ("as_tensor", "as_optional_tensor", "as_sym_int", "as_sym_bool"):
        return _reference(content)
    if kind in ("as_tensors", "as_optional_tensors", "as_sym_ints"):
        return [_reference(each) for each in content]
    if kind == "as_float":
        return float(content)
    if kind == "as_scalar_type":
        return _DTYPES[content]
    if kind in ("as_int", "as_bool", "as_string", "as_ints", "as_floats", "as_bools"):
        return content
    raise ValueError(f"an argument is of unknown kind {kind!r}")


_DTYPES = {4: torch.int32, 5: torch.int64, 12: torch.bool} | dict.fromkeys(
    (6, 7, 8, 13), torch.float32
)


def _reference(content: Mapping[str, Any]) -> Any:
    """``{"name": n}``, ``{"as_name": n}``, ``{"as_tensor": {"name": n}}``, or a plain number."""
    for key in ("name", "as_name"):
        if key in content:
            return _Of(content[key])
    if "as_tensor" in content:
        return _Of(content["as_tensor"]["name"])
    ((_, plain),) = content.items()
    return None if "as_none" in content else plain


def _outputs(output: Mapping[str, Any]) -> list[str]:
    ((kind, content),) = output.items()
    if kind == "as_none":
        return []
    given = content if isinstance(content, list) else [content]
    return [each.get("name") or each["as_name"] for each in given]


def _for_any_batch(call: _Call, batch: int | None, archive: Archive) -> _Call:
    """The call with sizes that hold for any number of images, where it names that number.

    A program that was exported with one image has a 1 wherever the number of images stood.
    """
    name = call.operator.split(".")[1]
    if name not in _RESHAPES | {"expand"} or len(call.positional) < 2 or not call.outputs:
        return call
    size = list(call.positional[1])
    if not size or not (isinstance(size[0], _Of) or (batch is not None and size[0] == batch)):
        return call
    if name == "expand":
        size[0] = _Batch()
    else:
        after = archive.sizes.get(call.outputs[0], ())
        for place, length in enumerate(size[1:], 1):
            if length == -1 and place < len(after) and after[place] is not None:
                size[place] = after[place]
        if -1 in size[1:]:
            return call
        size[0] = -1
    return replace(call, positional=(call.positional[0], size, *call.positional[2:]))


def _to(x: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
    """Floats stay float32 on the device where they are."""
    kinds = [v for v in (*given, *named.values()) if isinstance(v, torch.dtype)]
    return x.to(kinds[0]) if kinds and not kinds[0].is_floating_point else x


# Called as methods: sizes are no plain numbers while an export traces them.
_ODD: Mapping[str, Callable[..., Any]] = {
    "_to_copy": _to,
    "_unsafe_view": lambda x, size: x.reshape(size),
    "lift_fresh_copy": lambda x: x.clone(),
    "expand": lambda x, size, implicit=False: x.expand(size),
    "reshape": lambda x, shape: x.reshape(shape),
    "sym_size": lambda x, dim: x.shape[dim],
    "to": _to,
    "type_as": lambda x, _: x,
    "view": lambda x, size: x.reshape(size),
    "_assert_tensor_metadata": lambda *_, **__: None,
}


def _run(called: str) -> Callable[..., Any]:
    kind, name, *overload = called.split(".")
    if kind == "operator":
        return getattr(operator, name)  # type: ignore[no-any-return]
    if name in _ODD:
        return _ODD[name]
    return getattr(getattr(torch.ops.aten, name), overload[0])  # type: ignore[no-any-return]
