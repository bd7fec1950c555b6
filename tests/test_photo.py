"""Photos as they come: turned by their EXIF, gray among color, resized as weights declare."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_samples import network, random_pixels, write_folder, write_module, write_npz
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torchvision import models

from search.bundle.write import write_bundle
from search.inputs.data.encoded import Encoded, scan
from search.inputs.data.items import from_items
from search.inputs.data.photo import Resize, framed, photo_pixels
from search.inputs.data.preprocessing import PreprocessFile, choose_resize, told
from search.inputs.loading import load_task
from search.inputs.models.declared import Declared
from search.inputs.models.given import declared_by
from search.inputs.models.timm import declared as timm_declares
from search.inputs.models.torchvision import declared as torchvision_declares
from search.task import Preprocess
from tests.samples import sample_result, tiny_onnx


def photo(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """Smooth, so that a JPEG of it is nearly it, and different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    down, across = y * 255 / (height - 1), x * 255 / (width - 1)
    planes = np.stack([down, across, (down + across) / 2], -1)
    return Image.fromarray(np.rint(planes).astype(np.uint8)).convert(mode)


def bundle_of(folder: Path, preprocess: Preprocess) -> Path:
    """A bundle of gray 8x8 images whose recipe for photos is another one."""
    result = sample_result(folder)
    assert result.winner is not None
    bundle = write_bundle(folder, result, result.winner, tiny_onnx(folder / "trial.onnx"))
    (bundle / "preprocess.json").write_text(json.dumps(preprocess.to_json()))
    return bundle


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], ModuleType]]:
    """Opens a bundle's ``example.py`` as a module, beside the files that lie with it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def load(bundle: Path) -> ModuleType:
        monkeypatch.syspath_prepend(str(bundle))
        spec = importlib.util.spec_from_file_location("bundled_example", bundle / "example.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in ("photo", "resize"):
        if name not in before:
            sys.modules.pop(name, None)


# Squashed with a margin (nfnet), kept whole (convnext), more than whole (volo), bicubic, bilinear.
TIMM = (
    "resnet18.a1_in1k",
    "efficientnet_lite0.ra_in1k",
    "dm_nfnet_f0.dm_in1k",
    "volo_d4_448.sail_in1k",
    "convnext_base.clip_laion2b",
)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("size", [(300, 401), (401, 300), (60, 47)])
def test_pixels_are_those_of_timms_own_transform(name: str, size: tuple[int, int]) -> None:
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config, normalize=False)
    declares = timm_declares(name)
    assert declares is not None
    assert (declares.mean, declares.std) == (tuple(config["mean"]), tuple(config["std"]))
    ours = photo_pixels(photo(*size), 3, declares.size, declares.resize)
    assert np.array_equal(ours, theirs(photo(*size)).numpy())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "efficientnet_b1"])
@pytest.mark.parametrize("size", [(300, 401), (401, 300), (60, 47)])
def test_pixels_are_those_of_torchvisions_own_transform(name: str, size: tuple[int, int]) -> None:
    preset = models.get_model_weights(name).DEFAULT.transforms()
    declares = torchvision_declares(name)
    ours = photo_pixels(photo(*size), 3, declares.size, declares.resize)
    tensor = torch.from_numpy(ours.copy()).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (declares.mean, declares.std))
    torch.testing.assert_close((tensor - mean) / std, preset(photo(*size)))


def test_what_timms_weights_declare_is_read_from_models_that_are_handed_over_too() -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=2)
    assert declared_by(model) == timm_declares("mobilenetv3_small_050")
    assert declared_by(model) == Declared(
        (224, 224),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        Resize("crop", (256, 256), "bicubic"),
    )


@settings(max_examples=60, deadline=None)
@given(*[st.integers(2, 60)] * 6, st.sampled_from(["squash", "crop"]))
def test_pixels_have_the_size_and_what_is_cut_off_is_the_same_on_both_sides(
    high: int, wide: int, height: int, width: int, up: int, left: int, mode: Any
) -> None:
    resize = Resize(mode, (height + up, width + left), "nearest")
    found = photo_pixels(Image.new("L", (wide, high), 255), 1, (height, width), resize)
    assert found.shape == (1, height, width)
    assert (found == 255).all()  # covers it
    tall, broad = resize.sides_of((high, wide), (height, width))
    if mode == "crop":
        assert tall == height + up or broad == width + left
        assert abs(tall * wide - broad * high) <= max(high, wide)  # proportions, to a pixel
    columns = Image.fromarray(np.tile(np.arange(broad, dtype=np.int32), (tall, 1)))
    whole = Resize("squash", (tall, broad), "nearest")
    kept = np.asarray(framed(columns, (tall, broad), (height, width), whole))[0]
    assert abs(int(kept[0]) - (broad - 1 - int(kept[-1]))) <= 1


def test_what_is_declared_for_one_size_keeps_as_much_of_the_photo_at_another() -> None:
    declared = Declared((224, 224), (0.5,), (0.5,), Resize("crop", (256, 256), "bicubic"))
    assert declared.resize_to((224, 224)) is declared.resize
    assert declared.resize_to((112, 448)) == Resize("crop", (128, 512), "bicubic")


def photos_of(label: int) -> list[Image.Image]:
    """Twelve, 60 pixels high and 80 wide, each with a square of its own in the middle."""
    found = []
    for index in range(12):
        image = ImageOps.flip(photo(60, 80)) if label else photo(60, 80)
        image.paste((20 * index, 0, 255), (30, 20, 50, 40))
        found.append(image)
    return found


def folder_of_photos(root: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index, image in enumerate(photos_of(label)):
            image.save(root / name / f"{index}.png")
    return root


def weights_of(name: str, folder: Path) -> Path:
    torch.save(models.get_model(name, num_classes=2).state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


def test_weights_bring_the_size_and_resizing_that_they_were_trained_with(tmp_path: Path) -> None:
    name, photos = "torchvision:squeezenet1_1", f"folder:{folder_of_photos(tmp_path / 'photos')}"
    weights = weights_of("squeezenet1_1", tmp_path)
    task = load_task(name, weights, photos)
    assert task.data.preprocess.size == (224, 224)
    assert task.data.preprocess.resize == Resize("crop", (256, 256), "bilinear")
    assert any("assumed (resized to cover 256x256" in note for note in task.data.notes)
    smaller = load_task(name, weights, photos, image_size=(112, 112)).data.preprocess
    assert (smaller.size, smaller.resize.sides) == ((112, 112), (128, 128))
    fresh = load_task(name, None, photos).data
    assert fresh.preprocess.size == (60, 80)
    assert fresh.preprocess.resize == Resize("squash", (60, 80), "bilinear")
    assert fresh.notes == ()


def test_arrays_are_taken_for_what_the_weights_were_trained_on(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "a.npz", images=random_pixels(40, shape=(40, 50, 3)))
    task = load_task("torchvision:squeezenet1_1", weights_of("squeezenet1_1", tmp_path), data)
    assert task.data.preprocess.size == (40, 50)
    assert task.data.preprocess.resize.mode == "squash"
    assert task.data.preprocess.mean == (0.485, 0.456, 0.406)


def test_resizing_may_be_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, monkeypatch, "stated_net")
    photos = f"folder:{folder_of_photos(tmp_path / 'photos')}"
    resize = {"mode": "crop", "sides": [32, 32], "interpolation": "bicubic"}
    (tmp_path / "stated.json").write_text(json.dumps({"size": [24, 24], "resize": resize}))
    data = load_task("stated_net:network", None, photos, preprocess=tmp_path / "stated.json").data
    assert data.preprocess.size == (24, 24)
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert any(
            np.array_equal(
                image.transpose(1, 2, 0),
                np.asarray(known.resize((42, 32), Image.Resampling.BICUBIC))[4:28, 9:33],
            )
            for known in photos_of(label)
        )
    file = json.loads(json.dumps(data.preprocess.to_json()))
    assert Preprocess.from_json(file) == data.preprocess
    (tmp_path / "again.json").write_text(json.dumps(file))
    again = load_task("stated_net:network", None, photos, preprocess=tmp_path / "again.json").data
    assert again.preprocess == data.preprocess
    assert again.fingerprint == data.fingerprint


def test_files_of_the_first_version_mean_squashing() -> None:
    declared = Declared((8, 8), (0.5,), (0.5,), Resize("crop", (9, 9), "bicubic"))
    assert choose_resize(PreprocessFile(version=1), declared, (8, 8)) == Resize("squash", (8, 8))
    assert choose_resize(PreprocessFile(), declared, (8, 8)) == declared.resize
    with pytest.raises(ValueError, match="version must be 2"):
        Preprocess.from_json({"version": 1})


def test_a_person_is_told_the_steps() -> None:
    crop = Resize("crop", (256, 256), "bicubic")
    assert told(Preprocess((160, 160), 3, (0.5,) * 3, (0.25,) * 3, crop, (224, 224))) == (
        "resized to cover 256x256 (bicubic), the center 224x224 of it, made 160x160, "
        "mean 0.5 0.5 0.5, std 0.25 0.25 0.25"
    )
    assert told(Preprocess((8, 9), 1, (0.5,), (0.25,))) == (
        "squashed to 8x9 (bilinear), mean 0.5, std 0.25"
    )


# How the pixels lie in the file for each orientation, of which the photo is to be seen upright.
LYING: dict[int, Callable[[Image.Image], Image.Image]] = {
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
}


def encoded(image: Image.Image, kind: str, orientation: int | None = None) -> Encoded:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    image.save(buffer, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return Encoded(f"a {kind}", buffer.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", LYING)
def test_photos_are_turned_as_their_exif_says(orientation: int, kind: str) -> None:
    upright = photo(240, 320)
    images, _, _ = scan([encoded(LYING[orientation](upright), kind, orientation)])
    assert images.sizes == {(240, 320)}
    for size in ((240, 320), (24, 30)):  # in full, and so small that a JPEG is decoded in part
        found = images.pixels(size, Resize("crop"))[0].transpose(1, 2, 0).astype(int)
        expected = photo_pixels(upright, 3, size, Resize("crop")).transpose(1, 2, 0)
        assert np.abs(found - expected).max() <= 4


def test_orientation_of_another_value_is_none() -> None:
    for value in (0, 9):
        assert scan([encoded(photo(20, 30), "PNG", value)])[0].sizes == {(20, 30)}


def test_pictures_of_a_data_set_stay_as_they_are_and_are_turned_in_a_copy() -> None:
    class Items:
        image = Image.open(io.BytesIO(bytes(encoded(photo(20, 30), "JPEG", 6).content)))  # type: ignore[arg-type]

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return self.image.convert("RGB"), index

    images = from_items("items", {"train": Items()}, "items").splits["train"].images
    assert images.photos
    assert images.sizes == {(30, 20)}
    first, again = images.pixels((30, 20)), images.pixels((30, 20))
    assert np.array_equal(first, again)
    turned = np.asarray(Items.image.convert("RGB").transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(first[0], turned.transpose(2, 0, 1))


def test_gray_images_among_color_ones_are_read_as_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "mixed_net")
    write_folder(tmp_path / "photos", {"cat": 12, "dog": 11}, mode="RGB")
    gray = photo(10, 8, "L")
    gray.save(tmp_path / "photos" / "dog" / "gray.jpg", quality=95)
    data = load_task("mixed_net:network", data=f"folder:{tmp_path}/photos").data
    assert data.notes == ("gray among color images: 1 of 24; all are read as color",)
    every = np.concatenate([data.train.images, data.validation.images, data.test.images])
    same = (every[:, 0] == every[:, 1]).all((1, 2)) & (every[:, 1] == every[:, 2]).all((1, 2))
    assert every.shape == (24, 3, 10, 8)
    assert same.sum() == 1
    assert np.abs(every[same][0, 0].astype(int) - np.asarray(gray)).max() <= 4


def test_gray_split_beside_a_color_one_is_read_as_color(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "beside_net")
    write_folder(tmp_path / "train", {"cat": 12, "dog": 12}, mode="RGB")
    write_folder(tmp_path / "test", {"cat": 4, "dog": 4}, mode="L")
    with Image.open(tmp_path / "test" / "cat" / "0.png") as image:
        image.convert("RGB").save(tmp_path / "train" / "cat" / "0.png")
    data = load_task("beside_net:network", train=tmp_path / "train", test=tmp_path / "test").data
    assert data.test.images.shape == (8, 3, 10, 8)
    assert "gray among color images: 8 of 32" in data.notes[0]
    assert data.notes[1].startswith("1 of 8 images of the test split are in the train split")


def pixels_of(path: Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """As a search's loader reads a file."""
    images = replace(scan([Encoded(path.name, path)])[0], channels=preprocess.channels)
    return images.pixels(preprocess.size, preprocess.resize)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "resize",
    [
        Resize("squash", (30, 40), "bilinear"),
        Resize("crop", (34, 45), "bicubic"),
        Resize("crop", None, "lanczos"),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "gray"])
