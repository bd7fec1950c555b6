"""The report: one page that says what was found, and never more."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators import Evaluation, Measurement
from search.concluding.attribution import Saving
from search.concluding.infeasible import Block, Part, Relaxed
from search.deciding.sensitivity import Sensitivity
from search.telling import words
from search.telling.report import page as page_module
from search.telling.report.classes import class_table
from search.telling.report.forest import forest
from search.telling.report.front import front_chart, plotted
from search.telling.report.heat import heat_table
from search.telling.report.layers import layer_table
from search.telling.report.page import render, write_report
from search.telling.report.panels import panel
from search.telling.report.plans import plan_lines
from search.telling.report.savings import saving_rows
from search.telling.report.scale import Scale
from search.telling.report.times import stages
from search.telling.report.verdict import headline, verdict
from spaces import CompressionPlan
from tests.samples import GROUPS, sample_result, write_models

FOLDER = Path("runs/solar-cells")
EVIL = "<script>alert(1)</script>"
VOID = {"br", "meta", "link", "path", "circle", "rect", "input"}


class Page(HTMLParser):
    """Text, tables and identifiers of a page; fails where tags are not balanced."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.tables, self.links = [], [], [], []
        self.text, self.headings, self.scripts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "script":
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in VOID, tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
            return
        if "style" in self.open:
            return
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def words(self):
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())


def page(result, **extras):
    return Page(render(result, **extras))


def dropping(trial, *names):
    """The trial without some of its figures."""
    kept = [m for n, m in trial.evaluation.measurements.items() if n not in names]
    return replace(trial, evaluation=Evaluation.of(kept))


@pytest.mark.parametrize("winner", ["proven", "unproven", "none"])
@pytest.mark.parametrize("trials", [1, 2, 7, 60])
@pytest.mark.parametrize("detail", [True, False])
def test_page_is_whole_whatever_the_search_found(winner, trials, detail):
    found = page(sample_result(FOLDER, winner=winner, trials=trials, detail=detail))
    assert len(found.ids) == len(set(found.ids))
    assert {"compared", "front", "limits", "time", "provenance", "again"} <= set(found.ids)
    assert found.links == ["data:,"]
    assert "None" not in found.words.replace("None to", "")
    assert "nan" not in found.words.split()


def test_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    html = write_report(tmp_path / "report.html", sample_result(tmp_path)).read_text()
    bare = re.sub(r"sqlite:///\S+", "", html)
    assert not re.search(r"(?i)https?:|//[a-z]+\.|@import|url\(|<iframe|\son[a-z]+=", bare)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_page_of_500_trials_stays_small_enough_for_a_phone():
    html = render(sample_result(FOLDER, trials=500))
    assert len(html) < 1_000_000
    assert html.count("data-trial=") == 2 * len(plotted(sample_result(FOLDER, trials=500)))


def test_headline_says_gain_over_both_baselines_and_the_drop():
    result = sample_result(FOLDER)
    told = "".join(text for text, _ in headline(result)).replace("\u00a0", " ")
    stressed = [text.replace("\u00a0", " ") for text, strong in headline(result) if strong]
    assert re.fullmatch(
        r"about [\d.]+× \([\d.]+× to [\d.]+×\) as fast as FP32 and "
        r"about [\d.]+× \([\d.]+× to [\d.]+×\) as fast as the strongest simple baseline, "
        r"for [\d.]+ points? of accuracy\.",
        told,
    )
    assert stressed[2] == words.points(result.winner.bound.drop).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("drop", "expected"),
    [(0.0, "with no drop in accuracy."), (-0.004, "with 0.4 points more accuracy.")],
)
def test_headline_says_so_when_nothing_was_lost(drop, expected):
    result = sample_result(FOLDER)
    outcome = result.winner.outcome
    outcome = replace(outcome, bound=replace(outcome.bound, drop=drop))
    result = replace(result, winner=replace(result.winner, outcome=outcome))
    assert "".join(t for t, _ in headline(result)).replace("\u00a0", " ").endswith(expected)


