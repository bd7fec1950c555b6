import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import evaluators.cli as command
from evaluators.cli import main
from evaluators.evaluator import EvaluationContext
from evaluators.graph import label, read_model, walk
from evaluators.latency import emulated as latency_emulated
from evaluators.latency.tier import tier, warn_once
from hardware_profiles import HardwareProfile, emulator, load_profile
from hardware_profiles.counts import COUNT_COLUMNS
from hardware_profiles.emulator import Emulator, EmulatorError
from hardware_profiles.emulator import installation as setup
from tests.models import quantized, small_network

needs_emulator = pytest.mark.skipif(
    not emulator.is_installed(), reason=f"no emulator: run '{setup.COMMAND}' to test it"
)

# Runs hand-assembled machine code between marks: argv is [passes, word, word, ...] in hex.
MACHINE_CODE = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
passes, words = int(sys.argv[1]), [int(word, 16) for word in sys.argv[2:]]
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(b"".join(word.to_bytes(4, "little") for word in words))
start = ctypes.addressof(ctypes.c_char.from_buffer(page))
code = ctypes.CFUNCTYPE(None, ctypes.c_ulong, ctypes.c_void_p)(start)
data = mmap.mmap(-1, 1 << 20)
place = ctypes.addressof(ctypes.c_char.from_buffer(data))
code(1, place)
libc.syscall(23063, 1)
code(passes, place)
libc.syscall(23063, 3)
"""
RETURN = 0xD65F03C0


def loop(body: list[int]) -> list[str]:
    """The body, repeated as often as the first argument says, then a return."""
    words = [*body, 0xF1000400]  # subs x0, x0, #1
    back = (-len(words)) & 0x7FFFF
    return [f"{word:08x}" for word in [*words, 0x54000001 | back << 5, RETURN]]  # b.ne


def count_code(tmp_path: Path, core: str, body: list[int], passes: int) -> dict[str, int]:
    script = tmp_path / "code.py"
    script.write_text(MACHINE_CODE)
    reports = tmp_path / "reports"
    command = emulator.find().command(core, reports)
    subprocess.run([*command, script, str(passes), *loop(body)], check=True, env={}, timeout=120)
    header, *lines = reports.read_text().splitlines()
    assert tuple(header.split()) == COUNT_COLUMNS
    return dict(zip(COUNT_COLUMNS, map(int, lines[-1].split()[2:]), strict=True))


def per_pass(tmp_path: Path, core: str, body: list[int]) -> dict[str, float]:
    """Events of one pass of the loop: whatever is around it cancels."""
    few = count_code(tmp_path, core, body, 1000)
    many = count_code(tmp_path, core, body, 9000)
    return {name: (many[name] - few[name]) / 8000 for name in COUNT_COLUMNS}


@needs_emulator
def test_plugin_counts_every_class_when_code_is_known(tmp_path: Path) -> None:
    body = {
        0x4E22CC20: "fmla32",  # fmla v0.4s, v1.4s, v2.4s
        0x4F821020: "fmla32",  # fmla v0.4s, v1.4s, v2.s[0]
        0x4E420C20: "fmla16",  # fmla v0.8h, v1.8h, v2.8h
        0x4E829420: "dot",  # sdot v0.4s, v1.16b, v2.16b
        0x6F82E020: "dot",  # udot v0.4s, v1.16b, v2.4b[0]
        0x0E228020: "imul_w",  # smlal v0.8h, v1.8b, v2.8b
        0x2E22C020: "imul_w",  # umull v0.8h, v1.8b, v2.8b
        0x4E629420: "imul_w",  # mla v0.8h, v1.8h, v2.8h
        0x4E606820: "adalp",  # sadalp v0.4s, v1.8h
        0x3DC00020: "vload",  # ldr q0, [x1]
        0xAD400420: "vload",  # ldp q0, q1, [x1]
        0x3D800020: "vstore",  # str q0, [x1]
        0xF9400022: "sload",  # ldr x2, [x1]
        0x39C00022: "sload",  # ldrsb w2, [x1]
        0xA9400C22: "sload",  # ldp x2, x3, [x1]
        0xF9000022: "sstore",  # str x2, [x1]
        0x4EA28420: "simd_other",  # add v0.4s, v1.4s, v2.4s
        0x1E222820: "simd_other",  # fadd s0, s1, s2
        0x8B020042: "int",  # add x2, x2, x2
    }
    counts = per_pass(tmp_path, "a76", list(body))
    expected = dict.fromkeys(COUNT_COLUMNS[:14], 0)
    for name in [*body.values(), "int", "branch"]:  # the loop's own subtraction and branch
        expected[name] += 1
    expected["total"] = len(body) + 2
    for name, count in expected.items():
        assert counts[name] == pytest.approx(count, abs=0.1), name


@needs_emulator
def test_plugin_misses_every_line_when_the_array_is_twice_the_cache(tmp_path: Path) -> None:
    # One load a line over 64 KB: more than the A72's first level holds, less than its second.
    body = [
        0xD2808002,  # mov x2, #1024
        0xAA0103E3,  # mov x3, x1
        0xF9400064,  # ldr x4, [x3]
        0x91010063,  # add x3, x3, #64
        0xF1000442,  # subs x2, x2, #1
        0x54FFFFA1,  # b.ne to the load
    ]
    counts = per_pass(tmp_path, "a72", body)
    assert counts["acc"] == pytest.approx(1024, abs=1)
    assert counts["l1m"] == pytest.approx(1024, abs=2)
    assert counts["l1s"] == pytest.approx(1023, abs=4)  # all but the first follow the line before
    assert counts["l2m"] == pytest.approx(0, abs=1)
    on_a76 = per_pass(tmp_path, "a76", body)  # 64 KB fit
    assert on_a76["l1m"] == pytest.approx(0, abs=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    float_file = small_network(folder / "float.onnx")
    return float_file, quantized(float_file, folder / "int8.onnx")


def macs(file: Path) -> int:
    return sum(op.shape.macs for op in walk(file) if op.op in ("conv", "depthwise", "linear"))


@needs_emulator
@pytest.mark.parametrize("core", ["a72", "a76"])
def test_count_multiplies_with_the_kernels_of_the_core(
    core: str, files: tuple[Path, Path]
) -> None:
    float_file, int8_file = files
    work = macs(float_file)
    machine = emulator.shared(core)
    of_float = machine.count(float_file).total
    # Four to an instruction; what is left over at an edge is not done by vectors.
    assert 0.9 * work <= 4 * of_float["fmla32"] < 3 * work
    assert of_float["dot"] == of_float["imul_w"] == 0
    of_int8 = machine.count(int8_file).total
    multiplies = 16 * of_int8["dot"] + 8 * of_int8["imul_w"]
    assert work <= multiplies < 4 * work
    assert (of_int8["dot"] > 0) == (core == "a76")
    assert of_int8["fmla32"] == 0
    assert machine.count(float_file).total == of_float


@needs_emulator
def test_count_gives_operators_that_add_up_when_nodes_are_named(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    named = tmp_path / "named.onnx"
    onnx.save(label(read_model(files[1])), str(named))
    counted = emulator.shared("a76").count(files[1], named)
    names = [kernel.event["name"] for kernel in counted.kernels]
    assert [name for name in names if name.startswith("stem")]
    total = sum(kernel.counts["total"] for kernel in counted.kernels)
    assert total == pytest.approx(counted.total["total"], rel=0.02)
    dots = {k.event["args"]["op_name"]: k.counts["dot"] for k in counted.kernels}
    assert dots["QLinearConv"] > 0
    assert dots["QuantizeLinear"] == dots["QLinearAdd"] == 0


@needs_emulator
def test_one_process_serves_many_files_and_survives_a_bad_one(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with Emulator("a72") as machine:
        machine.count(files[0])
        assert machine._guest is not None
        process = machine._guest.pid
        with pytest.raises(EmulatorError, match=r"must be able to run .*bad\.onnx"):
            machine.count(bad)
        machine.count(files[1])
        assert machine._guest.pid == process


@needs_emulator
def test_count_is_the_same_in_every_process_whatever_was_counted_before(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    again = tmp_path / "elsewhere" / files[0].name
    again.parent.mkdir()
    again.write_bytes(files[0].read_bytes())
    named = tmp_path / "named.onnx"
    onnx.save(label(read_model(files[1])), str(named))
    with Emulator("a76") as first, Emulator("a76") as second:
        totals = [first.count(files[0]).total, first.count(files[1], named).total]
        other = second.count(files[1]).total
        assert [second.count(again).total, other] == totals
        assert first.count(files[0]).total == totals[0]


@needs_emulator
def test_a_crash_or_a_hang_is_one_line_and_the_next_file_gets_a_new_process(
    files: tuple[Path, Path],
) -> None:
    with Emulator("a72") as machine:
        machine.count(files[0])
        for end, said, timeout_s in (
            (signal.SIGSEGV, "SIGSEGV", 60.0),
            (signal.SIGSTOP, "did not answer in time", 2.0),
        ):
            assert machine._guest is not None
            process = machine._guest.pid
            os.kill(process, end)
            with pytest.raises(EmulatorError, match=said) as caught:
                machine._ask(files[0], _deadline(timeout_s), do="run", mark=1)
            assert "\n" not in str(caught.value)
            assert machine.count(files[0]).total["fmla32"] > 0
            assert machine._guest.pid != process
        with pytest.raises(EmulatorError, match="did not answer in time"):
            machine.count(files[0], timeout_s=0.001)


def _deadline(seconds: float) -> float:
    return time.monotonic() + seconds


@needs_emulator
def test_predict_gives_the_outputs_of_the_host(files: tuple[Path, Path], tmp_path: Path) -> None:
    images = np.random.default_rng(3).standard_normal((5, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    emulator.shared("a72", counting=False).predict(
        files[0], tmp_path / "images.npy", tmp_path / "out.npy"
    )
    session = ort.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    host = np.concatenate([session.run(None, {"image": image[None]})[0] for image in images])
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), host, rtol=1e-5, atol=1e-6)


@needs_emulator
def test_run_python_runs_a_script_on_aarch64(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import platform, sys, onnxruntime\n"
        "print(platform.machine(), onnxruntime.__version__, *sys.argv[1:])\n"
        "sys.exit(3)\n"
    )
    done = emulator.run_python(script, ["a", "b"])
    assert done.stdout.split() == ["aarch64", ort.__version__, "a", "b"]
    assert done.returncode == 3
    script.write_text("import time; time.sleep(60)")
    with pytest.raises(EmulatorError, match="must end within 1 s"):
        emulator.run_python(script, timeout_s=1)


@needs_emulator
def test_evaluator_estimates_from_counts_with_everything_a_record_must_say(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    profile = load_profile("raspberry-pi-4b")
    (found,) = latency_emulated.EVALUATOR.evaluate(files[1], context(profile, tmp_path))
    detail: Any = found.detail
    assert found.name == "latency_ms"
    assert found.source == "estimated"
    assert (detail["tier"], detail["version"]) == ("emulated", ort.__version__)
    assert detail["profile"] == profile.name
    assert profile.counts is not None
    assert detail["calibration"] == profile.counts.calibration_id
    assert profile.counts.caveat in found.how
    assert sum(row["ms"] for row in detail["operators"]) == pytest.approx(found.value)
    assert sum(detail["work"].values()) == pytest.approx(1)
    named = {row["name"] for row in detail["operators"]}
    assert {"stem", "depth", "point", "head"} <= named


def context(
    profile: HardwareProfile, scratch: Path, device: str | None = None
) -> EvaluationContext:
    images = np.zeros((1, 3, 16, 16), np.float32)
    return EvaluationContext(profile, images, np.zeros(1, np.int64), scratch, device=device)


def test_evaluator_falls_back_to_shapes_and_says_so_when_the_emulator_fails(
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def count(self, *_: object) -> None:
            raise EmulatorError("it crashed")

    warn_once.cache_clear()
    monkeypatch.setattr(emulator, "shared", lambda _core: Broken())
    given = context(load_profile("raspberry-pi-4b"), tmp_path)
    for _ in range(2):
        (found,) = latency_emulated.EVALUATOR.evaluate(files[0], given)
    detail: Any = found.detail
    assert detail["tier"] == "analytic"
    assert detail["instead_of_emulated"] == "it crashed"
    assert [record.message for record in caplog.records] == [
        "latency is the analytic estimate, since it crashed"
    ]


def test_tier_is_the_most_truthful_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    board, plain = load_profile("raspberry-pi-4b"), load_profile("x86-avx2")
    monkeypatch.setattr(emulator, "find", lambda: None)
    assert tier(context(board, tmp_path, device="ssh://pi@board")) == "device"
    assert tier(context(load_profile("host"), tmp_path)) == "host"
    assert tier(context(board, tmp_path)) == "emulated"
    assert tier(context(plain, tmp_path)) == "analytic"

    def missing() -> None:
        raise EmulatorError("the emulator is not installed")

    warn_once.cache_clear()
    monkeypatch.setattr(emulator, "find", missing)
    assert tier(context(board, tmp_path)) == "analytic"
    assert tier(context(board, tmp_path)) == "analytic"
    assert len(caplog.records) == 1


def test_find_names_the_remedy_when_nothing_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "unsupported", lambda: None)
    with pytest.raises(EmulatorError, match="hardware_profiles emulator install"):
        emulator.find()
    assert not emulator.is_installed()


def test_find_says_one_sentence_on_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(setup.platform, "system", lambda: "Darwin")
    with pytest.raises(EmulatorError, match=r"Linux on x86-64, and this is Darwin on arm64"):
        emulator.find()


@pytest.fixture
def small_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A setup whose steps only leave a file each, and the list of those that were done."""
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(setup, "unsupported", lambda: None)
    monkeypatch.setattr(setup.shutil, "which", lambda tool: f"/usr/bin/{tool}")
    done: list[str] = []

    def step(to: Path, *_: object) -> dict[str, Any]:
        done.append(to.name.removesuffix(".partial"))
        (to / "made").touch()
        return {}

    for name in ("_debian", "_wheels", "_compile", "_root"):
        monkeypatch.setattr(setup, name, step)
    monkeypatch.setattr(setup, "_guest_python", lambda _folder: "3.11")
    monkeypatch.setattr(setup, "_first_start", lambda _setup: {"versions": {"qemu": "0"}})
    return done


