"""The command line: what it explains, and how it refuses."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from loading_samples import network, random_pixels, write_module, write_npz

from search.cli import build_parser, main, vars_of
from search.deciding.samplers import SAMPLERS
from search.masking import masked
from search.running.study_folder import FOLDER_VERSION

SEARCH = ["--target", "arm", "--max-drop", "0.03"]


class Ended(AssertionError):
    """A command that should have been refused went on."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the module ``net`` in it; whoever gets as far as a search fails."""
    write_module(tmp_path, monkeypatch, "net")
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def went_on(*_: object, **__: object) -> None:
        raise Ended

    monkeypatch.setattr("search.app.baseline_weights", went_on)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = main(list(arguments))
    except SystemExit as left:
        code = int(left.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that is refused."""
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("search: ")
    assert "Traceback" not in err
    return err


def weights_of(path: Path, **given: int) -> Path:
    torch.save(network(**given).state_dict(), path)
    return path


class RunsCode:
    """What a pickle of it does when it is loaded must never happen."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("ran",))


def _missing(folder: Path) -> list[str]:
    return ["--weights", "no.pt"]


def _truncated(folder: Path) -> list[str]:
    path = weights_of(folder / "cut.pt", classes=10)
    path.write_bytes(path.read_bytes()[:500])
    return ["--weights", "cut.pt"]


def _code(folder: Path) -> list[str]:
    (folder / "code.pt").write_bytes(pickle.dumps({"weight": RunsCode()}))
    return ["--weights", "code.pt"]


def _code_in_an_archive(folder: Path) -> list[str]:
    torch.save({"weight": RunsCode()}, folder / "code.pt")
    return ["--weights", "code.pt"]


def _other_architecture(folder: Path) -> list[str]:
    weights_of(folder / "wide.pt", classes=10, width=5)
    return ["--weights", "wide.pt"]


def _empty_folder(folder: Path) -> list[str]:
    (folder / "photos").mkdir()
    return ["--data", "folder:photos"]


def _few_images(folder: Path) -> list[str]:
    arrays = {"images": random_pixels(12), "labels": np.arange(12) % 6}
    return ["--data", write_npz(folder / "few.npz", **arrays)]


def _one_class(folder: Path) -> list[str]:
    return ["--data", write_npz(folder / "one.npz", labels=np.zeros(40, np.int64))]


def _not_a_number(folder: Path) -> list[str]:
    images = random_pixels(40).astype(np.float32) / 255
    images[7, 3, 3] = np.nan
    return ["--data", write_npz(folder / "nan.npz", images=images)]


def _unwritable(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["--output", "file"]


def _existing(folder: Path) -> list[str]:
    study = folder / "runs" / "mine"
    study.mkdir(parents=True)
    (study / "study.json").write_text(json.dumps({"version": FOLDER_VERSION}))
    return ["--study", "mine"]


def _of_another_model(folder: Path) -> list[str]:
    _existing(folder)
    identity = {"version": FOLDER_VERSION, "model": "torchvision:vgg11"}
    (folder / "runs" / "mine" / "study.json").write_text(json.dumps(identity))
    return ["--study", "mine", "--resume"]


def _none_to_resume(folder: Path) -> list[str]:
    return ["--study", "mine", "--resume"]


@pytest.mark.parametrize(
    ("make", "rule", "value", "remedy"),
    [
        (_missing, "must be a file", "'no.pt'", "check the path"),
        (_truncated, "must be a readable file", "'cut.pt' is truncated", "save"),
        (_code, "must be tensors only", "'code.pt'", "state_dict()"),
        (_code_in_an_archive, "must be tensors only", "'code.pt'", "state_dict()"),
        (_other_architecture, "must fit the architecture", "5x1x3x3 for 4x1x3x3", "--model"),
        (_empty_folder, "must not be empty", "'photos'", "one folder per class"),
        (_few_images, "at least as many images as classes, 6", "validation has 0", "--val"),
        (_one_class, "must be at least two classes", "has 1", "add"),
        (_not_a_number, "must be finite", "NaN", "repair"),
        (_unwritable, "--output must be a folder that can be written", "'file'", "choose another"),
        (_existing, "must name a new study", "mine", "--resume"),
        (_of_another_model, "must be of the same model", "torchvision:vgg11", "--study"),
        (_none_to_resume, "must find the study", "mine", "leave out --resume"),
    ],
)
def test_unusable_files_are_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], list[str]],
    rule: str,
    value: str,
    remedy: str,
) -> None:
    line = refused(capsys, *SEARCH, "--model", "net:network", *make(folder))
    for part in (rule, value, remedy):
        assert part in line, line
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--target", "raspbery-pi-4b"], ["must name a known device", "'raspberry-pi-4b'?"]),
        (["--target", "toaster"], ["'toaster'", "known: ", "raspberry-pi-5", "host"]),
        (["--target", "no.toml"], ["must be a readable file", "no.toml"]),
        (["--model", "torchvision:resnet81"], ["'resnet81'", "torchvision:resnet18"]),
        (["--model", "no_such:thing"], ["must be importable", "'no_such'"]),
        (["--data", "digts"], ["data must be one of", "'digts'", "mean 'digits'?"]),
        (["--data", "npz:no.npz"], ["no.npz"]),
        (["--sampler", "annealing"], ["--sampler", "'annealing'", *SAMPLERS]),
        (["--metric", "rmse"], ["--metric", "'rmse'", "balanced_accuracy"]),
        (["--max-drop", "1.5"], ["--max-drop", "[0, 1]", "1.5", "three points are 0.03"]),
        (["--max-drop", "-0.01"], ["--max-drop", "[0, 1]", "-0.01"]),
        (["--max-drop", "nan"], ["--max-drop", "[0, 1]", "nan"]),
        (["--max-drop", "much"], ["--max-drop", "must be a number", "'much'"]),
        (["--confidence", "1"], ["--confidence", "[0.5, 1)", "0.95"]),
        (["--trials", "-1"], ["--trials", "at least 0", "'-1'"]),
        (["--budget", "soon"], ["--budget", "such as 90s", "'soon'"]),
        (["--budget", "0s"], ["--budget", "positive", "'0s'"]),
        (["--max-size", "2 pounds"], ["--max-size", "such as 200kB", "'2 pounds'"]),
        (["--max-memory", "-1MB"], ["--max-memory"]),
        (["--max-latency", "0"], ["--max-latency", "above zero", "0"]),
        (["--max-latency", "inf"], ["--max-latency", "above zero", "inf"]),
        (["--seed", "one"], ["--seed", "'one'"]),
        (["--seed", "-1"], ["--seed", "-1"]),
        (["--image-size", "0"], ["--image-size", "0"]),
        (["--study", "a/b"], ["must be a plain name", "'a/b'"]),
        (["--studdy", "x"], ["--studdy", "--help explains"]),
        (["--train", "no-folder"], ["no-folder"]),
        (["--metric", "agreement"], ["must have a trained model", "--weights"]),
    ],
    ids=lambda value: " ".join(value) if value and str(value[0]).startswith("--") else "",
)
def test_unusable_options_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], parts: list[str]
) -> None:
    line = refused(capsys, *SEARCH, *arguments)
    for part in parts:
        assert part in line, line


