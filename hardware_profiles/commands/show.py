"""Shows one device: its processor, kernels, coefficients, their errors and their sources."""

from __future__ import annotations

import argparse

from hardware_profiles.lookup import load_profile
from hardware_profiles.profile import CountModel, HardwareProfile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The device."""
    parser.add_argument("name", metavar="NAME", help="name, alias, 'host' or a .toml file")


def run(args: argparse.Namespace) -> int:
    """Prints the profile."""
    profile = load_profile(args.name)
    print("\n".join(_lines(profile)))
    return 0


def _lines(profile: HardwareProfile) -> list[str]:
    cpu, runtime = profile.cpu, profile.runtime
    caches = [
        f"L{level} {size // 1024} KB"
        for level, size in enumerate((cpu.l1_bytes, cpu.l2_bytes, cpu.l3_bytes), start=1)
        if size
    ]
    aliases = f" (also {', '.join(profile.aliases)})" if profile.aliases else ""
    lines = [
        f"{profile.name}{aliases}: {profile.title}",
        f"processor: {cpu.cores} x {cpu.core} ({cpu.isa}) at {cpu.ghz:g} GHz, "
        f"{', '.join([*caches, f'{cpu.bandwidth_gb_s:g} GB/s to memory'])}",
        f"runtime: {runtime.threads} thread(s), {runtime.activation_type} activations, "
        f"{runtime.weight_type} weights"
        + (", weights of 7 bits (reduce_range)" if runtime.reduce_range else ""),
    ]
    limits = {"RAM": profile.limits.memory_bytes, "flash": profile.limits.flash_bytes}
    hard = [f"{what} {size // 1024} KB" for what, size in limits.items() if size is not None]
    if hard:
        lines.append(f"hard limits: {', '.join(hard)}")
    for bits in profile.bits:
        lines.append(f"{bits} bits: channels in multiples of {profile.channel_multiple(bits)}")
    lines += ["", "operator                     bits      1e9/s  overhead us  tile out x in x map"]
    for kernel in profile.kernels:
        lines.append(
            f"{' '.join((kernel.op, kernel.variant)):27} {kernel.bits:5} "
            f"{kernel.giga_per_s:10.3g} {kernel.overhead_us:12.3g}"
            f"  {kernel.tile_out} x {kernel.tile_in} x {kernel.tile_map}"
        )
    lines.append(f"analytic error: {profile.error_pct:g} % ({profile.error_how})")
    if profile.counts is not None:
        lines += ["", *_count_lines(profile.counts)]
    lines += ["", "sources:", *(f"- {source.what}: {source.where}" for source in profile.sources)]
    return lines


def _count_lines(model: CountModel) -> list[str]:
    lines = [
        f"cycles per event counted on an emulated {model.qemu_cpu} ({model.calibration_id}):",
        *(f"  {name:15} {each:7.3g}" for name, each in model.cycles.items()),
        f"error from counts: {model.error_pct:g} %, largest {model.largest_error_pct:g} %, rank "
        f"correlation {model.rank_correlation:g} ({model.error_how})",
    ]
    for threads, left in model.threads.items():
        lines.append(
            f"{threads} threads leave {left.instructions:.2f} of the instructions, "
            f"{left.l1_misses:.2f} of the L1 misses, {left.memory:.2f} of memory; error "
            f"{left.error_pct:g} % ({left.error_how})"
        )
    if model.caveat:
        lines.append(f"note: {model.caveat}")
    return lines