def test_example_of_a_bundle_makes_the_loaders_pixels_of_a_photo(
    tmp_path: Path,
    opened: Callable[[Path], ModuleType],
    kind: str,
    resize: Resize,
    channels: int,
) -> None:
    size, mean, std = (30, 40), (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels]
    preprocess = Preprocess(size, channels, mean, std, resize)
    content = {
        "JPEG": encoded(LYING[6](photo(300, 480)), "JPEG", 6),
        "PNG": encoded(photo(50, 33), "PNG"),
        "gray": encoded(photo(300, 200, "L"), "JPEG"),
    }[kind].content
    assert isinstance(content, bytes)
    (tmp_path / "picture").write_bytes(content)
    example = opened(bundle_of(tmp_path, preprocess))
    found = example.stored_pixels(str(tmp_path / "picture"))
    expected = pixels_of(tmp_path / "picture", preprocess)
    assert found.shape == (1, channels, *size)
    assert np.array_equal(found, expected)
    np.testing.assert_array_equal(example.network_input(found), preprocess.apply(expected))


def test_example_of_a_bundle_with_a_smaller_input_takes_both_steps(
    tmp_path: Path, opened: Callable[[Path], ModuleType]
) -> None:
    stated = Preprocess((30, 40), 3, (0.4,) * 3, (0.2,) * 3, Resize("crop", (34, 45), "bicubic"))
    smaller = stated.with_input((15, 20))
    assert (smaller.stored, smaller.with_input((30, 40))) == ((30, 40), stated)
    photo(50, 33).save(tmp_path / "picture.png")
    example = opened(bundle_of(tmp_path, smaller))
    found = example.network_input(example.stored_pixels(str(tmp_path / "picture.png")))
    assert found.shape == (1, 3, 15, 20)
    expected = smaller.apply(pixels_of(tmp_path / "picture.png", stated))
    np.testing.assert_array_equal(found, expected)


