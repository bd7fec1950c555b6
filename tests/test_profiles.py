"""Profiles: what they say, how they are read, and the commands over them."""

import json
import math
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hardware_profiles import OPS, OpShape, ProfileError, load_profile, read_profile
from hardware_profiles import commands as command_package
from hardware_profiles.cli import main
from hardware_profiles.counts import latency_ms
from hardware_profiles.events import COUNT_COLUMNS
from hardware_profiles.fitting.tables import read_counts
from hardware_profiles.profile import DATA, shipped_profiles

ROOT = Path(__file__).parent.parent
COUNTS = DATA / "emulated_counts.csv"

SMALL = """
version = 1
name = "small"
title = "Small"
kind = "cpu"
error_pct = 10
error_how = "made up"

[cpu]
isa = "armv8.0-a"
core = "cortex-a72"
cores = 4
ghz = 2.0
bandwidth_gb_s = 4.0

[[kernels]]
op = "conv"
bits = 32
giga_per_s = 10.0
overhead_us = 5.0
tile_out = 4

[[kernels]]
op = "conv"
bits = 8
giga_per_s = 40.0
overhead_us = 5.0
tile_out = 16

[[kernels]]
op = "add"
bits = 32
giga_per_s = 1.0
overhead_us = 2.0

[[sources]]
what = "all"
where = "this test"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "board.toml"
    path.write_text(text)
    return path


def test_shipped_profiles_are_those_that_are_promised() -> None:
    assert set(shipped_profiles()) >= {
        *("raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5", "raspberry-pi-zero-2w"),
        *("rk3399", "rk3588", "cortex-a55", "x86-avx2", "x86-vnni"),
        *("cortex-m7-2mb", "cortex-m4-1mb"),
    }


@pytest.mark.parametrize("name", shipped_profiles())
def test_shipped_profile_is_complete(name: str) -> None:
    profile = shipped_profiles()[name]
    for op in set(OPS) - {"quantize"}:
        for bits in profile.bits:
            assert profile.cost(op, OpShape(8, 8, (4, 4), (4, 4)), bits) > 0
    assert profile.cost("quantize", OpShape(8, 8, (4, 4), (4, 4)), 32) > 0
    assert profile.bits == (32, 8)  # no 16-bit convolution is shown to run in onnxruntime's CPU
    named = " ".join(source.what for source in profile.sources)
    assert all(part in named for part in ("cpu", "kernels", "channel_multiple"))
    assert all(len(source.where) > 5 for source in profile.sources)
    text = (DATA / f"{name}.toml").read_text()
    assert "PROVISIONAL" not in text
    assert "unfitted" not in text
    assert profile.error_pct > 0
    assert profile.error_how


def test_names_and_aliases_are_unique() -> None:
    names = [
        n for profile in shipped_profiles().values() for n in (profile.name, *profile.aliases)
    ]
    assert len(names) == len(set(names))
    assert {load_profile(alias).name for alias in ("arm", "pi4", "rpi4")} == {"raspberry-pi-4b"}
    assert load_profile("pi5").name == "raspberry-pi-5"


def test_int8_channels_step_by_sixteen_with_dot_product_and_by_eight_without() -> None:
    for name, profile in shipped_profiles().items():
        if profile.kind == "cpu" and profile.cpu.isa.startswith("armv8"):
            dot_product = profile.cpu.isa == "armv8.2-a"
            assert profile.channel_multiple(8) == (16 if dot_product else 8), name
            assert profile.channel_multiple(32) == 4


def test_microcontrollers_have_hard_limits_and_say_they_are_rough() -> None:
    small = [p for p in shipped_profiles().values() if p.kind == "microcontroller"]
    assert len(small) >= 2
    for profile in small:
        assert profile.limits.memory_bytes
        assert profile.limits.flash_bytes
        assert "rough" in profile.error_how
        assert "onnxruntime does not run there" in profile.error_how


def test_profiles_with_borrowed_counts_say_so() -> None:
    for name, core in {
        "raspberry-pi-3b-plus": "Cortex-A72",
        "raspberry-pi-zero-2w": "Cortex-A72",
        "cortex-a55": "Cortex-A76",
    }.items():
        counts = shipped_profiles()[name].counts
        assert counts is not None
        assert f"counts are those of a {core}" in counts.error_how


def test_cost_is_the_soft_maximum_of_padded_compute_and_memory(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path, SMALL))
    shape = OpShape(8, 5, (6, 6), (4, 4), (3, 3))
    compute_ms = 8 * 8 * 9 * 16 / 10e9 * 1e3  # five channels are padded to eight
    memory_ms = 4 * (8 * 36 + 5 * 16 + 8 * 5 * 9) / 4e9 * 1e3
    expected = (compute_ms**4 + memory_ms**4) ** 0.25 + 5e-3
    assert profile.cost("conv", shape, 32) == pytest.approx(expected, rel=1e-12)
    padded = 8 * 16 * 9 * 16 / 40e9 * 1e3
    memory = memory_ms / 4
    assert profile.cost("conv", shape, 8) == pytest.approx(
        (padded**4 + memory**4) ** 0.25 + 5e-3, rel=1e-12
    )


def test_cost_falls_back_to_float_and_names_an_operator_without_kernel(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path, SMALL))
    shape = OpShape(8, 8, (4, 4), (4, 4))
    assert profile.cost("add", shape, 8) == profile.cost("add", shape, 32)
    with pytest.raises(ProfileError, match="'small' has none for 'pool'"):
        profile.cost("pool", shape, 32)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", "version must be 1, but board.toml has 2"),
        ('kind = "cpu"', 'kind = "gpu"', "kind"),
        ("ghz = 2.0", "ghz = 0", "cpu.ghz: .*greater than 0"),
        ("cores = 4", "cores = 0", "cpu.cores"),
        ("overhead_us = 2.0", "overhead_ms = 2.0", "kernels"),
        ("[[sources]]", "[[sources", "valid TOML"),
        (
            "[[sources]]",
            '[counts]\nqemu_cpu = "a72"\ncalibration_id = "x"\nerror_pct = 1\nerror_how = "y"\n'
            "[counts.cycles]\nl4_misses = 1\n[[sources]]",
            "known events, but has l4_misses",
        ),
    ],
)
def test_read_profile_refuses_what_breaks_the_schema(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in SMALL
    with pytest.raises(ProfileError, match=message):
        read_profile(written(tmp_path, SMALL.replace(old, new, 1)))


def test_load_profile_lists_the_known_and_the_nearest_when_unknown(tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        load_profile("raspberry-pi-4")
    assert "did you mean 'raspberry-pi-4b'?" in str(caught.value)
    assert "rk3588" in str(caught.value)
    with pytest.raises(ProfileError, match="readable file"):
        load_profile(str(tmp_path / "none.toml"))


# Commands.


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of an input error."""
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_every_module_of_commands_is_a_command_with_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    modules = [found.name for found in pkgutil.iter_modules(command_package.__path__)]
    assert set(modules) >= {"list", "show", "fit", "validate", "predict"}
    for name in modules:
        assert re.search(rf"^    {name.replace('_', '-')}\s+\w", text, re.MULTILINE)


