"""A headless Chromium that looks at a page and says what a person would see on it."""

from __future__ import annotations

import subprocess
import tempfile
from html.parser import HTMLParser
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


class Seen(HTMLParser):
    """Text, pictures and drawings of a page as it stands after its scripts have run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.text, self.pictures, self.drawings, self._hidden = "", [], 0, 0
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        self.drawings += tag in ("svg", "canvas")
        if tag == "img":
            self.pictures.append(dict(attributes).get("src") or "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text = " ".join(f"{self.text} {data}".split())


def look(
    url: str, *, wait_ms: int = 0, picture: Path | None = None, size: tuple[int, int] = (1280, 900)
) -> Seen:
    """Opens ``url``, lets its clock run for ``wait_ms``, and reads (or pictures) the page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        if wait_ms:
            flags += [f"--virtual-time-budget={wait_ms}"]
        flags += [f"--screenshot={picture}"] if picture else ["--dump-dom"]
        done = subprocess.run(
            ["chromium", *flags, url], capture_output=True, text=True, check=True, timeout=120
        )
    return Seen(done.stdout)