@pytest.mark.parametrize("option", ["--target", "--max-drop"])
def test_what_is_required_is_named(capsys: pytest.CaptureFixture[str], option: str) -> None:
    at = SEARCH.index(option)
    assert option in refused(capsys, *SEARCH[:at], *SEARCH[at + 2 :])


def test_help_is_enough_to_get_started(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--help")
    assert (code, err) == (0, "")
    assert "python -m search --target arm --max-drop 0.03\n" in out
    assert "exit codes:" in out
    parser = build_parser()
    for action in parser._actions:
        assert action.help, f"{action.option_strings} has no help"
        assert all(option in out for option in action.option_strings)
    assert max(map(len, out.splitlines())) <= 100


def test_dry_run_says_what_would_be_searched_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_npz(folder / "a.npz", images=random_pixels(120), labels=np.arange(120) % 2)
    before = sorted(folder.iterdir())
    code, out, err = run(
        capsys, *SEARCH, "--model", "net:network", "--data", data, "--dry-run", "--trials", "7"
    )
    assert (code, out) == (0, "")
    for part in (
        "Raspberry Pi 4",
        "net:network",
        "2 layers",
        "0: 4 channels",  # the group's name and width
        "5: not pruned",
        "2 classes",
        "baselines fp32, int8",
        "epochs",
        "for 7 trials",
    ):
        assert part in err, err
    assert [p for p in sorted(folder.iterdir()) if p.name != "__pycache__"] == before


def test_device_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, *SEARCH, "--device", "ssh://nobody@127.0.0.1:1")
    assert "--device must name a device that can be used" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:secret@host:5000/x", "http://***@host:5000/x"),
        ("https://token@host/", "https://***@host/"),
        ("'https://a:p@b@host/'", "'https://***@host/'"),
        ("postgresql://me:secret@db/mlflow", "postgresql://***@db/mlflow"),
        ("mysql+pymysql://me:s3:cret@db", "mysql+pymysql://***@db"),
        ("http://host/?a=1&token=secret&b=2", "http://host/?***"),
        ("sqlite:////data/runs/mlflow.db", "sqlite:////data/runs/mlflow.db"),
        ("ssh://pi@board:22", "ssh://pi@board:22"),
        ("http://host:5000", "http://host:5000"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_secrets_in_addresses_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected
    assert masked(f"--a {text}") == f"--a {expected}"


def test_options_are_shown_without_secrets() -> None:
    given = argparse.Namespace(tracking_uri="http://u:secret@host", seed=0, study=None)
    assert vars_of(given) == {"tracking_uri": "http://***@host", "seed": 0}
