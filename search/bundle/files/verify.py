"""Checks this bundle where it lies; needs Python 3.9, onnxruntime and numpy.

    python verify.py                      exit code 0 when everything holds, else 1
    python verify.py --max-latency 5      the 50th percentile must also be at most 5 ms
    python verify.py --json               one JSON object on standard output

What must hold: no file changed or was added, and the model answers on this machine as it did
where it was bundled. The latency here is printed, and is a condition only with ``--max-latency``.
"""

from __future__ import annotations

import sys


def _holds_this_file(entry: str) -> bool:
    try:
        with open((entry or ".") + "/verify.py", "rb"):
            return True
    except OSError:
        return False


# Before anything else is imported: a file that was added here, such as a hashlib.py or a link
# called numpy, must not run as if it were Python's own.
sys.path[:] = [entry for entry in sys.path if entry and not _holds_this_file(entry)]
sys.dont_write_bytecode = True

import argparse
import hashlib
import json
import os
import platform
import stat
import time
from pathlib import Path
from typing import Any, Callable, Iterator  # noqa: UP035  # Python 3.9

HERE = Path(__file__).resolve().parent
AGAIN = "copy the bundle again"


def _content(path: Path) -> bytes:
    """What a regular file holds; a pipe would keep its reader waiting for ever.

    Raises:
        OSError: it can't be read, or is a link or anything else that is no file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "is not a regular file")
        return file.read()


# This file is checked twice, here and with all the others below, so that no changed byte of it
# can switch off the check that would have found it.
try:
    if hashlib.sha256(_content(HERE / "verify.py")).hexdigest().encode() not in _content(
        HERE / "manifest.sha256"
    ):
        sys.exit("verify.py or manifest.sha256 changed; " + AGAIN)
except OSError as unreadable:
    sys.exit(f"verify.py and manifest.sha256 must be readable files, but: {unreadable}; {AGAIN}")

# Before onnxruntime is imported, which else reports its use to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

WARM_UP_S, WARM_UP_RUNS = 0.5, 10
MIN_RUNS, MAX_RUNS = 5, 2000


def changed_files() -> list[str]:
    """One sentence for each file that is missing, not as listed or not listed at all."""
    lines = _content(HERE / "manifest.sha256").splitlines(keepends=True)
    listed, seal = b"".join(lines[:-1]), b"".join(lines[-1:])
    if seal != f"# {hashlib.sha256(listed).hexdigest()}\n".encode():
        return [f"manifest.sha256: does not match its own last line; {AGAIN}"]
    found, names = [], {"manifest.sha256"}
    for line in listed.decode("utf-8", "replace").splitlines():
        expected, separator, name = line.partition("  ")
        is_inside = not name.startswith("/") and ".." not in name.split("/")
        if not separator or not is_inside or not name.isprintable():
            return [f"manifest.sha256: has a line that lists no file of this folder; {AGAIN}"]
        names.add(name)
        try:
            if hashlib.sha256(_content(HERE / name)).hexdigest() != expected:
                found.append(f"{name}: is not the file that manifest.sha256 lists; {AGAIN}")
        except FileNotFoundError:
            found.append(f"{name}: is missing; {AGAIN}")
        except OSError as error:
            found.append(f"{name}: must be a file that can be read, but: {error}; {AGAIN}")
    for name, kind in _entries(HERE):
        if name not in names:
            shown, what = name if name.isprintable() else ascii(name), "is not"
            if kind != "file":
                what = f"is a {kind} and not"
            shown = shown if len(shown) < 300 else shown[:100] + "..."
            found.append(f"{shown}: {what} listed in manifest.sha256; remove it")
        elif kind == "link":
            found.append(f"{name}: must be a file, but is a link; {AGAIN}")
    return found


def _entries(root: Path) -> Iterator[tuple[str, str]]:
    """All in a folder, and empty folders, by name and kind; links are not followed."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        try:
            with os.scandir(root / prefix) as inside:
                entries = sorted(inside, key=lambda one: one.name)
        except OSError:  # it can't be read, or is nested too deeply
            yield prefix.rstrip("/"), "folder that can't be read"
            continue
        if prefix and not entries:
            yield prefix.rstrip("/"), "folder"
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink():
                yield name, "link"
            elif entry.is_dir(follow_symlinks=False):
                waiting.append(name + "/")
            else:
                yield name, "file" if entry.is_file(follow_symlinks=False) else "special file"


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
