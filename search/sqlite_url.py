"""Addresses of SQLite files, whatever the names of their folders hold."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a file, quoted: a question mark would else begin a query."""
    url = URL.create("sqlite", database=str(path.resolve()))
    return url.render_as_string(hide_password=False)
