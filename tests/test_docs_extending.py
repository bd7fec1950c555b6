"""The recipes of docs/extending.md, run as they stand there on a copy of the packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PACKAGES = ("hardware_profiles", "spaces", "evaluators", "search", "tests")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_recipe_runs_as_it_stands(tmp_path: Path) -> None:
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),  # before an installed copy
        "COMPRESSION_SEARCH_CACHE": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
    }
    ran = []
    for language, file, text in BLOCK.findall(PAGE.read_text()):
        if file:
            assert language == "python"
            (tmp_path / file).write_text(text)
            continue
        if language == "toml":
            continue
        command = {"sh": ["bash", "-euc", text], "python": [sys.executable, "-c", text]}[language]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        ran.append(done.stdout + done.stderr)
    shown, held, searched, _ = ran
    assert "My board" in shown
    passed = re.search(r"(\d+) passed", held)
    assert passed
    assert int(passed[1]) >= 8
    assert "failed" not in held
    assert "proved" in searched.lower()
    assert (tmp_path / "runs" / "all-four" / "best" / "verify.py").is_file()
