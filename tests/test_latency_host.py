"""Measuring on this host: statistics by hand, orchestration with a fake, and for real."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from evaluators import Evaluation, EvaluationContext
from evaluators.latency import host as latency_host
from evaluators.latency import lease
from evaluators.latency.drift import PRIOR_NOISY, PRIOR_QUIET, PRIOR_WEIGHT, DriftLog
from evaluators.latency.host import (
    HostLatency,
    HostLatencyEvaluator,
    close_host_agent,
    measure,
    measurements,
)
from evaluators.latency.interval import Interval, geometric_interval
from hardware_profiles import shipped_profiles
from hardware_profiles.devices.device import ModelError
from hardware_profiles.host import detect_host


def convolutions(path: Path, depth: int, channels: int = 32) -> Path:
    """``depth`` equal convolutions on 16x16 maps."""
    weights = np.full((channels, channels, 3, 3), 1e-3, np.float32)
    nodes = [
        helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], pads=[1] * 4) for i in range(depth)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["batch", channels, 16, 16])],
        [helper.make_tensor_value_info(f"t{depth}", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


@pytest.fixture(autouse=True)
def own_lease(tmp_path, monkeypatch):
    """Other searches on this machine need not end first."""
    monkeypatch.setattr(lease, "lease_folder", lambda: tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    yield convolutions(folder / "one.onnx", 4), convolutions(folder / "two.onnx", 8)
    close_host_agent()


def test_interval_is_students_when_computed_by_hand():
    found = geometric_interval([math.exp(x) for x in (1.0, 2.0, 3.0)])
    reach = 4.302653 * 1.0 / math.sqrt(3)  # t(0.975, 2 degrees), standard deviation 1
    assert found.value == pytest.approx(math.exp(2))
    assert math.log(found.low) == pytest.approx(2 - reach, abs=1e-5)
    assert math.log(found.high) == pytest.approx(2 + reach, abs=1e-5)


def test_interval_covers_the_truth_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    samples = np.exp(0.3 + 0.05 * rng.standard_normal((3000, 6)))
    found = [geometric_interval(sample) for sample in samples]
    covered = np.mean([each.low <= math.exp(0.3) <= each.high for each in found])
    assert 0.935 < covered < 0.965  # three standard errors are 0.012


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20), st.floats(0.01, 100))
def test_interval_follows_the_unit(rounds, factor):
    direct = geometric_interval([each * factor for each in rounds])
    scaled = geometric_interval(rounds).scaled(factor)
    assert dataclasses.astuple(direct) == pytest.approx(dataclasses.astuple(scaled), rel=1e-6)
    assert direct.low <= direct.value <= direct.high


@pytest.mark.parametrize("rounds", [[], [1.0], [1.0, 0.0]])
def test_interval_raises_when_there_is_none(rounds):
    with pytest.raises(ValueError, match="two or more positive rounds"):
        geometric_interval(rounds)


def test_overlap_is_symmetric():
    a, b, c = Interval(1, 0.9, 1.1), Interval(1.15, 1.05, 1.25), Interval(2, 1.9, 2.1)
    assert a.overlaps(b)
    assert b.overlaps(a)
    assert not a.overlaps(c)
    assert not c.overlaps(a)


class FakeAgent:
    """Runs that take as long as the clock says, on a machine whose speed may drift."""

    def __init__(self, times_ms: dict[str, float], drift_per_block: float = 0.0, lost: int = 0):
        self.times_ms = times_ms
        self.slowness = 1.0
        self.drift = drift_per_block
        self.lost = lost
        self.blocks: list[str] = []
        self.opens: list[str] = []
        self.about = {"onnxruntime": "0", "cpu": "fake", "cores": 1}
        self.environment = {"busy_s": 0.0, "steal_s": 0.0, "own_s": 0.0}

    @contextlib.contextmanager
    def opened(self, model, threads):
        self.opens.append(model)
        yield model

    def ask(self, op, timeout_s=0.0, **fields):
        if op == "environment":
            return dict(self.environment)
        self.blocks.append(fields["session"])
        now = self.times_ms[fields["session"]] * self.slowness
        self.slowness += self.drift
        lost = [1] * self.lost + [0] * (10 - self.lost)
        times = [100 * now if each else now for each in lost]
        return {"times_ms": times, "interrupted": lost, "stride": 1}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latency_host, "_drift", DriftLog())

    def install(agent: FakeAgent) -> FakeAgent:
        for name in agent.times_ms:
            Path(name).touch()
        monkeypatch.setattr(latency_host._agent, "get", lambda: agent)
        return agent

    return install


def test_ratio_is_exact_when_the_machine_drifts_steadily(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, drift_per_block=0.01))
    result = measure(Path("a"), Path("b"), budget_s=0)
    assert result.interval.value == pytest.approx(0.25, rel=1e-3)


def test_drift_is_the_prior_at_first_and_the_observed_deviation_later():
    log = DriftLog()
    assert log.add("a", 5.0, noisy=False) == pytest.approx(PRIOR_QUIET)
    assert log.add("b", 5.0, noisy=True) == pytest.approx(PRIOR_NOISY)
    for _ in range(5):
        log.add("c", math.exp(1.1), noisy=False)
        found = log.add("c", math.exp(0.9), noisy=False)
    expected = math.sqrt((PRIOR_WEIGHT * PRIOR_QUIET**2 + 10 * 0.1**2) / (PRIOR_WEIGHT + 9))
    assert found == pytest.approx(expected)


def test_drift_of_a_quiet_measurement_leaves_noisy_ones_out():
    log = DriftLog()
    log.add("a", 1.0, noisy=True)
    log.add("a", 100.0, noisy=True)
    assert log.add("a", 5.0, noisy=False) == pytest.approx(PRIOR_QUIET)
    assert log.add("a", 5.0, noisy=True) > 1


def test_widening_adds_errors_in_squares():
    found = Interval(2.0, 2.0 / 1.03, 2.0 * 1.03).widened(0.04 / 1.959964)
    reach = math.hypot(math.log(1.03), 0.04)
    expected = (2.0, 2.0 * math.exp(-reach), 2.0 * math.exp(reach))
    assert dataclasses.astuple(found) == pytest.approx(expected)


def test_every_round_opens_both_files_anew_and_alternates_blocks(fake):
    agent = fake(FakeAgent({"a": 1.0, "b": 4.0}))
    result = measure(Path("a"), Path("b"))
    assert result.rounds == latency_host.MIN_ROUNDS
    assert agent.blocks[:8] == list("abbabaab")
    assert agent.opens == ["a", "b"] * latency_host.MIN_ROUNDS
    assert result.interval.half_width == pytest.approx(1.96 * PRIOR_QUIET, rel=1e-3)
    assert result.noise == ()


def test_interrupted_runs_do_not_count_while_enough_others_remain(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, lost=6))
    result = measure(Path("a"), Path("b"))
    assert (result.p50_ms, result.baseline_p50_ms) == (1.0, 4.0)
    assert (result.runs, result.interrupted_runs) == (5 * 20, 5 * 12)
    assert result.noise == ()


def test_machine_is_called_noisy_when_hardly_a_run_is_whole(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, lost=9))
    assert "hardly a run" in measure(Path("a"), Path("b")).noise[0]


def test_machine_is_called_noisy_when_its_speed_varies(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, drift_per_block=0.1))
    assert any("spread" in reason for reason in measure(Path("a"), Path("b"), budget_s=0).noise)


@pytest.mark.parametrize(
    ("key", "word"), [("busy_s", "other processes used"), ("steal_s", "hypervisor")]
)
def test_machine_is_called_noisy_when_others_have_its_processors(fake, key, word):
    agent = fake(FakeAgent({"a": 1.0, "b": 4.0}))
    ask = agent.ask

    def busier(op, **fields):
        answer = ask(op, **fields)
        agent.environment[key] += 100.0
        return answer

    agent.ask = busier
    assert word in measure(Path("a"), Path("b")).noise[0]


def result(**changes) -> HostLatency:
    fields = {
        "p50_ms": 2.2,
        "p90_ms": 3.3,
        "baseline_p50_ms": 4.4,
        "interval": Interval(0.5, 0.4, 0.6),
        "drift": 0.01,
        "all_cores_p50_ms": 1.1,
        "rounds": 5,
        "runs": 100,
        "interrupted_runs": 0,
        "seconds": 1.0,
        "noise": (),
        "version": "1",
        "cpu": "c",
        "cores": 2,
    }
    return HostLatency(**{**fields, **changes})


def test_figures_are_at_the_speed_of_the_anchor():
    found = Evaluation.of(measurements(result(), detect_host(), anchor_ms=4.0))
    latency = found["latency_ms"]
    assert (latency.value, latency.low, latency.high) == pytest.approx((2.0, 1.6, 2.4))
    assert found.value("latency_p90_ms") == pytest.approx(3.0)
    assert found.value("latency_all_cores_ms") == pytest.approx(1.0)
    assert found.value("latency_ratio") == 0.5
    assert latency.detail["p50_ms"] == 2.2
    assert all(m.source == "measured" for m in found.measurements.values())


def test_figures_are_the_clocks_without_a_baseline():
    alone = result(baseline_p50_ms=None, interval=Interval(2.2, 2.1, 2.3))
    found = Evaluation.of(measurements(alone, detect_host(), anchor_ms=None))
    assert found.value("latency_ms") == 2.2
    assert found.value("latency_p90_ms") == pytest.approx(3.3)
    assert "latency_ratio" not in found


def test_noise_is_said_and_survives_json():
    noisy = result(noise=("other processes used 1.5 of 2 cores",), interrupted_runs=7)
    found = Evaluation.of(measurements(noisy, detect_host(), anchor_ms=4.0))
    assert found["latency_ms"].detail["noisy"] is True
    assert "noisy machine: other processes used 1.5 of 2 cores" in found["latency_ms"].how
    assert "without the 7 of 100 runs" in found["latency_ms"].how
    assert Evaluation.from_json(json.loads(json.dumps(found.to_json()))) == found


def context(tmp_path, **changes) -> EvaluationContext:
    fields = {
        "profile": detect_host(),
        "images": np.zeros((1, 32, 16, 16), np.float32),
        "labels": np.zeros(1, np.int64),
        "scratch": tmp_path,
    }
    return EvaluationContext(**{**fields, **changes})


def test_applies_to_this_host_only(tmp_path):
    evaluator = HostLatencyEvaluator()
    assert evaluator.applies(context(tmp_path))
    assert not evaluator.applies(context(tmp_path, device="ssh://pi@board"))
    assert not evaluator.applies(context(tmp_path, profile=shipped_profiles()["x86-avx2"]))


def test_half_of_the_work_takes_about_half_of_the_time(files, tmp_path):
    one, two = files
    evaluation = Evaluation.of(
        HostLatencyEvaluator().evaluate(one, context(tmp_path, baseline=two), budget_s=1.0)
    )
    ratio = evaluation["latency_ratio"]
    assert 0.35 < ratio.value < 0.7
    assert ratio.low <= ratio.value <= ratio.high
    anchor_ms = evaluation["latency_ms"].detail["anchor_ms"]
    assert evaluation.value("latency_ms") == pytest.approx(ratio.value * anchor_ms)
    again = HostLatencyEvaluator().evaluate(two, context(tmp_path, baseline=two), budget_s=0)
    assert again[0].detail["anchor_ms"] == anchor_ms  # one anchor a search


def test_measures_again_after_the_measuring_process_was_killed(files):
    one, _ = files
    measure(one, budget_s=0)
    pid = latency_host._agent.session.pid
    os.kill(pid, signal.SIGKILL)
    while latency_host._agent.session.alive:
        time.sleep(0.01)
    assert measure(one, budget_s=0).p50_ms > 0
    assert latency_host._agent.session.pid != pid


def test_raises_when_the_file_does_not_run(tmp_path, files):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ModelError, match="host"):
        measure(broken)
    assert measure(files[0], budget_s=0).rounds == latency_host.MIN_ROUNDS


def test_training_of_this_search_stands_still_while_it_measures(files):
    one, two = files
    batches = []
    stop = threading.Event()

    def train():
        with lease.training():
            while not stop.is_set():
                lease.yield_to_measurements()
                batches.append(time.monotonic())
                time.sleep(0.001)

    trainer = threading.Thread(target=train)
    trainer.start()
    while not batches:
        time.sleep(0.001)
    found = measure(one, two, budget_s=0.5)
    stop.set()
    trainer.join()
    assert found.seconds > 0.05
    still_s = max(later - earlier for earlier, later in itertools.pairwise(batches))
    assert still_s > found.seconds
