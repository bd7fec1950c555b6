"""What a person or a peer may bring: refused in one line of exit code 2, and never run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from samples import sample_result, tiny_onnx

import evaluators.cli
import hardware_profiles.cli
import search.cli
from evaluators.latency import lease
from hardware_profiles.printable import printable
from search.bundle.write import write_bundle
from search.deciding.storage import sqlite_storage
from search.errors import StudyError
from search.masking import masked, masked_command
from search.running.study_folder import StudyFolder

SEARCH = ["--target", "arm", "--max-drop", "0.1", "--dry-run"]
NETWORK = """\
import torch
from torch import nn
def network(classes, channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, classes))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hostile_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def refused(main: Callable[[list[str]], int], arguments: list[str], error: object) -> str:
    """The one printable line with which a command ends; ``error`` is pytest's capture."""
    code = main(arguments)
    out, err = error.readouterr()  # type: ignore[attr-defined]
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2, err
    assert not out
    assert len(lines) == 1, err
    assert lines[0].isprintable()
    return lines[0]


def npz(path: Path, **arrays: object) -> Path:
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8)).astype(np.uint8)
    np.savez(path, **{"images": images, "labels": labels, **arrays})  # type: ignore[arg-type]
    return path


def of_network() -> dict[str, torch.Tensor]:
    names: dict[str, object] = {}
    exec(NETWORK, names)
    return names["network"](3, 1).state_dict()  # type: ignore[operator, no-any-return]


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "meta": lambda t: t.to("meta"),
    "float8": lambda t: t.to(torch.float8_e4m3fn),
    "sparse": lambda t: t.to_sparse(),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "complex": lambda t: t * (1 + 5j),
    "expanded": lambda t: torch.zeros(1).expand(10**6, 10**6),
    "infinite": lambda t: t / 0,
}


@pytest.mark.parametrize("kind", ODD)
def test_weights_of_odd_tensors_are_refused(
    folder: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = of_network()
        torch.save({**state, "4.bias": ODD[kind](state["4.bias"])}, folder / "w.pt")
    data = f"npz:{npz(folder / 'd.npz')}"
    options = ["--model", "hostile_net:network", "--weights", "w.pt", "--data", data]
    line = refused(search.cli.main, [*SEARCH, *options], capsys)
    assert "'4.bias'" in line


@pytest.mark.parametrize(
    ("saved", "note"),
    [
        (lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()}, "'_orig_mod.'"),
        (
            lambda s: {f"module.{k}": v for k, v in s.items()} | {"n_averaged": torch.tensor(3)},
            "1",
        ),
        (lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"lr": 0.1}}, "'state_dict'"),
        (lambda s: {"state_dict": s, "state_dict_ema": s}, "'state_dict_ema'"),
        (
            lambda s: {
                "state_dict": {f"model.{k}": v for k, v in s.items()}
                | {"criterion.weight": torch.ones(3)}
            },
            "1 other tensor",
        ),
        (lambda s: {f"backbone.{k}": v for k, v in s.items()}, "'backbone.'"),
        (lambda s: {f"0._orig_mod.{k[2:]}" if k[0] == "0" else k: v for k, v in s.items()}, "d.'"),
    ],
)
def test_weights_are_taken_as_they_are_saved(
    folder: Path,
    saved: Callable[[dict[str, torch.Tensor]], object],
    note: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.save(saved(of_network()), folder / "w.pt")
    data = f"npz:{npz(folder / 'd.npz')}"
    options = ["--model", "hostile_net:network", "--weights", "w.pt", "--data", data]
    assert search.cli.main([*SEARCH, *options]) == 0
    err = capsys.readouterr().err
    assert ("the weights were taken" in err) == bool(note)
    assert note in err


def test_unknown_prefix_that_would_fit_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({f"trunk.{k}": v for k, v in of_network().items()}, folder / "w.pt")
    data = f"npz:{npz(folder / 'd.npz')}"
    options = ["--model", "hostile_net:network", "--weights", "w.pt", "--data", data]
    assert "'trunk.'" in refused(search.cli.main, [*SEARCH, *options], capsys)


@pytest.mark.parametrize(
    ("location", "offset"),
    [
        *[(name, None) for name in ("../s.bin", "/dev/zero", "missing.bin", "link.bin")],
        *[("ok.bin", offset) for offset in ("-5", str(10**15), "x")],
        ("linked/ok.bin", None),
    ],
)
def test_weights_of_a_file_lie_beside_it(
    tmp_path: Path, location: str, offset: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4, 3, 1, 1], data_location=1)
    weight.external_data.add(key="location", value=location)
    if offset:
        weight.external_data.add(key="offset", value=offset)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", 1, ["b", 3, 8, 8])
    y = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    folder = tmp_path / "models"
    folder.mkdir()
    for path in (folder / "ok.bin", tmp_path / "s.bin"):
        path.write_bytes(b"0" * 48)
    (folder / "link.bin").symlink_to(tmp_path / "s.bin")
    (folder / "linked").symlink_to(folder)
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert location in refused(evaluators.cli.main, [str(folder / "m.onnx")], capsys)


