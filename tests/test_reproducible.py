"""The same search twice, each in a process, folder and cache of its own: the same plans."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tests.test_end_to_end import NETWORK, OPTIONS, Place

TRIALS = 12  # every simple baseline, and plans of all other origins
# No budget: a clock would decide what there is time for.
SEARCH = [*OPTIONS, "--data", "npz:digits.npz", "--study", "one", "--seed", "3", "--no-cache"]
SEARCH += ["--trials", str(TRIALS)]
TAKEN = ("accuracy", "drop", "drop_bound", "latency_ms", "size_bytes")
# MLflow has no part in it, and takes longer to start than the search.
MAIN = """
import sys
from search import cli
from search.publishing.tracker import NullTracker
from search.publishing import mlflow
mlflow.MlflowTracker = lambda *_, **__: NullTracker()
sys.exit(cli.main())
"""


def searched(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The result as JSON, and what came of every trial."""
    folder.mkdir()
    (folder / "tiny.py").write_text(NETWORK)
    digits = load_digits()
    images = (digits.images[:400] / 16).astype(np.float32)
    np.savez(folder / "digits.npz", images=images, labels=digits.target[:400])
    place = Place(folder)
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *SEARCH],
        cwd=folder,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    trials = [what_came_of(trial, place.runs / "one") for trial in place.trials("one")]
    return json.loads(done.stdout), trials


def what_came_of(trial: Mapping[str, Any], study: Path) -> dict[str, Any]:
    figures = {m["name"]: m["value"] for m in trial["evaluation"]["measurements"]}
    kept = {name: trial[name] for name in ("number", "plan", "origin")}
    file = (study / trial["model"]).read_bytes()
    return kept | {name: figures.get(name) for name in TAKEN} | {"file": file}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_same_seed_gives_the_same_plans_files_and_accuracies(tmp_path: Path) -> None:
    (one, ours), (other, theirs) = searched(tmp_path / "a"), searched(tmp_path / "b")
    assert len({json.dumps(trial["plan"], sort_keys=True) for trial in ours}) == TRIALS
    assert {"warm", "model", "sampler:tpe"} <= {trial["origin"] for trial in ours}
    for mine, its in zip(ours, theirs, strict=True):
        assert mine == its
    for name in ("plan_id", "accuracy_validation", "accuracy_test", "drop", "drop_bound"):
        assert one["winner"][name] == other["winner"][name], name
    assert one["front"] == other["front"]