def test_headline_says_so_when_the_untouched_model_stays():
    result = sample_result(FOLDER, trials=1)
    assert "untouched model is delivered: 0 compressed models finished" in headline(result)[0][0]


def test_verdict_distinguishes_proven_unproven_and_infeasible():
    proven, unproven, none = (
        verdict(sample_result(FOLDER, winner=winner)) for winner in ("proven", "unproven", "none")
    )
    assert (proven.kind, unproven.kind, none.kind) == ("proven", "unproven", "infeasible")
    assert "1,180 test images" in unproven.text
    assert "images" not in none.text
    assert "--max-latency 0.5 ms blocked" in none.text


def test_untouched_model_has_nothing_to_prove():
    result = sample_result(FOLDER)
    outcome = replace(result.winner.outcome, kind="untouched")
    untouched = replace(result.winner, trial=result.baseline, outcome=outcome)
    found = verdict(replace(result, winner=untouched))
    assert (found.kind, found.title) == ("proven", "Nothing to prove")
    assert "Tested on" not in found.text


def test_page_says_that_it_was_interrupted():
    assert "interrupt" in page(sample_result(FOLDER, stopped_by="interrupt")).words.lower()


def test_infeasible_page_shows_near_misses_and_no_winner():
    found = page(sample_result(FOLDER, winner="none"))
    assert "blocking" in found.ids
    assert {"layers", "classes"}.isdisjoint(found.ids)
    assert re.search(r"latency is [\d.]+ times its limit", found.words)
    assert "limit: 0.5 ms" in found.words


def test_text_from_outside_is_escaped_everywhere(tmp_path):
    result = sample_result(tmp_path, classes=(EVIL, "b", "c"))
    rejected = replace(result.trials[-1], state="failed", reason=EVIL, evaluation=None)
    result = replace(
        result,
        study=EVIL,
        model_spec=EVIL,
        command=f"python -m search --data '{EVIL}'",
        trials=(*result.trials[:-1], rejected),
        blocking=(EVIL,),
        environment={EVIL: EVIL},
        stopped_by=EVIL,
        data=replace(result.data, name=EVIL, notes=(EVIL,), fingerprint=EVIL),
        profile=replace(result.profile, title=EVIL),
        savings=(Saving(EVIL, 0.1, None, None),),
    )
    found = page(result, sensitivity=Sensitivity("magnitude", {}, {}, {}, {EVIL: 0.1}))
    assert len(found.scripts) == 2
    assert "alert(1)" not in "".join(found.scripts).replace("\\u003cscript\\u003ealert(1)", "")
    assert found.words.count(EVIL) >= 12


def test_plan_settings_in_the_panels_cannot_end_the_script(tmp_path):
    result = sample_result(tmp_path)
    plan = CompressionPlan({"</script><script>alert(1)": {"x": 1}})
    trials = (*result.trials[:-1], replace(result.trials[-1], plan=plan))
    found = page(replace(result, trials=trials))
    assert len(found.scripts) == 2
    rows = [row for entry in json.loads(found.scripts[0]) for row in entry["rows"]]
    assert ["</script><script>alert(1)", "x 1", ""] in rows


def test_missing_figures_are_said_to_be_missing_and_never_zero():
    found = page(sample_result(FOLDER, detail=False))
    by_title = {row[0]: row[1:] for row in found.tables[0]}
    assert by_title["Peak memory"] == ["not evaluated"] * 3
    assert by_title["Size"] == ["not evaluated"] * 3
    assert "Per class: not evaluated" in found.words
    assert not re.search(r"\b0 (ms|B|kB|MB)\b", found.words)


def test_page_says_so_when_no_trial_has_a_latency():
    result = sample_result(FOLDER, winner="none")
    trials = tuple(dropping(t, "latency_ms") if t.evaluation else t for t in result.trials)
    near = tuple(dropping(t, "latency_ms") for t in result.near_misses)
    front = tuple(dropping(t, "latency_ms") for t in result.front)
    bare = replace(
        result, trials=trials, baseline=trials[0], front=front, near_misses=near
    )  # fmt: skip
    found = page(bare)
    assert "No trial has both accuracy and latency" in found.words
    assert "<svg" not in found.words


