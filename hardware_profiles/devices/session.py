"""Talking to the agent on a device: one process there, one line each way."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from hardware_profiles.devices.device import (
    Device,
    DeviceError,
    ModelError,
    NoAnswerError,
    file_sha256,
)

AGENT = Path(__file__).with_name("agent.py")
ANSWER_S = 60.0  # for requests that compute nothing long
START_S = 60.0  # importing onnxruntime takes 10 s on a small board, more under emulation


class AgentSession:
    """A running agent. Not thread-safe; close it, or use it as a context manager.

    Raises:
        DeviceError: the device cannot be reached, lacks the runtime, or does not answer.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        script = device.push(AGENT, file_sha256(AGENT), ".py")
        self._process = subprocess.Popen(
            device.command(script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the search, which then ends this tidily
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: deque[str] = deque(maxlen=50)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read_answers, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.about = self._hello()
        except DeviceError:
            self.close()
            raise

    def __enter__(self) -> AgentSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the local process: the agent here, or the ssh to it."""
        return self._process.pid

    def ask(self, op: str, timeout_s: float = ANSWER_S, **fields: Any) -> dict[str, Any]:
        """One request, one answer.

        Raises:
            DeviceError: the device disappeared or did not answer in time.
            ModelError: it answered that it could not.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **fields}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise DeviceError(self._last_words("disappeared")) from None
        try:
            answer: dict[str, Any] = json.loads(self._next_line(timeout_s))
        except BaseException:
            # Also after Ctrl-C: the answer would come later and be taken for another's.
            self._process.kill()
            self._process.wait()
            raise
        if "error" in answer:
            raise ModelError(f"{self.device.name}: {answer['error']}")
        return answer

    @contextlib.contextmanager
    def opened(self, model: str, threads: int) -> Iterator[int]:
        """A session for the file at ``model`` (a path there), closed at the end."""
        number = int(
            self.ask("open", timeout_s=10 * ANSWER_S, model=model, threads=threads)["session"]
        )
        try:
            yield number
        finally:
            if self.alive:
                self.ask("close", session=number)

    def bring(self, path: Path) -> str:
        """Path there of a file with this content, copied only if it isn't there yet.

        Raises:
            DeviceError: it could not be copied whole.
        """
        if not self.device.prefix:
            return str(path)
        sha256 = file_sha256(path)
        there = self.ask("find", sha256=sha256)["path"]
        if there is None:
            self.device.push(path, sha256, ".bin")
            there = self.ask("find", sha256=sha256)["path"]
        if there is None:
            raise DeviceError(f"{self.device.name}: {path.name} arrived damaged; try again")
        return str(there)

    def close(self) -> None:
        """Ends the agent by ending its input; kills it where that does not help."""
        if self._process.stdin is not None:
            # What was left to send does not matter any more.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _hello(self) -> Mapping[str, Any]:
        while True:
            line = self._next_line(START_S, gone="the agent could not start there")
            # A login shell may greet before the agent does.
            if line.startswith('{"agent"'):
                about: dict[str, Any] = json.loads(line)
                return about

    def _next_line(self, timeout_s: float, gone: str = "disappeared") -> str:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise NoAnswerError(
                f"{self.device.name}: no answer within {timeout_s:.0f} s; check that it is alive"
            ) from None
        if line is None:
            raise DeviceError(self._last_words(gone))
        return line

    def _last_words(self, what: str) -> str:
        for reader in self._readers:
            reader.join(timeout=2)
        return self.device.explain(what, "\n".join(self._errors))

    def _read_answers(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self, stream: IO[str]) -> None:
        self._errors.extend(stream)
