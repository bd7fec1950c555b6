"""What is said at the end: the same figures in the table, the sentences and the JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators import Evaluation, Measurement
from search.concluding.attribution import Saving
from search.concluding.infeasible import Block, Part, Relaxed
from search.telling import words
from search.telling.report.verdict import verdict
from search.telling.summary import (
    baseline_of,
    contender,
    gained,
    review_command,
    simple_of,
    speedup,
    speedup_interval,
    summary,
    table,
    to_json,
    winner_of,
)
from search.trial import Trial
from spaces import CompressionPlan
from tests.samples import sample_result

FOLDER = Path("runs/solar cells")
FIGURES = {
    "plan_id",
    "accuracy_validation",
    "accuracy_test",
    "latency_ms",
    "latency_source",
    "size_bytes",
    "peak_memory_bytes",
}


def plain(text):
    return text.replace("\u00a0", " ")


def with_figures(trial, *figures):
    return replace(trial, evaluation=trial.evaluation.merged(Evaluation.of(figures)))


def with_drop(result, drop, bound):
    outcome = result.winner.outcome
    outcome = replace(outcome, bound=replace(outcome.bound, drop=drop, bound=bound))
    return replace(result, winner=replace(result.winner, outcome=outcome))


def latency(ms, name="latency_ms"):
    return Measurement(name, ms, "ms", "measured", "here")


def test_json_has_every_promised_key():
    told = to_json(sample_result(FOLDER))
    assert {"study", "target", "seconds", "stopped_by", "trials", "front"} <= told.keys()
    assert told["trials"] == {"completed": 21, "rejected": 2, "failed": 1}
    for role in ("baseline", "strongest_simple", "winner"):
        assert told[role].keys() >= FIGURES
        assert None not in [told[role][name] for name in FIGURES]
    assert told["winner"].keys() >= {"drop", "drop_bound", "proven", "path"}
    assert told["winner"]["path"] == "runs/solar cells/best"
    for point in told["front"]:
        assert point.keys() == {
            "plan_id",
            "accuracy_validation",
            "latency_ms",
            "latency_tier",
            "size_bytes",
            "feasible",
        }
    assert [point["feasible"] for point in told["front"]] == [
        trial.feasible for trial in sample_result(FOLDER).front
    ]


def test_json_figures_are_those_of_the_result():
    result = sample_result(FOLDER)
    told = to_json(result)
    winner = result.winner
    assert told["winner"]["plan_id"] == winner.trial.plan.plan_id
    assert told["winner"]["accuracy_validation"] == winner.trial.evaluation.value("accuracy")
    assert told["winner"]["accuracy_test"] == winner.test.value("accuracy_test")
    assert told["winner"]["drop"] == winner.bound.drop
    assert told["winner"]["drop_bound"] == winner.bound.bound
    assert told["baseline"]["latency_ms"] == 188.0
    assert len(told["front"]) == len(result.front)


def test_json_is_strict_and_null_where_nothing_was_evaluated():
    result = sample_result(FOLDER, detail=False)
    broken = with_figures(result.baseline, latency(math.nan))
    told = to_json(replace(result, baseline=broken, simple_test=None))
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["baseline"]["latency_ms"] is None
    assert told["baseline"]["size_bytes"] is None
    assert told["strongest_simple"]["accuracy_test"] is None


def test_json_winner_is_null_when_infeasible():
    told = to_json(sample_result(FOLDER, winner="none"))
    assert told["winner"] is None
    assert told["blocking"]


@pytest.mark.parametrize("name", ["balanced_accuracy", "balanced_accuracy_test"])
def test_figures_follow_the_metric(name):
    result = sample_result(FOLDER)
    figure = Measurement("balanced_accuracy", 0.75, "", "measured", "validation images")
    trial = with_figures(result.baseline, figure)
    test = Evaluation.of([replace(figure, name=name, value=0.5)])
    told = contender(trial, "balanced_accuracy", test).to_json()
    assert told["accuracy_validation"] == 0.75
    assert told["accuracy_test"] == 0.5


def test_final_latency_replaces_the_one_of_the_search():
    result = sample_result(FOLDER)
    test = result.winner.test.merged(Evaluation.of([latency(1.25)]))
    told = to_json(replace(result, winner=replace(result.winner, test=test)))
    assert told["winner"]["latency_ms"] == 1.25
    assert told["winner"]["latency_source"] == "measured"


def test_speedup_is_the_interleaved_ratio_where_there_is_one():
    result = sample_result(FOLDER)
    baseline = baseline_of(replace(result, baseline=with_figures(result.baseline, latency(6.0))))
    ratio = Measurement("latency_ratio", 0.25, "", "measured", "interleaved", 0.2, 0.5)
    trial = with_figures(result.winner.trial, latency(2.0), ratio)
    half = with_figures(result.strongest_simple, latency(2.5), replace(ratio, value=0.5))
    winner, simple = contender(trial, "accuracy"), contender(half, "accuracy")
    assert speedup(baseline, winner) == 4.0
    assert speedup(simple, winner) == 2.0
    without = contender(with_figures(result.winner.trial, latency(2.0)), "accuracy")
    assert speedup(baseline, without) == 3.0
    shown = replace(result, winner=replace(result.winner, trial=trial))
    rows = {row[0]: row[1:] for row in table(shown)[1]}
    assert rows["speed-up"][-1] == "4× (2× to 5×)"
    assert rows["speed-up"][0] == "1×"


def test_table_compares_three_models_and_leaves_out_what_nobody_has():
    header, rows = table(with_drop(sample_result(FOLDER), 0.00558, 0.01762))
    assert header == ["", "baseline", "strongest simple", "winner"]
    assert all(len(row) == 4 for row in rows)
    by_name = {row[0]: [plain(cell) for cell in row[1:]] for row in rows}
    assert by_name["accuracy, validation"][0] == "97.12 %"
    assert by_name["latency is"][0] == "estimated, 177 ms to 199 ms"
    assert by_name["drop on test"] == ["–", "–", "0.56 points"]
    assert by_name["its own bound, alone"] == ["–", "–", "1.76 points"]
    assert by_name["proof"] == ["–", "–", "proved: at most 3 points"]
    assert "size" in by_name
    without = {row[0] for row in table(sample_result(FOLDER, detail=False))[1]}
    assert not {"size", "size ratio", "peak memory"} & without


def test_dashboard_of_a_study_in_a_server_is_told_without_its_password():
    storage = "postgresql+psycopg://me:***@host/studies"
    told = plain(summary(replace(sample_result(FOLDER), storage=storage)))
    assert f"optuna-dashboard '{storage}'" in told


def test_summary_says_proved_and_what_to_type_next():
    told = plain(summary(with_drop(sample_result(FOLDER), 0.0056, 0.02)))
    assert "Proved: the drop is at most 3 points (95 % confidence)." in told
    assert "python 'runs/solar cells/best/verify.py'" in told
    assert "mlflow ui --backend-store-uri sqlite:///runs/mlflow.db" in told
    assert f"optuna-dashboard 'sqlite:///{Path('runs/solar cells/study.db').resolve()}'" in told
    assert f"python -m webbrowser file://{Path.cwd()}/runs/solar%20cells/report.html" in told
    assert "mlflow models serve" not in told
    assert sample_result(FOLDER).command in told.splitlines()[-1]


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        ("sqlite:///my runs/mlflow.db", "'sqlite:///my runs/mlflow.db'"),
        ("https://me:***@host/mlflow", "https://host/mlflow"),
    ],
)
def test_summary_says_how_to_serve_what_was_registered(uri, store):
    result = replace(sample_result(FOLDER), tracking_uri=uri, register="cells")
    serve = "mlflow models serve --model-uri models:/cells@raspberry-pi-4b --env-manager local"
    assert f"MLFLOW_TRACKING_URI={store} {serve}" in plain(summary(result))
    lost = replace(sample_result(FOLDER, winner="none"), tracking_uri=uri, register="cells")
    assert "mlflow models serve" not in plain(summary(lost))


@pytest.mark.parametrize(
    ("drop", "bound", "said"),
    [
        (0.0056, 0.02, "drops by 0.56 points; its own bound, read alone, is 2 points"),
        (0.0, 0.006, "does not drop; its own bound, read alone, is 0.6 points"),
        (-0.01, 0.005, "rises by 1 point; its own bound, read alone, is 0.5 points"),
        (-0.36, -0.3, "rises by 36 points; its own bound, read alone, is -30 points"),
    ],
)
def test_summary_tells_a_gain_from_a_drop(drop, bound, said):
    told = " ".join(plain(summary(with_drop(sample_result(FOLDER), drop, bound))).split())
    assert f"its accuracy {said.replace('-', chr(8722))} (at 95 %)." in told.replace("-30", "−30")


def test_summary_leaves_the_account_of_the_error_to_the_files():
    result = sample_result(FOLDER)
    account = "mean error on many models, each left out of the fit; a caveat"
    estimate = Measurement(
        "latency_ms",
        1.5,
        "ms",
        "estimated",
        f"counted for a Pi, 1 thread; mean error 4 %: {account}; not measured, as it is gone",
        detail={"error_how": account},
    )
    test = result.winner.test.merged(Evaluation.of([estimate]))
    told = " ".join(
        plain(summary(replace(result, winner=replace(result.winner, test=test)))).split()
    )
    assert account not in told
    assert (
        "Latency: counted for a Pi, 1 thread; mean error 4 % (of what, and its caveats: "
        "metrics.json); not measured, as it is gone." in told
    )


@pytest.mark.parametrize(
    ("kind", "drop", "said"),
    [
        (
            "failed",
            0.0121,
            "is faster but not proved. On 300 test images its accuracy drops by 1.21",
        ),
        (
            "failed",
            0.04,
            "That is not below the limit, so that more test images would not show it.",
        ),
        (None, 0.0, "but not proved: a safer finalist had failed before its turn came."),
    ],
)
def test_summary_says_why_a_faster_simple_baseline_did_not_win(kind, drop, said):
    result = sample_result(FOLDER)
    assert "faster but not proved" not in summary(result)
    slow = with_figures(result.winner.trial, latency(60.0))
    beaten = replace(result, winner=replace(result.winner, trial=slow))
    if kind:
        bound = replace(result.winner.bound, drop=drop, bound=drop + 0.03)
        outcome = replace(result.winner.outcome, kind=kind, bound=bound)
        simple = replace(result.winner, trial=result.strongest_simple, outcome=outcome)
        beaten = replace(beaten, finalists=(simple, *result.finalists))
    else:
        others = [f for f in result.finalists if f.trial != result.strongest_simple]
        beaten = replace(beaten, finalists=tuple(others))
    assert result.strongest_simple.evaluation.value("latency_ms") < 60
    assert said in " ".join(plain(summary(beaten)).split())
    assert to_json(beaten)["strongest_simple"]["proven"] is False
    assert "faster but not proved" in verdict(beaten).text


def test_summary_says_why_the_search_ended():
    told = " ".join(plain(summary(sample_result(FOLDER, stopped_by="budget"))).split())
    assert "as nothing more fits the budget: 21 completed, 2 rejected, 1 failed." in told


def test_summary_names_the_images_needed_when_unproven():
    result = sample_result(FOLDER, winner="unproven")
    told = " ".join(plain(summary(result)).split())
    assert "Unproven: that the drop is at most 3 points is not shown. On 300 test images" in told
    assert "About 1,180 test images like these would be enough" in told
    beyond = replace(result.winner.outcome, bound=replace(result.winner.bound, drop=0.03))
    never = replace(result, winner=replace(result.winner, outcome=beyond))
    assert "more test images would not show it" in " ".join(plain(summary(never)).split())


def test_summary_explains_infeasible():
    told = plain(summary(sample_result(FOLDER, winner="none")))
    assert "No candidate meets the limits." in told
    assert "--max-latency 0.5 ms blocked every plan" in told
    assert told.count("Close: trial") == 3
    assert "verify.py" not in told


def test_summary_is_honest_when_nothing_simple_or_nothing_new_wins():
    result = sample_result(FOLDER)
    alone = replace(result, strongest_simple=None, simple_test=None)
    assert "no simple baseline meets the limits" in " ".join(summary(alone).split())
    same = replace(result, winner=replace(result.winner, trial=result.strongest_simple))
    assert "it is itself the strongest simple" in " ".join(summary(same).split())
    outcome = replace(result.winner.outcome, kind="untouched")
    untouched = replace(
        result, winner=replace(result.winner, trial=result.baseline, outcome=outcome)
    )
    assert "The untouched model is delivered" in summary(untouched)
    assert "Nothing has to be proved" in summary(untouched)
    assert simple_of(alone) is None
    assert winner_of(untouched).trial is result.baseline


@pytest.mark.parametrize(
    ("uri", "command"),
    [
        ("sqlite:////a b/mlflow.db", "mlflow ui --backend-store-uri 'sqlite:////a b/mlflow.db'"),
        ("http://127.0.0.1:5000", "python -m webbrowser http://127.0.0.1:5000"),
        ("https://me:secret@host/mlflow", "python -m webbrowser https://host/mlflow"),
    ],
)
def test_review_command_fits_the_store_and_hides_passwords(uri, command):
    assert review_command(uri) == command


def test_json_tells_why_the_winner_and_how_often_finalists_were_trained():
    result = sample_result(FOLDER)
    saving = Saving("conv1: 8 of 64 channels", 0.25, 1200.0, 0.004, "estimated")
    trial = replace(result.trials[7], drops=(0.02, 0.01, 0.03))
    trials = tuple(trial if t.number == 7 else t for t in result.trials)
    result = replace(result, savings=(saving,), trials=trials)
    told = to_json(result)
    assert told["trained_again"] == 2
    assert told["infeasible"] is None
    assert told["winner"]["savings"] == [
        {
            "choice": "conv1: 8 of 64 channels",
            "saves_ms": 0.25,
            "saves_bytes": 1200.0,
            "costs": 0.004,
            "source": "estimated",
        }
    ]
    said = " ".join(plain(summary(result)).split())
    assert "2 more trainings of finalists" in said
    once = tuple(replace(t, drops=t.drops[:2]) for t in trials)
    said = " ".join(plain(summary(replace(result, trials=once))).split())
    assert "1 more training of a finalist" in said
    assert "conv1: 8 of 64 channels saves 0.25 ms and 1.2 kB, costs 0.4 points (estimated)" in said


def test_json_tells_the_closest_plan_and_what_relaxing_buys():
    result = sample_result(FOLDER, winner="none")
    relaxed = Relaxed("--max-latency", 2.1, 8, 2.1, True)
    block = Block("latency_ms", 0.5, 2.0, 7, True, 2.0, (Part("conv1", 0.6),), (relaxed,))
    closest = result.trials[7]
    told = to_json(replace(result, closest=closest, blocks=(block,)))["infeasible"]
    assert told["closest"]["trial"] == 7
    assert told["closest"]["trained"]
    assert told["closest"]["violations"] == dict(closest.violations)
    (limit,) = told["limits"]
    assert list(limit["parts"]) == [{"name": "conv1", "share": 0.6}]
    assert limit["relaxed"][0]["option"] == "--max-latency"


def contender_of(ms, low, high, number=1, ratio=None):
    figures = [Measurement("latency_ms", ms, "ms", "estimated", "made up", low, high)]
    if ratio:
        figures.append(Measurement("latency_ratio", 0.5, "", "measured", "made up", *ratio))
    plan = CompressionPlan({"made_up": {"number": number}} if number else {})
    origin = "warm" if number else "baseline:fp32"
    trial = Trial(number, plan, "complete", origin, Evaluation.of(figures))
    return contender(trial, "accuracy")


def test_interval_of_a_speedup_by_hand():
    """Estimates: as if one were at its lowest and the other at its highest."""
    whole, half = contender_of(100.0, 80.0, 120.0, 0), contender_of(50.0, 40.0, 60.0)
    assert speedup_interval(whole, half) == (80 / 60, 120 / 40)
    assert gained(whole, half) == "about 2× (1.3× to 3×)"
    assert speedup_interval(whole, whole) is None
    # Measured beside the untouched model: the ratio's own interval, and of two ratios both ends.
    fast = contender_of(50.0, 40.0, 60.0, ratio=(0.4, 0.5))
    faster = contender_of(25.0, 20.0, 30.0, 2, (0.2, 0.25))
    assert speedup_interval(whole, fast) == (2.0, 2.5)
    assert speedup_interval(fast, faster) == (0.4 / 0.25, 0.5 / 0.2)
    assert speedup_interval(contender_of(9.0, None, None), half) is None


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((1.31, 2.99), "1.3× to 3×"),
        ((187.0, 204.1), "180× to 210×"),
        ((0.951, 1.0), "0.95× to 1×"),
    ],
)
def test_interval_is_rounded_outwards(interval, said):
    assert words.between(interval) == said


def test_memory_says_on_which_machine_it_was_read():
    result = sample_result(FOLDER)
    memory = Measurement(
        "peak_memory_bytes", 2e8, "bytes", "measured", "here", detail={"machine": "x86_64"}
    )
    winner = replace(result.winner, trial=with_figures(result.winner.trial, memory))
    assert "peak memory on x86_64" in {row[0] for row in table(replace(result, winner=winner))[1]}


@pytest.mark.parametrize(
    ("stopped_by", "cut_off", "compressed", "short"),
    [
        ("budget", ("training",), True, True),
        ("budget", (), True, False),
        ("budget", (), False, True),
        ("trials", ("training",), True, False),
    ],
)
def test_untouched_model_for_want_of_time_is_told_from_one_that_nothing_outdid(
    stopped_by, cut_off, compressed, short
):
    result = sample_result(FOLDER, stopped_by=stopped_by)
    outcome = replace(result.winner.outcome, kind="untouched")
    winner = replace(result.winner, trial=result.baseline, outcome=outcome)
    trials = result.trials if compressed else result.trials[:1]
    delivered = replace(result, winner=winner, cut_off=cut_off, trials=trials)
    assert delivered.short_of_time is short
    told = " ".join(plain(summary(delivered)).split())
    assert ("none is faster and meets the limits" in told) is compressed
    assert ("Cut off: training." in told) is bool(cut_off)
    assert replace(delivered, winner=result.winner).short_of_time is False
