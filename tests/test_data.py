"""Sources of data, and how images are split."""

from __future__ import annotations

import numpy as np

from search.loading import load_task


def test_digits_are_split_by_seed_and_large_enough_for_a_proof() -> None:
    data = load_task().data
    assert [len(s) for s in (data.train, data.validation, data.test)] == [899, 359, 539]
    assert data.calibration.images.shape == (256, 1, 32, 32)
    assert data.classes == tuple("0123456789")
    assert data.train.images.dtype == np.uint8
    assert data.fingerprint == load_task().data.fingerprint
    assert data.fingerprint != load_task(seed=1).data.fingerprint
