"""Images that belong together: named, kept in one split, resampled together in the proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from samples import sample_data, tiny_onnx
from scipy import stats

from evaluators import EvaluationContext
from evaluators.tasks.drop import metric_drop_bound
from evaluators.tasks.grouped import grouped_drop, grouped_share_drop
from evaluators.tasks.paired import binomial_bound
from evaluators.tasks.resampled import recall, resampled_drop
from hardware_profiles import load_profile
from search.concluding.conclude import TestSplit
from search.errors import InputError
from search.inputs.data.splitting import joined, split_groups
from search.inputs.loading import load_task
from search.task import Task

SHARES = {"train": 0.5, "validation": 0.2, "test": 0.3}


# --- the bound ------------------------------------------------------------------------------


@pytest.mark.parametrize(("lost", "images"), [(0, 40), (2, 100), (10, 300)])
def test_groups_of_one_image_have_clopper_and_pearsons_bound(lost: int, images: int) -> None:
    mistakes = np.arange(images) < lost
    nothing = np.zeros(images, np.bool_)
    drop, bound = grouped_share_drop(mistakes, nothing, np.arange(images), 0.95, 0)
    assert drop == lost / images
    assert bound == pytest.approx(binomial_bound(lost, images, 0.95), rel=0.03)


def test_copies_in_one_group_count_as_the_one_image_that_they_are() -> None:
    """Exactly: the weights are the same, and each group's share of them."""
    lost, gained = np.arange(60) < 2, np.arange(60) > 56
    once = grouped_share_drop(lost, gained, np.arange(60), 0.95, 0)
    copied = [np.repeat(each, 5) for each in (lost, gained, np.arange(60))]
    assert grouped_share_drop(*copied, 0.95, 0) == pytest.approx(once, abs=1e-12)
    plain = metric_drop_bound(
        "accuracy", *[np.repeat(np.zeros(60, int), 5)] * 2, np.repeat(lost.astype(int), 5), 0.95
    )
    assert plain.bound < once[1] - 0.005


def test_groups_of_one_image_have_the_bound_of_single_images_for_means_over_classes() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    baseline = np.where(rng.random(200) < 0.9, labels, 0)
    candidate = np.where(rng.random(200) < 0.9, baseline, 1)
    one_by_one = resampled_drop(recall, labels, baseline, candidate, 0.95, 0)
    grouped = grouped_drop(recall, labels, baseline, candidate, np.arange(200), 0.95, 0)
    assert grouped[0] == pytest.approx(one_by_one[0])
    assert grouped[1] == pytest.approx(one_by_one[1], abs=0.004)


@pytest.mark.parametrize("metric", ["accuracy", "agreement", "balanced_accuracy", "f1"])
def test_every_metric_has_a_bound_by_groups_and_says_how_many(metric: str) -> None:
    labels = np.tile([0, 1], 60)
    candidate = np.where(np.arange(120) == 7, 1 - labels, labels)
    found = metric_drop_bound(metric, labels, labels, candidate, 0.95, groups=np.arange(120) // 6)
    assert (found.method, found.groups, found.images, found.lost) == (
        "group bootstrap",
        20,
        120,
        1,
    )
    alone = metric_drop_bound(metric, labels, labels, candidate, 0.95)
    assert found.drop == pytest.approx(alone.drop)
    assert found.bound > 1.2 * alone.bound


@pytest.mark.parametrize("together", [0.0, 0.6, 1.0])
def test_drop_at_the_limit_is_proved_in_at_most_five_percent(together: float) -> None:
    """60 groups of 5 to 15 images; in a share ``together`` of groups all are lost as one."""
    rng = np.random.default_rng(int(10 * together))
    runs, limit, wrong, alone = 300, 0.1, 0, 0
    for _ in range(runs):
        sizes = rng.integers(5, 16, 60)
        groups = np.repeat(np.arange(60), sizes)
        as_one = rng.random(60) < together
        own = rng.random(sizes.sum()) < limit
        lost = np.where(as_one[groups], (rng.random(60) < limit)[groups], own)
        nothing = np.zeros_like(lost)
        wrong += grouped_share_drop(lost, nothing, groups, 0.95, 0)[1] <= limit
        alone += binomial_bound(int(lost.sum()), len(lost), 0.95) <= limit
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)
    if together == 1.0:
        assert alone > 0.15 * runs  # as if images were independent


def test_proof_resamples_the_groups_of_the_test_split(tmp_path: Path) -> None:
    data = sample_data(test=300)
    groups = np.arange(300) // 10
    context = EvaluationContext(
        profile=load_profile("raspberry-pi-4b"),
        images=data.preprocess.apply(data.validation.images),
        labels=data.validation.labels,
        scratch=tmp_path,
        baseline=tiny_onnx(tmp_path / "0.onnx", seed=0),
    )
    grouped = replace(data, test=replace(data.test, groups=groups))
    model = tiny_onnx(tmp_path / "1.onnx", seed=5)
    test = TestSplit(grouped, context, "accuracy")
    assert test.bound(model, 0.95).groups == 30
    assert "drop_bound" not in test.quality(model)
    assert TestSplit(data, context, "accuracy").bound(model, 0.95).groups is None


# --- the splits -----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 14)), min_size=30, max_size=200))
def test_each_group_is_in_one_split_and_each_image_too(images: list[tuple[int, int]]) -> None:
    labels, groups = (np.array(each, np.int64) for each in zip(*images, strict=True))
    parts = split_groups(labels, groups, SHARES, 0)  # type: ignore[arg-type]
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(images)))
    inside = [set(groups[indices].tolist()) for indices in parts.values()]
    assert sum(map(len, inside)) == len(set(groups.tolist()))


