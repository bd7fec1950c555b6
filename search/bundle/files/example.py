"""Classifies a picture: the whole way from its file to a class.

python example.py              the first of the golden images
python example.py photo.jpg    a picture of yours; this also needs: pip install pillow
"""

import sys


def _holds_this_file(entry: str) -> bool:
    try:
        with open(entry + "/example.py", "rb"):
            return True
    except OSError:
        return False


# Nothing that was added to this folder may stand for a module of Python's or for numpy.
sys.path[:] = [entry for entry in sys.path if entry and not _holds_this_file(entry)]
sys.dont_write_bytecode = True  # verify.py takes files that it doesn't know for changes

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports its use to its maker

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).resolve().parent
recipe = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))


def bundled(name: str) -> Any:
    """The module of that name in this folder."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored_pixels(path: str) -> Any:
    """A picture as those of the search were stored: uint8 (1, channels, height, width)."""
    from PIL import Image

    photo = bundled("photo")
    with Image.open(path, formats=photo.FORMATS) as image:
        size, rule = tuple(recipe["stored"] or recipe["size"]), photo.Resize(**recipe["resize"])
        return photo.photo_pixels(image, recipe["channels"], size, rule)[None]


def network_input(pixels: Any) -> Any:
    """What the network takes, float32 (N, C, H, W), of pixels, uint8 (N, C, H, W)."""
    mean = np.asarray(recipe["mean"], np.float32).reshape(1, -1, 1, 1)
    std = np.asarray(recipe["std"], np.float32).reshape(1, -1, 1, 1)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(bundled("resize").resized(scaled, tuple(recipe["size"])))


def main() -> None:
    """Prints the class and how sure the network is."""
    if len(sys.argv) > 1:
        pixels = stored_pixels(sys.argv[1])
    else:
        pixels = np.load(HERE / "golden" / "images.npy", allow_pickle=False)[:1]
    classes = json.loads((HERE / "classes.json").read_text(encoding="utf-8"))
    session = ort.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    logits = session.run(None, {name: network_input(pixels)})[0][0]
    odds = np.exp(logits - logits.max())
    best = int(logits.argmax())
    print(f"{classes[best]}  ({odds[best] / odds.sum():.1%})")


if __name__ == "__main__":
    main()
