"""Skewed classes and images without labels: what training sees, and whole searches of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loading_samples import network, random_pixels
from PIL import Image
from torch import nn

from search import compress
from search.inputs.loading import load_task
from search.task import Preprocess
from search.training.teacher import teacher_views
from search.training.train import Hardware, Views, recalibrate

CPU = Hardware(torch.device("cpu"), bfloat16=False)


def skewed(balanced: bool) -> Views:
    """300 images of class 0, which are black, and 20 of class 1, which are white."""
    labels = torch.arange(320) // 300
    images = (255 * labels).to(torch.uint8)[None, :, None, None, None].expand(1, 320, 1, 4, 4)
    return Views(images, torch.zeros(1, 320, 2), labels, balanced=balanced)


@pytest.mark.parametrize(("balanced", "share"), [(False, 20 / 320), (True, 0.5)])
def test_each_class_is_seen_as_often_where_it_counts_as_much(balanced: bool, share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    seen = [batch.labels for _ in range(20) for batch in skewed(balanced).batches(64, generator)]
    assert sum(map(len, seen)) == 20 * 320
    assert float(torch.cat(seen).float().mean()) == pytest.approx(share, abs=0.02)


def test_statistics_of_batch_norms_are_those_of_the_data_as_it_is() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1))
    recalibrate(model, skewed(balanced=True), Preprocess((4, 4), 1, (0.0,), (1.0,)), CPU)
    assert float(model[0].running_mean) == pytest.approx(20 / 320, abs=0.02)


@pytest.mark.parametrize(
    ("metric", "balanced"),
    [("accuracy", False), ("agreement", False), ("balanced_accuracy", True), ("f1", True)],
)
def test_metric_decides_what_training_sees(metric: str, balanced: bool) -> None:
    data = (random_pixels(60), np.arange(60) % 2)
    task = load_task(network(classes=2), data=data, metric=metric)  # type: ignore[arg-type]
    assert teacher_views(task, task.build(), CPU, 0).balanced is balanced


@pytest.mark.slow
def test_search_without_labels_agrees_with_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of pictures from the device, in no class folders, and a trained model."""
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, pixels in enumerate(random_pixels(160, shape=(12, 12))):
        shade = np.uint8(index % 2 * 127)
        Image.fromarray(pixels // 2 + shade).save(photos / f"{index}.png")
    torch.manual_seed(0)
    model = network(classes=3, width=16)
    result = compress(
        model,
        f"folder:{photos}",
        target="x86-avx2",
        max_drop=0.2,
        metric="agreement",
        trials=4,
        output=tmp_path / "runs",
    )
    assert result.baseline.metric == 1.0
    assert len(result.details.data.classes) == 3
    assert result.best is not None
    assert 0.8 <= result.best.metric <= 1.0
    assert "agreement with the original" in str(result)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1"])
def test_search_by_another_metric_bounds_its_drop(
    metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESSION_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folders = {
        name: write_bright_and_dark(tmp_path / name, count)
        for name, count in (("train", 80), ("val", 40), ("test", 60))
    }
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def network(classes, channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = compress(
        "net:network",
        **folders,
        target="x86-avx2",
        max_drop=0.5,
        metric=metric,  # type: ignore[arg-type]
        trials=3,
        output=tmp_path / "runs",
    )
    assert result.best is not None
    assert result.details.metric == metric
    assert result.details.winner is not None
    if result.best.trial == 0:  # the untouched model has no drop
        assert result.best.drop_bound is None
    else:
        assert result.best.drop_bound is not None
        assert result.best.drop_bound >= result.best.drop
        assert "bootstrap" in result.details.winner.bound.method


def write_bright_and_dark(folder: Path, count: int) -> Path:
    """Color images: nine tenths dark, one tenth bright."""
    random = np.random.default_rng(count)
    for index in range(count):
        kind = "bright" if index % 10 == 0 else "dark"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 90, (10, 10, 3)) + 150 * (kind == "bright")
        Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{index}.png")
    return folder