def test_sources_and_intervals_stand_beside_the_figures():
    found = page(sample_result(FOLDER))
    latency = found.tables[0][1]
    assert latency[0] == "Latency"
    assert all(
        re.search(r"ms ?estimated, .* to ", cell.replace("\u00a0", " ")) for cell in latency[1:]
    )
    assert "held-out error 6.1 %" in found.words
    provenance = [t for t in found.tables if t[0][0] == "Figure"]
    assert len(provenance) == 3
    assert all(row[3] for table in provenance for row in table[1:])


def test_validation_and_test_figures_of_the_same_name_are_kept_apart():
    """The search names a metric alike on both splits; the page says which is which."""
    result = sample_result(FOLDER)
    seen = result.winner.trial.evaluation.value("accuracy")
    final = Evaluation.of(
        [
            Measurement("accuracy", 0.5, "", "measured", "test"),
            Measurement("drop", 0.4, "", "measured", "test"),
            Measurement("latency_ms", 1.25, "ms", "measured", "again"),
        ]
    )
    winner = replace(result.winner, test=final)
    shown = replace(result, winner=winner, finalists=(winner,))
    found = page(shown)
    by_title = {row[0]: row[-1].replace("\u00a0", " ").strip() for row in found.tables[0]}
    assert by_title["Accuracy, testmeasured"] == "50 %"
    assert by_title["Accuracy, validationmeasured"] == words.percent(seen).replace("\u00a0", " ")
    rows = panel(shown, winner.trial).rows
    assert ("accuracy", words.percent(seen), "measured on validation") in rows
    assert ("", words.latency(1.25), "measured, at the end") in rows
    assert not any(value == words.points(0.4) for _, value, _ in rows)
    provenance = [t for t in found.tables if t[0][0] == "Figure"][-1]
    names = [row[0] for row in provenance]
    assert {"accuracyduring the search", "accuracyat the end"} <= set(names)


def test_page_has_the_command_and_the_environment():
    result = sample_result(FOLDER)
    found = page(result)
    assert result.command in found.words
    assert "2.14.0" in found.words
    assert "verify.py" in found.words


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("trials", [1, 2, 24, 200])
def test_chart_keeps_every_plan_inside_and_labels_apart(trials, narrow):
    result = sample_result(FOLDER, trials=trials)
    chart = front_chart(result, 380 if narrow else 720, 400, narrow)
    assert len(chart.points) == len(plotted(result))
    for point in chart.points:
        assert chart.left <= point.x <= chart.right
        assert chart.top <= point.y <= chart.bottom
    areas = [label.area for label in chart.labels]
    for i, (left, top, right, bottom) in enumerate(areas):
        for other in areas[:i]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart
    assert "winner" in {label.text for label in chart.labels}


def test_chart_orders_plans_by_their_figures_and_draws_the_limit_between():
    result = sample_result(FOLDER)
    chart = front_chart(result, 720, 400, narrow=False)
    by_trial = {p.trial: p for p in chart.points}
    figures = {t.number: t.evaluation for t in plotted(result)}
    order = sorted(figures, key=lambda n: figures[n].value("latency_ms"))
    assert [by_trial[n].x for n in order] == sorted(p.x for p in chart.points)
    floor = figures[0].value("accuracy") - 0.03
    for number, evaluation in figures.items():
        above = by_trial[number].y < chart.limit_y
        assert above == (evaluation.value("accuracy") > floor)
    assert by_trial[result.winner.trial.number].kind == "winner"
    assert {p.kind for p in chart.points} == {
        "winner",
        "baseline",
        "front",
        "feasible",
        "infeasible",
    }


def test_chart_draws_a_ruined_plan_at_the_edge():
    result = sample_result(FOLDER)
    low = replace(result.trials[7].evaluation["accuracy"], value=0.1)
    ruined = replace(
        result.trials[7], evaluation=result.trials[7].evaluation.merged(Evaluation.of([low]))
    )
    trials = (*result.trials[:7], ruined, *result.trials[8:])
    chart = front_chart(replace(result, trials=trials), 720, 400, narrow=False)
    point = next(p for p in chart.points if p.trial == 7)
    assert point.below
    assert chart.limit_y < 300  # the limit still lies well above the edge at 356


