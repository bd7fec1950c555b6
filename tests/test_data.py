"""Sources of data, how images are prepared, and how they are split."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_samples import random_pixels, write_folder, write_module, write_npz
from numpy.typing import NDArray
from PIL import Image

from search.inputs.data import sampling
from search.inputs.data.assembling import assemble
from search.inputs.data.encoded import Encoded, scan
from search.inputs.data.folder import load_splits
from search.inputs.data.preprocessing import PreprocessFile, choose_preprocess, choose_size
from search.inputs.data.raw import ArrayImages, RawData, RawSplit, SplitName
from search.inputs.data.splitting import (
    SHARES,
    group_duplicates,
    missing_shares,
    split_indices,
    stratified_part,
)
from search.inputs.loading import load_task
from search.inputs.models.declared import Declared
from search.inputs.sources import find_source


def load(spec: str) -> RawData:
    source, argument = find_source("search.inputs.data", spec, "data")
    raw: RawData = source.load(argument)
    return raw


def test_digits_are_split_by_seed_and_large_enough_for_a_proof() -> None:
    data = load_task("torchvision:squeezenet1_1").data
    assert [len(s) for s in (data.train, data.validation, data.test)] == [899, 359, 539]
    assert data.calibration.images.shape == (256, 1, 32, 32)
    assert data.classes == tuple("0123456789")
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 255
    again = load_task("torchvision:squeezenet1_1").data
    other = load_task("torchvision:squeezenet1_1", seed=1).data
    assert data.fingerprint == again.fingerprint
    assert data.fingerprint != other.fingerprint


labeled_groups = st.lists(st.integers(0, 3), min_size=1, max_size=120).flatmap(
    lambda labels: st.tuples(
        st.just(np.array(labels, np.int64)),
        st.lists(st.integers(0, 200), min_size=len(labels), max_size=len(labels)).map(
            lambda groups: np.array(groups, np.int64)
        ),
    )
)


@settings(max_examples=60, deadline=None)
@given(labeled_groups, st.integers(0, 2**32 - 1))
def test_splits_are_disjoint_complete_deterministic_and_keep_duplicates_together(
    example: tuple[NDArray[np.int64], NDArray[np.int64]], seed: int
) -> None:
    labels, groups = example
    parts = split_indices(labels, groups, SHARES, seed)
    together = np.concatenate(list(parts.values()))
    assert sorted(together.tolist()) == list(range(len(labels)))
    seen = [set(groups[indices].tolist()) for indices in parts.values()]
    assert sum(len(part) for part in seen) == len(set(groups.tolist()))
    again = split_indices(labels, groups, SHARES, seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 2**32 - 1))
def test_splits_of_different_images_have_each_class_within_one_of_its_share(
    labels_list: list[int], seed: int
) -> None:
    labels = np.array(labels_list, np.int64)
    parts = split_indices(labels, np.arange(len(labels)), SHARES, seed)
    for label in set(labels_list):
        for name, indices in parts.items():
            share = SHARES[name] * labels_list.count(label)
            assert abs((labels[indices] == label).sum() - share) < 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=200),
    st.integers(1, 200),
    st.integers(0, 2**32 - 1),
)
def test_stratified_part_has_each_class_within_one_of_its_share(
    labels_list: list[int], count: int, seed: int
) -> None:
    labels = np.array(labels_list, np.int64)
    part = stratified_part(labels, count, seed)
    assert len(part) == len(set(part.tolist())) == min(count, len(labels))
    for label in set(labels_list):
        share = len(part) / len(labels) * labels_list.count(label)
        assert abs((labels[part] == label).sum() - share) < 2


def test_splits_differ_when_the_seed_does() -> None:
    labels = np.zeros(100, np.int64)
    first, second = (split_indices(labels, np.arange(100), SHARES, seed) for seed in (0, 1))
    assert not np.array_equal(first["test"], second["test"])


def test_identical_images_share_a_group() -> None:
    pixels = random_pixels(3, shape=(1, 4, 4))
    groups = group_duplicates(pixels[[0, 1, 0, 2, 1]])
    assert groups.tolist() == [0, 1, 0, 2, 1]


def test_missing_splits_are_made_from_train_in_the_usual_proportion() -> None:
    images = ArrayImages(random_pixels(70, shape=(1, 4, 4)))
    held_out = ArrayImages(random_pixels(30, seed=1, shape=(1, 4, 4)))
    raw = RawData(
        "partly split",
        {
            "train": RawSplit(images, np.arange(70) % 2),
            "test": RawSplit(held_out, np.arange(30) % 2),
        },
        ("a", "b"),
    )
    splits, notes = assemble(raw, (4, 4), 1, seed=0)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 50,
        "validation": 20,
        "test": 30,
    }
    assert splits["test"].images is held_out.array
    assert notes == []
    assert missing_shares(["train", "validation", "test"]) == {"train": 0.5}


def test_images_in_two_given_splits_are_noted() -> None:
    images = ArrayImages(random_pixels(20, shape=(1, 4, 4)))
    half = ArrayImages(images.array[:5])
    labels = np.arange(20) % 2
    raw = RawData(
        "leaking",
        {"train": RawSplit(images, labels), "test": RawSplit(half, labels[:5])},
        ("a", "b"),
    )
    _, notes = assemble(raw, (4, 4), 1, seed=0)
    assert notes[0].startswith("5 of 5 images of the test split are in the train split")


def test_folder_has_its_subfolders_as_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 3, "dog": 2, ".hidden": 1}, mode="RGB")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    raw = load(f"folder:{tmp_path}")
    split = raw.splits["train"]
    assert raw.classes == ("cat", "dog")
    assert split.labels is not None
    assert split.labels.tolist() == [0, 0, 0, 1, 1]
    assert split.images.sizes == {(10, 8)}
    with Image.open(tmp_path / "dog" / "0.png") as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(split.images.pixels((10, 8))[3], expected)


def test_folder_of_split_folders_is_not_taken_for_classes(tmp_path: Path) -> None:
    for name, count in (("train", 4), ("val", 2), ("Test", 3)):
        write_folder(tmp_path / name, {"cat": count, "dog": count})
    raw = load(f"folder:{tmp_path}")
    assert raw.classes == ("cat", "dog")
    assert {name: len(split.images) for name, split in raw.splits.items()} == {
        "train": 8,
        "validation": 4,
        "test": 6,
    }


def test_folders_by_option_take_their_classes_from_train(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", {"cat": 2, "dog": 2, "owl": 2})
    write_folder(tmp_path / "b", {"owl": 1})
    raw = load_splits({"train": tmp_path / "a", "test": tmp_path / "b"})
    labels = raw.splits["test"].labels
    assert labels is not None
    assert labels.tolist() == [2]


def test_folder_without_classes_is_read_without_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, {"": 3})
    raw = load(f"folder:{tmp_path}")
    assert raw.splits["train"].labels is None
    assert raw.classes == ()


def encode(image: Image.Image, kind: str = "PNG") -> Encoded:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return Encoded(f"an image of mode {image.mode}", buffer.getvalue())


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (Image.new("1", (4, 4), 1), 1),
        (Image.new("L", (4, 4), 255), 1),
        (Image.new("LA", (4, 4), (255, 0)), 1),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), 1),
        (Image.new("RGBA", (4, 4), (255, 255, 255, 0)), 3),
        (Image.new("RGB", (4, 4), "white").convert("P"), 3),
    ],
)
def test_white_is_255_in_every_mode(image: Image.Image, channels: int) -> None:
    images, _, _ = scan([encode(image)])
    assert images.channels == channels
    assert np.array_equal(images.pixels((2, 2)), np.full((1, channels, 2, 2), 255))


def test_large_jpeg_is_resized_as_if_it_were_decoded_in_full() -> None:
    across = np.linspace(0, 255, 640)
    ramp = np.rint(np.broadcast_to(across, (480, 640))).astype(np.uint8)
    pixels = scan([encode(Image.fromarray(ramp), "JPEG")])[0].pixels((24, 32))
    expected = ramp.reshape(24, 20, 32, 20).mean((1, 3))
    assert np.abs(pixels[0, 0].astype(float) - expected).max() < 3


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("x", "y"), ("train_images", "train_labels")]
)
def test_npz_arrays_are_found_by_their_usual_names(
    tmp_path: Path, images: str, labels: str
) -> None:
    pixels = random_pixels(6)
    np.savez(tmp_path / "a.npz", **{images: pixels, labels: np.array([[0], [1]] * 3)})
    split = load(f"npz:{tmp_path}/a.npz").splits["train"]
    assert np.array_equal(split.images.pixels((8, 8)), pixels[:, None])
    assert split.labels is not None
    assert split.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_npz_may_bring_splits_and_class_names(tmp_path: Path) -> None:
    arrays: dict[str, NDArray[np.generic]] = {"classes": np.array(["good", "bad", "unseen"])}
    for split in ("train", "val", "test"):
        arrays |= {f"x_{split}": random_pixels(4), f"y_{split}": np.array([0, 1, 0, 1])}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    raw = load(f"npz:{tmp_path}/a.npz")
    assert list(raw.splits) == ["train", "validation", "test"]
    assert raw.classes == ("good", "bad", "unseen")


@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC", "float", "int64"])
def test_array_layouts_and_types_give_the_same_pixels(tmp_path: Path, layout: str) -> None:
    pixels = random_pixels(4, shape=(5, 6))
    arrays: dict[str, NDArray[np.generic]] = {
        "NHW": pixels,
        "NCHW": pixels[:, None],
        "NHWC": pixels[..., None],
        "float": (pixels / 255).astype(np.float32),
        "int64": pixels.astype(np.int64),
    }
    np.savez(tmp_path / "a.npz", images=arrays[layout], labels=np.arange(4) % 2)
    raw = load(f"npz:{tmp_path}/a.npz")
    assert np.array_equal(raw.splits["train"].images.pixels((5, 6)), pixels[:, None])


def test_color_arrays_with_channels_last_become_channels_first(tmp_path: Path) -> None:
    pixels = random_pixels(4, shape=(5, 6, 3))
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(4) % 2)
    images = load(f"npz:{tmp_path}/a.npz").splits["train"].images
    assert np.array_equal(images.pixels((5, 6)), pixels.transpose(0, 3, 1, 2))


FUNCTIONS = """
import numpy as np
import torch
from PIL import Image

images = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
labels = np.array([0, 1] * 3)

def pair():
    return images, torch.tensor(labels)

def arrays():
    return {"images": torch.from_numpy(images), "labels": labels}

class Pictures:
    classes = ["good", "bad"]
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return Image.fromarray(images[index]), torch.tensor(labels[index])

class Tensors(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return torch.from_numpy(images[index])[None] / 255, int(labels[index])

def splits():
    return {"train": Pictures(), "val": Tensors()}
"""


@pytest.mark.parametrize("name", ["pair", "arrays", "Pictures", "Tensors", "splits"])
def test_function_may_return_arrays_or_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_module(tmp_path, monkeypatch, "data_functions", FUNCTIONS)
    raw = load(f"data_functions:{name}")
    assert list(raw.splits) == (["train", "validation"] if name == "splits" else ["train"])
    for split in raw.splits.values():
        expected = np.arange(6 * 16, dtype=np.uint8).reshape(6, 1, 4, 4)
        assert np.array_equal(split.images.pixels((4, 4)), expected)
        assert split.labels is not None
        assert split.labels.tolist() == [0, 1] * 3
    named = name in ("Pictures", "splits")
    assert raw.classes == (("good", "bad") if named else ("0", "1"))


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """The format of MNIST: magic number, lengths, bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.tobytes())


