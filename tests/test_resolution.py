"""A smaller input: what the student sees, what a plan costs, what is shipped."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from benches import a_bench
from networks import CLASSES, IMAGE, NETWORKS, pictures, seeded
from PIL import Image
from samples import sample_result

from evaluators.resize import fitted, resize_weights, resized, resized_pixels
from evaluators.runtimes import onnxruntime as sessions
from hardware_profiles import load_profile
from search.app import check_opt_in
from search.bundle.write import write_bundle
from search.cli import main
from search.deciding.allocation import Allocator
from search.deciding.sensitivity import Sensitivity, measure_sensitivity
from search.errors import InputError
from search.task import Preprocess
from search.training.job import Job, run_job
from search.training.train import Hardware
from spaces import CompressionPlan
from spaces.files.export import export_onnx
from spaces.space import SearchSpace, input_size
from spaces.techniques import pruning, resolution
from spaces.tracing.network import trace

PROFILE = load_profile("raspberry-pi-4b")
CPU = Hardware(torch.device("cpu"), bfloat16=False)


def space_of(name: str = "residual") -> SearchSpace:
    network = trace(seeded(NETWORKS[name]), IMAGE)
    return SearchSpace.of(network, PROFILE, ("resolution",))


def plan_of(*size: int) -> CompressionPlan:
    return CompressionPlan({"resolution": resolution.setting_of(size)})  # type: ignore[arg-type]


def test_weights_of_half_the_side_are_those_made_by_hand() -> None:
    # Centers at 1 and 3; a triangle that is two pixels wide on each side.
    by_hand = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(resize_weights(4, 2), by_hand, atol=1e-7)
    np.testing.assert_array_equal(resize_weights(5, 5), np.eye(5))


@pytest.mark.parametrize(("before", "after"), [((32, 32), (24, 24)), ((21, 40), (10, 39))])
def test_images_are_resized_as_pillow_does(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, *before), dtype=np.uint8)
    found = resized_pixels(pixels, after)
    for images, own in zip(pixels, found, strict=True):
        for plane, mine in zip(images, own, strict=True):
            theirs = Image.fromarray(plane).resize(after[::-1], Image.Resampling.BILINEAR)
            # Pillow rounds after each axis.
            assert np.abs(np.asarray(theirs).astype(int) - mine).max() <= 1
    flat = np.full((1, 1, *before), 7.5, np.float32)
    np.testing.assert_allclose(resized(flat, after), 7.5, rtol=1e-6)


def test_images_are_never_made_larger() -> None:
    with pytest.raises(ValueError, match="4 pixels were to be 5"):
        resize_weights(4, 5)


def test_student_sees_what_the_file_is_evaluated_on() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *IMAGE), dtype=np.uint8)
    smaller = Preprocess((9, 6), IMAGE[0], (0.5, 0.4, 0.3), (0.2, 0.3, 0.1))
    in_training = CPU.network_input(torch.from_numpy(pixels), smaller).numpy()
    assert in_training.shape == (5, IMAGE[0], 9, 6)
    np.testing.assert_allclose(in_training, smaller.apply(pixels), rtol=1e-4, atol=1e-4)
    whole = replace(smaller, size=IMAGE[1:]).apply(pixels)
    np.testing.assert_allclose(resized(whole, (9, 6)), smaller.apply(pixels), atol=1e-6)


def test_network_that_needs_its_size_offers_no_other() -> None:
    assert trace(seeded(NETWORKS["grouped"]), IMAGE).sizes == ()
    space = space_of("grouped")
    assert not any(d.name.startswith("resolution/") for d in space.dimensions)
    with pytest.raises(InputError, match="--technique resolution must have something to vary"):
        check_opt_in(space, ("resolution",))


def test_resolution_is_searched_only_on_request() -> None:
    network = space_of().network
    assert network.sizes == ((10, 10), (9, 9), (8, 8), (6, 6))
    check_opt_in(space_of(), ("resolution",))
    assert "resolution" not in {t.name for t in SearchSpace.of(network, PROFILE).techniques}


def test_table_of_a_smaller_input_is_that_of_tracing_it() -> None:
    space = space_of()
    kept = {"pruning": pruning.uniform(space.network, PROFILE, 0.5), "depth": {"removed": ["low"]}}
    plan = CompressionPlan({**kept, **plan_of(9, 9).settings})
    other = trace(seeded(NETWORKS["residual"]), (IMAGE[0], 9, 9))
    expected = SearchSpace.of(other, PROFILE).table(CompressionPlan(kept))
    assert [s for _, s in space.table(plan).shapes()] == [s for _, s in expected.shapes()]
    assert space.table(plan).macs < space.table(CompressionPlan(kept)).macs
    assert input_size(plan, (12, 12)) == (9, 9)
    assert input_size(CompressionPlan(kept), (12, 12)) == (12, 12)


def test_file_of_a_smaller_input_is_given_smaller_images(tmp_path: Path) -> None:
    model, images = seeded(NETWORKS["residual"]), pictures(70)
    export_onnx(model, tmp_path / "a.onnx", (IMAGE[0], 8, 8))
    with torch.no_grad():
        expected = model(torch.from_numpy(resized(images.numpy(), (8, 8)))).numpy()
    found = sessions.logits(tmp_path / "a.onnx", images.numpy(), PROFILE)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    session = sessions.open_session(tmp_path / "a.onnx", PROFILE)
    same = resized(images.numpy(), (8, 8))
    assert fitted(same, session) is same


def test_trial_trains_and_ships_the_smaller_input(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    plan = plan_of(6, 6)
    whole, smaller = (
        run_job(Job(p, 0.5), bench, lambda _stage, _done: None)
        for p in (CompressionPlan({"distillation": {"temperature": 2.0, "weight": 0.5}}), plan)
    )
    assert smaller.model is not None
    shape = onnx.load(smaller.model).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape[1:]] == [IMAGE[0], 6, 6]
    macs = SearchSpace.of(bench.network, PROFILE, ("resolution",)).table(plan).macs
    assert smaller.evaluation.value("macs") == macs < whole.evaluation.value("macs")
    assert smaller.evaluation.value("latency_ms") < whole.evaluation.value("latency_ms")
    detail = smaller.evaluation["accuracy"].detail
    assert detail is not None
    assert detail["images"] == len(bench.context.labels)


def test_quantizer_calibrates_on_the_smaller_images(tmp_path: Path) -> None:
    bench = a_bench(tmp_path)
    settings = {**plan_of(6, 6).settings, "quantization": {"bits": {"stem.0": 8, "head": 8}}}
    found = run_job(Job(CompressionPlan(settings), 0), bench, lambda _stage, _done: None)
    assert found.model is not None
    shape = onnx.load(found.model).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape[2:]] == [6, 6]


def sensitivity(space: SearchSpace, resized_loss: float) -> Sensitivity:
    widths = {
        g.name: {w: 0.0 if w == g.channels else 1.0 for w in pruning.widths(g, PROFILE)}
        for g in space.network.groups
    }
    bits = {layer.name: {32: 0.0, 8: 1.0} for layer in space.network.layers}
    removed = dict.fromkeys(space.network.blocks, 1.0)
    sizes = {resolution.size_name(size): resized_loss for size in space.network.sizes}
    return Sensitivity("magnitude", widths, widths, bits, removed, sizes)


def test_allocation_takes_the_smaller_input_where_it_costs_least() -> None:
    space = space_of()
    untouched_ms = space.table(CompressionPlan()).latency_ms(PROFILE)
    for loss, taken in ((0.001, True), (50.0, False)):
        allocator = Allocator(space, sensitivity(space, loss))
        found = allocator.solve(untouched_ms * 0.8)
        plan = allocator.plan(found)
        assert ("resolution" in plan.settings) == taken
        assert allocator.latency_ms(found) == pytest.approx(space.table(plan).latency_ms(PROFILE))
        assert allocator.assignment(plan) == found


def test_smaller_inputs_are_looked_at_when_asked_for() -> None:
    space = space_of()
    labels = torch.arange(16) % CLASSES
    done: list[float] = []
    found = measure_sensitivity(
        seeded(NETWORKS["residual"]),
        space.network,
        PROFILE,
        pictures(16),
        labels,
        CPU,
        done.append,
        space.network.sizes,
    )
    assert set(found.resized) == {"10x10", "9x9", "8x8", "6x6"}
    assert all(loss > 0 for loss in found.resized.values())
    assert done[-1] == pytest.approx(1.0)
    assert Sensitivity.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_bundle_states_the_smaller_input_and_proves_itself(tmp_path: Path) -> None:
    result = sample_result(tmp_path)
    assert result.winner is not None
    height, width = result.data.preprocess.size
    size = (height // 2, width // 2)
    winner = result.winner
    plan = CompressionPlan({**winner.trial.plan.settings, **plan_of(*size).settings})
    winner = replace(winner, trial=replace(winner.trial, plan=plan))
    classes, channels = len(result.data.classes), result.data.preprocess.channels
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(channels, classes, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )
    export_onnx(model, tmp_path / "trial.onnx", (channels, *size))
    bundle = write_bundle(tmp_path, result, winner, tmp_path / "trial.onnx")
    preprocess = json.loads((bundle / "preprocess.json").read_text())
    assert preprocess["size"] == list(size)
    assert np.load(bundle / "golden" / "images.npy").shape[2:] == size
    assert f"(batch, {channels}, {size[0]}, {size[1]})" in (bundle / "README.md").read_text()
    command = [sys.executable, str(bundle / "verify.py"), "--seconds", "0.05"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_unknown_technique_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--target", "arm", "--max-drop", "0.03", "--technique", "prunning"])
    assert code == 2
    said = capsys.readouterr().err.strip()
    assert said.splitlines() == [
        "search: --technique must be one of resolution, but got 'prunning'; all others are "
        "searched without being asked for"
    ]
