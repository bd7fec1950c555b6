import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from hardware_profiles import OpShape, ProfileError, load_profile, read_profile
from hardware_profiles.cli import main
from hardware_profiles.fitting.operator_fit import (
    Fitted,
    TimedOperator,
    fit,
    fit_from_counts,
    fit_from_times,
    read_operator_counts,
    read_operator_times,
)
from hardware_profiles.kernels_section import render_kernels, replace_kernels
from hardware_profiles.profile import DATA, Kernel
from hardware_profiles.terms import amounts, padded_work, variant

DENSE = OpShape(8, 20, (6, 6), (3, 3), (3, 3), (2, 2))
POINT = OpShape(8, 20, (6, 6), (6, 6))
DEPTH = OpShape(20, 20, (6, 6), (6, 6), (3, 3), (1, 1), 20)
GROUPED = OpShape(8, 20, (6, 6), (6, 6), (3, 3), (1, 1), 4)
MULTIPLIED = OpShape(8, 16, (6, 6), (6, 6), (3, 3), (1, 1), 8)


@pytest.mark.parametrize(
    ("op", "shape", "bits", "expected"),
    [
        ("conv", DENSE, 32, "dense"),
        ("conv", POINT, 8, "pointwise"),
        ("conv", dataclasses.replace(POINT, stride=(2, 2)), 8, "dense"),
        ("conv", GROUPED, 32, "grouped"),
        ("depthwise", MULTIPLIED, 8, "grouped"),
        ("depthwise", DEPTH, 32, "depthwise_3x3"),
        ("depthwise", dataclasses.replace(DEPTH, stride=(2, 2)), 32, "depthwise"),
        ("depthwise", DEPTH, 8, "depthwise"),
        ("linear", OpShape(8, 20), 8, ""),
        ("add", POINT, 32, ""),
    ],
)
def test_variant_names_the_kernel_that_serves_the_shape(
    op: str, shape: OpShape, bits: int, expected: str
) -> None:
    assert variant(op, shape, bits) == expected


def test_padded_work_fills_tiles_of_channels_depth_and_pixels() -> None:
    assert padded_work("conv", DENSE) == DENSE.macs == 20 * 72 * 9
    assert padded_work("conv", DENSE, tile_out=16) == 32 * 72 * 9
    assert padded_work("conv", DENSE, tile_in=16) == 20 * 80 * 9
    assert padded_work("conv", DENSE, tile_map=4) == 20 * 72 * 12
    assert padded_work("conv", GROUPED, tile_out=4) == 4 * 8 * 18 * 36  # five channels a group
    assert padded_work("depthwise", DEPTH, tile_out=16) == 32 * 9 * 36
    assert padded_work("pool", OpShape(4, 4, (6, 6), (3, 3)), tile_out=16) == 4 * 36


def test_amounts_of_a_dense_convolution_are_those_counted_by_hand() -> None:
    assert amounts("conv", DENSE, "dense", tail=8, tile_in=16) == {
        "outputs": 20 * 9,
        "tail_outputs": 4 * 9,  # 20 channels are two vectors of eight and four
        "tail_macs": 4 * 9 * 72,
        "pixels": 9,
        "weights": 20 * 72,
        "in_tail_weights": 20 * 8,  # 72 is four times sixteen and eight
        "inputs": 8 * 36,
        "gathered": 72 * 9,
        "copies": 9 * 9,
        "lines": 72 * 3,
    }
    point = amounts("conv", POINT, "pointwise", tail=4, tile_in=8)
    assert not {"gathered", "copies", "lines"} & set(point)
    assert point["tail_outputs"] == point["in_tail_weights"] == 0
    assert amounts("depthwise", DEPTH, "depthwise", tail=16, tile_in=1)["tail_macs"] == 4 * 36 * 9
    assert amounts("add", POINT, "", tail=1, tile_in=1) == {"outputs": 20 * 36}


def made_up() -> tuple[list[TimedOperator], dict[tuple[str, str], float], Kernel]:
    """Operators of forty networks on a kernel that is known."""
    kernel = Kernel(
        op="conv",
        bits=8,
        giga_per_s=20.0,
        overhead_us=3.0,
        tile_out=16,
        tile_map=4,
        tail=8,
        variant="dense",
        fitted=True,
        ns={"gathered": 0.2, "outputs": 2.0, "tail_outputs": 1.0},
    )
    draw = np.random.default_rng(0)
    timed = []
    totals: dict[tuple[str, str], float] = {}
    for number in range(400):
        size = int(draw.integers(2, 40))
        channels = draw.integers(3, 200, size=2).tolist()
        shape = OpShape(channels[0], channels[1], (size, size), (size, size), (3, 3))
        network = (str(number % 40), "int8")
        ms = kernel.terms_ms("conv", shape)
        timed.append(TimedOperator(network, "conv", shape, 8, ms))
        totals[network] = totals.get(network, 0.0) + ms
    return timed, totals, kernel