def test_example_classifies_a_photo_and_leaves_the_bundle_as_it_was(tmp_path: Path) -> None:
    result = sample_result(tmp_path)
    assert result.winner is not None
    stated = replace(result.data.preprocess, resize=Resize("crop", (9, 10), "bicubic"))
    result = replace(result, data=replace(result.data, preprocess=stated))
    assert result.winner is not None
    bundle = write_bundle(tmp_path, result, result.winner, tiny_onnx(tmp_path / "trial.onnx"))
    recipe = json.loads((bundle / "preprocess.json").read_text())
    assert recipe["resize"] == {"mode": "crop", "sides": [9, 10], "interpolation": "bicubic"}
    assert Preprocess.from_json(recipe) == stated
    assert "resized to cover 9x10 (bicubic), the center 8x8" in (bundle / "README.md").read_text()
    photo(50, 33).save(tmp_path / "picture.jpg")
    before = sorted(bundle.rglob("*"))
    command = [sys.executable, str(bundle / "example.py"), str(tmp_path / "picture.jpg")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    name, odds = done.stdout.strip().rsplit("  ", 1)
    assert name in json.loads((bundle / "classes.json").read_text())
    assert odds.endswith("%)")
    assert sorted(bundle.rglob("*")) == before
    verify = [sys.executable, str(bundle / "verify.py"), "--seconds", "0.05"]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0


def test_handed_over_network_of_timm_gets_photos_as_its_weights_declare() -> None:
    model = network(2, channels=3)
    model.pretrained_cfg = {  # type: ignore[assignment]
        "input_size": (3, 20, 20),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "crop_pct": 0.8,
        "interpolation": "bicubic",
    }
    items = [(photo(30 + label, 40 + number), label) for number in range(12) for label in (0, 1)]
    chosen = load_task(model, data=items).data.preprocess
    assert (chosen.size, chosen.resize) == ((20, 20), Resize("crop", (25, 25), "bicubic"))
    tensors = [(np.asarray(image.resize((40, 30))), label) for image, label in items]
    assert load_task(model, data=tensors).data.preprocess.size == (30, 40)
