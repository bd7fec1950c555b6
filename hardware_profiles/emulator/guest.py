"""Runs inside the emulated machine: needs only onnxruntime and numpy, imports nothing of ours.

One JSON request a line on standard input, one JSON answer a line on standard output:
  {"do": "load", "model": PATH, "profile": PREFIX or null, "warm": BOOL}
                                         opens it, and runs it once if it is to be warm
  {"do": "run", "mark": COMMAND}         runs it between marks
  {"do": "profile"}                      ends the profiling
                                         -> {"profile": PATH, "start_ns": origin of its times}
  {"do": "predict", "images": .npy, "outputs": .npy}   one image at a time
An answer with "error" says what the runtime said. The first line tells the versions.
"""

import ctypes
import json
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

MARK_SYSCALL = 23063
MARK_END = 3
FLOATS = {"float": "float32", "double": "float64"}


class Guest:
    """The requests; at most one model is open."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.session: Any = None
        self.inputs: dict[str, Any] = {}

    def load(self, model: str, profile: str | None, warm: bool) -> dict[str, Any]:
        """Opens a model and draws its inputs; a dynamic dimension becomes 1."""
        self.session = None
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        draw = np.random.default_rng(0)
        self.inputs = {}
        for each in session.get_inputs():
            kind = each.type[len("tensor(") : -1]
            shape = [size if isinstance(size, int) and size > 0 else 1 for size in each.shape]
            self.inputs[each.name] = draw.standard_normal(shape).astype(FLOATS.get(kind, kind))
        if warm:
            session.run(None, self.inputs)
        self.session = session
        return {}

    def run(self, mark: int) -> dict[str, Any]:
        """Runs the open model between the marks that the plugin sees."""
        self.libc.syscall(MARK_SYSCALL, mark)
        self.session.run(None, self.inputs)
        self.libc.syscall(MARK_SYSCALL, MARK_END)
        return {}

    def profile(self) -> dict[str, Any]:
        """Ends the profiling of the open model."""
        start_ns = self.session.get_profiling_start_time_ns()
        return {"start_ns": start_ns, "profile": self.session.end_profiling()}

    def predict(self, images: str, outputs: str) -> dict[str, Any]:
        """Runs images (N, ...) one by one and saves the first output of each."""
        name = self.session.get_inputs()[0].name
        rows = [self.session.run(None, {name: image[None]})[0][0] for image in np.load(images)]
        np.save(outputs, np.stack(rows))
        return {}


def main() -> None:
    """Answers requests until standard input ends."""
    guest = Guest()
    answer: dict[str, Any] = {"onnxruntime": ort.__version__, "numpy": np.__version__}
    while True:
        print(json.dumps(answer), flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            answer = getattr(guest, request.pop("do"))(**request)
        except Exception as error:  # told to the host, which decides
            answer = {"error": str(error).strip().splitlines()[0]}


if __name__ == "__main__":
    main()