@given(
    st.floats(1e-4, 1e5),
    st.floats(1.05, 1e6),
    st.booleans(),
    st.integers(2, 10),
)
def test_ticks_are_few_inside_and_rising(low, factor, log, most):
    scale = Scale(low, low * factor, 0, 100, log)
    ticks = scale.ticks(most)
    assert 1 <= len(ticks) <= most
    assert list(ticks) == sorted(set(ticks))
    assert all(low * (1 - 1e-9) <= tick <= low * factor * (1 + 1e-9) for tick in ticks)


def test_scale_maps_ends_and_middle():
    assert Scale(1, 100, 0, 10, log=True)(10) == pytest.approx(5)
    assert Scale(0, 4, 100, 0)(1) == pytest.approx(75)


def test_forest_orders_zero_drop_bound_and_limit():
    found = forest(sample_result(FOLDER))
    for row in found.rows:
        assert found.zero_at < row.drop_at < row.bound_at <= found.limit_at
    over = forest(sample_result(FOLDER, winner="unproven"))
    assert all(row.bound_at > over.limit_at for row in over.rows)


def test_forest_draws_an_unbounded_drop_to_its_end():
    result = sample_result(FOLDER)
    outcome = result.winner.outcome
    outcome = replace(outcome, bound=replace(outcome.bound, bound=math.inf))
    found = forest(replace(result, finalists=(replace(result.winner, outcome=outcome),)))
    assert found.rows[0].bound_at == 94


def test_layers_compare_the_files_that_were_run(tmp_path):
    result = sample_result(tmp_path)
    write_models(result)
    kept = result.winner.trial.plan.settings["pruning"]["kept"]
    found = {change.name: change for change in layer_table(result).layers}
    assert list(found) == [*GROUPS, "fc"]
    for name, channels in GROUPS.items():
        assert found[name].width == f"{channels} → {kept[name]}"
        assert found[name].precision == "fp32 → int8"
    assert found["fc"].width == "3"


def test_layer_shares_add_up_to_one_with_the_rest(tmp_path):
    result = sample_result(tmp_path)
    found = layer_table(result)
    shares = [la.share for la in found.layers] + [rest.share for rest in found.rest]
    assert sum(shares) == pytest.approx(1)
    assert [rest.op for rest in found.rest] == ["global_pool"]
    assert found.layers[0].width == words.NOTHING  # without the files nobody knows


def test_layer_times_are_estimated_when_the_latency_was_not_taken_apart(tmp_path):
    result = sample_result(tmp_path, detail=False)
    write_models(result)
    found = layer_table(result)
    assert sum(la.share for la in found.layers) + sum(r.share for r in found.rest) == (
        pytest.approx(1)
    )
    assert found.how.startswith("Times are estimated from the table of kernels")


def test_layer_that_is_gone_is_said_to_be_left_out(tmp_path):
    result = sample_result(tmp_path)
    latency = result.winner.trial.evaluation["latency_ms"]
    rows = [r for r in latency.detail["operators"] if r["name"] != "layer2.1.conv1"]
    shorter = Evaluation.of([replace(latency, detail={"operators": rows})])
    winner = replace(result.winner, test=result.winner.test.merged(shorter))
    found = {c.name: c for c in layer_table(replace(result, winner=winner)).layers}
    gone = found["layer2.1.conv1"]
    assert (gone.width, gone.precision) == ("left out", words.NOTHING)
    assert gone.time.endswith("\u00a0ms → none")
    assert found["layer2.1.conv1"].share is None


def test_no_layers_when_neither_files_nor_times_are_left(tmp_path):
    assert layer_table(sample_result(tmp_path, detail=False)) is None
    found = page(sample_result(tmp_path, detail=False))
    assert "The layers of the winner: not evaluated" in found.words