def test_pipes_and_long_paths_are_no_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(folder / "pipe.toml")
    os.mkfifo(folder / "pipe.npz")
    long = "x/" * 3000
    for options in (
        ["--target", "pipe.toml"],
        ["--weights", "pipe.npz"],
        ["--preprocess", "pipe.npz"],
        ["--data", "npz:pipe.npz"],
        ["--data", "parquet:pipe.npz"],
        ["--target", f"{long}.toml"],
        ["--weights", long],
        ["--data", f"folder:{long}"],
        ["--data", f"npz:{long}"],
        ["--data", f"parquet:{long}"],
        ["--train", long],
        ["--preprocess", long],
        ["--study", "x" * 5000],
        ["--output", long],
        ["--model", f"{long}.pt2"],
        ["--image-size", "9" * 5000],
        ["--trials", "9" * 5000],
        ["--budget", "9" * 5000],
        ["--max-size", "9" * 5000],
        ["--seed", "9" * 5000],
        ["--workers", "9" * 5000],
        ["--max-drop", "9" * 5000],
    ):
        arguments = ["--target", "arm", "--max-drop", "0.1", *options]
        assert len(refused(search.cli.main, arguments, capsys)) < 1000, options
    assert "regular" in refused(evaluators.cli.main, ["pipe.npz"], capsys)


def test_deeply_nested_profile_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("[" * 5000 + "]" * 5000, "{a=" * 3000 + "1" + "}" * 3000, "9" * 5000):
        (folder / "p.toml").write_text(f"version = 1\nx = {text}")
        refused(hardware_profiles.cli.main, ["show", "p.toml"], capsys)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "[" * 10**5, "{", "\xff"])
def test_study_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    study = StudyFolder(folder)
    study.identity.write_bytes(text.encode("latin-1"))
    with pytest.raises(StudyError, match="must be"):
        study.stated()


def test_emptied_study_is_told_and_not_begun_anew(folder: Path) -> None:
    study = StudyFolder(folder)
    study.plans.mkdir()
    (study.plans / "untouched").mkdir()
    study.check_results(0)  # killed before its first trial was kept
    (study.plans / "another").mkdir()
    with pytest.raises(StudyError, match="files of 2 plans"):
        study.check_results(0)
    study.check_results(1)


