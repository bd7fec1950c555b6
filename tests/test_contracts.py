"""Everything that is found by listing goes through its contract, a stranger's too."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contracts import (
    check_data,
    check_evaluator,
    check_profile,
    check_sampler,
    check_technique,
)
from loading_samples import random_pixels, write_folder, write_module, write_npz
from networks import CLASSES, IMAGE, NETWORKS, pictures, seeded
from PIL import Image

import evaluators
import search.running.backends
import spaces.techniques
from evaluators import EvaluationContext, evaluate
from evaluators import evaluator as evaluator_module
from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import emulator, load_profile, shipped_profiles
from search.deciding.samplers import SAMPLERS
from search.inputs.sources import list_sources
from search.running.backends import finding
from spaces import CompressionPlan, technique
from spaces.files.export import export_onnx
from spaces.space import SearchSpace, bind
from spaces.techniques.quantization import everywhere
from spaces.tracing.network import trace

EVALUATORS = {each.name: each for each in evaluators.discover()}
# Measures over SSH: test_device.py has a device for it.
NEEDS_A_DEVICE = {"latency-device"}
TARGETS = ("raspberry-pi-4b", "x86-vnni", "host", "cortex-m7-2mb")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", technique.discover())
def test_every_technique(name: str, network: str) -> None:
    check_technique(technique.discover()[name], NETWORKS[network])


@pytest.mark.parametrize("target", ["cortex-m7-2mb", "x86-avx2"])
@pytest.mark.parametrize("name", technique.discover())
def test_every_technique_on_other_targets(name: str, target: str) -> None:
    check_technique(technique.discover()[name], NETWORKS["residual"], load_profile(target))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file with layers in both widths."""
    folder = tmp_path_factory.mktemp("file")
    model = seeded(NETWORKS["residual"])
    network = trace(model, IMAGE)
    export_onnx(model, folder / "float.onnx", IMAGE)
    (hooks,) = bind(CompressionPlan({"quantization": everywhere(network, 8)}))
    assert hooks.export is not None
    context = technique.ExportContext(load_profile("arm"), pictures(8).numpy(), folder)
    hooks.export(folder / "float.onnx", folder / "int8.onnx", context)
    return folder / "int8.onnx"


def context_for(target: str, file: Path) -> EvaluationContext:
    profile = load_profile(target)
    images = pictures(40).numpy()
    baseline = file.with_name("float.onnx")
    return EvaluationContext(
        profile=profile,
        images=images,
        labels=np.arange(40) % CLASSES,
        scratch=file.parent,
        baseline=baseline,
        baseline_predictions=logits(baseline, images, profile).argmax(1),
    )


@pytest.mark.parametrize("name", sorted(EVALUATORS.keys() - NEEDS_A_DEVICE))
def test_every_evaluator(name: str, file: Path) -> None:
    if name == "latency-emulated" and not emulator.is_installed():
        pytest.skip("the emulator is missing; run 'make emulator'")
    contexts = [context_for(target, file) for target in TARGETS]
    fitting = [each for each in contexts if EVALUATORS[name].applies(each)]
    assert fitting, f"{name} applies to none of {TARGETS}"
    for context in fitting:
        check_evaluator(EVALUATORS[name], file, context)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gets_one_latency_and_what_limits_name(target: str, file: Path) -> None:
    context = context_for(target, file)
    latencies = [
        each.name
        for each in EVALUATORS.values()
        if each.name.startswith("latency") and each.applies(context)
    ]
    assert len(latencies) == 1
    found = evaluate(file, context)
    assert {"accuracy", "drop", "latency_ms", "size_bytes", "macs", "parameters"} <= set(
        found.measurements
    )
    memory = "peak_tensor_bytes" if target.startswith("cortex-m") else "peak_memory_bytes"
    assert found.value(memory) > 0


@pytest.mark.parametrize("name", [*shipped_profiles(), "host"])
def test_every_profile(name: str) -> None:
    check_profile(load_profile(name))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler(name: str) -> None:
    check_sampler(name)


def samples_of_data(folder: Path) -> dict[str, tuple[str, str]]:
    """For each source an argument that works and one that doesn't."""
    write_folder(folder / "photos", {"a": 6, "b": 6})
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    pixels = [np.asarray(image).tolist() for image in random_pixels(6)]
    parquet.write_table(
        pyarrow.table({"image": [_png(p) for p in pixels], "label": [0, 1] * 3}),
        folder / "train.parquet",
    )
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        _write_idx(raw / f"{part}-images-idx3-ubyte", random_pixels(5, shape=(28, 28)))
        _write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    return {
        "digits": ("", "8x8"),
        "folder": (str(folder / "photos"), str(folder / "nothing")),
        "npz": (write_npz(folder / "a.npz").removeprefix("npz:"), str(folder / "no.npz")),
        "parquet": (str(folder / "train.parquet"), str(folder / "no.parquet")),
        "torchvision": (f"MNIST:{folder}", "MNITS"),
        "": ("mine:data", "mine:nothing"),
    }


def _png(pixels: list[list[int]]) -> dict[str, bytes]:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue()}


def _write_idx(path: Path, array: np.ndarray) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.mark.parametrize("prefix", list_sources("search.inputs.data"))
def test_every_source_of_data(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "import numpy as np\ndef data():\n    return np.zeros((6, 8, 8), np.uint8), [0, 1] * 3\n"
    )
    write_module(tmp_path, monkeypatch, "mine", text)
    works, unusable = samples_of_data(tmp_path)[prefix]
    check_data(list_sources("search.inputs.data")[prefix].load, works, unusable)


