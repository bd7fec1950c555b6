"""A network of its own for the services of a compose file: a namespace each, joined by a bridge.

Nothing outside can reach what listens there, and no port is taken from anyone. Made with ``ip``,
which needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PREFIX = "10.88.77"  # seen inside these namespaces only
FILES = Path("/etc/netns")  # where ip looks for a namespace's own files


class Network:
    """Services by name, as compose makes them known to each other."""

    def __init__(self, names: Sequence[str]) -> None:
        self._id = f"search{os.getpid()}"
        self._addresses = {name: f"{PREFIX}.{number + 1}" for number, name in enumerate(names)}
        lines = [f"{address} {name}\n" for name, address in self._addresses.items()]
        hosts = "".join(["127.0.0.1 localhost\n", *lines])
        self._spaces: list[str] = []
        switch = self._space("switch")
        _ip(switch, "link add bridge type bridge")
        _ip(switch, f"addr add {PREFIX}.254/24 dev bridge")
        _ip(switch, "link set bridge up")
        for number, (name, address) in enumerate(self._addresses.items()):
            space = self._space(name)
            (FILES / space).mkdir(parents=True)
            (FILES / space / "hosts").write_text(hosts)
            # Itself, which refuses at once. On the loopback address buildah would put others.
            (FILES / space / "resolv.conf").write_text(f"nameserver {address}\n")
            _ip(switch, f"link add port{number} type veth peer name eth0 netns {space}")
            _ip(switch, f"link set port{number} master bridge up")
            _ip(space, f"addr add {address}/24 dev eth0")
            _ip(space, "link set eth0 up")
            _ip(space, f"route add default via {PREFIX}.254")  # leads nowhere

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """The command as one that runs on that host."""
        return ["ip", "netns", "exec", f"{self._id}-{name}", *command]

    def close(self) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=True)
            shutil.rmtree(FILES / space, ignore_errors=True)

    def _space(self, name: str) -> str:
        space = f"{self._id}-{name}"
        subprocess.run(["ip", "netns", "add", space], check=True)
        self._spaces.append(space)
        _ip(space, "link set lo up")
        return space


def _ip(space: str, arguments: str) -> None:
    subprocess.run(["ip", "-netns", space, *arguments.split()], check=True)
