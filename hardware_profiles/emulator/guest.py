"""Runs inside the emulated machine: needs only onnxruntime and numpy, imports nothing of ours.

One JSON request a line on standard input, one JSON answer a line on standard output:
  {"do": "load", "model": PATH, "profile": PREFIX or null, "warm": BOOL}
                                         opens it, and runs it once if it is to be warm
  {"do": "run", "mark": COMMAND}         runs it between marks
  {"do": "profile"}                      ends the profiling
                                         -> {"profile": PATH, "start_ns": origin of its times}
  {"do": "predict", "images": .npy, "outputs": .npy}   one image at a time
  {"do": "end"}                          the last one of a file
An answer with "error" says what the runtime said. The first line tells the versions.

Each file is served by a fork, from its first request to the last: it finds the memory that every
other found, so that what is counted does not depend on what was counted before.
"""

import ctypes
import gc
import json
import mmap
import os
from typing import Any, NoReturn


class Clock:
    """clock_gettime of this process, which can stand at zero.

    The runtime does a little more in a run that comes seconds after another, and nobody wants to
    count how slow the emulator was.
    """

    # stp xzr, xzr, [x1]; mov w0, #0; ret
    STANDING = bytes.fromhex("3f7c00a9 00008052 c0035fd6")

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self.start = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value or 0
        self.running = ctypes.string_at(self.start, len(self.STANDING))
        page = self.start // mmap.PAGESIZE * mmap.PAGESIZE
        rights = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(2 * mmap.PAGESIZE), rights):
            raise OSError("the code of the C library must be writable")

    def set(self, code: bytes) -> None:
        """Lets it stand (``STANDING``) or run (``running``)."""
        ctypes.memmove(self.start, code, len(code))


clock = Clock()
clock.set(Clock.STANDING)

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402

MARK_SYSCALL = 23063
MARK_END = 3
STEADY_FORKS = 5  # after so many, a fork leaves this process as it was
FLOATS = {"float": "float32", "double": "float64"}


class Guest:
    """The requests; at most one model is open."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.session: Any = None
        self.inputs: dict[str, Any] = {}

    def load(self, model: str, profile: str | None, warm: bool) -> dict[str, Any]:
        """Opens a model and draws its inputs; a dynamic batch becomes 1."""
        self.session = None
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if profile:
            clock.set(clock.running)
            options.enable_profiling = True
            options.profile_file_prefix = profile
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        draw = np.random.default_rng(0)
        self.inputs = {}
        for each in session.get_inputs():
            kind = each.type[len("tensor(") : -1]
            shape = [size if isinstance(size, int) else 1 for size in each.shape[:1]]
            shape += each.shape[1:]
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
    """Serves file after file until standard input ends."""
    gc.collect()
    gc.disable()  # or it would run in the middle of what is counted
    say({"onnxruntime": ort.__version__, "numpy": np.__version__})
    status, warm_ups = 0, STEADY_FORKS
    while status == 0:
        # Nothing more here, and nothing that stays: every fork must find the same free blocks.
        if os.fork() == 0:
            serve() if warm_ups == 0 else os._exit(0)
        status = os.wait()[1]
        warm_ups = max(0, warm_ups - 1)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))


def serve() -> NoReturn:
    """Answers the requests of one file; exit code 1 when standard input ends instead."""
    guest = Guest()
    while True:
        request = json.loads(read_line())
        do = request.pop("do")
        if do == "end":
            say({})
            os._exit(0)
        try:
            answer = getattr(guest, do)(**request)
        except Exception as error:  # told to the host, which decides
            answer = {"error": str(error).strip().splitlines()[0]}
        say(answer)


def read_line() -> bytes:
    """A request; the host sends the next one only after the answer."""
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(0, 1 << 16)
        if not more:
            os._exit(1)
        line += more
    return line


def say(answer: Any) -> None:
    """One line to the host."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
