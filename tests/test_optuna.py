"""The study as Optuna's own tools read it, while it runs and when it is done."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from browser import look
from fakes import space_of
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from servers import free_port, wait_until_alive
from test_study import go_on, trial_of

from search.deciding.baselines import simple_plans
from search.deciding.bulk import BulkInsert
from search.deciding.storage import elapsed_s, sqlite_storage
from search.deciding.study import Study
from search.errors import StudyError
from search.limits import Limits

optuna.logging.set_verbosity(optuna.logging.ERROR)
LIMITS = Limits(0.03, max_size_bytes=25_000)  # one plan in four is within both
TRIALS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study under way: nobody has closed it, a question waits for its answer."""
    folder = tmp_path_factory.mktemp("study")
    storage = sqlite_storage(folder / "study.db")
    study = Study(space_of(), storage, "solar", metric="accuracy", sampler="tpe", seed=0)
    study.propose(simple_plans(space_of()))
    go_on(study, TRIALS, LIMITS)
    study.repeat(study.ask(), study.trials[0])
    study.keep_training(replace(study.trials[3], training=1), 99.0)
    study.ask()
    return folder


@pytest.fixture
def loaded(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")


def test_parameters_values_and_constraints_are_optunas_own(loaded: optuna.Study) -> None:
    assert loaded.metric_names == ["accuracy", "latency_ms"]
    names = {dimension.name for dimension in space_of().dimensions}
    assert {frozenset(trial.params) for trial in loaded.trials} == {frozenset(names)}
    states = [trial.state for trial in loaded.trials]
    assert states.count(TrialState.PRUNED) == 1  # the plan that was known
    assert states.count(TrialState.COMPLETE) == TRIALS + 1  # with a finalist's second training
    for trial in loaded.get_trials(states=[TrialState.COMPLETE]):
        kept = trial.user_attrs.get("trial") or trial.user_attrs["training"]
        assert trial.user_attrs["origin"] == kept["origin"]
        named = trial.constraints
        listed = named.pop("0")  # where optuna-dashboard looks
        assert named == kept["violations"]
        assert (listed <= 0) == all(v <= 0 for v in named.values())


def test_best_trials_are_the_feasible_front(loaded: optuna.Study) -> None:
    best = {trial.user_attrs["plan_id"] for trial in loaded.best_trials}
    feasible = [
        t
        for t in loaded.get_trials(states=[TrialState.COMPLETE])
        if all(excess <= 0 for excess in t.constraints.values())
    ]
    assert 0 < len(feasible) < TRIALS
    front = {
        t.user_attrs["plan_id"]
        for t in feasible
        if not any(
            o.values[0] >= t.values[0] and o.values[1] <= t.values[1] and o.values != t.values
            for o in feasible
        )
    }
    assert best == front


def test_plots_show_every_trial_and_rank_every_parameter(loaded: optuna.Study) -> None:
    front = optuna.visualization.plot_pareto_front(loaded)
    assert front.layout.xaxis.title.text == "accuracy"
    assert front.layout.yaxis.title.text == "latency_ms"
    assert sum(len(points.x) for points in front.data) == TRIALS + 1
    importances = optuna.visualization.plot_param_importances(
        loaded, target=lambda trial: trial.values[1], target_name="latency_ms"
    )
    assert set(importances.data[0].y) == {dimension.name for dimension in space_of().dimensions}


def test_time_used_is_read_from_the_last_record(folder: Path, tmp_path: Path) -> None:
    assert elapsed_s(sqlite_storage(folder / "study.db"), "solar") == 99.0
    assert elapsed_s(sqlite_storage(folder / "study.db"), "other") == 0.0
    fresh = sqlite_storage(tmp_path / "study.db")
    Study(space_of(), fresh, "solar", metric="accuracy", sampler="tpe", seed=0)
    assert elapsed_s(fresh, "solar") == 0.0


def test_bulk_insert_writes_what_optuna_writes(tmp_path: Path) -> None:
    """Read by Optuna, a trial is the same, whoever wrote it; also to the last bit of a float."""
    distributions = {
        "width": CategoricalDistribution((8, 16, 24)),
        "bits": CategoricalDistribution(("int8", "float", True)),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
    }
    written = [
        create_trial(
            state=state,
            values=values,
            params={"width": 16, "bits": True, "rate": 0.1 + 0.2},
            distributions=distributions,
            user_attrs={"trial": {"a": [1, None, 1e-300]}, "text": "ü"},
            constraints={"drop": -0.25},
        )
        for state, values in [
            (TrialState.COMPLETE, [0.1 + 0.2, float("inf")]),
            (TrialState.COMPLETE, [float("-inf"), 1.0]),
            (TrialState.FAIL, None),
            (TrialState.PRUNED, None),
        ]
    ]
    read: list[list[FrozenTrial]] = []
    for way in ("optuna", "bulk"):
        storage = sqlite_storage(tmp_path / f"{way}.db")
        study = optuna.create_study(
            storage=storage, study_name="s", directions=["maximize", "minimize"]
        )
        other = optuna.create_study(storage=storage, study_name="other")
        other.add_trial(create_trial(value=1.0))  # whose trials are numbered apart
        for trial in written:
            if way == "optuna":
                study.add_trial(trial)
            else:
                bulk = BulkInsert.into(storage)
                assert bulk is not None
                bulk.add(storage.get_study_id_from_name("s"), trial)
        again = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / way}.db")
        read.append(again.trials)
    assert read[0] == read[1]
    assert [trial.number for trial in read[1]] == [0, 1, 2, 3]
    assert read[1][0].params["rate"] == 0.1 + 0.2


