"""Names of what the counting plugin counts and of what costs cycles. No imports, no code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# What the counting plugin reports for one inference; also the columns of emulated_counts.csv.
COUNT_COLUMNS: tuple[str, ...] = (
    *("total", "fmla32", "fmla16", "dot", "mmla", "imul_w", "adalp"),
    *("vload", "vstore", "sload", "sstore", "simd_other", "branch", "int"),
    *("acc", "l1m", "l2m", "l3m", "l1s", "l2s", "l3s"),
)
INSTRUCTIONS: tuple[str, ...] = COUNT_COLUMNS[1:14]
# A miss of the last cache costs more, the more of the missing lines the program itself wrote:
# weights are read in long streams that the prefetcher hides, but a written line is fetched,
# written back and read again. A 64-byte line takes four 16-byte vector stores and so misses
# at most twice per four stores (written_misses); shared_misses is the smooth version of it.
MISSES: tuple[str, ...] = ("l1_misses", "written_misses", "shared_misses")
FEATURES: tuple[str, ...] = (*INSTRUCTIONS, *MISSES)
# The features by what the processor does meanwhile, for showing where the time goes.
WORK: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "multiplying": ("fmla32", "fmla16", "dot", "mmla", "imul_w", "adalp"),
        "other vector work": ("simd_other",),
        "loads and stores": ("vload", "vstore", "sload", "sstore"),
        "control": ("branch", "int"),
        "waiting for caches and memory": MISSES,
    }
)
