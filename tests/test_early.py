"""What a person meets at once: typos without a wait, the outline as JSON, readers that leave."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from loading_samples import random_pixels, write_module, write_npz
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)
from torchvision import models

from evaluators.cli import measure
from hardware_profiles.requirements import REQUIRED, told_when_missing
from search.cli import again, main
from search.errors import InputError
from search.inputs.loading import load_task
from search.inputs.models.registered import registered
from search.inputs.sources import list_sources
from search.publishing.registry import check_registration
from spaces.files.export import export_onnx

ROOT = Path(__file__).parent.parent
SEARCH = ["--target", "arm", "--max-drop", "0.03"]
SLOW = ("torch", "torchvision", "timm", "onnxruntime", "optuna", "mlflow", "ray", "scipy")


def python(code: str, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_typos_are_refused_before_anything_slow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "taken").write_text("")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "study.json").write_text("{}")
    typos = [
        ["--target", "amr"],
        ["--model", "torchvision:resnt18"],
        ["--model", "resnet18"],
        ["--model", "timm:efficientnet_lit0"],
        ["--model", "no_such:thing"],
        ["--data", "npz:no.npz"],
        ["--data", "npz:text.npz"],
        ["--data", "folder:no"],
        ["--data", "digts"],
        ["--data", "torchvision:CIFAR"],
        ["--data", "parquet:no"],
        ["--data", "no_such:thing"],
        ["--weights", "no.pt"],
        ["--weights", "text.pt"],
        ["--train", "no"],
        ["--image-size", "0"],
        ["--preprocess", "no.json"],
        ["--output", "taken"],
        ["--output", "taken/deeper"],
        ["--study", "mine"],
        ["--study", "other", "--resume"],
        ["--study", "a/b"],
        ["--register", "a/b"],
        ["--register", ""],
        ["--no-such-option"],
    ]
    before = sorted(tmp_path.rglob("*"))
    code = f"""
import json, sys
from search.cli import main
for typo in json.loads(sys.argv[1]):
    assert main({SEARCH} + typo) == 2, typo
    slow = {SLOW} & sys.modules.keys()
    assert not slow, (typo, slow)
"""
    code = code.replace(str(SLOW), str(set(SLOW)))
    out, err = python(code, json.dumps(typos), folder=tmp_path).communicate(timeout=60)
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == len(typos), err
    assert all(line.startswith("search: ") for line in lines)
    assert sorted(tmp_path.rglob("*")) == before


NAMES = ["cells", "a b", "a.b", "..a", ".a", "a@b", "ä", "", " ", "/", "a/b", "a:b", ".", ".."]
TARGETS = ["raspberry-pi-4b", "host", "A_1", "v2x", "latestx", "", "my board", "a.b", "a@b"]
TARGETS += ["latest", "Latest", "v8", "V12", "a" * 255, "a" * 256]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_refused_that_mlflow_would_refuse(name: str) -> None:
    assert _passes(check_registration, name, "host") == _passes(_validate_model_name, name)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_refused_that_mlflow_refuses_as_aliases(target: str) -> None:
    theirs = (_validate_model_alias_name, _validate_model_alias_name_reserved)
    taken = all(_passes(check, target) for check in theirs)
    assert _passes(check_registration, "cells", target) == taken


def _passes(check: Callable[..., None], *values: str) -> bool:
    try:
        check(*values)
    except (InputError, MlflowException):
        return False
    return True


def test_sources_are_found_without_importing_their_helpers() -> None:
    assert set(list_sources("search.inputs.models")) >= {"", "timm", "torchvision"}
    for package in ("search.inputs.models", "search.inputs.data"):
        for source in list_sources(package).values():
            assert callable(source.check)


def test_names_in_the_source_text_are_those_that_the_packages_know() -> None:
    assert list(registered("torchvision")) == sorted(models.list_models(module=models))
    timm = import_module("timm")
    assert set(registered("timm")) == set(timm.list_models())


def test_name_that_is_spelled_somewhere_but_no_model_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("torchvision:ResNet", "timm:ResNet"):
        assert main([*SEARCH, "--model", name]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "'ResNet'" in said


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert capsys.readouterr().out == f"compression-search {stated}\n"


def figure_of_the_exported_file(data: str) -> float:
    """What ``python -m evaluators`` says of the untouched model's file."""
    task = load_task("net:network", data=data)
    path = Path(data.partition(":")[2]).with_name("untouched.onnx")
    stated = task.data.preprocess
    export_onnx(task.build().eval(), path, (stated.channels, *stated.size))
    return float(measure(path, "arm", "analytic")["latency_ms"])