@pytest.mark.parametrize("name", ["a?b", "a b", "a%20b", "{x}", "a#b", "ä&c"])
def test_database_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    sqlite_storage(tmp_path / name / "study.db")
    assert (tmp_path / name / "study.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "password", ["S3/CRET", "S3'CRET", "S3 CRET", "S3@CRET", "12/34", "%2F?a"]
)
def test_passwords_and_queries_are_hidden(password: str) -> None:
    for address in (f"postgresql://u:{password}@h/d", f"https://u:{password}@h/x"):
        assert masked(address).startswith(address.partition("//")[0] + "//***@h")
        assert password not in masked(address)
        assert password not in masked(f"the server at {address} does not answer")
        assert password not in masked_command(["--storage", address, "--seed", "0"])
    for key in ("sslpassword", "access_token", "sig", "X-Amz-Signature"):
        assert password not in masked(f"postgresql://u@h/d?x=1&{key}={password}")
    said = masked(f"can't log in with {password}", [f"postgresql://u:{password}@h/d"])
    assert password not in said


@pytest.mark.parametrize(
    "text",
    [
        "https://h/cb#access_token=SECRET",
        "https://h/p;sig=SECRET",
        "https://SECRET/tok@h/x",
        "https://tok/SECRET@h/x",
        "db://h/db?SECRET",
        "the server at https://h/x?sig=S SECRET&k=1 is away",
        "connection failed: password=SECRET host=h",
        "connection failed: password='SECRET x' host=h",
    ],
)
def test_secrets_are_hidden_wherever_an_address_may_hold_them(text: str) -> None:
    assert "SECRET" not in masked(text)
    assert "abc" not in masked("driver said abc is wrong", ["postgresql://u:abc@h/d"])


def test_lease_never_writes_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    mine = tmp_path / "keys"
    mine.write_text("precious")
    folder = tmp_path / f"compression-search-{os.getuid()}"
    folder.mkdir(mode=0o700)
    (folder / "gate").symlink_to(mine)
    with pytest.raises(lease.LeaseError, match="remove it"), lease.measuring():
        pass
    (folder / "gate").unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(lease.LeaseError, match="only its owner"), lease.measuring():
        pass
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    for _ in range(2):
        with pytest.raises(lease.LeaseError, match="only its owner"):
            lease.lease_folder()
    assert mine.read_text() == "precious"


def test_terminal_gets_no_control_characters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable("a\x1b[31mb\x07\udce9\u202e") == "a\\x1b[31mb\\x07\\udce9\\u202e"
    torch.save({"\x1b[31mred\r": torch.ones(1)}, folder / "w.pt")
    data = f"npz:{npz(folder / 'd.npz')}"
    options = ["--model", "hostile_net:network", "--weights", "w.pt", "--data", data]
    refused(search.cli.main, [*SEARCH, *options], capsys)


def test_image_is_never_handed_to_another_program(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bin").mkdir()
    ghostscript = folder / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\necho ran >> {folder}/ran\nexit 1\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    postscript = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(4):
            (folder / "photos" / name / f"{index}.jpg").write_text(postscript)
    refused(search.cli.main, [*SEARCH, "--data", "folder:photos"], capsys)
    assert not (folder / "ran").exists()


def test_what_is_unpacked_is_bounded_before_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.inputs.first_bytes.available_bytes", lambda: 10**6)
    np.savez_compressed(
        folder / "bomb.npz", images=np.zeros((9, 512, 512), np.uint8), labels=np.arange(9) % 3
    )
    assert "'images'" in refused(search.cli.main, [*SEARCH, "--data", "npz:bomb.npz"], capsys)


def photos(folder: Path, name: str, count: int = 12) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}{index}.png")


