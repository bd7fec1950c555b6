"""Checks this bundle where it lies; needs Python 3.9, onnxruntime and numpy.

    python verify.py                      exit code 0 when everything holds, else 1
    python verify.py --max-latency 5      the 50th percentile must also be at most 5 ms
    python verify.py --json               one JSON object on standard output

What must hold: no file changed or was added, and the model answers on this machine as it did
where it was bundled. The latency here is printed, and is a condition only with ``--max-latency``.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This file is checked twice, here and with all the others below, so that no changed byte of it
# can switch off the check that would have found it.
if hashlib.sha256((HERE / "verify.py").read_bytes()).hexdigest() not in (
    HERE / "manifest.sha256"
).read_text(encoding="latin-1"):
    sys.exit(Path(__file__).name + " or manifest.sha256 changed; copy the bundle again")

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import time  # noqa: E402
from typing import Any, Callable  # noqa: E402, UP035  # collections.abc's is no better in 3.9

# Before onnxruntime is imported, which else reports its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

WARM_UP_S, WARM_UP_RUNS = 0.5, 10
MIN_RUNS, MAX_RUNS = 5, 2000


def changed_files() -> list[str]:
    """One sentence for each file that is missing, not as listed or not listed at all."""
    lines = (HERE / "manifest.sha256").read_bytes().splitlines(keepends=True)
    listed, seal = b"".join(lines[:-1]), b"".join(lines[-1:])
    if seal != f"# {hashlib.sha256(listed).hexdigest()}\n".encode():
        return ["manifest.sha256: does not match its own last line; copy the bundle again"]
    found, names = [], {"manifest.sha256"}
    for line in listed.decode().splitlines():
        expected, name = line.split("  ", 1)
        path = HERE / name
        names.add(name)
        if not path.is_file():
            found.append(f"{name}: is missing; copy the bundle again")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            found.append(f"{name}: is not the file that manifest.sha256 lists; copy it again")
    there = {p.relative_to(HERE).as_posix() for p in HERE.rglob("*") if not p.is_dir()}
    found += [f"{n}: is not listed in manifest.sha256; remove it" for n in sorted(there - names)]
    return found


def read_json(name: str) -> Any:
    """A JSON file of the bundle."""
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def preprocessed(pixels: Any) -> Any:
    """Network input, float32 (N, C, H, W), of pixels, uint8 (N, C, H, W)."""
    import numpy as np

    recipe = read_json("preprocess.json")
    shape = (1, recipe["channels"], 1, 1)
    mean = np.asarray(recipe["mean"], np.float32).reshape(shape)
    std = np.asarray(recipe["std"], np.float32).reshape(shape)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled, dtype=np.float32)


def timed(run: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of single runs: for ``seconds``, but a few runs however slow they are."""
    start = time.perf_counter()
    for _ in range(WARM_UP_RUNS):
        run()
        if time.perf_counter() - start > WARM_UP_S:
            break
    took: list[float] = []
    start = time.perf_counter()
    while len(took) < MIN_RUNS or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        run()
        took.append((time.perf_counter() - before) * 1e3)
        if len(took) == MAX_RUNS:
            break
    return took


def checked(options: argparse.Namespace) -> dict[str, Any]:
    """What was found here, as a JSON object; ``failures`` says what does not hold."""
    failures = changed_files()
    if failures:  # nothing is run from files that nobody tested
        return {"holds": False, "failures": failures}
    try:
        import numpy as np
        import onnxruntime as ort
    except ImportError as error:
        needed = f"{error}; needed here: pip install onnxruntime numpy"
        return {"holds": False, "failures": [needed]}

    checks = read_json("checks.json")
    images = np.load(HERE / "golden" / "images.npy", allow_pickle=False)
    labels = np.load(HERE / "golden" / "labels.npy", allow_pickle=False)
    expected = np.load(HERE / "golden" / "outputs.npy", allow_pickle=False)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads or checks["threads"]
    settings.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            str(HERE / "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own exceptions share no other base
        needed = (
            f"model.onnx: must load in onnxruntime, but {ort.__version__} here says: {error}; "
            f"it was bundled with {checks['onnxruntime']}"
        )
        return {"holds": False, "failures": [needed]}
    name = session.get_inputs()[0].name
    inputs = preprocessed(images)
    outputs = np.concatenate(
        [session.run(None, {name: inputs[i : i + 1]})[0] for i in range(len(inputs))]
    )
    top = outputs.argmax(1)
    agreement = float((top == expected.argmax(1)).mean())
    accuracy = float((top == labels).mean())
    if not np.isfinite(outputs).all():
        failures.append("outputs: must be finite numbers, but some are not")
    for what, found in (("agreement", agreement), ("accuracy", accuracy)):
        least = checks[f"min_{what}"]
        if found < least - 1e-9:
            failures.append(
                f"{what}: must be at least {least:.4f} on the golden set, but is {found:.4f}"
            )
    took = np.sort(timed(lambda: session.run(None, {name: inputs[:1]}), options.seconds))
    p50, p90 = float(np.percentile(took, 50)), float(np.percentile(took, 90))
    if options.max_latency is not None and p50 > options.max_latency:
        failures.append(
            f"latency: p50 must be at most {options.max_latency:g} ms (--max-latency), "
            f"but is {p50:.4g} ms here"
        )
    return {
        "holds": not failures,
        "failures": failures,
        "images": len(images),
        "agreement": agreement,
        "min_agreement": checks["min_agreement"],
        "accuracy": accuracy,
        "min_accuracy": checks["min_accuracy"],
        "accuracy_where_bundled": checks["accuracy"],
        "max_output_difference": float(np.abs(outputs - expected).max()),
        "latency_p50_ms": p50,
        "latency_p90_ms": p90,
        "runs": len(took),
        "threads": settings.intra_op_num_threads,
        "machine": platform.machine(),
        "onnxruntime": ort.__version__,
        "python": platform.python_version(),
        "claimed_latency": checks["latency"],
    }


def table(report: dict[str, Any]) -> list[str]:
    """The report for a person, as lines."""
    lines = []
    if "agreement" in report:
        claim = report["claimed_latency"]
        lines = [
            "files      as listed in manifest.sha256",
            f"agreement  {report['agreement']:.4f} with the expected answers on "
            f"{report['images']} images (at least {report['min_agreement']:.4f})",
            f"accuracy   {report['accuracy']:.4f} (at least {report['min_accuracy']:.4f}; "
            f"{report['accuracy_where_bundled']:.4f} where it was bundled)",
            f"latency    p50 {report['latency_p50_ms']:.4g} ms, "
            f"p90 {report['latency_p90_ms']:.4g} ms ({report['runs']} runs, batch 1, "
            f"threads: {report['threads']}, {report['machine']}, "
            f"onnxruntime {report['onnxruntime']})",
        ]
        if claim:
            lines.append(f"claimed    {claim['ms']:.4g} ms, {claim['source']}: {claim['how']}")
    lines += [f"FAILS  {failure}" for failure in report["failures"]]
    return [*lines, "holds" if report["holds"] else "does not hold"]


def main() -> int:
    """Checks, prints, and returns the exit code."""
    parser = argparse.ArgumentParser(description="Checks this bundle on this machine.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--max-latency", type=float, metavar="MS", help="fail above this p50")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as it was claimed for")
    parser.add_argument(
        "--seconds", type=float, default=3, metavar="S", help="time for the latency (default 3)"
    )
    options = parser.parse_args()
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, but got {options.threads}")
    report = checked(options)
    print(json.dumps(report) if options.json else "\n".join(table(report)))
    return 0 if report["holds"] else 1


sys.exit(main())
