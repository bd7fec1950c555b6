"""A model that was trained here and knows less than thumbnails do is told of."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from search.app import learned_little
from search.cli import main
from search.task import Split
from search.training.thumbnails import nearest_labels


def striped(count: int, seed: int) -> Split:
    """Upright and lying stripes under noise, of any brightness."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = 60 * np.sin(np.arange(32) * 0.8)
    images = np.where(labels[:, None, None] == 1, wave[:, None], wave[None, :])
    images = images + rng.normal(0, 20, (count, 32, 32)) + rng.uniform(80, 160, (count, 1, 1))
    return Split(np.clip(images, 0, 255).astype(np.uint8)[:, None], labels)


def test_nearest_thumbnail_tells_stripes_apart_whatever_their_brightness() -> None:
    asked = striped(100, 1)
    chosen, labels = nearest_labels(striped(200, 0), asked)
    assert chosen.tolist() == list(range(100))
    assert np.mean(labels == asked.labels) > 0.95


def test_of_many_images_some_are_compared() -> None:
    chosen, labels = nearest_labels(striped(10, 0), striped(1500, 1))
    assert len(chosen) == len(labels) == 1000
    assert len(set(chosen.tolist())) == 1000


@pytest.mark.parametrize(("right", "warned"), [(0.56, True), (0.97, False)])
def test_model_that_thumbnails_outdo_is_told_of(right: float, warned: bool) -> None:
    known, asked = striped(200, 0), striped(300, 1)
    data = SimpleNamespace(train=known, validation=asked)
    bench = SimpleNamespace(
        context=SimpleNamespace(confidence=0.95),
        task=SimpleNamespace(metric="accuracy", data=data),
    )
    wrong = np.arange(300) >= right * 300
    predictions = np.where(wrong, 1 - asked.labels, asked.labels)
    found = learned_little(bench, predictions)  # type: ignore[arg-type]
    assert bool(found) is warned
    if warned:
        assert "has learned little: its accuracy on validation is 56" in found[0]
        assert "--train-epochs" in found[0]
    agreeing = replace_metric(bench)
    assert learned_little(agreeing, predictions) == []


def replace_metric(bench: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(
        context=bench.context, task=SimpleNamespace(metric="agreement", data=bench.task.data)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train-epochs", "0"], "must be a number of epochs above 0"),
        (["--train-lr", "nan"], "must be a learning rate above 0"),
        (["--train-lr", "1e9"], "of at most 10"),
    ],
)
def test_training_that_can_not_be_is_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--target", "arm", "--max-drop", "0.1", *options]) == 2
    assert said in capsys.readouterr().err
