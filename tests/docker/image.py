"""The image as ``scripts/image`` builds it, and commands in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent
SCRIPT = PROJECT / "scripts" / "image"
NAME = "localhost/compression-search"
ACCOUNT = 10001


class Image:
    """In a folder; built once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.build_s: float | None = None
        if not (folder / "storage").is_dir():
            began = time.monotonic()
            subprocess.run(
                [str(SCRIPT), "build", str(folder)],
                check=True,
                env={**os.environ, "PYTHON": sys.executable},
            )
            self.build_s = time.monotonic() - began
        self.root = Path(self._buildah("mount", "search").strip())

    @property
    def config(self) -> dict[str, Any]:
        """What the image says of itself: user, environment, health check."""
        found: dict[str, Any] = json.loads(self._buildah("inspect", "--type", "image", NAME))
        return dict(found["Docker"]["config"])

    def run_search(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(SCRIPT), "run", str(self.folder), *arguments], capture_output=True, text=True
        )

    def command(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        volumes: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """The command as one that runs in a container of the image, by its user."""
        options = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        options += [f"--volume={path}:{place}" for path, place in (volumes or {}).items()]
        return [
            str(SCRIPT),
            "buildah",
            str(self.folder),
            "run",
            *options,
            "search",
            "--",
            *command,
        ]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(command), capture_output=True, text=True)

    def _buildah(self, *arguments: str) -> str:
        return subprocess.run(
            [str(SCRIPT), "buildah", str(self.folder), *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
