"""A search in the image, by the account of the image."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from image import ACCOUNT, NAME, Image


def size_bytes(folder: Path) -> int:
    """What files in the folder take, each once."""
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def test_image_is_small_and_said_to_be(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    size = size_bytes(image.root)
    with capsys.disabled():
        took = "" if image.build_s is None else f", built in {image.build_s:.0f} s"
        print(f"\n{NAME}: {size / 1e9:.2f} GB{took}")
    assert size < 3e9  # PyTorch with CUDA alone has more


def test_image_knows_its_account_and_its_health(image: Image) -> None:
    config = image.config
    assert config["User"] == f"{ACCOUNT}:{ACCOUNT}"
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "test -w /work/runs"]
    assert image.run("sh", "-c", config["Healthcheck"]["Test"][1]).returncode == 0
    assert image.run("id", "-u").stdout.strip() == str(ACCOUNT)


def test_image_keeps_nothing_of_the_machine_that_built_it(image: Image) -> None:
    """No configuration of pip, and none of the packages that were handed to the build."""
    names = {entry.partition("=")[0] for entry in image.config["Env"]}
    assert not any(name.startswith(("PIP_", "UV_")) or "proxy" in name.lower() for name in names)
    assert list(image.root.rglob("pip.conf")) == []
    # Those that a package brings for itself, as virtualenv its pip, lie beside it.
    for folder in ("run", "root", "opt", "home"):
        wheels = (image.root / folder).rglob("*.whl")
        assert [p for p in wheels if "site-packages" not in p.parts] == []
    assert [p for p in (image.root / "run").rglob("*") if p.is_file()] == []
    done = image.run("python", "-m", "pip", "config", "list")
    assert (done.returncode, done.stdout) == (0, "")


def test_search_in_the_image_ends_with_a_bundle_that_proves_itself(image: Image) -> None:
    study = f"digits-{os.getpid()}"
    done = image.run_search(
        *("--target", "arm", "--max-drop", "0.03", "--trials", "6", "--budget", "2m"),
        *("--study", study, "--json"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["trials"]["completed"] >= 1
    runs = image.folder / "runs"
    verify = ["python", f"runs/{study}/best/verify.py"]
    proved = subprocess.run(
        image.command(verify, volumes={runs: "/work/runs"}), capture_output=True, text=True
    )
    assert proved.returncode == 0, proved.stdout + proved.stderr
    written = [runs, *runs.rglob("*")]
    assert (runs / study / "best" / "model.onnx") in written
    assert {(p.lstat().st_uid, p.lstat().st_gid) for p in written} == {(ACCOUNT, ACCOUNT)}


def test_bad_input_is_one_line(image: Image) -> None:
    done = image.run_search("--target", "toaster", "--max-drop", "0.03")
    assert done.returncode == 2
    assert "toaster" in done.stderr
    assert "Traceback" not in done.stderr