def test_unknown_schema_is_left_to_optuna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.deciding.bulk.SCHEMA", "v9")
    storage = sqlite_storage(tmp_path / "study.db")
    assert BulkInsert.into(storage) is None
    study = Study(space_of(), storage, "s", metric="accuracy", sampler="random", seed=0)
    ask = study.ask()
    study.tell(ask, trial_of(0, ask), 1.0)
    again = Study(space_of(), storage, "s", metric="accuracy", sampler="random", seed=0)
    assert [t.plan for t in again.trials] == [ask.plan]


def test_study_of_an_earlier_release_is_refused_with_the_way_on(tmp_path: Path) -> None:
    storage = sqlite_storage(tmp_path / "study.db")
    old = optuna.create_study(storage=storage, study_name="s", directions=["maximize", "minimize"])
    old.add_trial(create_trial(values=[0.9, 1.0], user_attrs={"elapsed_s": 1.0}))
    with pytest.raises(StudyError, match=r"an earlier one, .*another --study"):
        Study(space_of(), storage, "s", metric="accuracy", sampler="random", seed=0)
    assert len(old.trials) == 1
    assert "version" not in old.user_attrs  # nothing was changed


@contextlib.contextmanager
def dashboard(folder: Path, log: Path) -> Iterator[str]:
    """optuna-dashboard on the study's file; its address."""
    port = free_port()
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    command += ["--port", str(port), f"sqlite:///{folder / 'study.db'}"]
    with log.open("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        try:
            wait_until_alive(f"http://127.0.0.1:{port}/api/studies", process, log)
            yield f"http://127.0.0.1:{port}/dashboard"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_dashboard_shows_front_importances_and_what_is_infeasible(
    folder: Path, tmp_path: Path
) -> None:
    with dashboard(folder, tmp_path / "log") as address:
        page = look(f"{address}/studies/1", wait_ms=20_000)
    assert "solar" in page.text
    assert "Pareto Front Objective X: accuracy Objective Y: latency_ms" in page.text.replace(
        "\u200b ", ""
    )
    for dimension in space_of().dimensions:  # ranked under "Hyperparameter Importance"
        assert dimension.name in page.text
    assert "Complete Infeasible Pruned" in page.text  # the timeline's legend
    assert "Best Trials" in page.text