def test_folders_beside_the_splits_are_left_out_and_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            photos(folder / "odd" / split / name, name)
    for name in ("unlabeled", "__MACOSX", ".ipynb_checkpoints"):
        photos(folder / "odd" / name, "x")
    assert search.cli.main([*SEARCH, "--data", "folder:odd", "--image-size", "8", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["data"]["classes"] == ["cat", "dog"]
    assert json.loads(out)["data"]["train"] == 24
    assert "'unlabeled'" in err


def test_every_file_that_is_not_read_is_counted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        photos(folder / "photos" / name, name, 40)
    dog = folder / "photos" / "dog"
    for old, new in (("dog0.png", "a.jfif"), ("dog1.png", "a.gif")):
        Image.open(dog / old).save(dog / new, "JPEG" if new.endswith("jfif") else "GIF")
    (dog / "._dog3.png").write_bytes(b"\0\5\x16\7")
    (dog / "x.avif").write_bytes(b"?")
    (dog / "README.txt").write_text("?")
    (dog / "broken.png").write_bytes(b"no image")
    (dog / "cut.png").write_bytes((dog / "dog5.png").read_bytes()[:90])
    os.mkfifo(dog / "pipe.png")
    options = ["--data", "folder:photos", "--image-size", "8", "--json"]
    refused(search.cli.main, [*SEARCH, *options], capsys)  # two of 84 are broken
    (dog / "broken.png").unlink()
    assert search.cli.main([*SEARCH, *options]) == 0
    out, err = capsys.readouterr()
    splits = json.loads(out)["data"]
    assert splits["train"] + splits["validation"] + splits["test"] == 82
    for told in ("1 .avif", "1 .txt", "1 hidden", "cut.png"):
        assert told in err


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    result = sample_result(root)
    model = tiny_onnx(root / "model.onnx")
    assert result.winner is not None
    return write_bundle(root, result, result.winner, model)


def verified(bundle: Path, tmp_path: Path, change: Callable[[Path], object]) -> str:
    """What ``verify.py`` prints about a changed copy, which it must not let pass."""
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", str(bundle), str(copied)], check=True)
    change(copied)
    command = [sys.executable, "verify.py", "--seconds", "0"]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert not (copied / "RAN").exists()
    return done.stdout + done.stderr


SPY = "open('RAN', 'w'); print('holds'); raise SystemExit(0)"


@pytest.mark.parametrize("name", ["hashlib", "json", "argparse", "os", "numpy", "onnxruntime"])
def test_verifier_runs_nothing_that_was_added(bundle: Path, tmp_path: Path, name: str) -> None:
    said = verified(bundle, tmp_path, lambda c: (c / f"{name}.py").write_text(SPY))
    assert f"{name}.py: is not listed" in said


def test_verifier_names_links_folders_and_pipes(bundle: Path, tmp_path: Path) -> None:
    def change(copied: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "__init__.py").write_text(SPY)
        (copied / "numpy").symlink_to(tmp_path / "elsewhere")
        (copied / "empty").mkdir()
        (copied / "a\x1bb").write_text("")
        os.mkfifo(copied / "pipe")
        (copied / "model.onnx").rename(tmp_path / "model.onnx")
        (copied / "model.onnx").symlink_to(tmp_path / "model.onnx")

    said = verified(bundle, tmp_path, change)
    assert "numpy: is a link and not listed" in said
    assert "empty: is a folder and not listed" in said
    assert "pipe: is a special file and not listed" in said
    assert "'a\\x1bb': is not listed" in said
    assert "model.onnx: must be a file" in said


def test_verifier_outlives_names_and_depths(bundle: Path, tmp_path: Path) -> None:
    def deep(copied: Path) -> None:
        os.chdir(copied)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(tmp_path)

    def resealed(copied: Path) -> None:
        manifest = copied / "manifest.sha256"
        lines = manifest.read_bytes().splitlines(keepends=True)[:-1]
        listed = b"".join([*lines, b"0" * 64 + b"  a\x1b[31mb\0\n"])
        manifest.write_bytes(listed + f"# {hashlib.sha256(listed).hexdigest()}\n".encode())

    assert "d/d/d" in verified(bundle, tmp_path, deep)
    subprocess.run(["rm", "-r", str(tmp_path / "copied")], check=True)
    assert "\x1b" not in verified(bundle, tmp_path, resealed)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\n", b"no manifest\n"])
def test_verifier_without_its_manifest_says_so(
    bundle: Path, tmp_path: Path, content: bytes | None
) -> None:
    def change(copied: Path) -> None:
        (copied / "manifest.sha256").unlink()
        if content is not None:
            (copied / "manifest.sha256").write_bytes(content)

    assert "manifest.sha256" in verified(bundle, tmp_path, change)


# --- the same with inputs that chance has changed ---

MUTANTS = 520


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, left out, doubled, or the end cut off."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 10))):
        at = chance.randrange(len(data)) if data else 0
        kind = chance.randrange(5)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            del data[at : at + chance.randrange(1, 40)]
        elif kind == 2:
            data[at:at] = data[at : at + chance.randrange(1, 40)]
        elif kind == 3:
            del data[at:]
        else:
            data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"9999"))
    return bytes(data)