SENSITIVITY = Sensitivity(
    "magnitude",
    pruned={"conv1": {8: 4.0, 64: 0.0}},
    recovered={"conv1": {8: 1.0, 32: 0.25, 64: 0.0}},
    bits={"conv1": {32: 0.0, 8: 0.04}, "fc": {32: 0.0, 8: 0.0}},
    removed={"layer1.1": 0.5},
)


def test_heat_shows_every_choice_at_round_shares():
    found = heat_table(SENSITIVITY)
    columns = [column.replace("\u00a0", " ") for column in found.columns]
    assert columns == ["−25 %", "−50 %", "−75 %", "−87.5 %", "int8", "left out"]
    rows = dict(found.rows)
    assert list(rows) == ["conv1", "fc", "layer1.1"]
    conv = rows["conv1"]
    assert conv[1].loss == 0.25  # 32 of 64 channels
    assert conv[3].loss == 1.0  # 8 of 64 channels
    assert conv[3].before == 4.0
    assert conv[3].shade == 1.0
    assert conv[1].shade == 0.5  # the square root of a quarter
    assert conv[4].loss == 0.04
    assert conv[5] is None
    assert rows["fc"][0] is None
    assert rows["fc"][4].shade == 0.0
    assert rows["layer1.1"][5].loss == 0.5


def test_heat_leaves_out_the_columns_that_nobody_could_choose():
    found = heat_table(Sensitivity("magnitude", {}, {}, {"fc": {32: 0.0, 8: 0.1}}, {}))
    assert found.columns == ("int8",)
    assert found.rows[0][1][0].shade == 1.0


def test_heat_has_a_row_for_each_smaller_input():
    found = heat_table(replace(SENSITIVITY, resized={"28x28": 0.1, "16x16": 2.0}))
    assert found.columns[-2:] == ("left out", "smaller")
    rows = dict(found.rows)
    assert [each and each.loss for each in rows["input 16x16"]] == [None] * 6 + [2.0]
    assert rows["input 16x16"][6].shade == 1.0
    assert rows["conv1"][6] is None


def test_page_shows_sensitivity_and_savings_when_they_are_known():
    savings = (
        Saving("conv1: 8 of 64 channels", 0.25, 1200, 0.004, "estimated"),
        Saving("fc: int8", -0.1, 900, None),
    )
    found = page(replace(sample_result(FOLDER), savings=savings), sensitivity=SENSITIVITY)
    assert {"sensitivity", "savings"} <= set(found.ids)
    rows = [[" ".join(cell.split()) for cell in row] for t in found.tables for row in t]
    first = ["conv1: 8 of 64 channels", "0.25 ms", "", "1.2 kB", "0.4 points estimated", ""]
    assert first in rows
    assert ["fc: int8", "−0.1 ms", "", "900 B", "not evaluated", ""] in rows
    assert ["layer1.1", "–", "–", "–", "–", "–", "0.5"] in rows


def test_bars_compare_choices_with_the_largest():
    rows = saving_rows(
        [Saving("a", 0.4, 10, 0.01), Saving("b", 0.1, 10, None), Saving("c", -0.2, 10, -0.005)]
    )
    assert [(row.time_share, row.cost_share) for row in rows] == [(1, 1), (0.25, 0), (0, 0)]


def test_infeasible_page_tells_the_closest_plan_and_what_relaxing_buys(tmp_path):
    result = sample_result(tmp_path, winner="none")
    block = Block(
        "latency_ms",
        0.5,
        2.04,
        7,
        False,
        2.1,
        (Part("conv1", 0.6), Part("fc", 0.1)),
        (
            Relaxed("--max-latency", 2.1, 8, 2.1, True),
            Relaxed(None, 2.04, 7, 2.04, False),
        ),
    )
    found = page(replace(result, closest=result.trials[7], blocks=(block,)))
    assert "The closest plan is trial 7 (warm start)" in found.words
    (row,) = [r for t in found.tables for r in t if r[0] == "latency_ms"]
    row = [" ".join(cell.split()) for cell in row]
    assert row[1:3] == ["0.5 ms", "2.04 ms trial 7, untrained"]
    assert row[3] == "conv1 60.0 % fc 10.0 %"
    assert "--max-latency 2.1 allows trial 8, 2.1 ms" in row[4]
    assert "a device with 2.04 ms allows trial 7, 2.04 ms; not trained" in row[4]


