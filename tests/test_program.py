"""Exported programs: read without running anything, the same network again, quantized only."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from networks import CLASSES, IMAGE, NETWORKS, pictures, seeded
from torch import nn
from torch.export import Dim, export, save

from hardware_profiles import load_profile
from search.errors import InputError
from search.inputs.loading import load_task
from search.inputs.models import program
from spaces.files.export import export_onnx
from spaces.files.qdq import quantize_file
from spaces.space import SearchSpace
from spaces.tracing.network import trace


def exported(model: nn.Module, path: Path, images: int = 1, dynamic: bool = False) -> Path:
    """A file of ``torch.export.save``."""
    shapes = ({0: Dim("batch")},) if dynamic else None
    save(export(model.eval(), (pictures(images),), dynamic_shapes=shapes), path)
    return path


def built(path: Path) -> nn.Module:
    return program.build(str(path), CLASSES, IMAGE[0], IMAGE[1:]).eval()


class Viewing(nn.Module):
    """Flattens by the number of images, which an export for one image writes down as 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(IMAGE[0], 8, 3, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1))
        self.scale = torch.tensor([0.5])
        self.head = nn.Linear(8 * 25 + 1, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.conv(x).relu().view(x.size(0), -1) * self.scale
        return self.head(torch.cat([flat, self.token.expand(x.size(0), -1)], 1))


ALL: dict[str, Callable[[], nn.Module]] = {**NETWORKS, "viewing": Viewing}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_program_is_the_network_again_for_any_number_of_images(
    name: str, dynamic: bool, tmp_path: Path
) -> None:
    model = seeded(ALL[name])
    path = exported(model, tmp_path / "net.pt2", 2 if dynamic else 1, dynamic)
    again = built(path)
    for count in (1, 3):
        with torch.inference_mode():
            assert torch.allclose(again(pictures(count)), model(pictures(count)), atol=1e-5)
    state = again.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    network = trace(again, IMAGE)
    original = trace(model, IMAGE)
    assert [la.name for la in network.layers] == [la.name for la in original.layers]
    assert [la.shape for la in network.layers] == [la.shape for la in original.layers]
    assert (network.groups, network.blocks) == ((), ())
    assert "no modules left to prune" in network.fixed[""]


@pytest.mark.parametrize("name", ["residual", "depthwise", "viewing"])
def test_program_is_exported_and_quantized(name: str, tmp_path: Path) -> None:
    model = built(exported(seeded(ALL[name]), tmp_path / "net.pt2"))
    export_onnx(model, tmp_path / "net.onnx", IMAGE)
    images = pictures(16).numpy()
    runtime = load_profile("x86-avx2").runtime
    layers = [layer.name for layer in trace(model, IMAGE).layers]
    target = tmp_path / "int8.onnx"
    quantize_file(tmp_path / "net.onnx", target, layers=layers, runtime=runtime, images=images)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    found = [
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": images})
        for path in (tmp_path / "net.onnx", target)
    ]
    assert np.allclose(found[0][0], expected, atol=1e-4)
    assert np.abs(found[1][0] - expected).max() < 0.1 * np.abs(expected).max()


def test_program_can_be_trained_and_has_only_widths_to_choose(tmp_path: Path) -> None:
    model = built(exported(seeded(NETWORKS["residual"]), tmp_path / "net.pt2"))
    before = model.state_dict()["stem.0.weight"].clone()
    model.train()
    model(pictures(4)).square().sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(model.state_dict()["stem.0.weight"], before)
    space = SearchSpace.of(trace(model, IMAGE), load_profile("arm"))
    kinds = {dimension.name.partition("/")[0] for dimension in space.dimensions}
    assert kinds == {"quantization", "distillation"}


def test_task_has_the_programs_weights_and_size_and_says_so(tmp_path: Path) -> None:
    path = exported(seeded(NETWORKS["residual"]), tmp_path / "net.pt2")
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 20, 20), np.uint8)
    task = load_task(str(path), data=(images, np.arange(60) % CLASSES))
    assert task.weights is not None
    assert task.model_spec == str(path)
    assert task.data.preprocess.size == IMAGE[1:]
    assert any("only quantized" in note for note in task.data.notes)
    one = torch.from_numpy(task.data.preprocess.apply(task.data.test.images[:1]))
    assert task.build()(one).shape == (1, CLASSES)
    with pytest.raises(InputError, match="exported for, 12x12, but got 20x20"):
        load_task(str(path), data=(images, np.arange(60) % CLASSES), image_size=(20, 20))
    torch.save(task.weights, tmp_path / "w.pt")
    with pytest.raises(InputError, match="has its own"):
        load_task(str(path), tmp_path / "w.pt", data=(images, np.arange(60) % CLASSES))


