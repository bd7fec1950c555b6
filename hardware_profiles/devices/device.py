"""Where a file can be run: this host, a board over SSH, or an emulator. A command prefix.

    Device()                                        this host, in a fresh process
    parse_device("ssh://pi@board")                  a board, port and keys from ssh's own settings
    parse_device("ssh://pi@board:2222/home/pi/venv/bin/python")   with its own interpreter
    parse_device("ray:pi4")                         a node of a Ray cluster with that resource
    Device("emulated A72", python=("qemu-aarch64", ..., "python3.11"))

Errors:
    DeviceError       the device cannot be reached or disappeared; the message has the remedy
      AddressError    its address is malformed
      NoAnswerError   it said nothing for too long
    ModelError        the device is fine, the file does not run there
"""

from __future__ import annotations

import hashlib
import re
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

NODE_SHELL = Path(__file__).with_name("node_shell.py")
CONNECT_S = 10
REMOTE_FOLDER = ".cache/compression-search"  # below the login folder
# Keys only, no questions, known hosts only, nothing forwarded, and a dead link is noticed.
_SSH_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_PYTHON = re.compile(r"(/[A-Za-z0-9_.+-]+)+")
# What ssh, the shell or Python say, and what to do about it.
_REMEDIES = {
    "Host key verification failed": "connect once by hand and check its key: ssh {there}",
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its key changed; check why before going on",
    "Permission denied": "set up a key: ssh-copy-id {there}",
    "No module named": "install the runtime there: python3 -m pip install onnxruntime numpy, "
    "or name the interpreter that has it: ssh://user@board/home/user/venv/bin/python",
    "not found": "name the interpreter: ssh://user@board/usr/bin/python3",
    "No such file or directory": "name the interpreter: ssh://user@board/usr/bin/python3",
    "Could not resolve hostname": "check the name, or give the address",
    "Connection refused": "check that sshd runs there and the port",
    "Connection timed out": "check that it is on and in this network",
    "No route to host": "check that it is on and in this network",
}


class DeviceError(RuntimeError):
    """A device cannot be used; one line with the remedy."""


class NoAnswerError(DeviceError):
    """The device is there but says nothing; what it did was ended."""


class AddressError(DeviceError):
    """``--device`` is malformed."""


class ModelError(ValueError):
    """A file does not run on a device that works."""


@dataclass(frozen=True)
class Device:
    """A place that runs Python with onnxruntime.

    ``prefix`` is put before every command, ``python`` is the interpreter there. Without a
    prefix the device sees the files of this machine (it *is* this machine, or emulated on it).
    """

    name: str = "host"
    prefix: tuple[str, ...] = ()
    # -P: the folder of the agent is no place to import from.
    python: tuple[str, ...] = (sys.executable, "-P")

    def command(self, *arguments: str) -> list[str]:
        """The command that runs the interpreter there with these arguments."""
        return [*self.prefix, *self.python, *arguments]

    def push(self, path: Path, sha256: str, suffix: str) -> str:
        """Brings a file's content there, named after its hash, and returns its path there.

        Raises:
            DeviceError: it cannot be reached, or has no room.
        """
        if not self.prefix:
            return str(path)
        target = f"{REMOTE_FOLDER}/{sha256}{suffix}"
        # Only names made here reach the shell on the other side, whichever that is.
        part = f"{target}.{secrets.token_hex(4)}"
        script = f"mkdir -p {REMOTE_FOLDER} && cat > {part} && mv {part} {target}"
        with path.open("rb") as content:
            done = subprocess.run(
                [*self.prefix, script], stdin=content, capture_output=True, text=True
            )
        if done.returncode != 0:
            # 255 is ssh's own trouble, anything else that of the command there.
            what = "cannot be reached" if done.returncode == 255 else "a file could not be copied"
            raise DeviceError(self.explain(what, done.stderr))
        return target

    def explain(self, what: str, stderr: str) -> str:
        """One line: what failed on this device, its last words, and the remedy if known."""
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        for needle, remedy in _REMEDIES.items():
            for line in lines:
                if needle in line:
                    return f"{self.name}: {what}: {line}; {remedy.format(there=self._there)}"
        last = f": {lines[-1]}" if lines else ""
        return f"{self.name}: {what}{last}"

    @property
    def _there(self) -> str:
        """The address as ssh and ssh-copy-id take it, with the port as an option."""
        port = self.prefix[-4:-2] if "-p" in self.prefix else ()
        return " ".join([*port, *self.prefix[-1:]])


HOST = Device()


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_device(url: str) -> Device:
    """The device that ``--device`` means: ``host``, ``ssh://[user@]host[:port][/python]``, or
    ``ray:RESOURCE`` for the node of a Ray cluster that has a resource.

    Raises:
        AddressError: the address is not of this form, or holds a password.
    """
    if url == "host":
        return HOST
    rule = "--device must be ssh://[user@]board[:port][/path/to/python], ray:RESOURCE or host"
    kind, _, resource = url.partition(":")
    if kind == "ray" and _NAME.fullmatch(resource):
        return Device(url, (sys.executable, "-P", str(NODE_SHELL), resource), ("python3",))
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError(f"{rule}, but got {url!r}: {error}") from None
    if parts.password is not None:
        raise AddressError(
            "--device must not hold a password (it is never stored or sent); "
            "set up a key: ssh-copy-id"
        )
    names = [parts.hostname or "", *([parts.username] if parts.username is not None else [])]
    well_formed = parts.scheme == "ssh" and all(_NAME.fullmatch(name) for name in names)
    extra = parts.query or parts.fragment
    python = "" if parts.path in ("", "/") else parts.path
    if not well_formed or extra or (python and not _PYTHON.fullmatch(python)):
        raise AddressError(f"{rule}, but got {url!r}")
    address = f"{parts.username}@{parts.hostname}" if parts.username else str(parts.hostname)
    options = [f"-o{key}={value}" for key, value in _SSH_OPTIONS.items()]
    ports = ["-p", str(port)] if port is not None else []
    return Device(
        name=f"ssh://{address}" + (f":{port}" if port is not None else ""),
        prefix=("ssh", "-T", *options, *ports, "--", address),
        python=(python or "python3",),
    )
