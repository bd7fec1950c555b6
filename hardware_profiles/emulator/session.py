"""One emulated machine that serves many files, and what it counted."""

from __future__ import annotations

import atexit
import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from hardware_profiles.counts import COUNT_COLUMNS
from hardware_profiles.emulator.errors import EmulatorError
from hardware_profiles.emulator.installation import find

START_SECONDS = 180.0
MODEL_SECONDS = 600.0
_GUEST = Path(__file__).with_name("guest.py")
_MARK_START, _MARK_CLOCK, _MARK_END = 1, 2, 3
# Below this many memory accesses the file is run once more, so that its caches are warm; a
# larger one has pushed its own beginning out of them, and a second run counts the same.
_WARM_ACCESSES = 40_000_000

Counts = Mapping[str, int]


@dataclass(frozen=True)
class KernelCounts:
    """One operator: its kernel's entry in the runtime's profile, and what was executed for it."""

    event: Mapping[str, Any]
    counts: Counts


@dataclass(frozen=True)
class Counted:
    """Events of one inference by ``COUNT_COLUMNS``, in total and by operator as executed.

    The operators add up to the total: what the runtime does between kernels is spread over them.
    """

    total: Counts
    kernels: tuple[KernelCounts, ...]


@dataclass(frozen=True)
class _Report:
    command: int
    ns: int
    counts: Counts


class Emulator:
    """An emulated core with the runtime loaded; started at first use, and anew after a crash.

    Safe to share between threads: requests wait for each other.
    """

    def __init__(self, core: str, counting: bool = True) -> None:
        """Nothing starts yet.

        Args:
            core: one of ``cores.CORES``.
            counting: with the plugin; without it nothing can be counted, and runs are faster.
        """
        self.core = core
        self._counting = counting
        self._lock = threading.RLock()
        self._guest: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._read = 0  # bytes of the plugin's reports
        self._said = b""  # by the guest, up to the end of a line

    def count(
        self, model: Path, named: Path | None = None, timeout_s: float = MODEL_SECONDS
    ) -> Counted:
        """Counts one inference at batch 1 with one thread and warm caches.

        The same file gives the same total in every process on this machine, whatever was
        counted before; only the operators' counts, from a profiled run, vary a little.

        Args:
            model: the ONNX file.
            named: the same model with a name on every node: its operators are counted too, in
                a run of their own.
            timeout_s: seconds for everything together.

        Raises:
            EmulatorError: not installed; or this file crashed it, hung, or cannot be run.
        """
        with self._lock, self._serving(model, timeout_s) as deadline:
            self._load(model, deadline, warm=True)
            total = self._counted(model, deadline, _MARK_START)[-1].counts
            small = total["acc"] < _WARM_ACCESSES
            if small:
                total = self._counted(model, deadline, _MARK_START)[-1].counts
            if named is None:
                return Counted(total, ())
            self._load(named, deadline, warm=small, profile="profile")
            reports = self._counted(model, deadline, _MARK_CLOCK)
            answer = self._ask(model, deadline, do="profile")
            written = self._reports.with_name(answer["profile"])
            events = json.loads(written.read_text())
            written.unlink()
        kernels = _kernels(events, reports, int(answer["start_ns"]))
        return Counted(total, _without_profiler(kernels, total))

    def predict(
        self, model: Path, images: Path, outputs: Path, timeout_s: float = MODEL_SECONDS
    ) -> None:
        """Runs the images of one ``.npy`` file, (N, ...), and writes outputs to another.

        Raises:
            EmulatorError: as ``count``.
        """
        with self._lock, self._serving(model, timeout_s) as deadline:
            self._load(model, deadline, warm=False)
            names = {"images": str(images.resolve()), "outputs": str(outputs.resolve())}
            self._ask(model, deadline, do="predict", **names)

    def close(self) -> None:
        """Ends the emulated machine; a later request starts another."""
        with self._lock:
            if self._guest is not None:
                self._end(self._guest)
            if self._folder is not None:
                self._folder.cleanup()
            self._guest = self._folder = None

    def __enter__(self) -> Emulator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        if self._guest is not None and self._guest.poll() is None:
            return
        setup = find()
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="compression-search-")
        folder = Path(self._folder.name)
        self._read, self._said = 0, b""
        with (folder / "stderr").open("wb") as stderr:
            self._guest = subprocess.Popen(
                [*setup.command(self.core, self._reports if self._counting else None), _GUEST],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={},
                cwd=folder,
                start_new_session=True,
            )
        self._answer("it started", time.monotonic() + START_SECONDS)
        if self._counting:
            header, _, _ = self._reports.read_text().partition("\n")
            self._read = len(header) + 1
            if tuple(header.split()) != COUNT_COLUMNS:
                self._fail("it started", f"its plugin counts other events: {header}")

    @property
    def _reports(self) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / "counts"

    @contextmanager
    def _serving(self, file: Path, timeout_s: float) -> Iterator[float]:
        """The requests of one file, and until when they must be answered."""
        self._start()
        deadline = time.monotonic() + timeout_s
        try:
            yield deadline
        finally:
            if self._guest is not None:
                self._ask(file, deadline, do="end")

    def _load(self, model: Path, deadline: float, warm: bool, profile: str | None = None) -> None:
        # By the same name wherever the folder is: what is counted depends on it a little.
        assert self._folder is not None
        folder = Path(self._folder.name) / "in"
        folder.unlink(missing_ok=True)
        folder.symlink_to(model.resolve().parent)
        request = {"model": f"in/{model.resolve().name}", "profile": profile, "warm": warm}
        self._ask(model, deadline, do="load", **request)

    def _counted(self, model: Path, deadline: float, mark: int) -> list[_Report]:
        self._ask(model, deadline, do="run", mark=mark)
        with self._reports.open() as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        reports = [_report(line) for line in lines]
        if not reports or reports[-1].command != _MARK_END:
            self._fail(f"it counted {model.name}", "its plugin reported nothing")
        return reports

    def _ask(self, file: Path, deadline: float, **request: object) -> dict[str, Any]:
        assert self._guest is not None
        assert self._guest.stdin is not None
        doing = f"it had {file.name}"
        if self._guest.poll() is not None:
            self._fail(doing, self._how_it_ended())
        try:
            self._guest.stdin.write(json.dumps(request).encode() + b"\n")
            self._guest.stdin.flush()
        except BrokenPipeError:
            self._fail(doing, self._how_it_ended())
        answer = self._answer(doing, deadline)
        if "error" in answer:
            raise EmulatorError(
                f"the runtime on the emulated {self.core} must be able to run {file}, but: "
                f"{answer['error']}"
            )
        return answer

    def _answer(self, doing: str, deadline: float) -> dict[str, Any]:
        assert self._guest is not None
        assert self._guest.stdout is not None
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._guest.stdout, selectors.EVENT_READ)
            while b"\n" not in self._said:
                try:
                    answered = waiting.select(max(0.0, deadline - time.monotonic()))
                except BaseException:
                    # Also after Ctrl-C: the answer would come later and be taken for another's.
                    self.close()
                    raise
                if not answered:
                    self._fail(doing, "it did not answer in time and was ended")
                more = os.read(self._guest.stdout.fileno(), 65536)
                if not more:
                    self._fail(doing, self._how_it_ended())
                self._said += more
        line, _, self._said = self._said.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _how_it_ended(self) -> str:
        assert self._guest is not None
        assert self._folder is not None
        code = self._guest.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        words = (Path(self._folder.name) / "stderr").read_text(errors="replace").split("\n")
        last = [line.strip() for line in words if line.strip()][-1:]
        return ": ".join([f"it stopped with {how}", *last])

    def _fail(self, doing: str, why: str) -> NoReturn:
        self.close()
        raise EmulatorError(
            f"the emulated {self.core} failed while {doing}: {why}; the next file gets a new one"
        )

    @staticmethod
    def _end(guest: subprocess.Popen[bytes]) -> None:
        with suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)  # with the fork that serves a file
        guest.wait()
        for stream in (guest.stdin, guest.stdout):
            if stream is not None:
                stream.close()


