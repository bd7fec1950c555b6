"""Classifies one of the golden images: the whole way from pixels to a class.

For your own picture, replace ``pixels`` by a uint8 array of shape (1, channels, height, width).
"""

import json
import os
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports its use to its maker

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).resolve().parent
recipe = json.loads((HERE / "preprocess.json").read_text(encoding="utf-8"))
classes = json.loads((HERE / "classes.json").read_text(encoding="utf-8"))
session = ort.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])

pixels = np.load(HERE / "golden" / "images.npy", allow_pickle=False)[:1]
mean = np.asarray(recipe["mean"], np.float32).reshape(1, -1, 1, 1)
std = np.asarray(recipe["std"], np.float32).reshape(1, -1, 1, 1)
inputs = (pixels.astype(np.float32) / np.float32(255) - mean) / std

logits = session.run(None, {session.get_inputs()[0].name: inputs.astype(np.float32)})[0][0]
odds = np.exp(logits - logits.max())
best = int(logits.argmax())
print(f"{classes[best]}  ({odds[best] / odds.sum():.1%})")
