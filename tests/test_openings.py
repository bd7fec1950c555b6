"""How often the test split was opened: what is kept, what is spent, and that it is enough."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_finish import trial

from evaluators import Evaluation
from evaluators.tasks.drop import DropBound, drop_bound_of_counts
from evaluators.tasks.paired import binomial_bound
from search.concluding import conclude
from search.concluding.conclude import prove_drop
from search.concluding.openings import Opening, Openings, Record, TestedFile, split_key
from search.errors import StudyError
from search.limits import Limits
from search.result import Finalist
from search.task import Split
from search.trial import Trial

LIMITS = Limits(0.03)
BOUND = DropBound(0.01, 0.02, 0.9667, 300, 5, 2, "exact")
of_counts = cache(drop_bound_of_counts)


def opening(number: int, *proved: bool, claim: str = "small", allowance: float = 0.01) -> Opening:
    tested = [TestedFile(f"{number}-{i}", ok, BOUND) for i, ok in enumerate(proved)]
    return Opening(f"id{number}", "cells", float(number), allowance, claim, tuple(tested))


def test_allowances_never_exceed_what_is_allowed() -> None:
    """Two thirds, then half of what is left each time: by hand 1/30, 1/120, 1/240."""
    record, spent = Record(()), []
    for number in range(40):
        spent.append(record.allowance(0.05))
        record = Record((*record.openings, opening(number, True, False)))
    assert spent[:3] == pytest.approx([1 / 30, 1 / 120, 1 / 240])
    assert sum(spent) == pytest.approx(0.05)
    assert sum(spent) <= 0.05


def test_opening_in_which_all_were_proved_spends_nothing() -> None:
    whole = Record((opening(0, True, True), opening(1, True)))
    assert whole.allowance(0.05) == Record(()).allowance(0.05)


def test_only_files_that_were_tested_for_this_claim_at_this_error_are_known() -> None:
    record = Record(
        (
            opening(0, True, False),
            opening(1, True, claim="other"),
            opening(2, True, allowance=0.04),
        )
    )
    assert {sha: file.proved for sha, file in record.known("small", 0.01).items()} == {
        "0-0": True,
        "0-1": False,
    }
    assert set(record.known("small", 0.05)) == {"0-0", "0-1", "2-0"}


def test_record_round_trips_and_each_place_learns_of_the_other(tmp_path: Path) -> None:
    study, cache_file = tmp_path / "a/openings.json", tmp_path / "b/key.json"
    file = TestedFile("ab" * 32, True, BOUND)
    Openings([study]).keep("one", 0.03, "small", [file])
    Openings([cache_file]).keep("two", 0.02, "other", [])
    both = Openings([study, cache_file])
    assert [(o.study, o.allowance, o.claim, o.tested) for o in both.record().openings] == [
        ("one", 0.03, "small", (file,)),
        ("two", 0.02, "other", ()),
    ]
    both.keep("three", 0.01, "small", [])
    for path in (study, cache_file):
        assert [o.study for o in Openings([path]).record().openings] == ["one", "two", "three"]
        assert json.loads(path.read_text())["version"] == 1
    assert Openings([tmp_path / "none.json"]).record() == Record(())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "openings": []}',
        '{"version": 1, "openings": [{}]}',
        "[" * 9000,
    ],
)
def test_damaged_record_is_told_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "openings.json").write_text(text)
    with pytest.raises(StudyError, match="must be the version-1 record"):
        Openings([tmp_path / "openings.json"]).record()


def _opened(path: Path) -> None:
    openings = Openings([path])
    with openings.held() as record:
        openings.keep(str(len(record.openings)), record.allowance(0.05), "small", [])


def test_searches_that_end_together_open_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_opened, args=(path,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [o.study for o in Openings([path]).record().openings] == list("012345")


def test_place_that_can_not_be_written_is_told_before_anything_is_tested(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(StudyError, match="COMPRESSION_SEARCH_CACHE"),
        Openings([tmp_path / "file" / "key.json"]).held(),
    ):
        pytest.fail("it was opened")


def test_key_is_of_images_and_labels() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    split = Split(images, np.array([0, 1]))
    others = [
        Split(images[:, :, ::-1], split.labels),
        Split(images.reshape(2, 3, 2, 8), split.labels),
        Split(images, np.array([1, 0])),
    ]
    keys = {split_key(each) for each in [split, *others]}
    assert len(keys) == 4
    assert split_key(Split(images.copy(), split.labels)) in keys


class InMemory(Openings):
    """Openings without files."""

    def __init__(self) -> None:
        super().__init__([])
        self.openings: tuple[Opening, ...] = ()

    def record(self) -> Record:
        return Record(self.openings)

    @contextmanager
    def held(self) -> Iterator[Record]:
        yield self.record()

    def keep(self, study, allowance, claim, tested) -> None:  # type: ignore[no-untyped-def]
        self.openings += (Opening("", study, 0.0, allowance, claim, tuple(tested)),)


class Images:
    """Test images on which trials lost and gained so many, by their number."""

    metric, missing = "accuracy", ()

    def __init__(self, images: int) -> None:
        self.images = images
        self.counts: dict[int, tuple[int, int]] = {}
        self.asked: list[tuple[int, float]] = []

    def bound(self, model: Path, confidence: float) -> DropBound:
        self.asked.append((int(model.stem), confidence))
        return of_counts(*self.counts[int(model.stem)], self.images, round(confidence, 9))

    def quality(self, _model: Path) -> Evaluation:
        return Evaluation({})


class OnlyLost(Images):
    """The same where nothing is gained, so that one binomial says it all."""

    def bound(self, model: Path, confidence: float) -> DropBound:
        lost = self.counts[int(model.stem)][0]
        bound = binomial_bound(lost, self.images, confidence)
        drop = lost / self.images
        return DropBound(drop, bound, confidence, self.images, lost, 0, "clopper-pearson")


@pytest.fixture(autouse=True)
def content_is_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conclude, "file_sha256", lambda path: path.stem)


Concluded = tuple[Finalist | None, tuple[Finalist, ...]]


def conclude_with(
    trials: list[Trial], test: Images, openings: Openings, baseline: str = "one"
) -> Concluded:
    return prove_drop(trials, Path(), test, LIMITS, openings, "cells", baseline)  # type: ignore[arg-type]


def kinds(concluded: Concluded) -> dict[int, str]:
    return {f.trial.number: f.outcome.kind for f in concluded[1]}


def winner_of(concluded: Concluded) -> Finalist:
    assert concluded[0] is not None
    return concluded[0]


def test_second_opening_has_less_to_spend_and_says_so() -> None:
    test, openings = Images(300), InMemory()
    test.counts = {1: (14, 0), 2: (1, 0)}
    first = conclude_with([trial(1, 0.89, 2.0)], test, openings)
    assert kinds(first) == {1: "failed"}
    again = conclude_with([trial(1, 0.89, 2.0), trial(2, 0.89, 1.5)], test, openings)
    assert kinds(again) == {1: "failed", 2: "proved"}
    assert [round(1 - confidence, 6) for _, confidence in test.asked] == [0.033333, 0.008333]
    said = winner_of(again).outcome.sentences.replace("\u00a0", " ")
    assert "(95 % confidence)" in said
    assert "opened for the second time: of the 5 % allowed for errors it had 0.83 %" in said


def test_what_was_proved_before_stands_and_what_is_no_faster_stays_closed() -> None:
    """An interrupted search that is resumed does not spend anything for the same winner."""
    test, openings = Images(300), InMemory()
    test.counts = {1: (1, 0), 2: (20, 0), 3: (0, 0), 4: (0, 0)}
    trials = [trial(1, 0.90, 2.0), trial(2, 0.89, 1.0)]
    assert kinds(conclude_with(trials, test, openings)) == {1: "proved", 2: "failed"}
    asked = len(test.asked)
    again = conclude_with([*trials, trial(3, 0.9, 2.5)], test, openings)
    assert (winner_of(again).trial.number, winner_of(again).proven) == (1, True)
    assert len(test.asked) == asked
    assert len(openings.openings) == 1
    assert "was tested on these images before" in winner_of(again).outcome.sentences
    faster = conclude_with([*trials, trial(4, 0.9, 1.5)], test, openings)
    assert kinds(faster) == {1: "proved", 2: "failed", 4: "proved"}
    assert winner_of(faster).trial.number == 4


def test_failed_file_is_not_tested_until_luck_has_it() -> None:
    test, openings = Images(300), InMemory()
    test.counts = {1: (9, 0)}
    for _ in range(5):
        concluded = conclude_with([trial(1, 0.89, 2.0)], test, openings)
    assert len(test.asked) == len(openings.openings) == 1
    assert winner_of(concluded).outcome.kind == "failed"
    assert not winner_of(concluded).proven


def test_delivered_out_of_turn_is_called_so_within_the_limit_and_beyond() -> None:
    """Trial 1 is safer and fails; trial 2, the fastest, is looked at after that."""
    for lost, within in ((1, True), (11, False)):
        test = Images(300)
        test.counts = {1: (14, 0), 2: (lost, 0)}
        concluded = conclude_with([trial(1, 0.89, 2.0), trial(2, 0.88, 1.0)], test, InMemory())
        assert kinds(concluded) == {1: "failed", 2: "out of turn"}
        outcome = winner_of(concluded).outcome
        assert outcome.bound.shows(0.03) is within
        assert outcome.needed is None
        assert not winner_of(concluded).proven


def test_other_baseline_is_another_claim_on_the_same_allowance() -> None:
    """Another seed trains another baseline: its plans are tested anew, with what is left."""
    test, openings = Images(300), InMemory()
    test.counts = {1: (14, 0), 2: (1, 0)}
    first = [trial(1, 0.89, 2.0)]
    conclude_with(first, test, openings, "one")
    again = conclude_with(first, test, openings, "two")
    assert winner_of(again).outcome.opening == 2
    assert [round(1 - confidence, 6) for _, confidence in test.asked] == [0.033333, 0.008333]


def test_missing_class_opens_nothing() -> None:
    test, openings = Images(300), InMemory()
    test.counts = {1: (0, 0)}
    test.missing = ("crack",)  # type: ignore[assignment]
    concluded = conclude_with([trial(1, 0.89, 2.0)], test, openings)
    assert kinds(concluded) == {1: "class missing"}
    assert openings.openings == ()


@pytest.mark.parametrize("good_first", [0, 2])
def test_resuming_eight_times_accepts_a_wrong_one_in_at_most_five_percent(
    good_first: int,
) -> None:
    """Every search finds another plan whose true drop is just above the limit, and faster.

    Where the first ones are good and proved, nothing is spent by them. With five percent an
    opening, a wrong one would be accepted in a third of the runs.
    """
    runs, images, wrong, by_themselves = 500, 2000, 0, 0
    rng = np.random.default_rng(good_first)
    lost = rng.binomial(images, 0.0301, (runs, 8))
    lost[:, :good_first] = rng.binomial(images, 0.001, (runs, good_first))
    for run in range(runs):
        test, openings = OnlyLost(images), InMemory()
        trials: list[Trial] = []
        for k in range(8):
            trials.append(replace(TRIALS[k]))
            test.counts[k + 1] = (int(lost[run, k]), 0)
            concluded = conclude_with(trials, test, openings)
            proved = [n for n, kind in kinds(concluded).items() if kind == "proved"]
            if any(number > good_first for number in proved):
                wrong += 1
                break
        by_themselves += any(
            binomial_bound(int(n), images, 0.95) <= 0.03 for n in lost[run, good_first:]
        )
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)
    assert wrong > 0.005 * runs  # what is never accepted would pass, too
    assert by_themselves > 0.15 * runs


TRIALS = [trial(k + 1, 0.89, 20.0 - k) for k in range(8)]