def test_small_groups_fill_each_split_to_its_share() -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(200), 5), rng.integers(0, 2, 1000)
    parts = split_groups(labels, groups, SHARES, 0)  # type: ignore[arg-type]
    for name, share in SHARES.items():
        for label in (0, 1):
            count = int((labels[parts[name]] == label).sum())  # type: ignore[index]
            assert count == pytest.approx(share * (labels == label).sum(), abs=10)


def test_groups_that_share_an_image_are_one() -> None:
    """By hand: images 1 and 2 are copies, of groups 0 and 1; image 4 stands alone."""
    numbers = joined(np.array([0, 0, 1, 1, 2]), np.array([5, 6, 6, 7, 8]))
    assert len({*numbers[:4].tolist()}) == 1
    assert numbers[4] != numbers[0]


# --- how they are named ---------------------------------------------------------------------


def noise(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 255, (count, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 images of ten patients each."""
    root = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(noise(60)):
        folder = root / ("bad" if number % 2 else "good")
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / f"p{number % 10}-{number}.png")
    return root


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("arrays") / "cells.npz"
    module = np.array([f"module {n % 10}" for n in range(60)])
    np.savez(path, images=noise(60), labels=np.arange(60) % 2, module=module, weight=np.ones(7))
    return path


def patients(task: Task) -> list[set[int]]:
    splits = (task.data.train, task.data.validation, task.data.test)
    assert all(split.groups is not None for split in splits)
    return [set(split.groups.tolist()) for split in splits if split.groups is not None]


def test_folder_by_pattern_and_by_file_and_arrays_by_column(
    photos: Path, arrays: Path, tmp_path: Path
) -> None:
    names = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
    named = tmp_path / "groups.csv"
    named.write_text("".join(f"{name.name},{name.name[:2]}\n" for name in names))
    in_order = tmp_path / "order.csv"
    in_order.write_text("".join(f"{n % 10}\n" for n in range(60)))
    for data, groups in (
        (f"folder:{photos}", "pattern:(p[0-9]+)-"),
        (f"folder:{photos}", f"file:{named}"),
        (f"npz:{arrays}", "column:module"),
        (f"npz:{arrays}", f"file:{in_order}"),
    ):
        inside = patients(load_task(data=data, groups=groups))
        assert set.union(*inside) == set(range(10))
        assert sum(map(len, inside)) == 10
        assert all(inside)


def test_parquet_by_column(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    import io

    def encoded(pixels: NDArray[np.uint8]) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    columns = {
        "image": [encoded(pixels) for pixels in noise(60)],
        "label": [n % 2 for n in range(60)],
        "video": [n % 12 for n in range(60)],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    inside = patients(load_task(data=f"parquet:{tmp_path}", groups="column:video"))
    assert sum(map(len, inside)) == 12
    with pytest.raises(InputError, match="has image, label, video and no 'patient'"):
        load_task(data=f"parquet:{tmp_path}", groups="column:patient")


def test_groups_in_two_splits_of_the_source_are_told(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "cells.npz",
        train_images=noise(60)[:30],
        train_labels=np.arange(30) % 2,
        train_module=np.arange(30) // 3,
        test_images=noise(60)[30:],
        test_labels=np.arange(30) % 2,
        test_module=np.arange(30) // 3 + 8,
    )
    task = load_task(data=f"npz:{tmp_path / 'cells.npz'}", groups="column:module")
    assert any("2 of 10 groups of the test split have images in" in n for n in task.data.notes)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("patient", "must be column:NAME, file:PATH or pattern:REGEX, but got 'patient'"),
        ("column:", "must be column:NAME"),
        ("column:module", "has no columns; use file:PATH"),
        ("pattern:p[0-9]", "must have a part in parentheses"),
        ("pattern:(p[0-9]", "must be a regular expression"),
        ("pattern:(x[0-9]+)", "does not match"),
        ("pattern:(p)", "all images are of one"),
        ("pattern:p[0-9]+(x?)", "image 0 of the train split has none"),
        ("file:missing.csv", "must be a CSV file"),
        ("file:{short}", "lacks"),
        ("file:{wide}", "line 1 of"),
        ("file:{twice}", "has 'p1-1.png' in 'p1' and in 'p2'"),
    ],
)
def test_what_leaves_an_image_without_a_group_is_told(
    photos: Path, tmp_path: Path, groups: str, said: str
) -> None:
    (tmp_path / "short.csv").write_text("p1-1.png,p1\n")
    (tmp_path / "wide.csv").write_text("p1-1.png,p1,again\n")
    (tmp_path / "twice.csv").write_text("p1-1.png,p1\np1-1.png,p2\n")
    files = {name: tmp_path / f"{name}.csv" for name in ("short", "wide", "twice")}
    groups = groups.format(**files)
    with pytest.raises(InputError) as caught:
        load_task(data=f"folder:{photos}", groups=groups)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ("column:patient", "has no 'patient'"),
        ("column:weight", "must hold one number or text for each of 60 images"),
        ("column:images", "must hold one number or text"),
        ("pattern:(p)", "are no files"),
        ("file:{few}", "has 2 lines for 60 images"),
    ],
)
def test_what_leaves_an_array_s_image_without_a_group_is_told(
    arrays: Path, tmp_path: Path, groups: str, said: str
) -> None:
    (tmp_path / "few.csv").write_text("1\n2\n")
    with pytest.raises(InputError) as caught:
        load_task(data=f"npz:{arrays}", groups=groups.format(few=tmp_path / "few.csv"))
    assert said in str(caught.value)
