"""Calibrating a device: the refinement on made-up devices, the probes, the command."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hardware_profiles import load_profile, read_profile, shipped_profiles
from hardware_profiles.cli import main
from hardware_profiles.commands import calibrate as command
from hardware_profiles.counts import latency_ms
from hardware_profiles.devices.board import Board
from hardware_profiles.events import COUNT_COLUMNS, FEATURES
from hardware_profiles.fitting.calibration import (
    COUNT_PARTS,
    Measured,
    base_profile,
    calibrate,
    measure,
)
from hardware_profiles.fitting.probes import make_probes
from hardware_profiles.fitting.refine import refine
from hardware_profiles.profile import ProfileError
from hardware_profiles.writing import render_profile

ABOUT = {
    "cpu": "Raspberry Pi 4 Model B Rev 1.4",
    "onnxruntime": "1.0",
    "machine": "aarch64",
    "cores": 4,
    "parts": ["0xd08"],
    "flags": ["asimd"],
}


def random_parts(models: int = 14, parts: int = 4) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.1, 2.0, (models, parts))


FAMILIES = [f"f{index // 2}" for index in range(14)]

# Refinement


def test_refinement_is_exact_when_only_the_clock_differs():
    parts = random_parts()
    found = refine(parts, 1.7 * parts.sum(axis=1), FAMILIES)
    assert found.factors.scale == pytest.approx(1.7)
    assert found.factors.parts == pytest.approx(1.7)
    assert found.error_pct == pytest.approx(0, abs=1e-6)
    assert found.rank_correlation == pytest.approx(1)
    assert found.shipped_error_pct == pytest.approx(100 * (1 - 1 / 1.7))


def test_refinement_finds_a_slower_part():
    parts = random_parts()
    truth = np.array([1.0, 1.0, 2.0, 1.0])
    found = refine(parts, parts @ truth, FAMILIES)
    assert found.error_pct < 1.5
    assert found.factors.parts == pytest.approx(truth, rel=0.15)
    assert found.shipped_error_pct > 15


def test_refinement_keeps_to_the_scale_when_times_are_noise():
    parts = random_parts()
    noise = np.exp(0.3 * np.random.default_rng(1).standard_normal(14))
    found = refine(parts, parts.sum(axis=1) * noise, FAMILIES)
    assert found.pull >= 1.0
    assert np.ptp(found.factors.parts) < 0.5


def test_held_out_error_does_not_see_the_left_out_architecture():
    parts = random_parts()
    measured = parts.sum(axis=1)
    clean = refine(parts, measured, FAMILIES).held_out_ms
    measured[:2] *= 3
    spoiled = refine(parts, measured, FAMILIES).held_out_ms
    assert spoiled[:2] == pytest.approx(clean[:2])
    assert spoiled[2:] != pytest.approx(clean[2:])


def test_refinement_raises_with_two_architectures():
    with pytest.raises(ValueError, match="three architectures"):
        refine(random_parts(4), np.ones(4), ["a", "a", "b", "b"])


# Probes


@pytest.mark.parametrize("activation_type", ["int8", "uint8"])
def test_probes_run_as_they_say(activation_type, tmp_path):
    probes = make_probes(activation_type)
    assert Counter(probe.bits for probe in probes) == {32: 7, 8: 7}
    for probe in probes:
        onnx.checker.check_model(probe.model)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        session = ort.InferenceSession(
            str(probe.save(tmp_path)),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["NchwcTransformer"],
        )
        shape = [1, *session.get_inputs()[0].shape[1:]]
        image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert np.isfinite(session.run(None, {"input": image})[0]).all()
        kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
        planned = Counter(each.op for each in probe.ops)
        convolutions = planned["conv"] + planned["depthwise"]
        if probe.bits == 8:
            assert kinds["QLinearConv"] == convolutions
            assert kinds["QGemm"] == planned["linear"]
            assert kinds["QLinearAdd"] == planned["add"]
            assert kinds["Conv"] + kinds["Gemm"] + kinds["Add"] == 0
        else:
            assert kinds["FusedConv"] == convolutions
            assert kinds["Gemm"] == planned["linear"]


def test_probe_shapes_are_those_of_the_file():
    for probe in make_probes():
        if probe.bits == 8:
            continue
        graph = onnx.shape_inference.infer_shapes(probe.model).graph
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info
        }
        planned = [each.shape for each in probe.ops if each.op in ("conv", "depthwise")]
        found = [shapes[node.output[0]] for node in graph.node if node.op_type == "Conv"]
        assert [[s.out_channels, *s.out_size] for s in planned] == [dims[1:] for dims in found]


# Profiles


def events(model: int) -> dict[str, float]:
    """Made-up counts of one model, with every class in them."""
    values = np.random.default_rng(model).uniform(1e6, 4e7, len(COUNT_COLUMNS))
    found = dict(zip(COUNT_COLUMNS, values.tolist(), strict=True))
    return found | {name: found[name] / 50 for name in ("l1m", "l2m", "l3m")}


@pytest.fixture
def made_up():
    """A device that takes 1.5 times as long as a Pi 4B, for loads and stores 2.5 times."""
    base = shipped_profiles()["raspberry-pi-4b"]
    probes = make_probes()
    numbers = iter(range(len(probes)))
    slower = {
        name: each * (2.5 if name in COUNT_PARTS["loads and stores"] else 1.5)
        for name, each in base.counts.cycles.items()
    }
    truth = dataclasses.replace(base, counts=dataclasses.replace(base.counts, cycles=slower))
    times = {
        probe.name: latency_ms(truth, events(index)).latency_ms
        for index, probe in enumerate(probes)
    }
    return base, probes, Measured(ABOUT, times, {}), lambda _: events(next(numbers))


def test_calibration_finds_the_devices_coefficients(made_up):
    base, probes, measured, counter = made_up
    found = calibrate(base, "my-board", probes, measured, counter, "2026-01-31")
    model = found.profile.counts
    assert model.error_pct < 3
    assert model.error_pct < found.from_counts.shipped_error_pct / 10
    stores = model.cycles["sstore"] / base.counts.cycles["sstore"]
    assert stores == pytest.approx(2.5, rel=0.1)
    assert model.cycles["sload"] / base.counts.cycles["sload"] == pytest.approx(stores, rel=1e-3)
    misses = model.cycles["written_misses"] / base.counts.cycles["written_misses"]
    assert misses == pytest.approx(1.5, rel=0.15)  # a small part of the time
    assert set(model.cycles) == set(FEATURES)
    assert model.calibration_id.startswith("my-board-")
    assert model.caveat == ""
    assert model.fit is None
    assert "left out of the refinement" in model.error_how
    assert "Raspberry Pi 4 Model B Rev 1.4" in found.profile.sources[-1].where


def test_calibrated_profile_is_one_that_target_takes(made_up, tmp_path):
    base, probes, measured, counter = made_up
    found = calibrate(base, "my-board", probes, measured, counter, "2026-01-31")
    path = tmp_path / "my-board.toml"
    path.write_text(render_profile(found.profile))
    assert load_profile(str(path)) == found.profile


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_every_shipped_profile_survives_writing(name, tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(render_profile(shipped_profiles()[name]))
    assert read_profile(path) == shipped_profiles()[name]


def test_analytic_estimates_are_exact_when_the_device_is_twice_as_slow():
    base = shipped_profiles()["x86-vnni"]
    probes = make_probes(base.runtime.activation_type)
    times = {
        probe.name: 2 * sum(base.cost(o.op, o.shape, o.bits) for o in probe.ops)
        for probe in probes
    }
    found = calibrate(base, "slow", probes, Measured(ABOUT, times, {}), None, "2026-01-31")
    assert found.from_counts is None
    assert found.profile.counts is None
    assert found.profile.error_pct < 0.2
    shape = next(each.shape for each in probes[0].ops if each.op == "conv")
    ratio = found.profile.cost("conv", shape, 32) / base.cost("conv", shape, 32)
    assert ratio == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({}, "raspberry-pi-4b"),
        ({"cpu": "Raspberry Pi 5 Model B Rev 1.0", "parts": ["0xd0b"]}, "raspberry-pi-5"),
        ({"machine": "x86_64", "parts": [], "flags": ["avx512_vnni"]}, "x86-vnni"),
        ({"machine": "x86_64", "parts": [], "flags": ["avx2"]}, "x86-avx2"),
    ],
)
def test_nearest_profile_is_that_of_the_core_and_the_boards_name(about, name):
    assert base_profile({**ABOUT, **about}).name == name


def test_unknown_core_is_refused_with_the_remedy():
    with pytest.raises(ProfileError, match="--base NAME"):
        base_profile({**ABOUT, "parts": ["0x001"]})


# The command


def test_measuring_runs_every_probe_on_the_device(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # another lock than that of other searches
    board, lines = Board("host"), []
    probes = make_probes("uint8")[-2:]
    found = measure(board, probes, lines.append, seconds=0.01)
    board.close()
    assert (
        set(found.times_ms)
        == {probe.name for probe in probes}
        == {line.split()[1] for line in lines}
    )
    assert all(time_ms > 0 for time_ms in found.times_ms.values())


def test_command_writes_a_profile_and_states_its_error(made_up, tmp_path, monkeypatch, capsys):
    _, _, measured, counter = made_up
    monkeypatch.setattr(Board, "about", lambda _: ABOUT)
    monkeypatch.setattr(command, "measure", lambda *_: measured)
    monkeypatch.setattr(command, "_counter", lambda _: counter)
    out = tmp_path / "mine.toml"
    assert main(["calibrate", "--device", "host", "--name", "mine", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    profile = read_profile(out)
    assert f"{profile.counts.error_pct:.1f} % refined" in printed
    assert f"--target {out}" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--device", "pi@board", "--name", "x"], 2, "--device must be ssh://"),
        (["--device", "host", "--name", "My Board"], 2, "--name must be"),
        (["--device", "host", "--name", "x", "--out", "/no/such/folder/x.toml"], 2, "--out must"),
        (["--device", "ssh://127.0.0.1:1", "--name", "x"], 1, "ssh://127.0.0.1:1"),
    ],
)
def test_command_refuses_in_one_line(arguments, code, message, capsys):
    assert main(["calibrate", *arguments]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
