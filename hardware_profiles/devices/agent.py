"""Runs ONNX files on the machine it is started on and tells how long they take.

This one file is what a device gets: it needs Python 3.8, onnxruntime and numpy, nothing else.
It says hello, then answers one JSON object a line with one JSON object a line, and ends with
its standard input, so that nothing stays behind when the other side is gone.

    {"op": "open", "model": PATH, "threads": 1}    -> {"session": 1, "load_ms": ...}
    {"op": "time", "session": 1, "warmup": 10, "min_runs": 50, "min_ms": 5000, "max_ms": 60000}
                              -> {"times_ms": [...], "cpu_ms": [...], "interrupted": [...]}
    {"op": "close", "session": 1}                  -> {}
    {"op": "classify", "session": 1, "images": PATH}  -> {"classes": [...]}  (PATH is a .npy)
    {"op": "environment"}                          -> governor, frequency, temperature, ...
    {"op": "memory"}                               -> {"peak_bytes": ...}
    {"op": "find", "sha256": HEX}                  -> {"path": PATH or null}
    {"op": "lock", "holder": TEXT}                 -> {"locked": true} or {"holder": TEXT}
    {"op": "unlock"}                               -> {}

Whatever goes wrong with a request is answered as {"error": TEXT}.
"""

from __future__ import annotations

import os

# One inference at a time: numpy's own pool of threads would only take memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# onnxruntime sends usage data unless told otherwise, in the middle of what is measured.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import contextlib
import fcntl
import gc
import glob
import hashlib
import json
import platform
import select
import stat
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, TextIO  # noqa: UP035 (Python 3.8)

import numpy as np
import onnxruntime as ort

VERSION = 1
MAX_TIMES = 20000  # of one request; beyond, every second, third ... time is sent
CACHE_BYTES = 512 * 2**20  # of models kept on the device
IDLE_LOCK_S = 120.0  # a lock whose holder says nothing for so long is given up
# A run on one thread was interrupted when the clock shows more than the thread's own processor
# time; asking both clocks takes 2 us.
_LOST_SHARE, _LOST_S = 1.02, 10e-6
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


