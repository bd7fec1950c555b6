"""Devices: addresses, the agent and its protocol, and a real sshd on loopback."""

from __future__ import annotations

import dataclasses
import getpass
import logging
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from evaluators import Evaluation, EvaluationContext
from evaluators.latency import device as latency_device
from evaluators.latency.device import AnchoredBoard, DeviceLatency
from evaluators.latency.drift import GAP, RATIO_GAP
from evaluators.latency.tier import warn_once
from hardware_profiles import emulator, shipped_profiles
from hardware_profiles.devices import board as boards
from hardware_profiles.devices.board import MIN_RUNS, Board, summarize
from hardware_profiles.devices.device import (
    HOST,
    AddressError,
    Device,
    DeviceError,
    ModelError,
    file_sha256,
    parse_device,
)
from hardware_profiles.devices.processor import mismatch
from hardware_profiles.devices.session import AgentSession

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
QUIET = {"mhz": None, "throttled": None, "governor": None, "temperature_c": None}


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    """What else measures on this machine need not end first."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def network(path: Path, depth: int = 4) -> Path:
    """Classifies (batch, 8, 16, 16) images into 8 classes."""
    weights = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) / 8
    nodes = [
        helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], pads=[1] * 4) for i in range(depth)
    ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"t{depth}"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


# Addresses


@pytest.mark.parametrize(
    ("url", "name", "tail", "python"),
    [
        ("ssh://pi@board", "ssh://pi@board", ["--", "pi@board"], "python3"),
        ("ssh://board", "ssh://board", ["--", "board"], "python3"),
        ("ssh://pi@10.0.0.7:2222", "ssh://pi@10.0.0.7:2222", ["--", "pi@10.0.0.7"], "python3"),
        (
            "ssh://pi@board/home/pi/venv/bin/python",
            "ssh://pi@board",
            ["--", "pi@board"],
            "/home/pi/venv/bin/python",
        ),
    ],
)
def test_address_becomes_an_ssh_command(url, name, tail, python):
    device = parse_device(url)
    assert device.name == name
    assert list(device.prefix[-2:]) == tail
    assert device.command("agent.py")[-2:] == [python, "agent.py"]
    assert ("-p" in device.prefix) == (url.count(":") == 2)


def test_ssh_checks_host_keys_and_never_asks_for_a_password():
    prefix = parse_device("ssh://pi@board").prefix
    assert prefix[0] == "ssh"
    assert "-oStrictHostKeyChecking=yes" in prefix
    assert "-oBatchMode=yes" in prefix


@pytest.mark.parametrize(
    "url",
    [
        "pi@board",
        "http://board",
        "ssh://",
        "ssh://-oProxyCommand=sh@board",
        "ssh://-oProxyCommand=sh",
        "ssh://board:port",
        "ssh://board/bin/python3;reboot",
        "ssh://board/$(reboot)",
        "ssh://board?x=1",
        "ssh://a b",
        "",
    ],
)
def test_address_is_refused_with_the_rule_when_malformed(url):
    with pytest.raises(AddressError, match=r"--device must be ssh://"):
        parse_device(url)


def test_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(AddressError, match="must not hold a password") as raised:
        parse_device("ssh://pi:secret@board")
    assert "secret" not in str(raised.value)


def test_host_is_an_empty_prefix():
    assert parse_device("host") == HOST
    assert HOST.command("x") == [sys.executable, "-P", "x"]


# Figures of one run


def answers(times, interrupted=None, cpu=None):
    """Ten answers of the agent, one a part."""
    lost = interrupted or [0] * len(times)
    return [
        {
            "times_ms": part.tolist(),
            "cpu_ms": cpu_part.tolist(),
            "interrupted": lost_part.tolist(),
            "stride": 1,
        }
        for part, cpu_part, lost_part in zip(
            np.array_split(times, 10),
            np.array_split(cpu or times, 10),
            np.array_split(lost, 10),
            strict=True,
        )
    ]


def test_run_is_steady_when_its_times_are():
    run = summarize(answers([2.0] * 80 + [2.1] * 20), 1, QUIET, QUIET)
    assert (run.p50_ms, run.p90_ms, run.runs) == (2.0, 2.1, 100)
    assert run.unsteady == ()
    assert run.parts_ms == (2.0,) * 8 + (2.1,) * 2
    assert run.beside_ms == ()


def test_run_is_unsteady_when_its_second_half_is_slower():
    run = summarize(answers([2.0] * 50 + [2.07] * 50), 1, QUIET, QUIET)
    assert run.drift == pytest.approx(0.035)
    assert any("second half" in reason for reason in run.unsteady)


def test_run_is_unsteady_when_its_times_vary():
    run = summarize(answers([1.91, 2.09] * 50), 1, QUIET, QUIET)
    assert run.unsteady == ()
    run = summarize(answers([1.8, 2.2] * 50), 1, QUIET, QUIET)
    assert run.variation == pytest.approx(0.1)
    assert any("varied by 10.0%" in reason for reason in run.unsteady)


def test_interrupted_runs_are_left_out_while_enough_others_remain():
    lost = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1] * 10
    times = [9.0 if each else 2.0 for each in lost]
    run = summarize(answers(times, lost), 1, QUIET, QUIET)
    assert (run.p50_ms, run.runs, run.interrupted_runs, run.unsteady) == (2.0, 100, 50, ())


def test_processor_time_counts_where_too_few_runs_were_whole():
    lost = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1] * 10
    times = [9.0 if each else 2.0 for each in lost]
    run = summarize(answers(times, lost, cpu=[1.0 + each for each in lost]), 1, QUIET, QUIET)
    assert (run.p50_ms, run.interrupted_runs, run.unsteady) == (2.0, 60, ())


def test_run_is_unsteady_when_the_board_throttles_now_but_not_when_it_once_did():
    now, once = {**QUIET, "throttled": "0x50005"}, {**QUIET, "throttled": "0x50000"}
    assert summarize(answers([2.0] * 60), 1, QUIET, once).unsteady == ()
    (reason,) = summarize(answers([2.0] * 60), 1, QUIET, now).unsteady
    assert "under-voltage, throttled" in reason


def test_run_is_unsteady_when_the_clock_falls():
    before, after = {**QUIET, "mhz": [1800.0] * 4}, {**QUIET, "mhz": [1500.0] * 4}
    (reason,) = summarize(answers([2.0] * 60), 1, before, after).unsteady
    assert "from 1800 to 1500 MHz" in reason
    assert summarize(answers([2.0] * 60), 1, after, before).unsteady == ()


# The agent, here


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "model.onnx")


def test_agent_answers_errors_and_goes_on(model):
    with AgentSession(HOST) as agent:
        with pytest.raises(ModelError, match="host: KeyError"):
            agent.ask("close", session=7)
        with pytest.raises(ModelError, match="host: KeyError"):
            agent.ask("nonsense")
        with agent.opened(str(model), 1) as session:
            times = agent.ask(
                "time", session=session, warmup=1, min_runs=7, min_ms=0, max_ms=1000
            )["times_ms"]
            assert len(times) >= 7
            assert min(times) > 0


def test_agent_refuses_a_file_whose_image_size_is_dynamic(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    dynamic = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    dynamic.ir_version = 9
    onnx.save(dynamic, str(tmp_path / "dynamic.onnx"))
    path = str(tmp_path / "dynamic.onnx")
    refused = pytest.raises(ModelError, match="only the batch may be dynamic")
    with AgentSession(HOST) as agent, agent.opened(path, 1) as session, refused:
        agent.ask("time", session=session, warmup=0, min_runs=1, min_ms=0, max_ms=0)


def test_agent_ends_with_its_input_so_that_nothing_stays_behind():
    agent = AgentSession(HOST)
    pid = agent.pid
    agent._process.stdin.close()
    assert agent._process.wait(timeout=5) == 0
    agent.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_agent_that_hangs_is_ended_and_reported():
    with AgentSession(HOST) as agent:
        os.kill(agent.pid, signal.SIGSTOP)
        with pytest.raises(DeviceError, match="no answer within"):
            agent.ask("environment", timeout_s=0.2)
        assert not agent.alive


def test_device_lock_excludes_others_and_goes_with_its_process():
    with AgentSession(HOST) as second:
        first = AgentSession(HOST)
        assert first.ask("lock", holder="the first")["locked"]
        refused = second.ask("lock", holder="the second")
        assert refused == {"locked": False, "holder": "the first"}
        os.kill(first.pid, signal.SIGKILL)
        first.close()
        assert second.ask("lock", holder="the second")["locked"]
        assert second.ask("unlock") == {}


def test_device_lock_is_taken_in_turns():
    with AgentSession(HOST) as first, AgentSession(HOST) as second:
        assert first.ask("lock", holder="first")["locked"]
        assert not second.ask("lock", holder="second")["locked"]
        first.ask("unlock")
        assert first.ask("lock", holder="first") == {"locked": False, "holder": "first"}
        assert second.ask("lock", holder="second")["locked"]
        assert first.ask("lock", holder="first") == {"locked": False, "holder": "second"}
        second.ask("unlock")
        assert first.ask("lock", holder="first")["locked"]


def test_place_in_the_queue_is_given_back():
    with AgentSession(HOST) as first, AgentSession(HOST) as second:
        first.ask("lock", holder="first")
        second.ask("lock", holder="second")
        second.ask("unlock")
        first.ask("unlock")
        assert first.ask("lock", holder="first")["locked"]


def test_greeting_of_a_login_shell_is_passed_over(tmp_path):
    shell = tmp_path / "python"
    shell.write_text(f'#!/bin/sh\necho "Welcome"\nexec {sys.executable} "$@"\n')
    shell.chmod(0o755)
    with AgentSession(Device("chatty", python=(str(shell),))) as agent:
        assert agent.about["cores"] >= 1


def test_missing_interpreter_and_runtime_are_explained(tmp_path):
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'onnxruntime'\" >&2\n")
    bare.chmod(0o755)
    said = r"could not start there: .*No module named.*pip install onnxruntime numpy"
    with pytest.raises(DeviceError, match=said):
        AgentSession(Device("bare", python=(str(bare),)))


# The protocol, on this host: no ssh, the rest is the same


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(boards, "RETRY_WAITS_S", (0.05, 0.05))


@pytest.fixture
def board():
    board = AnchoredBoard("host")
    yield board
    board.close()


def test_anchor_runs_again_before_every_fourth_candidate(model, monkeypatch):
    board, runs = AnchoredBoard("host"), []
    real = summarize(answers([2.0] * 60), 1, QUIET, QUIET)
    monkeypatch.setattr(Board, "run", lambda *_: runs.append(1) or real)
    uses = [board.anchor(model, 1, 5.0).uses for _ in range(9)]
    assert uses == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert len(runs) == 3


def steady(parts_ms, beside_ms=()):
    """A run with these medians of its parts, and those of the file beside it."""
    run = summarize(answers([2.0] * 60), 1, QUIET, QUIET)
    return dataclasses.replace(run, parts_ms=tuple(parts_ms), beside_ms=tuple(beside_ms))


@pytest.fixture
def told(monkeypatch):
    """A board that answers with what is told; the files that ran, each with its companion."""
    board, runs, ran = AnchoredBoard("host"), {}, []

    def run(self, model, threads, seconds, tries=3, beside=None):
        ran.append((model.name, beside and beside.read_text()))
        return runs[model.name]

    monkeypatch.setattr(Board, "run", run)
    monkeypatch.setattr(Board, "about", lambda _: {**PI4_SAYS, "onnxruntime": "1", "cores": 1})
    monkeypatch.setattr(latency_device, "shared", lambda _: board)
    return runs, ran


def test_candidate_runs_in_turns_with_the_fastest_file_so_far(told, tmp_path):
    runs, ran = told
    given = context(tmp_path, "host")
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    runs["a"] = steady([2.0] * 10)
    runs["b"] = steady([1.5] * 10, [3.0] * 10)  # the board has slowed down by half
    runs["c"] = steady([1.2] * 10, [1.0] * 10)
    found = [DeviceLatency().evaluate(tmp_path / name, given)[0] for name in ("a", "b", "c")]
    assert ran == [("a", None), ("b", "a"), ("c", "b")]
    assert [each.value for each in found] == pytest.approx([2.0, 1.0, 1.2])
    assert [each.detail["incumbent_best_ms"] for each in found] == [None, 2.0, 1.0]
    assert "relative to the fastest file so far run in turns with it" in found[1].how


def test_file_of_another_size_says_nothing_about_the_candidate(told, tmp_path):
    runs, _ = told
    given = context(tmp_path, "host")
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    runs["a"] = steady([2.0] * 10)
    runs["b"] = steady([20.0] * 10, [3.0] * 10)
    found = [DeviceLatency().evaluate(tmp_path / name, given)[0] for name in ("a", "b")]
    assert found[1].value == pytest.approx(20.0)
    assert found[1].detail["incumbent_best_ms"] is None


def test_drift_and_modes_that_were_not_seen_count_in_a_board_s_interval(told, tmp_path):
    runs, _ = told
    (tmp_path / "a").write_text("a")
    runs["a"] = steady([2.0 * math.exp(0.02 * (i % 5)) for i in range(10)])
    (found, *_) = DeviceLatency().evaluate(tmp_path / "a", context(tmp_path, "host"))
    # The faster half: 0 0 1 1 2 hundredths, doubled.
    deviation = 0.02 * math.sqrt((2 * 0.8**2 + 2 * 0.2**2 + 1.2**2) / 4)
    assert found.value == pytest.approx(2.0 * math.exp(0.016))
    up = math.hypot(1.959964 * deviation, 2.776445 * deviation / math.sqrt(5))
    assert math.log(found.high / found.value) == pytest.approx(up)
    assert math.log(found.value / found.low) == pytest.approx(math.hypot(up, GAP))


def test_ratio_to_the_baseline_reaches_to_what_was_not_seen(told, tmp_path):
    runs, ran = told
    for name in ("a", "baseline"):
        (tmp_path / name).write_text(name)
    runs["a"], runs["baseline"] = steady([2.0] * 10), steady([40.0] * 10)
    given = context(tmp_path, "host", baseline=tmp_path / "baseline")
    found = Evaluation.of(DeviceLatency().evaluate(tmp_path / "a", given))["latency_ratio"]
    assert [name for name, _ in ran] == ["baseline", "a"]
    assert found.value == pytest.approx(0.05)
    assert math.log(found.high / 0.05) == pytest.approx(RATIO_GAP)
    assert math.log(0.05 / found.low) == pytest.approx(math.hypot(RATIO_GAP, GAP))


def test_two_files_take_turns_there_and_back(board, model, tmp_path):
    other = network(tmp_path / "other.onnx", depth=1)
    board.about()
    asked, ask = [], board._session.ask

    def record(op, *arguments, **fields):
        if op == "time":
            asked.append(fields["session"])
        return ask(op, *arguments, **fields)

    board._session.ask = record
    run = board.run(model, 1, seconds=0.2, tries=1, beside=other)
    assert asked == [1, 2] + [1, 2, 2, 1] * 5
    assert len(run.parts_ms) == len(run.beside_ms) == 10
    assert np.median(run.beside_ms) < np.median(run.parts_ms)


def test_unsteady_device_is_measured_three_times_and_the_steadiest_kept(board, model, monkeypatch):
    variations = iter([0.2, 0.1, 0.3])

    def once(*_):
        steady = summarize(answers([2.0] * 60), 1, QUIET, QUIET)
        return dataclasses.replace(steady, variation=next(variations), unsteady=("varies",))

    monkeypatch.setattr(boards, "_once", once)
    assert board.run(model, 1, 5.0).variation == 0.1
    assert next(variations, None) is None


def test_device_that_disappears_is_retried(board, model, quick, caplog):
    board.about()
    threading.Timer(0.15, os.kill, (board._session.pid, signal.SIGKILL)).start()
    with caplog.at_level(logging.WARNING):
        run = board.run(model, 1, seconds=0.4, tries=1)
    assert run.runs >= MIN_RUNS
    assert "disappeared; trying again" in caplog.text


def test_device_that_stays_away_is_reported(board, model, quick, monkeypatch):
    board.about()
    os.kill(board._session.pid, signal.SIGKILL)
    monkeypatch.setattr(boards, "AgentSession", _unreachable)
    with pytest.raises(DeviceError, match="given up after 3 attempts"):
        board.run(model, 1, 5.0)


def test_search_falls_back_with_a_label_when_the_device_is_gone(
    model, quick, monkeypatch, tmp_path
):
    board = AnchoredBoard("host")
    monkeypatch.setattr(latency_device, "shared", lambda _: board)
    board.about()
    board.close()
    monkeypatch.setattr(boards, "AgentSession", _unreachable)
    given = dataclasses.replace(context(tmp_path, "host"), profile=shipped_profiles()["x86-avx2"])
    (found,) = DeviceLatency().evaluate(model, given)
    assert (found.name, found.source, found.detail["tier"]) == (
        "latency_ms",
        "estimated",
        "analytic",
    )
    assert "is off; given up after 3 attempts" in found.detail["instead_of_device"]
    assert "not measured on the device" in found.how


def test_fallback_stays_on_the_device_s_scale_when_the_baseline_ran_there(
    model, quick, monkeypatch, tmp_path
):
    board = AnchoredBoard("host")
    monkeypatch.setattr(latency_device, "shared", lambda _: board)
    given = dataclasses.replace(
        context(tmp_path, "host"), profile=shipped_profiles()["x86-avx2"], baseline=model
    )
    DeviceLatency().evaluate(model, given, 0.2)
    board.close()
    monkeypatch.setattr(boards, "AgentSession", _unreachable)
    (found,) = DeviceLatency().evaluate(model, given)
    # The candidate is the baseline itself: its estimate is what the baseline took there.
    assert found.value == pytest.approx(board.known_p50_ms(model, 1))
    assert found.source == "estimated"
    assert "as the baseline took" in found.how


def test_device_that_was_given_up_is_used_again_when_it_is_back(board, model, quick, monkeypatch):
    board.about()
    board.close()
    with monkeypatch.context() as away:
        away.setattr(boards, "AgentSession", _unreachable)
        for attempts in (3, 1):
            with pytest.raises(DeviceError, match=rf"given up after {attempts} attempts?$"):
                board.run(model, 1, 0.1)
    assert board.run(model, 1, 0.1, tries=1).runs >= MIN_RUNS


def test_interrupted_measurement_leaves_the_device_ready_for_the_next(
    board, model, monkeypatch, caplog
):
    def interrupted(session, *_):
        session._process.kill()  # as ``ask`` does, in the middle of an answer
        session._process.wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(boards, "_once", interrupted)
        with pytest.raises(KeyboardInterrupt):
            board.run(model, 1, 0.1)
    with caplog.at_level(logging.WARNING):
        assert board.run(model, 1, 0.1, tries=1).runs >= MIN_RUNS
    assert "disappeared" not in caplog.text


def test_search_stops_when_the_device_never_worked(model, monkeypatch, tmp_path):
    monkeypatch.setattr(latency_device, "shared", lambda _: AnchoredBoard("host"))
    monkeypatch.setattr(boards, "AgentSession", _unreachable)
    with pytest.raises(DeviceError, match="is off"):
        DeviceLatency().evaluate(model, context(tmp_path, "host"))


def test_device_that_never_worked_is_reported_at_once(board, monkeypatch):
    monkeypatch.setattr(boards, "RETRY_WAITS_S", (60.0, 60.0))
    monkeypatch.setattr(boards, "AgentSession", _unreachable)
    start = time.monotonic()
    with pytest.raises(DeviceError, match="is off"):
        board.about()
    assert time.monotonic() - start < 5


def _unreachable(device):
    raise DeviceError(f"{device.name}: is off")


def test_prediction_is_that_of_the_runtime(board, model):
    import onnxruntime as ort

    images = np.random.default_rng(1).standard_normal((20, 8, 16, 16)).astype(np.float32)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"t0": images})[0].argmax(1)
    assert len(set(expected)) > 1
    assert board.predict(model, images).tolist() == expected.tolist()


PI4_SAYS = {"machine": "aarch64", "parts": ["0xd08"], "flags": [], "cpu": "Raspberry Pi 4"}
XEON_SAYS = {"machine": "x86_64", "parts": [], "flags": ["avx2"], "cpu": "Xeon"}


@pytest.mark.parametrize(
    ("target", "about", "told"),
    [
        ("raspberry-pi-4b", PI4_SAYS, None),
        ("rk3399", {**PI4_SAYS, "parts": ["0xd03", "0xd08"]}, None),
        (
            "raspberry-pi-5",
            PI4_SAYS,
            "Raspberry Pi 4 has cortex-a72, and Raspberry Pi 5 cortex-a76",
        ),
        ("raspberry-pi-5", {**PI4_SAYS, "parts": ["0x001"]}, None),  # nobody knows this one
        ("raspberry-pi-4b", XEON_SAYS, "Xeon is x86_64, and Raspberry Pi 4 Model B"),
        ("x86-avx2", PI4_SAYS, "Raspberry Pi 4 is aarch64"),
        ("x86-avx2", XEON_SAYS, None),
        ("x86-vnni", XEON_SAYS, "Xeon has no int8 dot products"),
        ("x86-vnni", {**XEON_SAYS, "flags": ["avx512_vnni"]}, None),
    ],
)
def test_device_of_another_kind_than_the_target_is_told(target, about, told):
    found = mismatch(shipped_profiles()[target], about)
    assert found is None if told is None else told in found


def test_figure_of_another_device_than_the_target_carries_a_warning(
    model, monkeypatch, tmp_path, caplog
):
    board = AnchoredBoard("host")
    monkeypatch.setattr(latency_device, "shared", lambda _: board)
    monkeypatch.setattr(Board, "about", lambda _: {**XEON_SAYS, "onnxruntime": "1", "cores": 1})
    warn_once.cache_clear()
    found = DeviceLatency().evaluate(model, context(tmp_path, "host"), 0.05)[0]
    board.close()
    assert "not the target, raspberry-pi-4b: Xeon is x86_64" in found.how
    assert found.detail["mismatch"].startswith("Xeon is x86_64")
    (record,) = [r for r in caplog.records if "not the target" in r.message]
    assert "latency is the device's" in record.message


def context(tmp_path, device, baseline=None) -> EvaluationContext:
    return EvaluationContext(
        profile=shipped_profiles()["raspberry-pi-4b"],
        images=np.zeros((1, 8, 16, 16), np.float32),
        labels=np.zeros(1, np.int64),
        scratch=tmp_path,
        baseline=baseline,
        device=device,
    )


# Over a real sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    """A server of this test's own: port, keys and known hosts; yields its folder and port."""
    if SSHD is None:
        if os.environ.get("CI"):
            pytest.fail("sshd must be there in CI; install openssh-server")
        missing = "SSH IS NOT TESTED: sshd is missing; install openssh-server"
        warnings.warn(missing, stacklevel=1)
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("sshd")
    for key in ("host", "user", "stranger"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(keygen, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "home").mkdir()
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    host_key = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        # Logs in to a folder of its own instead of the person's home.
        f'ForceCommand cd {folder}/home && export TMPDIR=. && eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    (folder / "ssh_config").write_text(
        f"Host *\nIdentityFile {folder}/user\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {folder}/known_hosts\nGlobalKnownHostsFile none\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield folder, port
    server.terminate()
    server.wait()


@pytest.fixture
def remote(sshd, tmp_path, monkeypatch):
    """An address on the loopback server; the system's ssh with the test's own settings."""
    folder, port = sshd
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    ssh = bin_folder / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    return f"ssh://{getpass.getuser()}@127.0.0.1:{port}"


def here(remote: str) -> str:
    """With the interpreter of this test."""
    return f"{remote}{sys.executable}"


def test_search_measures_over_ssh(remote, model, tmp_path, sshd):
    url = here(remote)
    baseline = network(tmp_path / "baseline.onnx", depth=12)
    evaluation = Evaluation.of(
        DeviceLatency().evaluate(model, context(tmp_path, url, baseline), seconds=0.3)
    )
    latency = evaluation["latency_ms"]
    assert latency.source == "measured"
    assert latency.detail["tier"] == "device"
    assert latency.detail["device"] == remote
    assert latency.detail["runs"] >= MIN_RUNS
    assert remote in latency.how
    assert latency.low <= latency.value <= latency.high
    assert 0.1 < evaluation.value("latency_ratio") < 0.8
    assert evaluation.value("latency_p90_ms") >= latency.value
    kept = {path.name for path in (sshd[0] / "home/.cache/compression-search").iterdir()}
    assert {f"{file_sha256(model)}.bin", f"{file_sha256(baseline)}.bin"} <= kept
    latency_device.shared(url).close()


def test_file_is_copied_once_and_again_when_damaged_there(remote, model, sshd):
    with AgentSession(parse_device(here(remote))) as agent:
        there = sshd[0] / "home/.cache/compression-search" / f"{file_sha256(model)}.bin"
        agent.bring(model)
        first = there.stat().st_ino
        agent.bring(model)
        assert there.stat().st_ino == first
        there.write_bytes(there.read_bytes()[:100])
        agent.bring(model)
        assert there.read_bytes() == model.read_bytes()


def test_connection_that_breaks_in_the_middle_is_made_anew(remote, model, quick, caplog):
    board = Board(here(remote))
    board.about()
    threading.Timer(0.3, os.kill, (board._session.pid, signal.SIGKILL)).start()
    with caplog.at_level(logging.WARNING):
        assert board.run(model, 1, seconds=0.6, tries=1).p50_ms > 0
    assert "trying again" in caplog.text
    board.close()


def test_unknown_host_key_is_refused_with_the_remedy(remote, sshd):
    known = sshd[0] / "known_hosts"
    content = known.read_text()
    known.write_text("")
    try:
        login = f"-p {sshd[1]} {getpass.getuser()}@127.0.0.1"
        said = f"Host key verification failed.*connect once by hand.*: ssh {login}$"
        with pytest.raises(DeviceError, match=said):
            AgentSession(parse_device(here(remote)))
    finally:
        known.write_text(content)


def test_unknown_user_is_refused_with_the_remedy(remote, sshd):
    allowed = sshd[0] / "authorized_keys"
    content = allowed.read_text()
    shutil.copy(sshd[0] / "stranger.pub", allowed)
    try:
        said = f"Permission denied.*set up a key: ssh-copy-id -p {sshd[1]} "
        with pytest.raises(DeviceError, match=said):
            AgentSession(parse_device(here(remote)))
    finally:
        allowed.write_text(content)


def test_missing_interpreter_there_is_explained(remote):
    with pytest.raises(DeviceError, match="name the interpreter"):
        AgentSession(parse_device(f"{remote}/no/such/python"))


def test_closed_port_is_explained(remote):
    address = remote.rsplit(":", 1)[0]
    refused = "cannot be reached: .*Connection refused; check that sshd runs"
    with pytest.raises(DeviceError, match=refused):
        AgentSession(parse_device(f"{address}:1"))


def test_emulated_arm_board_behind_ssh(remote, model, tmp_path):
    """As far from a real board as can be had here: its processor, its runtime, its shell."""
    if not emulator.is_installed():
        pytest.skip("the emulator is not installed: python -m hardware_profiles emulator install")
    python = tmp_path / "arm-python"
    command = " ".join(emulator.find().command("a72"))
    python.write_text(f'#!/bin/sh\nexec env -i {command} "$@"\n')
    python.chmod(0o755)
    board = Board(f"{remote}{python}")
    assert board.about()["machine"] == "aarch64"
    assert board.about()["parts"] == ["0xd08"]
    run = board.run(model, threads=1, seconds=0.1, tries=1)
    assert run.runs >= MIN_RUNS
    images = np.random.default_rng(2).standard_normal((4, 8, 16, 16)).astype(np.float32)
    here_too = Board("host")
    assert board.predict(model, images).tolist() == here_too.predict(model, images).tolist()
    here_too.close()
    board.close()