@pytest.mark.parametrize(
    "argv",
    [("predict",), ("predict", "--target", "pi4", "--counts", "x", "--threads", "x"), ("no",)],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_list_names_every_device(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == 0
    names = [line.split(" ")[0].rstrip(":") for line in out.splitlines()]
    assert names == [*shipped_profiles(), "host"]


def test_command_ends_quietly_when_its_reader_has_seen_enough() -> None:
    command = [sys.executable, "-P", "-m", "hardware_profiles", "show", "raspberry-pi-5"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_copied_profile_says_whose_coefficients_and_error_it_has(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    text = (DATA / "raspberry-pi-4b.toml").read_text()
    path.write_text(text.replace('name = "raspberry-pi-4b"', 'name = "my-board"', 1))
    counts = read_counts(COUNTS)[0].counts
    assert "are those of raspberry-pi-4b" in latency_ms(read_profile(path), counts).how
    assert "those of" not in latency_ms(load_profile("raspberry-pi-4b"), counts).how


@pytest.mark.parametrize("name", [*shipped_profiles(), "host"])
def test_show_prints_errors_and_sources(capsys: pytest.CaptureFixture[str], name: str) -> None:
    profile = load_profile(name)
    code, out, _ = run(capsys, "show", name)
    assert code == 0
    assert profile.error_how in out
    assert all(source.where in out for source in profile.sources)
    if profile.counts is not None:
        assert profile.counts.calibration_id in out
        assert profile.counts.caveat in out


def table(tmp_path: Path, *rows: dict[str, str], columns: tuple[str, ...] | None = None) -> Path:
    """A table of counts; each row changes the first shipped one."""
    header, first = COUNTS.read_text().splitlines()[:2]
    base = dict(zip(header.split(","), first.split(","), strict=True))
    columns = columns or tuple(base)
    path = tmp_path / "counts.csv"
    lines = [",".join((base | row)[name] for name in columns) for row in rows]
    path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    return path


def test_predict_prints_the_estimates_as_the_last_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = table(tmp_path, {}, {"qemu_cpu": "a76"}, {"model": "other"})
    code, out, err = run(capsys, "predict", "--target", "pi4", "--counts", str(path), "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out.splitlines()[-1])
    assert list(answer) == ["target", "threads", "predictions"]
    assert (answer["target"], answer["threads"]) == ("raspberry-pi-4b", 1)
    assert [row["model"] for row in answer["predictions"]] == ["squeezenet", "other"]
    for row in answer["predictions"]:
        assert list(row) == ["model", "latency_ms", "error_pct"]
        # Published: 74.0 ms.
        assert row["latency_ms"] == pytest.approx(74.0, rel=0.15)
        assert 0 < row["error_pct"] <= 6
    assert "note:" not in out


def test_predict_shows_the_transfer_caveat_beside_onnxruntime(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = table(tmp_path, {"runtime": "onnxruntime 1.31.1"})
    code, out, _ = run(capsys, "predict", "--target", "pi4", "--counts", str(path), "--json")
    assert code == 0
    assert "142 ms estimated against 113 ms published (26 % too long" in out
    assert json.loads(out.splitlines()[-1])["predictions"]


def test_predict_at_four_threads_is_faster_with_that_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = table(tmp_path, {})
    found = {}
    for threads in ("1", "2", "4"):
        argv = ("predict", "--target", "pi4", "--counts", str(path), "--threads", threads)
        _, out, _ = run(capsys, *argv, "--json")
        found[threads] = json.loads(out.splitlines()[-1])["predictions"][0]
    assert found["1"]["latency_ms"] > found["2"]["latency_ms"] > found["4"]["latency_ms"]
    assert found["4"]["latency_ms"] > found["1"]["latency_ms"] / 4
    counts = shipped_profiles()["raspberry-pi-4b"].counts
    assert counts is not None
    assert found["4"]["error_pct"] == counts.threads["4"].error_pct


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fmla32": "many"}, "counts.csv:2: fmla32 must be a number that is not negative.*'many'"),
        ({"l1m": "-1"}, "counts.csv:2: l1m must be"),
        ({"l1m": "nan"}, "l1m must be"),
        ({"l1m": "inf"}, "l1m must be"),
        ({"branch": ""}, "branch must be"),
        ({"total": "0"}, "total must be above 0"),
        ({"qemu_cpu": "a53"}, "rows with qemu_cpu 'a72'.*but has a53"),
    ],
)
def test_predict_refuses_a_bad_value_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = table(tmp_path, change)
    error = refused(capsys, "predict", "--target", "pi4", "--counts", str(path))
    assert re.search(message, error)


def test_predict_refuses_a_table_that_lacks_columns_rows_or_bytes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lacking = table(tmp_path, {}, columns=("runtime", "qemu_cpu", "model", *COUNT_COLUMNS[2:]))
    argv = ("predict", "--target", "pi4", "--counts")
    assert "lacks total, fmla32" in refused(capsys, *argv, str(lacking))
    assert "has none" in refused(capsys, *argv, str(table(tmp_path)))
    short = tmp_path / "short.csv"
    short.write_text("\n".join(COUNTS.read_text().splitlines()[:1]) + "\nncnn,a72,cut,12\n")
    assert "fmla32 must be a number" in refused(capsys, *argv, str(short))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert "readable CSV" in refused(capsys, *argv, str(tmp_path / "binary.csv"))
    assert "readable CSV" in refused(capsys, *argv, str(tmp_path / "none.csv"))
    assert "readable CSV" in refused(capsys, *argv, str(tmp_path))


def test_predict_refuses_a_device_without_counts_and_too_many_threads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = ("--counts", str(COUNTS))
    assert "[counts]" in refused(capsys, "predict", "--target", "x86-vnni", *counts)
    error = refused(capsys, "predict", "--target", "pi4", *counts, "--threads", "5")
    assert "from 1 to 4" in error
    assert "from 1 to 4" in refused(
        capsys, "predict", "--target", "pi4", *counts, "--threads", "0"
    )
    assert "did you mean" in refused(capsys, "predict", "--target", "pie4", *counts)


def test_read_counts_takes_a_byte_order_mark_and_other_columns(tmp_path: Path) -> None:
    path = table(tmp_path, {})
    lines = path.read_text().splitlines()
    path.write_text(f"\ufeff{lines[0]},comment\n{lines[1]},mine\n", encoding="utf-8")
    (row,) = read_counts(path)
    assert (row.model, row.qemu_cpu) == ("squeezenet", "a72")
    assert set(row.counts) == set(COUNT_COLUMNS)
    assert all(math.isfinite(count) for count in row.counts.values())


def test_add_a_board_in_ten_lines_as_the_documentation_does(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "latency.md").read_text()
    section = text.split("## Add a board in ten lines", 1)[1].split("\n## ", 1)[0]
    (recipe,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(recipe.splitlines()) <= 10
    (tmp_path / "hardware_profiles").symlink_to(ROOT / "hardware_profiles")
    (tmp_path / "python").symlink_to(sys.executable)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", recipe.replace("python -m", f"{sys.executable} -m")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    board = load_profile(str(tmp_path / "my-board.toml"))
    assert board.name == "my-board"
    assert board.cpu.ghz == 1.5
    assert "my-board: My board" in done.stdout
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["target"] == "my-board"
    assert len(answer["predictions"]) > 20