STRANGER = """
from spaces.dimension import Choice
from spaces.technique import Hooks, Technique

class Bias(Technique):
    name = "bias"
    order = 25

    def dimensions(self, network, profile):
        return (Choice("bias/off", (False, True)),)

    def decode(self, params, network, profile):
        return {"off": True} if params["bias/off"] else {}

    def encode(self, setting, network, profile):
        return {"bias/off": setting.get("off", False)}

    def bind(self, setting):
        def prepare(model, context):
            model.get_submodule("head").bias.data.zero_()
        return Hooks(prepare=prepare)

TECHNIQUE = Bias()
"""
STRANGERS_EVALUATOR = """
from evaluators.measurement import Measurement

class Nodes:
    name = "nodes"
    cheap = True

    def applies(self, context):
        return True

    def evaluate(self, model, context):
        import onnx
        count = len(onnx.load(model).graph.node)
        return (Measurement("nodes", count, "", "measured", "counted in the file's graph"),)

EVALUATOR = Nodes()
"""


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was found is looked for again, in the test and after it."""
    finders = (technique.discover, evaluator_module.discover, finding.discover)
    for finder in finders:
        finder.cache_clear()
    yield
    for finder in finders:
        finder.cache_clear()


def in_package(
    package: object, folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more file in a package."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])  # type: ignore[attr-defined]
    importlib.invalidate_caches()


def installed(
    folder: Path, group: str, value: str, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A distribution of somebody's with one entry point, as pip leaves it."""
    (folder / f"{name}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:{value}\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("how", ["file", "entry point"])
def test_strangers_technique_is_found_and_searched(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "bias" not in technique.discover()
    technique.discover.cache_clear()
    if how == "file":
        in_package(spaces.techniques, tmp_path, "bias", STRANGER, monkeypatch)
    else:
        group = technique.ENTRY_POINTS
        installed(tmp_path, group, "TECHNIQUE", "their_bias", STRANGER, monkeypatch)
    found = technique.discover()
    assert list(found).index("pruning") < list(found).index("bias")
    check_technique(found["bias"], NETWORKS["residual"])
    space = SearchSpace.of(trace(seeded(NETWORKS["residual"]), IMAGE), load_profile("arm"))
    plan = space.decode(space.encode(CompressionPlan({"bias": {"off": True}})))
    assert plan.settings["bias"] == {"off": True}
    for module in [m for m in sys.modules if m in ("spaces.techniques.bias", "their_bias")]:
        monkeypatch.delitem(sys.modules, module)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("how", ["file", "entry point"])
def test_strangers_evaluator_is_found_and_asked(
    how: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "file":
        in_package(evaluators, tmp_path, "nodes", STRANGERS_EVALUATOR, monkeypatch)
    else:
        group = evaluator_module.ENTRY_POINTS
        installed(tmp_path, group, "EVALUATOR", "their_nodes", STRANGERS_EVALUATOR, monkeypatch)
    (found,) = [each for each in evaluators.discover() if each.name == "nodes"]
    context = context_for("x86-vnni", file)
    check_evaluator(found, file, context)
    assert evaluate(file, context).value("nodes") > 5
    for module in [m for m in sys.modules if m in ("evaluators.nodes", "their_nodes")]:
        monkeypatch.delitem(sys.modules, module)


@pytest.mark.usefixtures("forgetful")
def test_strangers_backend_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "class Slurm:\n    name = 'slurm'\nBACKEND = Slurm()\n"
    in_package(search.running.backends, tmp_path, "slurm", text, monkeypatch)
    assert finding.find_backend("slurm").name == "slurm"
    monkeypatch.delitem(sys.modules, "search.running.backends.slurm")


def test_contract_notices_what_breaks_it(file: Path) -> None:
    """A contract that everything passes says nothing."""

    class NotIdentity(type(technique.discover()["depth"])):  # type: ignore[misc]
        def decode(self, params: object, network: object, profile: object) -> dict[str, object]:
            return {"removed": ["low"]}

    with pytest.raises(AssertionError):
        check_technique(NotIdentity(), NETWORKS["residual"])

    class NotFinite:
        name, cheap = "broken", True

        def applies(self, context: EvaluationContext) -> bool:
            return True

        def evaluate(self, model: Path, context: EvaluationContext) -> tuple[object, ...]:
            return (evaluators.Measurement("x", float("nan"), "", "measured", "not at all well"),)

    with pytest.raises(AssertionError):
        check_evaluator(NotFinite(), file, context_for("x86-vnni", file))  # type: ignore[arg-type]


def test_evaluation_of_the_version_before_is_read_and_promises_nothing() -> None:
    """Studies have kept them; there is nothing in them about what is repeatable."""
    now = evaluators.Evaluation.of(
        [evaluators.Measurement("size_bytes", 9.0, "bytes", "measured", "x", repeatable=True)]
    )
    (figure,) = now.to_json()["measurements"]
    assert figure.pop("repeatable")
    before = evaluators.Evaluation.from_json({"version": 1, "measurements": [figure]})
    assert before["size_bytes"] == replace(now["size_bytes"], repeatable=False)
    with pytest.raises(ValueError, match="must be one of"):
        evaluators.Evaluation.from_json({"version": 3, "measurements": [figure]})