def test_finalists_tell_the_drops_of_their_trainings():
    result = sample_result(FOLDER)
    trial = replace(result.trials[7], drops=(0.021, 0.014))
    trials = tuple(trial if t.number == 7 else t for t in result.trials)
    found = page(replace(result, trials=trials))
    told = "trained 2 times, drops on validation 2.1 points, 1.4 points: the least stands"
    assert told in found.words


def test_classes_are_named_and_the_worst_comes_first():
    found = class_table(sample_result(FOLDER))
    assert {row.name for row in found.rows} == {"crack", "dark cell", "sound"}
    changes = [row.change for row in found.rows]
    assert changes == sorted(changes)
    assert found.split == "test"
    for row in found.rows:
        assert row.after == pytest.approx(row.before + row.change)


def test_class_changes_come_from_the_same_split_of_both_models():
    result = sample_result(FOLDER)

    def with_classes(name, share):
        detail = {"per_class": {"0": {"accuracy": share}}}
        return Evaluation.of([Measurement(name, share, "", "measured", "x", detail=detail)])

    bare = replace(result.winner.test["accuracy_test"], detail=None)
    trial = replace(result.winner.trial, evaluation=with_classes("accuracy", 0.9))
    baseline = replace(result.baseline, evaluation=with_classes("accuracy", 0.8))
    winner = replace(result.winner, trial=trial, test=Evaluation.of([bare]))
    found = class_table(replace(result, winner=winner, baseline=baseline))
    assert found.split == "validation"
    assert found.rows[0].change == pytest.approx(0.1)


def test_many_classes_are_folded_away():
    result = sample_result(FOLDER, classes=[f"class {i}" for i in range(40)])
    found = page(result)
    tables = [t for t in found.tables if t[0][0] == "Class"]
    assert [len(t) - 1 for t in tables] == [12, 28]


def test_panel_tells_figures_sources_and_plan():
    result = sample_result(FOLDER)
    told = panel(result, result.winner.trial)
    assert "winner" in told.tags
    rows = {label: (value, note) for label, value, note in told.rows}
    assert rows["latency"][1].startswith("estimated, ")
    assert rows["pruning"][0].startswith("kept 8 to ")
    assert rows["quantization"][0] == "bits 8 in 10 places"


def test_panel_says_which_limit_is_exceeded():
    result = sample_result(FOLDER)
    bad = next(t for t in result.trials if t.violations.get("drop", 0) > 0)
    tag = panel(result, bad).tags[-1].replace("\u00a0", " ")
    assert re.fullmatch(r"the drop exceeds its limit by [\d.]+ points?", tag)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ()),
        ({"depth": {"removed": ["layer3.1"]}}, (("depth", "removed layer3.1"),)),
        ({"pruning": {"kept": {"a": 8, "b": 24}}}, (("pruning", "kept a 8, b 24"),)),
        (
            {"pruning": {"kept": dict.fromkeys("abcd", 8), "importance": "taylor"}},
            (("pruning", "importance taylor; kept 8 in 4 places"),),
        ),
        ({"x": {"y": list("abcdefgh")}}, (("x", "y a, b, c, d, e, f and 2 more"),)),
        ({"resolution": 24}, (("resolution", "24"),)),
    ],
)
def test_plan_lines_are_short(settings, expected):
    assert plan_lines(CompressionPlan(settings)) == expected


