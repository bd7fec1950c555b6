"""Other formats of the winner: written, run with their own runtime, and told as they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_samples import IMAGES, source_of, written
from numpy.typing import NDArray
from samples import sample_result, tiny_onnx

from evaluators.runtimes.onnxruntime import logits
from search.bundle.exports import make
from search.bundle.exports.exporter import Exported, ExportError, Source, check_exports, exporters
from search.bundle.exports.tensorrt import structural_faults
from search.bundle.write import write_bundle
from search.cli import main
from search.errors import InputError
from search.task import Split
from search.telling.report.page import render
from search.telling.summary import closing, to_json
from spaces.files.qdq import layer_nodes


def test_formats_are_found_by_listing() -> None:
    assert set(exporters()) == {"ort", "tensorrt", "tflite"}
    assert check_exports(["ort", "tensorrt", "ort"]) == ("ort", "tensorrt")
    with pytest.raises(InputError, match="one of ort, tensorrt, tflite, but got 'coreml'"):
        check_exports(["coreml"])


def test_unknown_format_is_one_line_on_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--target", "arm", "--max-drop", "0.03", "--export", "coreml"]) == 2
    assert capsys.readouterr().err == (
        "search: --export must be one of ort, tensorrt, tflite, but got 'coreml'; the ONNX file "
        "is always handed over\n"
    )


def test_missing_converter_is_named_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.bundle.exports.tflite.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install litert-torch"):
        check_exports(["tflite"])


@pytest.mark.parametrize("quantized", [None, ()])
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_ort_format_gives_the_answers_of_the_onnx_file(
    name: str, quantized: tuple[str, ...] | None, tmp_path: Path
) -> None:
    source = source_of(name, tmp_path, quantized)
    file, scores = written("ort", source, tmp_path)
    assert file.read_bytes()[4:8] == b"ORTM"
    expected = logits(source.onnx, IMAGES, source.profile)
    assert np.abs(scores - expected).max() < 0.05 * np.abs(expected).max()
    needed = file.with_name("model.required_operators.config").read_text()
    assert ("QLinearConv" in needed) == (quantized is None)
    assert {p.name for p in file.parent.iterdir()} == {
        file.name,
        f"{file.stem}.required_operators.config",
    }


@pytest.mark.parametrize("name", ["residual", "projected", "concat", "grouped"])
def test_tensorrt_file_has_explicit_symmetric_pairs_and_near_answers(
    name: str, tmp_path: Path
) -> None:
    source = source_of(name, tmp_path)
    file, scores = written("tensorrt", source, tmp_path)
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert structural_faults(model, source.quantized) == []
    pairs = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert len(pairs) > len(source.quantized)  # of weights, and of inputs, which some share
    with torch.inference_mode():
        plain = source.model(torch.from_numpy(IMAGES)).numpy()
    error = np.abs(scores - plain).max() / np.abs(plain).max()
    assert 0 < error < 0.2
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_tensorrt_leaves_float_layers_alone(tmp_path: Path) -> None:
    source = source_of("residual", tmp_path, ("stem.0", "head"))
    file, _ = written("tensorrt", source, tmp_path)
    model = onnx.load(file)
    assert structural_faults(model, source.quantized) == []
    made = {out: node.op_type for node in model.graph.node for out in node.output}
    weights = {
        n.name: made.get(n.input[1]) for n in model.graph.node if n.op_type in ("Conv", "Gemm")
    }
    assert {name for name, kind in weights.items() if kind} == {"stem.0", "head"}
    float_source = source_of("residual", tmp_path, ())
    kinds = {n.op_type for n in onnx.load(written_float(float_source, tmp_path)).graph.node}
    assert "QuantizeLinear" not in kinds


def written_float(source: Source, folder: Path) -> Path:
    (folder / "float").mkdir()
    target = folder / "float" / "model.onnx"
    exporters()["tensorrt"].write(source, target)
    return target


def test_tensorrt_faults_are_found_in_a_file_for_onnxruntime(tmp_path: Path) -> None:
    source = source_of("residual", tmp_path)  # asymmetric uint8 activations, int32 biases
    faults = "; ".join(structural_faults(onnx.load(source.onnx), source.quantized))
    assert "is not of int8" in faults
    assert "has a zero point that is not zero" in faults
    assert "is not a float constant" in faults
    plain = onnx.load(tmp_path / "plain.onnx")
    assert len(structural_faults(plain, source.quantized)) == len(layer_nodes(plain))
    explicit, _ = written("tensorrt", source, tmp_path)
    planned = structural_faults(onnx.load(explicit), source.quantized[1:])
    assert planned == [f"{source.quantized[0]} is planned as float, but its weights are quantized"]


class Fake:
    """An exporter whose writing is a function; its file always sees class 0."""

    title, file, seconds, runtime = "Fake", "model.fake", 0.0, "fake 1.0"

    def __init__(self, name: str, problem: Exception | None = None) -> None:
        self.name = name
        self._problem = problem

    def check(self) -> None:
        """Always there."""

    def write(self, source: Source, target: Path) -> None:
        if self._problem:
            raise self._problem
        target.write_bytes(b"1234")

    def outputs(
        self, file: Path, images: NDArray[np.float32], threads: int
    ) -> NDArray[np.float32]:
        return np.eye(4, dtype=np.float32)[np.zeros(len(images), int)]


def test_what_cannot_be_made_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = [
        Fake("good"),
        Fake("cannot", ExportError("it has no such operator")),
        Fake("breaks", RuntimeError("line one\nline two")),
    ]
    monkeypatch.setattr(make, "exporters", lambda: {fake.name: fake for fake in fakes})
    monkeypatch.setattr(make, "source_of", lambda *_: source_of("residual", tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 12, 12), np.uint8)
    result = sample_result(tmp_path)
    assert result.winner is not None
    labels = np.array([0, 0, 0, 1, 2, 3, 1, 2, 3, 0])
    made = make.make_exports(
        [fake.name for fake in fakes],
        result.winner.trial,
        bench_of("accuracy"),
        tmp_path,
        Split(pixels, labels),
    )
    good, cannot, breaks = made
    assert good.file == Path("exports/good/model.fake")
    assert (good.size_bytes, good.value, good.images) == (4, 0.4, 10)
    assert good.agreement is not None
    assert 0 <= good.agreement <= 1
    assert cannot.failure == "it has no such operator"
    assert breaks.failure == "RuntimeError: line one line two"
    assert cannot.file is breaks.file is None


def bench_of(metric: str):  # type: ignore[no-untyped-def]
    """As much of a workbench as exports look at."""
    from types import SimpleNamespace

    from search.task import Preprocess

    preprocess = Preprocess((12, 12), 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    data = SimpleNamespace(preprocess=preprocess)
    return SimpleNamespace(task=SimpleNamespace(data=data, metric=metric))


def test_lost_weights_are_told(tmp_path: Path) -> None:
    result = sample_result(tmp_path)
    assert result.winner is not None

    class Lost:
        """A bench whose model can't be built again."""

        def __getattr__(self, name: str) -> object:
            raise OSError(2, "No such file or directory", "weights.pt")

    (made,) = make.make_exports(
        ["ort"], result.winner.trial, Lost(), tmp_path, Split(IMAGES, IMAGES)
    )  # type: ignore[arg-type]
    assert made.failure is not None
    assert "weights can't be read again" in made.failure
    assert made.title == "ONNX Runtime format"


