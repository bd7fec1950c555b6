"""What is shown while a search runs."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from evaluators import Evaluation, Measurement
from search.telling.progress import HEARTBEAT_S, LiveProgress, PlainProgress, Score, show_progress
from tests.samples import sample_result

TRIALS = sample_result(Path("runs/x")).trials


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(text):
    return text.replace("\u00a0", " ")


def lines(stream):
    return plain(stream.getvalue()).splitlines()


def test_score_keeps_the_fastest_that_meets_the_limits():
    score = Score("accuracy", 40, None)
    for trial in TRIALS:
        score.add(trial)
    feasible = [t for t in TRIALS if t.feasible]
    assert score.best == min(feasible, key=lambda t: t.evaluation.value("latency_ms"))
    assert score.simple.origin == "baseline:uniform-75-int8"
    assert score.baseline.number == 0
    assert score.counts == {"complete": 21, "rejected": 2, "failed": 1}
    assert score.counted() == "22 of 40 trials, 2 rejected, 1 failed"


def test_score_tells_gain_and_drop_against_the_baseline():
    score = Score("accuracy", 40, None)
    score.add(TRIALS[0])
    assert plain(score.told(TRIALS[0])) == "188 ms, accuracy 97.12 %"
    figures = [
        Measurement("accuracy", 0.9612, "", "measured", "here"),
        Measurement("latency_ms", 47.0, "ms", "measured", "here"),
    ]
    score.add(replace(TRIALS[5], evaluation=Evaluation.of(figures)))
    told = "47 ms, 4× as fast as FP32, accuracy 96.12 %, drop 1 point"
    assert plain(score.told(score.best)) == told
    assert score.told(None) == "none yet"


def test_time_left_is_the_lesser_of_budget_and_trials(clock):
    score = Score("accuracy", 4, 100.0, clock=clock)
    assert score.left_s() == 100.0
    clock.now += 10
    score.add(TRIALS[0])
    assert score.left_s() == 30.0  # 10 s a trial, three to go
    clock.now += 80
    assert score.left_s() == 10.0
    clock.now += 80
    assert score.left_s() == 0.0


def test_pace_after_a_resumption_is_that_of_the_new_trials(clock):
    score = Score("accuracy", 6, None, spent_s=500.0, clock=clock)
    for trial in TRIALS[:4]:
        score.add(trial, known=True)
    assert score.left_s() is None
    clock.now += 7
    score.add(TRIALS[4])
    assert score.left_s() == 7.0
    assert score.elapsed_s == 507.0


def test_plain_progress_is_one_line_per_trial(clock):
    stream = io.StringIO()
    progress = PlainProgress(Score("accuracy", 24, 900.0, clock=clock), stream)
    with progress:
        for trial in TRIALS:
            progress.stage(trial.number, "train 1/8", 0.125)
            progress.trial(trial)
    told = lines(stream)
    assert len(told) == len(TRIALS)
    assert told[5].startswith("trial 5 (uniform −75 %, int8) complete: ")
    assert f"failed: {TRIALS[17].reason}" in told[17]
    broken = [n for n, t in enumerate(TRIALS) if t.state == "complete" and not t.feasible]
    assert [n for n, line in enumerate(told) if "(breaks drop)" in line] == broken


def test_plain_progress_beats_when_a_stage_takes_long(clock):
    stream = io.StringIO()
    progress = PlainProgress(Score("accuracy", 24, None, clock=clock), stream)
    for _ in range(9):
        clock.now += HEARTBEAT_S / 4
        progress.stage(3, "train 3/8", 0.375)
    assert len(lines(stream)) == 2
    assert lines(stream)[0].startswith("trial 3: train 3/8, 38%")


def drawn(progress):
    page = Console(file=io.StringIO(), width=120)
    page.print(progress.draw())
    return plain(page.file.getvalue())


def test_live_display_shows_stage_best_and_time(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = LiveProgress(Score("accuracy", 40, 900.0, clock=clock), console)
    with progress:
        for trial in TRIALS[:12]:
            progress.trial(trial)
        progress.stage(12, "train 3/8", 0.375)
        progress.note("MLflow is away")
        page = drawn(progress)
        progress.trial(replace(TRIALS[17], number=12))
        after = drawn(progress)
    assert "trial 12" in page
    assert "train 3/8" in page
    assert "best so far" in page
    assert "× as fast as FP32" in page
    assert "0 s of 15 min" in page
    assert "trial 12" not in after
    output = console.file.getvalue()
    assert "MLflow is away" in output
    assert TRIALS[17].reason in output  # a failure stays on the screen


def test_progress_leaves_standard_output_alone(capfd):
    progress = LiveProgress(
        Score("accuracy", 40, None), Console(file=sys.stderr, force_terminal=True)
    )
    with progress:
        print('{"study": 1}')
        progress.trial(TRIALS[0])
    assert capfd.readouterr().out == '{"study": 1}\n'


def test_progress_is_plain_where_there_is_no_terminal():
    assert isinstance(show_progress(Score("accuracy", 1, None), io.StringIO()), PlainProgress)


def test_training_of_a_finalist_is_told_and_is_no_trial():
    stream = io.StringIO()
    score = Score("accuracy", 24, None)
    progress = PlainProgress(score, stream)
    progress.resumed(TRIALS[:8], 0.0)
    progress.trial(replace(TRIALS[7], training=1))
    assert score.evaluated == 8
    told = lines(stream)[-1]
    assert told.startswith("finalist 7 (warm start) trained longer complete: ")
    assert "8 of 24 trials, 1 trained again; " in told