_shared: dict[tuple[int, str, bool], Emulator] = {}
_shared_lock = threading.Lock()


def shared(core: str, counting: bool = True) -> Emulator:
    """This process's one emulator for a core; it ends with the process."""
    key = (os.getpid(), core, counting)  # a forked child must not talk to its parent's
    with _shared_lock:
        if key not in _shared:
            _shared[key] = Emulator(core, counting)
            atexit.register(_shared[key].close)
        return _shared[key]


def run_python(
    script: Path, args: Sequence[str] = (), *, core: str = "a72", timeout_s: float = MODEL_SECONDS
) -> subprocess.CompletedProcess[str]:
    """Runs a script under the emulated Python, which has onnxruntime and numpy.

    Raises:
        EmulatorError: not installed, or the script took longer than ``timeout_s``.
    """
    command = [*find().command(core), str(script.resolve()), *args]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={},
            cwd=script.resolve().parent,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise EmulatorError(
            f"{script.name} must end within {timeout_s:g} s on the emulated {core}, but did not"
        ) from None


def _report(line: str) -> _Report:
    command, ns, *numbers = map(int, line.split())
    return _Report(command, ns, dict(zip(COUNT_COLUMNS, numbers, strict=True)))


def _kernels(
    events: Sequence[Mapping[str, Any]], reports: Sequence[_Report], start_ns: int
) -> tuple[KernelCounts, ...]:
    """Pairs kernels with the reports at their beginning and end.

    Both carry times of the same clock. The report is made just before the clock is read, so a
    reading belongs to the last report before it; the profile's times are whole microseconds,
    rounded down.
    """
    clock = [report for report in reports if report.command == _MARK_CLOCK]
    found = []
    position = 0

    def at(microseconds: int, slack: int) -> int:
        index = position
        until = start_ns + (microseconds + slack) * 1000
        while index + 1 < len(clock) and clock[index + 1].ns <= until:
            index += 1
        return index

    for event in events:
        is_kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if not is_kernel or start_ns + int(event["ts"]) * 1000 + 1000 < clock[0].ns:
            continue  # of the run before
        begin = position = at(int(event["ts"]), 1)
        end = position = at(int(event["ts"]) + int(event["dur"]), 2)
        if end == begin:
            raise EmulatorError(f"the profile's times do not fit the counts at {event['name']}")
        before, after = clock[begin].counts, clock[end].counts
        found.append(KernelCounts(event, {name: after[name] - before[name] for name in after}))
    return tuple(found)


def _without_profiler(kernels: Sequence[KernelCounts], total: Counts) -> tuple[KernelCounts, ...]:
    """Takes the profiler's own work out of the kernels, so that they add up to ``total``.

    The profiler writes an entry before it reads the clock a second time. It costs the same for
    every character of the entry (counted on operators that do nothing: 57 to 59 instructions).
    """
    written = [len(json.dumps(kernel.event["args"])) for kernel in kernels]
    per_character = {
        name: (sum(kernel.counts[name] for kernel in kernels) - count) / sum(written)
        for name, count in total.items()
    }
    return tuple(
        KernelCounts(
            kernel.event,
            {
                name: max(0, round(count - per_character[name] * length))
                for name, count in kernel.counts.items()
            },
        )
        for kernel, length in zip(kernels, written, strict=True)
    )
