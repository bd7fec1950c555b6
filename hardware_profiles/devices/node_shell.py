"""Runs a command on a Ray node that has a resource, as ``ssh`` would on a board.

    python -P node_shell.py RESOURCE WORD...

The words, joined by blanks, go to a shell there, in the home folder, with the interpreter of
that node first on the path. Standard streams and the exit code are passed on. The cluster is
``RAY_ADDRESS``, or the one of this machine. Nothing of the resource is used up: whoever measures
there takes turns by the agent's own lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

SHARE = 0.001  # of the resource, so that the node is found and others can follow
CHUNK = 1 << 16
NO_CONNECTION = 255  # as ssh says it


class Shell:
    """One command on the node; an actor, each method in a thread of its own."""

    def __init__(self, command: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=Path.home(),
            env={**os.environ, "PATH": path},
        )

    def write(self, data: bytes) -> None:
        """To its standard input; nothing ends it."""
        assert self._process.stdin is not None
        try:
            if data:
                self._process.stdin.write(data)
            else:
                self._process.stdin.close()
        except BrokenPipeError:
            return  # it has ended; the exit code will say how

    def read(self, name: str) -> bytes:
        """What it says next on ``stdout`` or ``stderr``; nothing at its end."""
        return os.read(getattr(self._process, name).fileno(), CHUNK)

    def wait(self) -> int:
        """Its exit code."""
        return self._process.wait()


def main(resource: str, words: list[str]) -> int:
    """Runs the command and returns its exit code."""
    import ray

    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS", "auto"),
            logging_level="ERROR",
            log_to_driver=False,
        )
        if not ray.cluster_resources().get(resource):
            print(f"no node of the Ray cluster has the resource {resource}", file=sys.stderr)
            return NO_CONNECTION
        placed = ray.remote(num_cpus=0, resources={resource: SHARE}, max_concurrency=4)(Shell)
        shell = placed.remote(" ".join(words))
        threading.Thread(target=_send, args=(shell,), daemon=True).start()
        said = threading.Thread(target=_receive, args=(shell, "stderr", 2), daemon=True)
        said.start()
        _receive(shell, "stdout", 1)
        said.join()
        return int(ray.get(shell.wait.remote()))
    except BrokenPipeError:  # nobody listens any more; the actor ends with this process
        return NO_CONNECTION
    except (ConnectionError, ray.exceptions.RayError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return NO_CONNECTION


def _send(shell: Any) -> None:
    import ray

    data = b"?"
    while data:
        data = os.read(0, CHUNK)
        ray.get(shell.write.remote(data))


def _receive(shell: Any, name: str, descriptor: int) -> None:
    import ray

    while data := ray.get(shell.read.remote(name)):
        os.write(descriptor, data)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
