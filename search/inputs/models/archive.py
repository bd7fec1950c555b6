"""Reads an exported program (``.pt2``) as numbers and JSON; nothing in it is ever run.

``torch.export.load`` unpickles weights, constants and sample inputs, evaluates the file's
expressions, and makes Python source of its names: a file from elsewhere could run anything. So
the archive is read here: tensors as raw bytes, the graph as JSON that is checked. A file with
pickled parts is refused. The layout is that of ``torch.export.save`` since torch 2.9
(``torch/export/pt2_archive``, schema version 8).
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError

from search.errors import InputError
from search.inputs.own_code import one_line

SCHEMA = 8
REMEDY = "export it again: torch.export.save(torch.export.export(model.eval(), (image,)), FILE)"
# The numbers of ``torch/_export/serde/schema.py``.
DTYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?"}


class _Size(BaseModel):
    as_int: int | None = None  # None where it is an expression


class _Meta(BaseModel):
    dtype: int
    sizes: list[_Size]
    strides: list[_Size]
    storage_offset: _Size


class _Payload(BaseModel):
    path_name: Annotated[str, Field(pattern=r"^[a-z_]+\d+$")]
    use_pickle: bool
    tensor_meta: _Meta | None


class _Payloads(BaseModel):
    config: dict[str, _Payload]


class Argument(BaseModel):
    """An argument's name and value, ``{kind of value: value}``."""

    name: str
    arg: dict[str, Any]
    kind: int | None = None


class Node(BaseModel):
    """One call: the operator's name, its arguments, and what comes out."""

    target: str
    inputs: list[Argument]
    outputs: list[dict[str, Any]]


class _Graph(BaseModel):
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    nodes: list[Node]
    tensor_values: dict[str, _Meta]


class _Signature(BaseModel):
    input_specs: list[dict[str, Any]]
    output_specs: list[dict[str, Any]]


class _GraphModule(BaseModel):
    graph: _Graph
    signature: _Signature


class _Version(BaseModel):
    major: int


class _Program(BaseModel):
    schema_version: _Version
    graph_module: _GraphModule


@dataclass(frozen=True)
class Archive:
    """A program: its calls in order, and where their values come from.

    ``tensors`` are weights and constants by the model's own names (``parameters`` are those that
    are trained), ``named`` which of them each name in the graph stands for. ``sizes`` are the
    lengths of each named tensor as it was exported, None where one may vary. ``image`` and
    ``scores`` name its input and output.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, torch.Tensor]
    parameters: frozenset[str]
    named: Mapping[str, str]
    sizes: Mapping[str, tuple[int | None, ...]]
    image: str
    scores: str


def read_archive(path: Path) -> Archive:
    """The program in a file.

    Raises:
        InputError: the file is missing, damaged, from another release of torch, of a model that
            was not in eval mode, or holds anything that would have to be unpickled.
    """
    if not path.is_file():
        raise InputError(f"a .pt2 model must be a file, but {str(path)!r} is not; check the path")
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file, str(path))
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the readers raise anything
        problem = one_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(
            f"a .pt2 model must be a file of torch.export.save, but {str(path)!r} can't be read "
            f"as one ({problem[:120]}); {REMEDY}"
        ) from error


def _read(file: zipfile.ZipFile, path: str) -> Archive:
    members = {name.partition("/")[2]: name for name in file.namelist()}
    models = [name for name in members if name.startswith("models/")]
    if len(models) != 1 or not models[0].endswith(".json"):
        raise InputError(
            f"a .pt2 model must hold one exported program, but {path!r} holds "
            f"{len(models) or 'none (it may be from torch 2.8 or older, or compiled)'}; {REMEDY}"
        )
    name = models[0].removeprefix("models/").removesuffix(".json")
    program = _Program.model_validate_json(file.read(members[models[0]]))
    if program.schema_version.major != SCHEMA:
        raise InputError(
            f"a .pt2 model must be of schema version {SCHEMA}, but {path!r} is of "
            f"{program.schema_version.major}; export it again with torch {torch.__version__}"
        )
    tensors = {
        key: tensor
        for kind in ("weights", "constants")
        for key, tensor in _tensors(file, members, kind, name, path).items()
    }
    graph, signature = program.graph_module.graph, program.graph_module.signature
    named, images = _inputs(signature.input_specs, tensors)
    kinds = {kind for spec in signature.output_specs for kind in spec}
    if kinds != {"user_output"} or len(graph.outputs) != 1 or len(images) != 1:
        raise InputError(
            f"a .pt2 model must take one image tensor, return one tensor of scores and change "
            f"nothing, but {path!r} takes {len(images)} and returns {len(graph.outputs)} "
            f"({', '.join(sorted(kinds))}); {REMEDY}"
        )
    sizes = {
        key: tuple(size.as_int for size in meta.sizes) for key, meta in graph.tensor_values.items()
    }
    scores = graph.outputs[0]["as_tensor"]["name"]
    parameters = frozenset(
        spec["parameter"]["parameter_name"]
        for spec in signature.input_specs
        if "parameter" in spec
    )
    return Archive(tuple(graph.nodes), tensors, parameters, named, sizes, images[0], scores)


def _tensors(
    file: zipfile.ZipFile, members: Mapping[str, str], kind: str, name: str, path: str
) -> dict[str, torch.Tensor]:
    """Weights or constants by name; several may be views of one stored array."""
    config = f"data/{kind}/{name}_{kind}_config.json"
    payloads = _Payloads.model_validate(json.loads(file.read(members[config]))).config
    found = {}
    for key, payload in payloads.items():
        meta = payload.tensor_meta
        if payload.use_pickle or meta is None or meta.dtype not in DTYPES:
            raise InputError(
                f"a .pt2 model must hold plain tensors, but {key!r} in {path!r} is pickled or of "
                f"an unknown type, and nothing is ever unpickled; {REMEDY}"
            )
        stored = file.read(members[f"data/{kind}/{payload.path_name}"])
        flat = torch.from_numpy(np.frombuffer(stored, DTYPES[meta.dtype]).copy())
        sizes = _known(meta.sizes)
        if math.prod(sizes) > flat.numel():
            raise ValueError(f"{key!r} is larger than what is stored of it")
        strides, (offset,) = _known(meta.strides), _known([meta.storage_offset])
        found[key] = flat.as_strided(sizes, strides, offset).clone()
    return found


def _known(sizes: list[_Size]) -> tuple[int, ...]:
    known = [size.as_int for size in sizes if size.as_int is not None]
    if len(known) != len(sizes):
        raise ValueError("a stored tensor's size is not a number")
    return tuple(known)


def _inputs(
    specs: list[dict[str, Any]], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Which stored tensor each name in the graph stands for, and the names of the images."""
    keys = {"parameter": "parameter_name", "buffer": "buffer_name"}
    keys |= {"tensor_constant": "tensor_constant_name"}
    named: dict[str, str] = {}
    images: list[str] = []
    for spec in specs:
        ((kind, content),) = spec.items()
        if kind == "user_input":
            images.append(content["arg"]["as_tensor"]["name"])
        else:
            key = content[keys[kind]]
            if key not in tensors:
                raise ValueError(f"{key!r} is missing")
            named[content["arg"]["name"]] = key
    return named, images
