"""The image, built once for all tests here."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from image import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "cluster"))


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    """IMAGE_FOLDER names a folder that is kept, for those who change these tests."""
    kept = os.environ.get("IMAGE_FOLDER")
    folder = Path(kept or tempfile.mkdtemp(prefix="image-"))
    yield Image(folder)
    if kept is None:
        shutil.rmtree(folder)