class Sessions:
    """Open files by number."""

    def __init__(self) -> None:
        self._open: dict[int, ort.InferenceSession] = {}
        self._threads: dict[int, int] = {}
        self._last = 0

    def open(
        self, model: str, threads: int, config: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Loads a file as it ships: all optimizations, spinning as the runtime has it.

        ``config`` has further entries of the runtime's session configuration.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        start = time.perf_counter()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        load_ms = (time.perf_counter() - start) * 1e3
        self._last += 1
        self._open[self._last] = session
        self._threads[self._last] = threads
        return {"session": self._last, "load_ms": load_ms}

    def close(self, session: int) -> dict[str, Any]:
        """Forgets a session; its threads and memory go with it."""
        del self._open[session]
        return {}

    def time(
        self, session: int, warmup: int, min_runs: int, min_ms: float, max_ms: float
    ) -> dict[str, Any]:
        """Times single runs on one random image.

        Goes on until ``min_ms`` have passed and ``min_runs`` runs were not interrupted, or,
        with ``min_runs`` runs of any kind, ``max_ms`` have passed. ``cpu_ms`` is the processor
        time of the asking thread: all of a run's work where the session has one thread, so that
        it tells what an interrupted run would have taken.
        """
        run, feed = self._open[session].run, self._random_feed(session)
        alone = self._threads[session] == 1
        for _ in range(warmup):
            run(None, feed)
        times: list[float] = []
        cpu_times: list[float] = []
        interruptions: list[int] = []
        clock, cpu_clock = time.perf_counter, time.thread_time
        collecting = gc.isenabled()
        gc.disable()
        begin = clock()
        while True:
            start = clock()
            cpu_start = cpu_clock()
            run(None, feed)
            cpu_stop = cpu_clock()
            stop = clock()
            times.append(stop - start)
            cpu_times.append(cpu_stop - cpu_start)
            interruptions.append(
                int(alone and stop - start > _LOST_SHARE * (cpu_stop - cpu_start) + _LOST_S)
            )
            elapsed_ms = (stop - begin) * 1e3
            whole = len(times) - sum(interruptions) if elapsed_ms >= min_ms else 0
            if whole >= min_runs or (len(times) >= min_runs and elapsed_ms >= max_ms):
                break
        if collecting:
            gc.enable()
        stride = -(-len(times) // MAX_TIMES)
        return {
            "times_ms": [round(t * 1e3, 5) for t in times[::stride]],
            "cpu_ms": [round(t * 1e3, 5) for t in cpu_times[::stride]],
            "interrupted": interruptions[::stride],
            "stride": stride,
        }

    def classify(self, session: int, images: str) -> dict[str, Any]:
        """Class of every image of a .npy file, one at a time as a device sees them."""
        found = self._open[session]
        name = found.get_inputs()[0].name
        data = np.load(images, allow_pickle=False)
        classes = [
            int(np.argmax(found.run(None, {name: data[i : i + 1]})[0][0]))
            for i in range(len(data))
        ]
        return {"classes": classes}

    def _random_feed(self, session: int) -> dict[str, Any]:
        feed = {}
        for value in self._open[session].get_inputs():
            shape = [1, *value.shape[1:]]
            if not all(isinstance(size, int) for size in shape):
                raise ValueError(
                    f"only the batch may be dynamic, but input {value.name!r} has shape "
                    f"{value.shape}; export with a fixed image size"
                )
            if value.type not in _DTYPES:
                raise ValueError(
                    f"inputs must be images in {', '.join(_DTYPES)}, but {value.name!r} is "
                    f"{value.type}"
                )
            data = np.random.default_rng(0).standard_normal(shape)
            if value.type != "tensor(float)":
                data = np.clip(data * 32 + 64, 0, 127)
            feed[value.name] = data.astype(_DTYPES[value.type])
        return feed


class Lock:
    """One user of this device at a time; the kernel takes it from a process that dies.

    Two files, so that turns are taken: who wants the device takes the gate and keeps it until
    the device is free, so that who has just let go cannot come back first.
    """

    def __init__(self) -> None:
        self._gate: TextIO | None = None
        self._device: TextIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process keeps others waiting."""
        return self._gate is not None or self._device is not None

    def lock(self, holder: str) -> dict[str, Any]:
        """Takes it, or a place in the queue; says who has it when it is not free."""
        if self._device is None:
            self._gate = self._gate or _try_flock("gate")
            if self._gate is not None:
                self._device = _try_flock("device")
            if self._device is None:
                return {"locked": False, "holder": _read(_lock_path("device")) or "another"}
            self._device.truncate(0)
            self._device.write(holder)
            self._device.flush()
            if self._gate is not None:
                self._gate.close()
                self._gate = None
        return {"locked": True}

    def unlock(self) -> dict[str, Any]:
        """Gives it back, or the place in the queue."""
        for file in (self._gate, self._device):
            if file is not None:
                file.close()
        self._gate = self._device = None
        return {}


def _lock_path(name: str) -> str:
    """A file in a folder of this user's alone: everybody can write to the one around it."""
    folder = os.path.join(tempfile.gettempdir(), f"compression-search-{os.getuid()}-locks")
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    state = os.lstat(folder)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise RuntimeError(
            f"{folder} must be a folder that only its owner can write to, but is not; remove it"
        )
    return os.path.join(folder, name)


def _try_flock(name: str) -> TextIO | None:
    path = _lock_path(name)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise RuntimeError(f"{path} must be a lock file: {error.strerror}; remove it") from None
    file = os.fdopen(descriptor, "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def find(sha256: str) -> dict[str, Any]:
    """Where on this device the file with this content is; None where it isn't whole.

    Files that were not asked for longest are deleted when all together are too many.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    files = sorted(glob.glob(os.path.join(folder, "*.bin")), key=os.path.getmtime, reverse=True)
    room = CACHE_BYTES
    wanted = os.path.join(folder, sha256 + ".bin")
    for path in files:
        room -= os.path.getsize(path)
        if room < 0 and path not in (wanted, files[0]):
            os.remove(path)
    if not os.path.exists(wanted):
        return {"path": None}
    digest = hashlib.sha256()
    with open(wanted, "rb") as file:
        for chunk in iter(lambda: file.read(2**20), b""):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        os.remove(wanted)
        return {"path": None}
    os.utime(wanted)
    return {"path": wanted}


def environment() -> dict[str, Any]:
    """What may change how fast this machine is, where the machine tells; else None."""
    frequencies = [
        _read(path)
        for path in sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    ]
    zones = [_read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in zones if text and text.lstrip("-").isdigit()]
    load = _read("/proc/loadavg")
    return {
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "mhz": [int(text) / 1000 for text in frequencies if text and text.isdigit()] or None,
        "temperature_c": max(degrees) if degrees else None,
        "throttled": _throttled(),
        "load_average": float(load.split()[0]) if load else None,
        **_cpu_seconds(),
    }


def hello() -> dict[str, Any]:
    """What doesn't change."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "agent": VERSION,
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": cores or 1,
        "parts": _cpuinfo("CPU part"),
        "flags": sorted({flag for line in _cpuinfo("flags", "Features") for flag in line.split()}),
    }


def peak_memory() -> dict[str, Any]:
    """Largest resident memory of this process so far.

    From the memory map's own high-water mark: getrusage's would include the process that
    started this one, because it survives exec.
    """
    for line in (_read("/proc/self/status") or "").splitlines():
        if line.startswith("VmHWM:"):
            return {"peak_bytes": int(line.split()[1]) * 1024}
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_bytes": peak * (1 if sys.platform == "darwin" else 1024)}


def _cpu_seconds() -> dict[str, Any]:
    """Processor time since boot: all processes', stolen by the hypervisor, this process's."""
    fields = (_read("/proc/stat") or "").split("\n", 1)[0].split()
    own = time.process_time()
    if len(fields) < 9:
        return {"busy_s": None, "steal_s": None, "own_s": own}
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = (int(f) / tick for f in fields[1:9])
    busy = user + nice + system + irq + softirq
    return {"busy_s": busy, "steal_s": steal, "own_s": own}


def _throttled() -> str | None:
    """The Raspberry Pi firmware's word on under-voltage and throttling."""
    try:
        done = subprocess.run(
            ["vcgencmd", "get_throttled"], capture_output=True, timeout=5, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().replace("throttled=", "") or None


def _cpu() -> str:
    text = _read("/proc/device-tree/model") or ""
    if text:
        return text.strip("\0")
    named = _cpuinfo("model name", "Model") or [f"CPU part {p}" for p in _cpuinfo("CPU part")]
    return named[0] if named else platform.machine()


def _cpuinfo(*keys: str) -> list[str]:
    """Different values of these keys in /proc/cpuinfo."""
    pairs = (line.partition(":") for line in (_read("/proc/cpuinfo") or "").splitlines())
    return sorted({value.strip() for key, _, value in pairs if key.strip() in keys})


def _read(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None


def serve() -> None:
    """Answers requests until standard input ends."""
    sessions, lock = Sessions(), Lock()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "open": sessions.open,
        "time": sessions.time,
        "close": sessions.close,
        "classify": sessions.classify,
        "environment": environment,
        "memory": peak_memory,
        "find": find,
        "lock": lock.lock,
        "unlock": lock.unlock,
    }
    _say(hello())
    while True:
        if lock.held and not select.select([sys.stdin], [], [], IDLE_LOCK_S)[0]:
            lock.unlock()
        line = sys.stdin.readline()
        if not line:
            return
        try:
            request = json.loads(line)
            answer = operations[request.pop("op")](**request)
        except Exception as error:  # the other side decides what an error means
            answer = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        _say(answer)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