def test_fit_finds_the_kernel_that_the_times_are_of() -> None:
    timed, totals, kernel = made_up()
    found = fit(timed, totals)
    (dense,) = found.kernels
    assert found.networks == 40
    assert found.error_pct < 0.1
    assert (dense.tile_out, dense.tile_map, dense.tail) == (16, 4, 8)
    assert dense.giga_per_s == pytest.approx(kernel.giga_per_s, rel=0.01)
    assert dense.overhead_us == pytest.approx(kernel.overhead_us, rel=0.05)
    for name, each in kernel.ns.items():
        assert dense.ns[name] == pytest.approx(each, rel=0.05)


def test_fit_states_the_error_of_networks_that_it_did_not_see() -> None:
    timed, totals, _ = made_up()
    off = {network: ms * (1.3 if network[0] == "0" else 1.0) for network, ms in totals.items()}
    found = fit(timed, off)
    # One network of forty takes longer than its operators: 1/1.3 - 1 is 23 per cent.
    assert found.largest_pct == pytest.approx(100 * (1 - 1 / 1.3), abs=0.5)
    assert found.error_pct == pytest.approx(100 * (1 - 1 / 1.3) / 40, abs=0.1)


def test_fit_needs_every_kind_in_several_networks() -> None:
    timed, totals, _ = made_up()
    alone = TimedOperator(("0", "int8"), "linear", OpShape(8, 8), 8, 0.01)
    with pytest.raises(ProfileError, match="sweep more networks"):
        fit([*timed, alone], totals)


def cost(target: str, op: str, bits: int, channels: int, depth: int = 64) -> float:
    groups = channels if op == "depthwise" else 1
    shape = OpShape(
        channels if op == "depthwise" else depth,
        channels,
        (14, 14),
        (14, 14),
        (3, 3),
        (1, 1),
        groups,
    )
    return load_profile(target).cost(op, shape, bits)


def test_cost_knows_the_steps_of_the_kernels() -> None:
    # Dot product: sixteen channels at once, and fewer than sixteen cost no less.
    assert cost("raspberry-pi-5", "conv", 8, 12) > 0.95 * cost("raspberry-pi-5", "conv", 8, 16)
    step = cost("raspberry-pi-5", "conv", 8, 17) / cost("raspberry-pi-5", "conv", 8, 16)
    assert step > 1.3
    assert cost("raspberry-pi-5", "conv", 8, 20) > 0.9 * cost("raspberry-pi-5", "conv", 8, 32)
    # Float has no such steps.
    assert cost("raspberry-pi-5", "conv", 32, 17) < 1.1 * cost("raspberry-pi-5", "conv", 32, 16)
    for target in ("raspberry-pi-4b", "raspberry-pi-5"):
        # A ragged int8 depthwise convolution costs far more than a wider one.
        assert cost(target, "depthwise", 8, 60) > 1.3 * cost(target, "depthwise", 8, 64)


def test_int8_pays_more_where_there_is_a_dot_product() -> None:
    gains = {
        target: cost(target, "conv", 32, 64) / cost(target, "conv", 8, 64)
        for target in ("raspberry-pi-4b", "raspberry-pi-5")
    }
    assert 1 < gains["raspberry-pi-4b"] < gains["raspberry-pi-5"]


def fitted_again(name: str) -> Fitted:
    profile = load_profile(name)
    if profile.counts is not None:
        return fit_from_counts(profile, read_operator_counts())
    return fit_from_times(profile, read_operator_times()[name])


@pytest.mark.parametrize("name", ["raspberry-pi-4b", "x86-vnni"])
def test_shipped_kernels_are_those_of_the_shipped_operators(name: str) -> None:
    profile, found = load_profile(name), fitted_again(name)
    fresh = dataclasses.replace(profile, kernels=found.kernels)
    assert found.error_pct == pytest.approx(profile.error_pct, abs=0.1)
    for op, shape, bits in (("conv", DENSE, 8), ("conv", POINT, 32), ("depthwise", DEPTH, 8)):
        assert fresh.cost(op, shape, bits) == pytest.approx(
            profile.cost(op, shape, bits), rel=0.01
        )


def test_fit_from_counts_needs_coefficients_and_counts_of_the_core() -> None:
    counted = read_operator_counts()
    with pytest.raises(ProfileError, match=r"\[counts\] section"):
        fit_from_counts(load_profile("x86-avx2"), counted)
    other = [each for each in counted if each.core == "a76"]
    with pytest.raises(ProfileError, match="counted on a72"):
        fit_from_counts(load_profile("raspberry-pi-4b"), other)