def test_relative_name_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(seeded(NETWORKS["residual"]), tmp_path / "net.pt2")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 12, 12), np.uint8)
    task = load_task("net.pt2", data=(images, np.arange(60) % CLASSES))
    monkeypatch.chdir("/")
    assert task.build()(pictures(1)).shape == (1, CLASSES)


class RunsCode:
    """What a pickle of it does when it is loaded must never happen."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **added: bytes) -> Path:
    """The archive with some members changed, left out, or added."""
    target = path.with_name("changed.pt2")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as file:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                file.writestr(name, content)
        for name, content in added.items():
            file.writestr(f"net/{name}", content)
    return target


def graph_with(change: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    """A change of the program's JSON."""

    def apply(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        stated = json.loads(content)
        change(stated)
        return json.dumps(stated).encode()

    return apply


def _pickled_weight(name: str, content: bytes) -> bytes:
    if name.endswith("weight_0"):
        return pickle.dumps(RunsCode())
    if name.endswith("weights_config.json"):
        return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    return content


def _pickled_constant(name: str, content: bytes) -> bytes:
    if not name.endswith("constants_config.json"):
        return content
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    return json.dumps({"config": {"evil": meta | {"tensor_meta": None}}}).encode()


def _evil_target(stated: dict[str, Any]) -> None:
    stated["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def _evil_operator(stated: dict[str, Any]) -> None:
    stated["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def _evil_overload(stated: dict[str, Any]) -> None:
    stated["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.relu.__class__"


def _evil_name(stated: dict[str, Any]) -> None:
    text = json.dumps(stated).replace("stem.0.weight", "forward")
    stated.update(json.loads(text))


def _other_schema(stated: dict[str, Any]) -> None:
    stated["schema_version"]["major"] = 9


def _larger_than_stored(name: str, content: bytes) -> bytes:
    if name.endswith("weights_config.json"):
        return content.replace(b'{"as_int": 16}', b'{"as_int": 1600000000}', 1)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_pickled_weight, "is pickled .* nothing is ever unpickled"),
        (_pickled_constant, "can't be read as one|is pickled"),
        (graph_with(_evil_target), "calls torch.os.system"),
        (graph_with(_evil_operator), "calls torch.ops.aten.from_file.default"),
        (graph_with(_evil_overload), "calls torch.ops.aten.relu.__class__"),
        (graph_with(_evil_name), "can't be (read|made a module)"),
        (graph_with(_other_schema), "of schema version 8, but .* is of 9"),
        (_larger_than_stored, "larger than what is stored"),
        (lambda name, content: None if "models/" in name else content, "one exported program"),
        (lambda name, content: None if "weight_3" in name else content, "can't be read as one"),
        (lambda name, content: content[:7], "can't be read as one"),
    ],
)
def test_what_is_damaged_or_would_run_code_is_refused(
    change: Callable[[str, bytes], bytes | None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = rewritten(exported(seeded(NETWORKS["residual"]), tmp_path / "net.pt2"), change)
    with pytest.raises(InputError, match=message) as raised:
        load_task(str(path))
    assert "\n" not in str(raised.value)
    assert not Path("ran").exists()


def test_parts_that_torch_would_unpickle_or_evaluate_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            buffer = io.BytesIO()
            torch.save(RunsCode(), buffer)
            return buffer.getvalue()
        evaluated = graph_with(lambda j: j.update(guards_code=["__import__('os').mkdir('ran')"]))
        return evaluated(name, content)

    model = seeded(NETWORKS["residual"])
    path = rewritten(exported(model, tmp_path / "net.pt2"), change)
    with torch.inference_mode():
        assert torch.allclose(built(path)(pictures(2)), model(pictures(2)), atol=1e-5)
    assert not Path("ran").exists()


def test_what_torch_saves_otherwise_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "weights.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    for name in ("weights.pt2", "text.pt2", "missing.pt2"):
        with pytest.raises(InputError, match=r"a \.pt2 model must"):
            load_task(str(tmp_path / name))


def test_decomposed_program_is_refused(tmp_path: Path) -> None:
    decomposed = export(seeded(NETWORKS["residual"]), (pictures(1),)).run_decompositions()
    save(decomposed, tmp_path / "net.pt2")
    with pytest.raises(InputError, match="without run_decompositions"):
        load_task(str(tmp_path / "net.pt2"))


def test_program_in_training_mode_is_refused(tmp_path: Path) -> None:
    save(export(NETWORKS["residual"]().train(), (pictures(2),)), tmp_path / "net.pt2")
    with pytest.raises(InputError, match="in eval mode, but"):
        load_task(str(tmp_path / "net.pt2"))


class Mixing(nn.Module):
    """Scores an image by what else is in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(IMAGE[0], CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)) - x.mean((0, 2, 3)))


def test_program_that_mixes_images_is_refused(tmp_path: Path) -> None:
    path = exported(seeded(Mixing), tmp_path / "net.pt2", 2, dynamic=True)
    with pytest.raises(InputError, match="the same scores whatever others are with it"):
        built(path)