def test_dry_run_as_json_is_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_module(tmp_path, monkeypatch, "net")
    data = write_npz(tmp_path / "a.npz", images=random_pixels(120), labels=np.arange(120) % 2)
    options = [*SEARCH, "--model", "net:network", "--data", data, "--dry-run", "--trials", "7"]
    assert main([*options, "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["target"] == "raspberry-pi-4b"
    assert found["model"]["name"] == "net:network"
    assert found["model"]["layers"] == 2
    assert found["model"]["latency_ms"] == figure_of_the_exported_file(data)
    assert found["data"]["train"] + found["data"]["validation"] + found["data"]["test"] == 120
    assert found["data"]["size"] == [8, 8]
    assert found["groups"] == {"0": 4}
    assert found["not_pruned"]
    assert {"fp32", "int8"} <= set(found["baselines"])
    assert (found["trials"], found["budget_seconds"]) == (7, None)
    assert 0 < found["trial_seconds"] < found["untouched_seconds"] < found["seconds"]
    assert f"{found['dimensions']} dimensions" in err
    assert main(options) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("given", "command"),
    [
        ("--target arm --study mine --seed 1", "--target arm --seed 1"),
        ("--study=mine --resume --target arm", "--target arm"),
        ("--target arm --trials 3", "--target arm --trials 3"),
    ],
)
def test_command_to_reproduce_runs_as_given(given: str, command: str) -> None:
    assert " ".join(again(given.split())) == f"python -m search {command}"


def test_options_may_not_be_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SEARCH, "--stud", "mine"]) == 2
    assert "--stud" in capsys.readouterr().err


def test_reader_of_the_help_may_leave(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "search", "--help"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""


def test_search_that_nobody_reads_is_interrupted(tmp_path: Path) -> None:
    """As by Ctrl-C; what is printed after that, while it ends tidily, goes nowhere."""
    code = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from search.running.interruption import came, caught, finishing
from search.running.broken_pipes import outlive_readers
outlive_readers()
with caught():
    try:
        while True:
            print("trial", file=sys.stderr)
            time.sleep(0.01)
    except KeyboardInterrupt:
        finishing()
        print("the end", file=sys.stderr)
        print("the result", flush=True)
        Path("ended").write_text(f"{came()}")
"""
    process = python(code, folder=tmp_path)
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline() == "trial\n"
    process.stderr.close()
    assert process.stdout.read() == "the result\n"
    assert process.wait(60) == 0
    assert (tmp_path / "ended").read_text() == "True"


# A Python that lacks what pyproject.toml requires


@pytest.mark.parametrize(
    "command",
    [
        ["search", *SEARCH],
        ["hardware_profiles", "list"],
        ["evaluators", "model.onnx"],
    ],
    ids=lambda command: command[0],
)
def test_python_without_the_dependencies_is_told_in_one_line(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", *command],  # -S: without site-packages
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.search(r"the package \w+ must be installed, but .*python", done.stderr)
    assert ". .venv/bin/activate" in done.stderr


@pytest.mark.parametrize(
    "missing", ["search.no_such_module", "torch.no_such_module", "_ctypes", "theirs"]
)
def test_other_modules_that_are_missing_are_errors_as_ever(missing: str) -> None:
    with pytest.raises(ModuleNotFoundError), told_when_missing("search"):
        raise ModuleNotFoundError(name=missing)


def test_packages_that_must_be_installed_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split(r"[<>=\[]", each)[0] for each in project["dependencies"]}
    distributions = packages_distributions()
    owners = {
        name: {o.lower().replace("_", "-") for o in distributions[name]} for name in REQUIRED
    }
    assert all(owned & required for owned in owners.values()), owners
    assert required <= set().union(*owners.values())