def test_shipped_sweep_has_every_kind_of_operator_on_both_cores() -> None:
    counted = read_operator_counts()
    for core in ("a72", "a76"):
        own = [each for each in counted if each.core == core]
        assert {(e.op, e.bits) for e in own} >= {
            (op, bits) for op in ("conv", "depthwise", "linear", "add", "pool") for bits in (8, 32)
        }
        sizes = {each.shape.out_size[0] for each in own if each.op == "conv"}
        assert min(sizes) <= 2
        assert max(sizes) >= 112
        multiples = [each.shape.out_channels % 16 == 0 for each in own if each.op == "conv"]
        assert 0.2 < np.mean(multiples) < 0.8
        assert all(each.runtime.startswith("onnxruntime ") for each in own)
        assert all(math.isfinite(count) for each in own for count in each.counts.values())


def test_rendered_kernels_read_back_the_same(tmp_path: Path) -> None:
    text = (DATA / "raspberry-pi-5.toml").read_text()
    profile = load_profile("raspberry-pi-5")
    path = tmp_path / "board.toml"
    path.write_text(replace_kernels(text, profile.kernels[:7]))
    again = read_profile(path)
    assert again == dataclasses.replace(profile, kernels=profile.kernels[:7])
    path.write_text(replace_kernels(path.read_text(), profile.kernels))
    assert read_profile(path) == profile
    assert render_kernels(profile.kernels).count("[[kernels]]") == len(profile.kernels)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('variant = "dense"', 'variant = "odd"', "variant of a kernel must be known, but has odd"),
        ("gathered =", "glued =", "ns of a kernel must be known, but has glued"),
    ],
)
def test_a_profile_with_unknown_terms_is_refused(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    path = tmp_path / "board.toml"
    path.write_text((DATA / "raspberry-pi-5.toml").read_text().replace(old, new))
    with pytest.raises(ProfileError, match=said):
        read_profile(path)


def test_x86_takes_long_for_int8_where_single_bytes_are_copied() -> None:
    """As timed: a gray image's first convolution in float takes a third of its time in int8."""
    profile = load_profile("x86-vnni")
    first = OpShape(1, 8, (128, 128), (64, 64), (7, 7), (2, 2))
    assert profile.cost("conv", first, 8) > 2 * profile.cost("conv", first, 32)
    inside = OpShape(64, 64, (16, 16), (16, 16), (3, 3))
    assert profile.cost("conv", inside, 8) < 0.5 * profile.cost("conv", inside, 32)


def test_fit_to_times_gives_back_the_kernels_that_made_them() -> None:
    """And takes nothing from shapes that no plan has, where other kernels run."""
    profile = load_profile("x86-vnni")
    timed = []
    for each in read_operator_times()[profile.name]:
        of = profile.kernel(each.op, each.shape, each.bits)
        ms = of.terms_ms(each.op, each.shape)
        odd = each.op == "conv" and each.shape.out_channels % 4
        timed.append(dataclasses.replace(each, ms=100 * ms if odd else ms))
    found = fit_from_times(profile, timed)
    assert found.error_pct < 1.0


def test_fit_operators_command_prints_the_error_of_every_board(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = "hardware_profiles.commands.fit_operators"
    board = load_profile("raspberry-pi-4b")
    shutil.copy(DATA / f"{board.name}.toml", tmp_path)
    monkeypatch.setattr(f"{module}.DATA", tmp_path)
    assert main(["fit-operators"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["profile", "kernels", "networks", "mean", "%", "largest", "%"]
    assert row.split()[0] == board.name
    assert float(row.split()[3]) == pytest.approx(board.error_pct, abs=0.1)


def test_kernels_of_a_copied_profile_follow_its_clock(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    board, path = load_profile("raspberry-pi-4b"), tmp_path / "half.toml"
    text = (DATA / f"{board.name}.toml").read_text()
    path.write_text(text.replace(f"ghz = {board.cpu.ghz:g}\n", f"ghz = {board.cpu.ghz / 2:g}\n"))
    assert main(["fit-operators", "--target", str(path), "--write"]) == 0
    assert "raspberry-pi-4b" in capsys.readouterr().out
    half, shape = read_profile(path), OpShape(64, 64, (14, 14), (14, 14), (3, 3))
    assert half.cpu.ghz == board.cpu.ghz / 2
    for bits in (32, 8):
        ratio = half.cost("conv", shape, bits) / board.cost("conv", shape, bits)
        assert ratio == pytest.approx(2, rel=0.02)
    assert main(["fit-operators", "--target", str(DATA / "x86-avx2.toml")]) == 2
    assert "must have a [counts] section or operators in" in capsys.readouterr().err


def test_fit_operators_refuses_another_table_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for path in (tmp_path / "none.csv", DATA / "emulated_counts.csv"):
        assert main(["fit-operators", "--counts", str(path)]) == 2
        err = capsys.readouterr().err
        assert "operator_sweep.py" in err
        assert err.count("\n") == 1
