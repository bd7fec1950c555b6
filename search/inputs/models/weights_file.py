"""What can be seen of a file of weights at a glance; ``weights.py`` reads it."""

from __future__ import annotations

from pathlib import Path

from search.errors import InputError
from search.inputs.first_bytes import first_bytes, told

REMEDY = "save the weights alone: torch.save(model.state_dict(), FILE)"
# How torch.save begins a file, now and before 1.6: as an archive or as a pickle.
BEGINNINGS = (b"PK", b"\x80")


def check_weights_file(path: Path) -> None:
    """Whether a file of torch.save or safetensors is there, by its first bytes.

    Raises:
        InputError: there is none, or it is of another kind.
    """
    start = first_bytes(path, "weights must be a file")
    if path.suffix != ".safetensors" and not start.startswith(BEGINNINGS):
        raise InputError(
            f"weights must be a file of torch.save or, named so, .safetensors, but "
            f"{str(path)!r} {told(start)}; name another file, or {REMEDY}"
        )