def test_stages_account_for_all_of_the_time():
    result = sample_result(FOLDER)
    found = stages(result)
    assert sum(stage.seconds for stage in found) == pytest.approx(result.seconds)
    assert sum(stage.share for stage in found) == pytest.approx(1)
    assert [s.seconds for s in found] == sorted((s.seconds for s in found), reverse=True)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (words.latency(0.2744), "0.274 ms"),
        (words.latency(187.96), "188 ms"),
        (words.latency(12345.6), "12 346 ms"),
        (words.latency(None), "not evaluated"),
        (words.size(719_000), "719 kB"),
        (words.size(44_700_000), "44.7 MB"),
        (words.size(12), "12 B"),
        (words.percent(0.97021), "97.02 %"),
        (words.percent(1.0), "100 %"),
        (words.points(0.0056), "0.56 points"),
        (words.points(0.01), "1 point"),
        (words.points(-0.02), "−2 points"),
        (words.ratio(0.826), "0.826×"),
        (words.ratio(41.67), "41.7×"),
        (words.duration(42.4), "42 s"),
        (words.duration(250), "4 min 10 s"),
        (words.duration(7500), "2 h 5 min"),
        (words.duration(0.0421), "42.1 ms"),
        (words.signed(-0.004, words.points), "−0.4 points"),
        (words.signed(0.0, words.points), "0 points"),
        (words.signed(0.5, words.latency), "+0.5 ms"),
        (words.signed(None, words.latency), "not evaluated"),
        (words.loss(0.0004), "<0.001"),
        (words.loss(0.0), "0"),
        (words.loss(12.34), "12"),
        (words.loss(0.2149), "0.21"),
        (words.origin("baseline:uniform-75-int8"), "uniform −75 %, int8"),
        (words.origin("sampler:tpe"), "tpe sampler"),
        (words.origin("model"), "corrected model"),
    ],
)
def test_words_are_short_and_have_units(told, expected):
    assert told.replace("\u00a0", " ") == expected


def luminance(color):
    """WCAG 2.2, relative luminance of ``#rgb`` or ``#rrggbb``."""
    digits = color.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize(
    ("text", "grounds", "least"),
    [
        ("ink", ("bg", "surface", "soft", "accent-soft", "warn-soft", "bad-soft"), 7),
        ("muted", ("bg", "surface", "soft", "accent-soft"), 4.5),
        ("accent", ("bg", "surface", "accent-soft"), 4.5),
        ("warn", ("surface", "warn-soft"), 4.5),
        ("bad", ("bad-soft",), 4.5),
        ("mark", ("surface",), 3),
    ],
)
def test_colors_keep_the_contrast_that_wcag_asks_for(theme, text, grounds, least):
    style = (Path(page_module.__file__).parent / "page" / "style.css").read_text()
    palette = dict(
        re.findall(r"--([\w-]+): (#\w+)", re.findall(r":root \{(.*?)\}", style, re.S)[theme])
    )
    for ground in grounds:
        low, high = sorted((luminance(palette[text]), luminance(palette[ground])))
        assert (high + 0.05) / (low + 0.05) >= least


PROBE = """
<script>
const seen = {};
const key = (name) => document.querySelector(".chart").dispatchEvent(
  new KeyboardEvent("keydown", { key: name, bubbles: true }));
const title = () => document.querySelector(".panel h3").textContent;
seen.first = title();
key("ArrowRight");
seen.right = title();
seen.selected = document.querySelectorAll(".point.selected").length;
const point = document.querySelector("svg.wide [data-trial='0']").getBoundingClientRect();
document.querySelector(".chart").dispatchEvent(new PointerEvent("pointermove", { bubbles: true,
  clientX: point.x + point.width / 2, clientY: point.y + point.height / 2 }));
seen.hover = title();
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.documentElement.innerHTML = "";
document.documentElement.append("SEEN" + JSON.stringify(seen) + "SEEN");
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 500])
def test_page_answers_to_pointer_and_keys_in_a_browser(tmp_path, width):
    result = sample_result(tmp_path)
    probe = PROBE if width > 600 else PROBE.replace("svg.wide", "svg.narrow")
    html = render(result).replace("</body>", probe + "</body>")
    (tmp_path / "report.html").write_text(html)
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
        (tmp_path / "report.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    seen = json.loads(done.stdout.split("SEEN")[1])
    order = [panel(result, trial).title for trial in plotted(result)]
    place = order.index(panel(result, result.winner.trial).title)
    assert seen["first"] == order[place]
    assert seen["right"] == order[place + 1]
    assert seen["selected"] == 2  # the same plan in the wide and in the narrow figure
    assert seen["hover"] == panel(result, result.baseline).title
    assert seen["overflow"] == 0
