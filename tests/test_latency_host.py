"""Measuring on this host: statistics by hand, orchestration with a fake, and for real."""

from __future__ import annotations

import contextlib
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
from onnx import TensorProto, helper, numpy_helper

from evaluators import Evaluation, EvaluationContext
from evaluators.latency import host as latency_host
from evaluators.latency import lease
from evaluators.latency.drift import GAP, RATIO_GAP, UNLIKE, BestLog
from evaluators.latency.host import (
    HostLatency,
    HostLatencyEvaluator,
    close_host_agent,
    latency,
    measure,
    measurements,
)
from evaluators.latency.incumbent import Incumbent, IncumbentStore
from evaluators.latency.interval import Interval
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
        return {"times_ms": times, "cpu_ms": [now] * 10, "interrupted": lost, "stride": 1}


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latency_host, "_best", BestLog())

    def install(agent: FakeAgent) -> FakeAgent:
        for name in agent.times_ms:
            Path(name).write_text(name)
        monkeypatch.setattr(latency_host._agent, "get", lambda: agent)
        return agent

    return install


def test_ratio_is_exact_when_the_machine_drifts_steadily(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, drift_per_block=0.01))
    result = measure(Path("a"), Path("b"), budget_s=0)
    assert result.interval.value == pytest.approx(0.25, rel=1e-3)


def test_every_round_opens_both_files_anew_and_alternates_blocks(fake):
    agent = fake(FakeAgent({"a": 1.0, "b": 4.0}))
    result = measure(Path("a"), Path("b"))
    assert result.rounds == latency_host.MIN_ROUNDS
    assert agent.blocks[:8] == list("abbabaab")
    assert agent.opens == ["a", "b"] * latency_host.MIN_ROUNDS
    unlike = math.log(4) / math.log(UNLIKE)
    assert math.log(result.interval.high / 0.25) == pytest.approx(unlike * RATIO_GAP)
    assert math.log(0.25 / result.interval.low) == pytest.approx(unlike * RATIO_GAP)
    assert result.noise == ()


def test_every_round_has_a_third_file_of_the_candidate_s_size_in_the_middle(fake):
    agent = fake(FakeAgent({"a": 1.0, "b": 4.0, "c": 0.9}))
    found = measure(Path("a"), Path("b"), incumbent=Path("c"))
    assert agent.blocks[:12] == list("abccbacbaabc")
    assert found.incumbent_ratio.value == pytest.approx(1 / 0.9)
    assert found.incumbent_ratio.half_width < 0.01 < found.interval.half_width
    assert (found.incumbent_p50_ms, found.incumbent_best_ms) == pytest.approx((0.9, 0.9))
    assert found.interval.value == pytest.approx(0.25)


def test_file_of_another_size_is_left_out_after_a_round(fake):
    agent = fake(FakeAgent({"a": 1.0, "b": 4.0, "c": 0.3}))
    found = measure(Path("a"), Path("b"), incumbent=Path("c"))
    assert agent.opens == ["a", "b", "c"] + ["a", "b"] * (latency_host.MIN_ROUNDS - 1)
    assert (found.incumbent_p50_ms, found.incumbent_ratio) == (None, None)
    assert found.interval.value == pytest.approx(0.25)


def test_candidate_s_own_drift_counts_in_its_interval(fake):
    fake(FakeAgent({"a": 1.0, "b": 1.0}, drift_per_block=0.02))
    found = measure(Path("a"), Path("b"), budget_s=0)
    assert found.drift > 0.08
    assert math.log(found.interval.high) == pytest.approx(1.96 * found.drift, rel=0.02)


def test_interrupted_runs_do_not_count_while_enough_others_remain(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, lost=6))
    result = measure(Path("a"), Path("b"))
    assert (result.p50_ms, result.baseline_p50_ms) == pytest.approx((1.0, 4.0))
    assert (result.runs, result.interrupted_runs) == (5 * 20, 5 * 12)
    assert result.noise == ()