def seeds(folder: Path) -> Iterator[tuple[str, bytes, Callable[[list[str]], int], list[str]]]:
    """For each kind: the file's name, its content, and the command that reads it."""
    data = npz(folder / "d.npz")
    torch.save(of_network(), folder / "w.pt")
    network = ["--model", "hostile_net:network", "--data", f"npz:{data}"]
    base = [*SEARCH, "--image-size", "8"]
    with_weights = [*base, *network, "--weights"]
    yield "m.pt", (folder / "w.pt").read_bytes(), search.cli.main, [*with_weights, "m.pt"]
    safetensors = pytest.importorskip("safetensors.torch")
    saved = safetensors.save(of_network())
    yield "m.safetensors", saved, search.cli.main, [*with_weights, "m.safetensors"]
    own = ["--model", "hostile_net:network"]
    yield "m.npz", data.read_bytes(), search.cli.main, [*base, *own, "--data", "npz:m.npz"]
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    png = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(png, "PNG")
    table = pyarrow.table({"image": [png.getvalue()] * 60, "label": [i % 3 for i in range(60)]})
    table = table.replace_schema_metadata({"huggingface": b'{"info": {"features": {}}}'})
    parquet.write_table(table, folder / "p.parquet")
    content = (folder / "p.parquet").read_bytes()
    yield "m.parquet", content, search.cli.main, [*base, *own, "--data", "parquet:m.parquet"]
    profile = Path(hardware_profiles.cli.__file__).parent / "data" / "raspberry-pi-5.toml"
    yield "m.toml", profile.read_bytes(), hardware_profiles.cli.main, ["show", "m.toml"]
    recipe = json.dumps({"size": [8, 8], "mean": [0.5], "std": [0.2]}).encode()
    stated = [*SEARCH, *network, "--preprocess", "m.json"]
    yield "m.json", recipe, search.cli.main, stated
    study = json.dumps({"version": 2, "id": "x", "model": "m", "data": "d"}).encode()
    resumed = [*base[:-3], *network, "--study", "s", "--resume"]
    yield "runs/s/study.json", study, search.cli.main, resumed
    model = tiny_onnx(folder / "o.onnx").read_bytes()
    yield "m.onnx", model, evaluators.cli.main, ["m.onnx", "--target", "arm", "--tier", "analytic"]


def test_mutated_inputs_are_refused_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 and one printable line, or 0 where the change does no harm."""
    monkeypatch.setattr("evaluators.cli.walk", lambda *_, **__: ())
    monkeypatch.setattr("evaluators.cli._run_once", lambda *_: None)
    monkeypatch.setattr("search.telling.dry_run.seconds_per_image", lambda *_: 1.0)
    kinds = list(seeds(folder))
    codes = {0: 0, 2: 0}
    monkeypatch.setattr("search.app.Search.run", lambda _: pytest.fail(f"{number} is accepted"))
    for number in range(MUTANTS):
        chance = random.Random(number)
        name, content, main, arguments = kinds[number % len(kinds)]
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mutated(content, chance))
        code = main(arguments)
        _, err = capsys.readouterr()
        codes[code] += 1
        if code == 2:
            last = err.strip().splitlines()[-1]
            assert "Traceback" not in err, (number, name, err[-2000:])
            assert last.isprintable(), (number, name, last)
            assert len(last) < 2000, (number, name, last)
    assert codes[2] > MUTANTS / 4
