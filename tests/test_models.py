"""Sources of models."""

from __future__ import annotations

import pickle

import torch

from search.loading import load_task


def test_default_takes_one_channel_and_is_picklable() -> None:
    task = load_task()
    model = pickle.loads(pickle.dumps(task.build))()
    assert not model.training
    assert model.conv1.in_channels == 1
    pixels = torch.from_numpy(task.data.preprocess.apply(task.data.test.images[:2]))
    assert model(pixels).shape == (2, 10)