def test_processor_time_counts_when_hardly_a_run_is_whole(fake):
    fake(FakeAgent({"a": 1.0, "b": 4.0}, lost=9))
    found = measure(Path("a"), Path("b"))
    assert "hardly a run" in found.noise[0]
    assert (found.p50_ms, found.baseline_p50_ms) == pytest.approx((1.0, 4.0))


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
        "own": Interval(2.2, 2.0, 2.4),
        "drift": 0.01,
        "unseen": 0.0,
        "incumbent_p50_ms": 1.2,
        "incumbent_best_ms": 1.1,
        "incumbent_ratio": Interval(2.0, 1.6, 2.4),
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


INCUMBENT = Incumbent(Path("i"), 1.0)
ALONE = {"incumbent_p50_ms": None, "incumbent_best_ms": None, "incumbent_ratio": None}


def test_figures_are_at_the_speed_of_the_incumbent_at_its_best():
    found = Evaluation.of(measurements(result(), detect_host(), INCUMBENT))
    latency_ms = found["latency_ms"]
    assert (latency_ms.value, latency_ms.low, latency_ms.high) == pytest.approx((2.0, 1.6, 2.4))
    assert found.value("latency_p90_ms") == pytest.approx(3.0)
    assert found.value("latency_all_cores_ms") == pytest.approx(1.0)
    assert found.value("latency_ratio") == 0.5
    assert "relative to the fastest file so far run beside it, taken as 1 ms" in latency_ms.how
    assert latency_ms.detail["p50_ms"] == 2.2
    assert all(m.source == "measured" for m in found.measurements.values())
    assert not any(m.repeatable for m in found.measurements.values())


def test_incumbent_that_was_faster_just_now_is_taken_at_that():
    assert latency(result(incumbent_best_ms=0.9), INCUMBENT).value == pytest.approx(1.8)


def test_latency_reaches_down_to_a_mode_that_was_not_seen():
    found = latency(result(incumbent_ratio=Interval(2.0, 2.0, 2.0), unseen=0.5), INCUMBENT)
    assert math.log(found.value / found.low) == pytest.approx(GAP / 2)
    assert found.high == found.value


def test_figures_are_the_clocks_without_a_file_of_the_candidate_s_size():
    alone = result(baseline_p50_ms=None, interval=Interval(2.2, 2.1, 2.3), **ALONE)
    for incumbent in (None, INCUMBENT):
        found = Evaluation.of(measurements(alone, detect_host(), incumbent))
        assert (found["latency_ms"].value, found["latency_ms"].low) == (2.2, 2.0)
        assert found.value("latency_p90_ms") == pytest.approx(3.3)
        assert "latency_ratio" not in found


def test_fastest_file_is_kept_with_the_least_that_it_took(tmp_path):
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    first.write_bytes(b"first")
    second.write_bytes(b"second")
    store = IncumbentStore(tmp_path / "scratch", ("cpu", 1))
    assert store.load() is None
    store.update(first, 2.0, None)
    store.update(second, 3.0, None)
    assert (store.load().path.read_bytes(), store.load().best_ms) == (b"first", 2.0)
    store.update(second, 3.0, 1.9)
    assert (store.load().path.read_bytes(), store.load().best_ms) == (b"first", 1.9)
    store.update(second, 1.0, 2.1)
    second.unlink()  # the search may drop its own
    assert (store.load().path.read_bytes(), store.load().best_ms) == (b"second", 1.0)
    assert IncumbentStore(tmp_path / "scratch", ("another cpu", 1)).load() is None
    assert not list((tmp_path / "scratch").glob(f"*.{os.getpid()}"))


def test_noise_is_said_and_survives_json():
    noisy = result(noise=("other processes used 1.5 of 2 cores",), interrupted_runs=7)
    found = Evaluation.of(measurements(noisy, detect_host(), INCUMBENT))
    assert found["latency_ms"].detail["noisy"] is True
    assert "noisy machine: other processes used 1.5 of 2 cores" in found["latency_ms"].how
    assert "7 of 100 runs lost the core" in found["latency_ms"].how
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
    assert evaluation["latency_ms"].detail["incumbent_ratio"] is None
    again = HostLatencyEvaluator().evaluate(two, context(tmp_path, baseline=two), budget_s=0)
    beside = again[0].detail["incumbent_ratio"]["value"]  # the first file, one in a search
    assert 1 / 0.7 < beside < 1 / 0.35
    assert again[0].value / beside <= evaluation.value("latency_ms") * (1 + 1e-9)


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
