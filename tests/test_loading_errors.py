"""Bad input: one line that states the rule, the value and the remedy."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading_samples import network, random_pixels, write_folder, write_module, write_npz
from PIL import Image

from search.errors import InputError
from search.inputs.data.preprocessing import parse_image_size
from search.inputs.loading import load_task

FUNCTIONS = """
import torch
number = 3
def fails(**given):
    raise KeyError("no such file")
def nothing(**given):
    return None
def plain(classes):
    return "a network"
def two_outputs(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2 * classes))
def only_32(classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, classes))
def items():
    return [1, 2, 3]
def empty():
    return []
def test_only():
    return {"test": [(torch.zeros(1, 4, 4), 0)]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the modules ``net`` and ``functions`` in it."""
    write_module(tmp_path, monkeypatch, "net")
    write_module(tmp_path, monkeypatch, "functions", FUNCTIONS)
    return tmp_path


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def check(message: str, rule: str, value: str, remedy: str) -> None:
    for part in (rule, value, remedy):
        assert part in message
    assert message.index(rule) < message.index(value) < message.rindex(remedy)


@pytest.mark.parametrize(
    ("spec", "rule", "value", "remedy"),
    [
        ("resnet18", "a model must be one of", "'resnet18'", "mean 'torchvision:resnet18'?"),
        ("torchvisoin:vgg11", "a model must be one of", "visoin", "mean 'torchvision:vgg11'?"),
        ("what is this", "a model must be one of", "'what is this'", "see --help"),
        ("torchvision:resnet81", "one of torchvision's", "'resnet81'", "torchvision:resnet18?"),
        ("torchvision:", "one of torchvision's", "''", "such as torchvision:resnet18"),
        ("timm:eficientnet_lite0", "one of timm's", "'efici", "timm:efficientnet_lite0?"),
        ("no.such:thing", "must be importable", "'no.such'", "change to its folder or install"),
        ("functions:absent", "must name a function", "nothing", "define `def absent"),
        ("functions:number", "must name a function", "a int", "define `def number"),
        ("functions:", "must name a function", "nothing", "define `def function"),
        ("functions:plain", "must return a torch.nn.Module", "a str", "return the model itself"),
        ("functions:fails", "must be buildable", "KeyError: 'no such file'", "correct it"),
        ("functions:two_outputs", "one score per class, (1, 2)", "(1, 4)", "return the logits"),
        ("functions:only_32", "must take an image of", "64", "try another --image-size"),
        ("torchvision:vit_b_32", "must be buildable", "vit_b_32", "try another --image-size"),
    ],
)
def test_unusable_model_is_refused(
    folder: Path, spec: str, rule: str, value: str, remedy: str
) -> None:
    data = write_npz(folder / "a.npz")
    check(message_of(lambda: load_task(spec, data=data)), rule, value, remedy)


@pytest.mark.parametrize(
    ("text", "value"),
    [("import no_such_package", "'no_such_package'"), ("1 / 0", "ZeroDivisionError")],
)
@pytest.mark.parametrize("is_parent", [False, True])
def test_module_that_raises_on_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str, is_parent: bool
) -> None:
    write_module(tmp_path, monkeypatch, "broken", text)
    if is_parent:
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken.py").rename(tmp_path / "broken" / "__init__.py")
        (tmp_path / "broken" / "inner.py").write_text("")
    module = "broken.inner" if is_parent else "broken"
    message = message_of(lambda: load_task(f"{module}:network"))
    check(message, "must be importable", value, f"python -c 'import {module}'")


def test_missing_optional_package_is_named_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    message = message_of(lambda: load_task("timm:resnet18"))
    check(message, "a model of timm needs", "timm, which is not", "run: pip install timm")


class RunsCode:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("code-was-run",)


def write_weights(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.pt"
    state: dict[str, torch.Tensor] = network(2).state_dict()
    if kind == "code":
        torch.save({"state_dict": RunsCode()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(RunsCode()))
    elif kind == "whole model":
        torch.save(network(2), path)
    elif kind in ("truncated", "empty", "text"):
        torch.save(state, path)
        content = {"truncated": path.read_bytes()[:-999], "empty": b"", "text": b"hello\n"}
        path.write_bytes(content[kind])
    elif kind == "truncated.safetensors":
        path = folder / kind
        path.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
    elif kind != "missing":
        contents: dict[str, object] = {
            "list": [1, 2],
            "nothing": {},
            "numbers": {"epoch": 3},
            "not a number": {**state, "5.bias": torch.tensor([0.0, float("nan")])},
            "infinite": {**state, "0.weight": torch.full((4, 1, 3, 3), float("inf"))},
            "wider": network(2, width=6).state_dict(),
            "other names": {f"body.{name}": tensor for name, tensor in state.items()},
            "three classes": network(3).state_dict(),
        }
        torch.save(contents[kind], path)
    return path


@pytest.mark.parametrize(
    ("kind", "rule", "value", "remedy"),
    [
        ("missing", "weights must be a file", "missing.pt", "check the path"),
        ("code", "weights must be tensors only", "code.pt", "torch.save(model.state_dict()"),
        ("pickle", "weights must be", "pickle.pt", "torch.save(model.state_dict()"),
        ("whole model", "weights must be tensors only", "model.pt", "torch.save(model.state_d"),
        ("truncated", "must be a readable file", "truncated.pt", "copy it again"),
        ("empty", "must be a file of torch.save", "empty.pt' is empty", "name another file"),
        ("text", "must be a file of torch.save", "begins with b'hello", "name another file"),
        ("truncated.safetensors", "must be a readable safet", "truncated.saf", "copy it again"),
        ("list", "must be a state dict", "a list", "torch.save(model.state_dict()"),
        ("nothing", "must be a state dict", "a dict that is empty", "torch.save(model.state"),
        ("numbers", "must map names to tensors", "'epoch'", "torch.save(model.state_dict()"),
        ("not a number", "weights must be finite", "'5.bias'", "before the training diverged"),
        ("infinite", "weights must be finite", "'0.weight'", "before the training diverged"),
        ("wider", "must fit the architecture", "0.weight 6x1x3x3 for 4x1x3x3", "name the --model"),
        (
            "other names",
            "must fit the architecture",
            "missing (8): 0.weight",
            "the prefix 'body.'",
        ),
        ("other names", "must fit the architecture", "unexpected (9): body.0", "save that part"),
        ("three classes", "the same number of classes", "3 and the data 2", "use data with the"),
    ],
)
def test_unusable_weights_are_refused(
    folder: Path, kind: str, rule: str, value: str, remedy: str
) -> None:
    path, data = write_weights(folder, kind), write_npz(folder / "a.npz")
    check(message_of(lambda: load_task("net:network", path, data)), rule, value, remedy)
    assert not (folder / "code-was-run").exists()


def test_color_images_are_refused_for_weights_of_one_channel(folder: Path) -> None:
    torch.save(network(2).state_dict(), folder / "gray.pt")
    data = write_npz(folder / "color.npz", images=random_pixels(40, shape=(8, 8, 3)))
    message = message_of(lambda: load_task("net:network", folder / "gray.pt", data))
    check(message, "as many channels", "takes 1 and the images have 3", "convert the images to g")


ALTERED: dict[str, dict[str, Any]] = {
    "not a number": {"images": np.full((40, 8, 8), np.nan, np.float32)},
    "infinite": {"images": np.full((40, 8, 8), np.inf)},
    "normalized": {"images": np.linspace(-2, 2, 40 * 64).reshape(40, 8, 8)},
    "bytes as floats": {"images": random_pixels(40).astype(np.float32)},
    "16 bits": {"images": np.full((40, 8, 8), 4095, np.uint16)},
    "text images": {"images": np.full((40, 8, 8), "a")},
    "flat": {"images": random_pixels(40, shape=(64,))},
    "four channels": {"images": random_pixels(40, shape=(8, 8, 4))},
    "no images": {"images": random_pixels(0), "labels": np.zeros(0, np.int64)},
    "float labels": {"labels": np.zeros(40)},
    "one-hot labels": {"labels": np.eye(2, dtype=np.int64)[np.arange(40) % 2]},
    "negative label": {"labels": np.arange(40) % 2 - 1},
    "labels from 1": {"labels": np.arange(40) % 2 + 1},
    "label out of range": {"labels": np.arange(40) % 3, "classes": np.array(["a", "b"])},
    "fewer labels": {"labels": np.arange(39) % 2},
    "one class": {"labels": np.zeros(40, np.int64)},
    "many classes": {"labels": np.arange(40) // 2},
    "objects": {"labels": np.array([None] * 40)},
    "unlabeled split": {"test_images": random_pixels(4)},
}


@pytest.mark.parametrize(
    ("kind", "rule", "value", "remedy"),
    [
        ("not a number", "pixels must be finite", "40 image(s)", "remove or repair them"),
        ("infinite", "pixels must be finite", "40 image(s)", "remove or repair them"),
        ("normalized", "floats 0..1", "from -2 to 2", "leave normalization to the project"),
        ("bytes as floats", "floats 0..1", "to 255", "rescale it"),
        ("16 bits", "integers 0..255", "to 4095", "rescale it"),
        ("text images", "images must be integers", "<U1", ".astype('uint8')"),
        ("flat", "images must be (N, H, W)", "(40, 64)", "reshape it"),
        ("four channels", "with C 1 or 3", "(40, 8, 8, 4)", "reshape it"),
        ("no images", "none of them 0", "(0, 8, 8)", "reshape it"),
        ("float labels", "labels must be integers", "float64", ".astype('int64')"),
        ("one-hot labels", "of shape (N,)", "(40, 2)", "number the classes from 0"),
        ("negative label", "labels must be 0 or more", "-1", "number the classes from 0"),
        ("labels from 1", "without a gap", "has no 0", "number the classes from 0"),
        ("label out of range", "below the number of classes, 2", "label 2", "correct the labels"),
        ("fewer labels", "one label for each image", "39 in 'labels'", "make them match"),
        ("one class", "at least two classes", "has 1 (0)", "add the images of another class"),
        ("many classes", "as many images as classes, 20", "has", "--train, --val and --test"),
        ("objects", "with plain arrays", "pickled objects", "save it again"),
        ("unlabeled split", "labels all or none", "1 of 2 splits", "add the missing ones"),
    ],
)
def test_unusable_arrays_are_refused(
    folder: Path, kind: str, rule: str, value: str, remedy: str
) -> None:
    data = write_npz(folder / "a.npz", **ALTERED[kind])
    check(message_of(lambda: load_task("net:network", data=data)), rule, value, remedy)


def write_bad_npz(folder: Path, kind: str) -> str:
    path = folder / "a.npz"
    if kind == "truncated":
        write_npz(path)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "other names":
        np.savez(path, pictures=random_pixels(4))
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, random_pixels(4))
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(RunsCode()))
    elif kind == "text":
        path.write_text("hello\n")
    elif kind == "empty":
        path.write_text("")
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("kind", "rule", "value", "remedy"),
    [
        ("missing", "npz: must name a file", "a.npz", "check the path"),
        ("truncated", "a file of numpy.savez", "BadZipFile", "save it again"),
        ("one array", "a file of numpy.savez", "one array without a name", "save it again"),
        ("pickle", "a file of numpy.savez", "a.npz", "save it again"),
        ("text", "a file of numpy.savez", "begins with b'hello", "save it again: numpy.savez("),
        ("empty", "a file of numpy.savez", "a.npz' is empty", "save it again: numpy.savez("),
        ("other names", "must be named images and labels", "pictures", "rename them"),
    ],
)
def test_unusable_npz_file_is_refused(
    folder: Path, kind: str, rule: str, value: str, remedy: str
) -> None:
    data = write_bad_npz(folder, kind)
    check(message_of(lambda: load_task("net:network", data=data)), rule, value, remedy)
    assert not (folder / "code-was-run").exists()


def write_bad_folder(root: Path, kind: str) -> Path:
    if kind == "missing":
        return root
    root.mkdir()
    if kind == "no class folders":
        write_folder(root, {"": 4})
    elif kind == "class without images":
        write_folder(root, {"cat": 4, "dog": 0})
    elif kind == "one class":
        write_folder(root, {"cat": 4})
    elif kind == "few images":
        write_folder(root, {"cat": 1, "dog": 1})
    elif kind == "rare class":
        write_folder(root, {"cat": 12, "dog": 1})
    elif kind == "unreadable":
        write_folder(root, {"cat": 4, "dog": 4})
        for name in ("2.png", "3.png"):
            (root / "cat" / name).write_bytes(b"no image")
    elif kind == "truncated":
        write_folder(root, {"cat": 4, "dog": 4}, size=(60, 60))
        for path in (root / "dog" / "1.png", root / "dog" / "3.png"):
            path.write_bytes(path.read_bytes()[:400])
    elif kind == "32 bits":
        write_folder(root, {"cat": 4, "dog": 4})
        for name in ("x.tif", "y.tif"):
            Image.new("F", (8, 8)).save(root / "cat" / name)
    elif kind == "splits of other classes":
        write_folder(root / "train", {"cat": 4, "dog": 4})
        write_folder(root / "test", {"cat": 4, "owl": 4})
    elif kind == "half labeled":
        write_folder(root / "train", {"cat": 4, "dog": 4})
        write_folder(root / "test", {"": 4})
    elif kind == "mixed sizes":
        write_folder(root, {"cat": 4}, size=(10, 8))
        write_folder(root, {"dog": 4}, size=(10, 9))
    return root


@pytest.mark.parametrize(
    ("kind", "rule", "value", "remedy"),
    [
        ("missing", "must name a folder", "images", "check the path"),
        ("empty", "must not be empty", "/images'", "one folder per class"),
        ("no class folders", "must have labels", "has none", "one folder per class"),
        ("class without images", "must hold images", "dog", "one folder per class"),
        ("one class", "at least two classes", "has 1 (cat)", "the images of another class"),
        ("few images", "as many images as classes, 2", "has 0", "add images"),
        ("rare class", "images of at least two classes", "only 'cat'", "add images of the others"),
        ("unreadable", "an image must be readable", "cat/2.png", "replace or delete it"),
        ("truncated", "an image must be readable", "dog/1.png", "replace or delete it"),
        ("32 bits", "must be readable", "mode 'F'", "convert it to 8-bit"),
        ("splits of other classes", "every class must be in the train", "'owl'", "are cat, dog"),
        ("half labeled", "labels all or none", "test has none", "one folder per class"),
        ("mixed sizes", "images must have one size", "10x8 to 10x9", "--image-size 224"),
    ],
)
def test_unusable_folder_is_refused(
    folder: Path, kind: str, rule: str, value: str, remedy: str
) -> None:
    root = write_bad_folder(folder / "images", kind)
    check(message_of(lambda: load_task("net:network", data=f"folder:{root}")), rule, value, remedy)


@pytest.mark.parametrize(
    ("spec", "rule", "value", "remedy"),
    [
        ("digit", "data must be one of", "'digit'", "did you mean 'digits'?"),
        ("digits:8", "digits takes no argument", "'8'", "write --data digits"),
        (".", "data must be one of", "'.'", "did you mean 'folder:.'?"),
        ("a.npz", "data must be one of", "'a.npz'", "did you mean 'npz:a.npz'?"),
        ("CIFAR10", "data must be one of", "'CIFAR10'", "did you mean 'torchvision:CIFAR10'?"),
        ("torchvision:CIFAR01", "one of torchvision's", "'CIFAR01'", "torchvision:CIFAR10?"),
        ("torchvision:CocoCaptions", "for classification", "'CocoCaptions'", "torchvision:"),
        ("functions:absent", "must name a function", "nothing", "define `def absent"),
        ("functions:fails", "without arguments", "KeyError: 'no such file'", "correct it"),
        ("functions:nothing", "must be a mapping", "a NoneType", "give one of these"),
        ("functions:items", "an image and its label", "a int", "return (image, label)"),
        ("functions:empty", "must hold images", "is empty", "check its source"),
        ("functions:test_only", "must have a train split", "has test", "add one"),
        ("parquet:absent", "must name a .parquet file", "'absent'", "check the path"),
        ("parquet:bad.parquet", "must name readable files", "bad.parquet", "copy it again"),
        ("parquet:columns.parquet", "a column of image bytes", "has a", "rename them"),
        ("parquet:paths.parquet", "must be stored in the parquet", "row 0", "images embedded"),
    ],
)
def test_unusable_data_is_refused(
    folder: Path, spec: str, rule: str, value: str, remedy: str
) -> None:
    if spec.startswith("parquet:"):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        (folder / "bad.parquet").write_bytes(b"PAR1 and nothing else")
        parquet.write_table(pyarrow.table({"a": [1]}), folder / "columns.parquet")
        without = [{"bytes": None, "path": "a.png"}]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        table = pyarrow.table({"image": pyarrow.array(without, kind), "label": [0]})
        parquet.write_table(table, folder / "paths.parquet")
    check(message_of(lambda: load_task("net:network", data=spec)), rule, value, remedy)


def test_data_set_that_can_not_be_downloaded_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    message = message_of(lambda: load_task("net:network", data="torchvision:CIFAR10"))
    check(message, "must be in 'data' or downloadable", "no route", "torchvision:CIFAR10:FOLDER")


def test_split_folders_are_refused_without_train_and_beside_data(folder: Path) -> None:
    message = message_of(lambda: load_task("net:network", test=folder))
    check(message, "must come with --train", str(folder), "add --train FOLDER")
    message = message_of(lambda: load_task("net:network", data="digits", train=folder))
    check(message, "from --data or from --train", "--data digits", "leave one out")
    message = message_of(lambda: load_task("net:network", train=folder / "absent"))
    check(message, "the train split must be a folder", "absent", "check the path")


def test_agreement_is_refused_without_weights(folder: Path) -> None:
    message = message_of(lambda: load_task("net:network", metric="agreement"))
    check(message, "must have a trained model", "there are no weights", "add --weights FILE")


@pytest.mark.parametrize(
    ("content", "rule", "value", "remedy"),
    [
        (None, "must be a readable JSON file", "preprocess.json", "check the path"),
        ("{", "must hold size", "Invalid JSON", "correct it"),
        ('{"std": [0]}', "std (above 0", "greater than 0", "correct it"),
        ('{"size": [8]}', "size [height, width]", "at least 2 items", "correct it"),
        ('{"size": [8, 9999]}', "size [height, width]", "4096", "correct it"),
        ('{"sizes": [8, 8]}', "must hold size", "sizes: Extra inputs", "correct it"),
        ('{"version": 3}', "must hold size", "version", "correct it"),
        ('{"resize": {"mode": "pad"}}', "resize (mode, sides", "resize.mode", "correct it"),
        ('{"resize": {"side": 9}}', "resize (mode, sides", "resize.mode", "correct it"),
        ('{"mean": [0, 0]}', "one mean for each of 1 channel(s)", "got 2", "correct the file"),
        ('{"channels": 3}', "as many channels as the network takes, 1", "got 3", "correct the"),
        ('{"size": [9, 9]}', "must agree", "(8, 8) and (9, 9)", "leave one of them out"),
    ],
)
def test_unusable_preprocess_file_is_refused(
    folder: Path, content: str | None, rule: str, value: str, remedy: str
) -> None:
    path, data = folder / "preprocess.json", write_npz(folder / "a.npz")
    if content is not None:
        path.write_text(content)
    message = message_of(
        lambda: load_task("net:network", data=data, preprocess=path, image_size=(8, 8))
    )
    check(message, rule, value, remedy)


def test_images_beyond_the_memory_are_refused_before_they_are_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 40 images of 64 bytes: as pixels, 20 of them in 6 views and, for the calibration, once more
    # as pixels and as numbers of 4 bytes, and the 20 that are evaluated as such numbers.
    needed = 64 * (40 + 6 * 20 + (1 + 4) * 20 + 4 * 20)
    data = write_npz(folder / "a.npz")
    memory = [needed * 3 // 2 + 1]
    monkeypatch.setattr("search.inputs.data.assembling.available_bytes", lambda: memory[0])
    load_task("net:network", data=data)
    memory[0] -= 2
    message = message_of(lambda: load_task("net:network", data=data))
    check(message, "into two thirds of the memory", "40 images of 8x8", "smaller --image-size")


@pytest.mark.parametrize("text", ["0", "big", "128x", "-5", "12x5000", ""])
def test_unusable_image_size_is_refused(text: str) -> None:
    message = message_of(lambda: parse_image_size(text))
    check(message, "1 to 4096 pixels", repr(text), "write 128 or 96x128")


def test_image_size_is_a_side_or_height_and_width() -> None:
    assert parse_image_size("128") == (128, 128)
    assert parse_image_size("96x128") == (96, 128)