def test_formats_are_in_table_report_bundle_and_json(tmp_path: Path) -> None:
    exports = (
        Exported("ort", "ONNX Runtime format", Path("exports/ort/model.ort"), 34_000, 0.987, 0.998,
                 539, "onnxruntime on 539 test images"),
        Exported("tflite", "LiteRT (TFLite)", failure="it has <no> such operator"),
    )  # fmt: skip
    folder = tmp_path / "exports" / "ort"
    folder.mkdir(parents=True)
    (folder / "model.ort").write_bytes(b"1234")
    (folder / "model.required_operators.config").write_text("x")
    result = replace(sample_result(tmp_path), exports=exports)
    assert result.winner is not None
    told = "\n".join(closing(result)).replace("\u00a0", " ")
    assert "ONNX Runtime format: 34 kB, accuracy 98.7 % on test" in told
    assert "LiteRT (TFLite) could not be made: it has <no> such operator." in told
    page = render(result).replace("\u00a0", " ")
    assert "exports/ort/model.ort" in page
    assert "99.8 %" in page
    assert "Could not be made: it has &lt;no&gt; such operator" in page
    assert to_json(result)["exports"]["ort"]["agreement"] == 0.998
    bundle = write_bundle(tmp_path, result, result.winner, tiny_onnx(tmp_path / "trial.onnx"))
    listed = (bundle / "manifest.sha256").read_text()
    assert "exports/ort/model.ort" in listed
    assert "exports/ort/model.required_operators.config" in listed
    metrics = json.loads((bundle / "metrics.json").read_text())["exports"]
    assert metrics["ort"]["file"] == "model.ort"
    assert metrics["tflite"]["failure"] == "it has <no> such operator"
    assert "## Other formats" in (bundle / "README.md").read_text()
    assert "Other formats" not in render(replace(result, exports=()))
