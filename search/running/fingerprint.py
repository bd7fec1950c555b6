"""What identifies data and a model: SHA-256 over everything that changes a result."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import numpy as np
import torch

from search.inputs.data.raw import SplitName
from search.task import Preprocess, Split, Task

FINGERPRINT_VERSION = 1


def data_fingerprint(splits: Mapping[SplitName, Split], preprocess: Preprocess) -> str:
    """64 hex digits over pixels, labels, which split they are in, and what is made of pixels.

    How photos were resized is in the pixels.
    """
    stated = {
        "version": FINGERPRINT_VERSION,
        "size": preprocess.size,
        "channels": preprocess.channels,
        "mean": preprocess.mean,
        "std": preprocess.std,
    }
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for name in sorted(splits):
        split = splits[name]
        digest.update(json.dumps([name, split.images.shape]).encode())
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(split.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def model_fingerprint(task: Task, state_dict: Mapping[str, torch.Tensor]) -> str:
    """64 hex digits over the architecture (each module's type and settings) and the weights."""
    digest = hashlib.sha256()
    for name, module in task.build().named_modules():
        settings = re.sub(r" at 0x[0-9a-f]+", "", module.extra_repr())  # addresses change
        digest.update(json.dumps([name, type(module).__qualname__, settings]).encode())
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
