"""What to try next, who runs it, what is kept, what is handed over.

from search import compress
result = compress(model, data, target="arm", max_drop=0.03, budget="30m")
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.api import compress
    from search.compression import Candidate, Compression, Winner
    from search.errors import InputError, SearchError

# Must be set before torch is imported: OpenMP threads that wait by spinning make training twenty
# times slower (2 cores, one other busy process) as soon as anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Must be set before onnxruntime is imported, which else reports its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_FROM = {
    "compress": "search.api",
    "Candidate": "search.compression",
    "Compression": "search.compression",
    "Winner": "search.compression",
    "InputError": "search.errors",
    "SearchError": "search.errors",
}
__all__ = ["Candidate", "Compression", "InputError", "SearchError", "Winner", "compress"]


def __getattr__(name: str) -> Any:
    """Imports what is used when it is used: ``import search`` costs next to nothing."""
    from importlib import import_module

    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FROM[name]), name)