def test_torchvision_data_is_read_from_its_folder(tmp_path: Path) -> None:
    raw_folder = tmp_path / "MNIST" / "raw"
    raw_folder.mkdir(parents=True)
    images = random_pixels(12, shape=(28, 28))
    for part, count in (("train", 12), ("t10k", 5)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(raw_folder / f"{part}-images-idx3-ubyte", images[:count])
        write_idx(raw_folder / f"{part}-labels-idx1-ubyte", labels)
    raw = load(f"torchvision:MNIST:{tmp_path}")
    assert {name: len(split.images) for name, split in raw.splits.items()} == {
        "train": 12,
        "test": 5,
    }
    assert np.array_equal(raw.splits["train"].images.pixels((28, 28)), images[:, None])
    assert raw.classes[3] == "3 - three"


def test_parquet_files_of_hugging_face_have_splits_and_class_names(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    pixels = random_pixels(6, shape=(4, 5))
    encoded = [encode(Image.fromarray(image)).content for image in pixels]
    features = {"label": {"names": ["good", "bad"], "_type": "ClassLabel"}}
    description = json.dumps({"info": {"features": features}}).encode()
    for split, rows in (("train", slice(0, 4)), ("validation", slice(4, 6))):
        images = [{"bytes": content, "path": None} for content in encoded[rows]]
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        table = pyarrow.table(
            {"image": pyarrow.array(images, kind), "label": ([0, 1] * 3)[rows]}
        ).replace_schema_metadata({b"huggingface": description})
        parquet.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    raw = load(f"parquet:{tmp_path}")
    assert raw.classes == ("good", "bad")
    assert np.array_equal(raw.splits["train"].images.pixels((4, 5)), pixels[:4, None])
    assert np.array_equal(raw.splits["validation"].images.pixels((4, 5)), pixels[4:, None])


DECLARED = Declared((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STATED = PreprocessFile(size=[20, 30])
ONE, TWO = [(8, 8)], [(8, 8), (9, 9)]


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        ((STATED, None, (32, 32), DECLARED, ONE, DECLARED), (20, 30)),
        ((None, (64, 48), (32, 32), DECLARED, ONE, DECLARED), (64, 48)),
        ((None, None, (32, 32), DECLARED, ONE, DECLARED), (32, 32)),
        ((None, None, None, DECLARED, ONE, DECLARED), (224, 224)),
        ((None, None, None, None, ONE, DECLARED), (8, 8)),
        ((None, None, None, None, TWO, DECLARED), (224, 224)),
        ((PreprocessFile(size=[7, 7], stored=[9, 9]), None, None, None, TWO, None), (9, 9)),
    ],
)
def test_size_is_the_first_that_is_known(arguments: tuple[object, ...], size: object) -> None:
    assert choose_size(*arguments) == size  # type: ignore[arg-type]


def test_mean_and_deviation_are_those_of_the_training_split_unless_stated() -> None:
    train = np.array([0, 255, 0, 255], np.uint8).reshape(1, 1, 2, 2)
    measured = choose_preprocess(None, None, train)
    assert (measured.mean, measured.std) == ((0.5,), (0.5,))
    color = np.repeat(train, 3, axis=1)
    assert choose_preprocess(None, DECLARED, color).mean == DECLARED.mean
    assert choose_preprocess(None, DECLARED, train).mean == (0.5,)
    stated = PreprocessFile(mean=[0.1], std=[0.2])
    assert choose_preprocess(stated, DECLARED, color).std == (0.2, 0.2, 0.2)


def test_constant_images_have_a_deviation_to_divide_by() -> None:
    flat = choose_preprocess(None, None, np.full((2, 1, 2, 2), 7, np.uint8))
    assert np.isfinite(flat.apply(np.zeros((1, 1, 2, 2), np.uint8))).all()


def test_preprocess_file_of_a_bundle_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "bundle_net")
    data = write_npz(tmp_path / "a.npz")
    first = load_task("bundle_net:network", data=data, image_size=(6, 5)).data
    (tmp_path / "preprocess.json").write_text(json.dumps(first.preprocess.to_json()))
    file = tmp_path / "preprocess.json"
    second = load_task("bundle_net:network", data=data, preprocess=file).data
    assert second.preprocess == first.preprocess
    assert second.fingerprint == first.fingerprint


def test_skewed_classes_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, monkeypatch, "skew_net")
    data = write_npz(tmp_path / "a.npz", labels=(np.arange(40) < 8).astype(np.int64))
    assert "balanced_accuracy" in load_task("skew_net:network", data=data).data.notes[0]
    assert load_task("skew_net:network", data=data, metric="f1").data.notes == ()


def test_sample_is_of_all_classes_and_says_how_many_images_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an outline needs, from folders, arrays and data sets."""
    monkeypatch.setattr(sampling, "SAMPLE_BYTES", 1000)
    for number in range(60):
        folder = tmp_path / "photos" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64), number, np.uint8)).save(folder / f"{number}.png")
    pixels, labels = np.zeros((60, 64, 64), np.uint8), np.arange(60) % 3
    pixels += np.arange(60, dtype=np.uint8)[:, None, None]
    np.savez(tmp_path / "cells.npz", images=pixels, labels=labels)
    items = [(image, int(label)) for image, label in zip(pixels, labels, strict=True)]
    for data in (f"folder:{tmp_path / 'photos'}", f"npz:{tmp_path / 'cells.npz'}", items):
        whole = load_task(data=data).data
        few = load_task(data=data, sample=True).data
        assert len(few.train) + len(few.validation) + len(few.test) == sampling.LEAST_IMAGES
        splits: tuple[SplitName, ...] = ("train", "validation", "test")
        assert [few.count(name) for name in splits] == [whole.count(name) for name in splits]
        assert few.classes == whole.classes
        assert {*few.train.labels, *few.validation.labels, *few.test.labels} == {0, 1, 2}