def test_install_goes_on_where_it_was_interrupted(
    small_setup: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as during:

        def interrupted(to: Path) -> None:
            (to / "half").touch()
            raise KeyboardInterrupt

        during.setattr(setup, "_compile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            setup.install(lambda _line: None)
        assert not emulator.is_installed()
    assert small_setup == ["qemu", "userland", "runtime"]
    found = setup.install(lambda _line: None)
    assert small_setup == ["qemu", "userland", "runtime", "plugin", "root-a72", "root-a76"]
    assert emulator.find() == found
    assert not (found.folder / "plugin" / "half").exists()
    setup.install(lambda _line: None)
    assert len(small_setup) == 6


def test_install_makes_the_runtime_anew_when_onnxruntime_changed(
    small_setup: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.install(lambda _line: None)
    monkeypatch.setattr(setup, "_runtime_version", lambda: "9.9.9")
    with pytest.raises(EmulatorError, match=r"onnxruntime 9\.9\.9"):
        emulator.find()
    small_setup.clear()
    setup.install(lambda _line: None)
    assert small_setup == ["runtime"]


def test_install_names_the_missing_tool(
    small_setup: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup.shutil, "which", lambda tool: None if tool == "gcc" else tool)
    with pytest.raises(EmulatorError, match="needs gcc"):
        setup.install(lambda _line: None)


def test_a_failing_tool_is_told_in_its_own_words() -> None:
    code = "import sys; sys.exit('E: Unable to locate package qemu-user')"
    with pytest.raises(EmulatorError, match="apt could not list: E: Unable to locate package"):
        setup._run([sys.executable, "-c", code], "apt could not list")


def test_command_prints_json_with_operators_at_both_widths(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(files[1]), "--target", "raspberry-pi-5", "--tier", "analytic", "--json"])
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == "raspberry-pi-5"
    stem = next(row for row in found["operators"] if row["name"] == "stem")
    assert stem["ms_by_bits"]["8"] == pytest.approx(stem["ms"])
    assert stem["ms_by_bits"]["32"] > 0
    assert sum(row["ms"] for row in found["operators"]) == pytest.approx(found["latency_ms"])


def test_command_prints_a_table_with_latency_and_error(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(files[0]), "--target", "raspberry-pi-5", "--tier", "analytic"]) == 0
    out = capsys.readouterr().out
    assert "p50" in out
    assert "analytic" in out
    assert "conv stem" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["missing.onnx"], "No such file"),
        (["{file}", "--target", "nothing"], "--target must name a known device"),
        (["{file}", "--target", "raspberry-pi-4b", "--threads", "9"], "from 1 to 4"),
        (["{file}", "--target", "raspberry-pi-4b", "--tier", "device"], "needs --device"),
        (["{file}", "--target", "x86-avx2", "--tier", "emulated"], "[counts] section"),
        (["{file}", "--tier", "emulated", "--device", "ssh://pi@board"], "--tier must be device"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    assert main([arg.format(file=files[0]) for arg in args]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def endless(path: Path) -> Path:
    """A file that loops for so long that nobody waits for its end."""
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Identity", ["going"], ["goes_on"]),
            onnx.helper.make_node("Sin", ["before"], ["after"]),
        ],
        "body",
        [
            onnx.helper.make_tensor_value_info("round", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("before", onnx.TensorProto.FLOAT, None),
        ],
        [
            onnx.helper.make_tensor_value_info("goes_on", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("after", onnx.TensorProto.FLOAT, None),
        ],
    )
    rounds = onnx.numpy_helper.from_array(np.array(2**62, np.int64), "rounds")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Loop", ["rounds", "", "image"], ["out"], body=body)],
        "endless",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [rounds],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def test_command_ends_a_file_that_hangs_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "FIRST_RUN_S", 1.0)
    started = time.monotonic()
    assert main([str(endless(tmp_path / "endless.onnx")), "--tier", "analytic"]) == 2
    assert time.monotonic() - started < 30
    said = capsys.readouterr().err
    assert said.startswith("error: a model must run here in 1 s an image, but ")
    assert "endless.onnx did not end and was stopped" in said
    assert said.count("\n") == 1


def test_command_refuses_a_file_whose_image_size_is_dynamic(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(str(files[0]))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    path = tmp_path / "dynamic.onnx"
    onnx.save(model, str(path))
    assert main([str(path), "--target", "raspberry-pi-4b"]) == 2
    said = capsys.readouterr().err
    assert "only the batch may be dynamic, but input 'image'" in said
    assert "x 3 x height x 16" in said
    assert "onnxruntime.tools.make_dynamic_shape_fixed --input_name image" in said
    assert said.count("\n") == 1
