"""Evaluations of earlier searches: what is found again, what never is, and what a kill leaves."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fake_jobs
import lives
import numpy as np
import pytest
import torch
from backend_contract import BackendContract, Make, fake_job, ignore
from benches import a_bench
from networks import IMAGE, NETWORKS, seeded

import evaluators
import search.running.cache_key
from evaluators import Evaluation, Measurement
from hardware_profiles import load_profile
from search.limits import Limits
from search.running import cache as cache_module
from search.running.backends import Finished, InlineBackend, Listen, Resources
from search.running.backends.cached import CachedBackend
from search.running.backends.messages import job_to_json, outcome_from_json
from search.running.cache import EvaluationCache
from search.running.cache_key import bench_parts, job_key, sensitivity_key
from search.training.job import Job, Outcome, Workbench, run_job
from search.training.train import Hardware
from spaces import CompressionPlan, technique
from spaces.space import SearchSpace
from spaces.techniques import pruning
from spaces.tracing.network import trace

KEY = "a" * 64
TARGET = "mcu"  # whose latency is estimated from shapes


def an_outcome(folder: Path, repeatable: bool = True, **figures: float) -> Outcome:
    """An outcome with two files; its latency is ``repeatable`` or not, all else is."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(b"the model")
    (folder / "weights.pt").write_bytes(b"the weights")
    found = {"accuracy": 0.9, "drop": 0.02, "drop_bound": 0.04, "latency_ms": 1.5, **figures}
    measurements = [
        Measurement(n, v, "", "measured", "made up", repeatable=repeatable or n != "latency_ms")
        for n, v in found.items()
    ]
    return Outcome(
        Evaluation.of(measurements),
        {"drop": -0.01},
        {"train": 3.0},
        folder / "model.onnx",
        None,
        folder / "weights.pt",
    )


def cache_in(folder: Path, **options: int) -> EvaluationCache:
    return EvaluationCache(folder / "cache", pytest.fail, **options)


@pytest.fixture
def kept(tmp_path: Path) -> EvaluationCache:
    cache = cache_in(tmp_path)
    cache.put(KEY, an_outcome(tmp_path / "made"))
    return cache


# The store


def test_outcome_comes_back_equal_with_its_files_elsewhere(
    kept: EvaluationCache, tmp_path: Path
) -> None:
    expected = an_outcome(tmp_path / "made")
    (tmp_path / "made" / "model.onnx").write_bytes(b"changed after it was kept")
    found = kept.get(KEY, tmp_path / "again")
    assert found is not None
    assert found.model == tmp_path / "again" / "model.onnx"
    assert found.model.read_bytes() == b"the model"
    assert found.checkpoint is not None
    assert found.checkpoint.read_bytes() == b"the weights"
    assert replace(found, model=expected.model, checkpoint=expected.checkpoint) == expected
    assert cache_in(tmp_path).get("b" * 64, tmp_path / "again") is None


def test_rejected_outcome_has_no_files_and_is_kept_too(tmp_path: Path) -> None:
    rejected = Outcome(Evaluation({}), {"size_bytes": 0.5}, {"facts": 0.1}, None, "too large")
    cache = cache_in(tmp_path)
    cache.put(KEY, rejected)
    assert cache.get(KEY, tmp_path / "again") == rejected


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _of_another_kind(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


@pytest.mark.parametrize("name", ["outcome", "model.onnx", "weights.pt"])
@pytest.mark.parametrize("corrupt", [_cut, _flip, _empty, Path.unlink, _of_another_kind])
def test_corrupt_entry_counts_as_not_there_and_is_replaced(
    name: str, corrupt: Callable[[Path], None], kept: EvaluationCache, tmp_path: Path
) -> None:
    corrupt(tmp_path / "cache" / "v1" / KEY / name)
    assert kept.get(KEY, tmp_path / "again") is None
    kept.put(KEY, an_outcome(tmp_path / "made"))
    assert kept.get(KEY, tmp_path / "again") is not None


def test_oldest_entries_go_first_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    made = an_outcome(tmp_path / "made")
    assert made.model is not None
    made.model.write_bytes(b"x" * 1000)
    size = 1000 + len(b"the weights")
    for number in range(10):
        cache_in(tmp_path).put(f"{number}", made)
        os.utime(tmp_path / "cache" / "v1" / f"{number}", (number, number))
    assert cache_in(tmp_path).get("0", tmp_path / "again") is not None  # used just now
    least = sum(f.stat().st_size for f in (tmp_path / "cache" / "v1" / "1").iterdir())
    limit = int(5.5 * least) + size  # and what is added before the next look
    small = cache_in(tmp_path, limit_bytes=limit + limit // (cache_module.LOOK_AGAIN - 1))
    small.put("new", made)
    left = {path.name for path in (tmp_path / "cache" / "v1").iterdir()}
    assert left == {"0", "6", "7", "8", "9", "new"}


def test_cache_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    made = an_outcome(tmp_path / "made")
    caches = [cache_in(tmp_path, limit_bytes=100_000) for _ in range(3)]
    assert made.model is not None
    made.model.write_bytes(b"x" * 1000)
    for number in range(300):
        caches[number % 3].put(f"{number}", made)
        if number % 25 == 24:
            files = (tmp_path / "cache" / "v1").rglob("*")
            assert sum(f.stat().st_size for f in files if f.is_file()) <= 110_000
    assert caches[0].get("299", tmp_path / "again") is not None


def test_what_cannot_be_kept_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "KEEP_FREE_BYTES", 1e18)
    notes: list[str] = []
    cache = EvaluationCache(tmp_path / "cache", notes.append)
    for number in range(2):
        cache.put(f"{number}", an_outcome(tmp_path / "made"))
    (note,) = notes
    assert note.startswith("Evaluations are not kept for later searches: the disk of ")
    assert list((tmp_path / "cache" / "v1").iterdir()) == []


def test_killed_writers_leave_whole_entries_or_none(tmp_path: Path) -> None:
    """Two processes write the same keys, and are killed at random moments."""
    draw = random.Random(11)
    made = an_outcome(tmp_path / "made")
    assert made.model is not None
    made.model.write_bytes(b"y" * 3_000_000)

    def write() -> None:
        cache = cache_in(tmp_path, limit_bytes=40_000_000)
        for number in range(1000):
            cache.put(f"{number % 20}", made)

    for _ in range(6):
        pids = [lives.begin(write, tmp_path / "said") for _ in range(2)]
        time.sleep(draw.uniform(0.02, 0.15))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert not (tmp_path / "said").read_text()
    entries = [p for p in (tmp_path / "cache" / "v1").iterdir() if not p.name.startswith(".")]
    assert entries
    for path in entries:
        found = cache_in(tmp_path).get(path.name, tmp_path / "again")
        assert found is not None
        assert found.model is not None
        assert found.model.read_bytes() == made.model.read_bytes()


def test_leftovers_of_killed_writers_are_removed_after_a_while(tmp_path: Path) -> None:
    root = tmp_path / "cache" / "v1"
    for name, age_s in ((".part-old", 7200), (".part-new", 10)):
        (root / name).mkdir(parents=True)
        os.utime(root / name, (time.time() - age_s,) * 2)
    cache_in(tmp_path).put(KEY, an_outcome(tmp_path / "made"))
    assert {p.name for p in root.iterdir()} == {".part-new", KEY}


# The key


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return a_bench(tmp_path_factory.mktemp("bench"), TARGET)


def parts_of(bench: Workbench) -> dict[str, str]:
    return dict(bench_parts(bench, "local", Resources()))


def _in_context(bench: Workbench, **change: Any) -> Workbench:
    return replace(bench, context=replace(bench.context, **change))


def _weights(bench: Workbench) -> Workbench:
    name = next(iter(bench.weights))
    return replace(bench, weights={**bench.weights, name: bench.weights[name] + 1e-7})


def _baseline(bench: Workbench) -> Workbench:
    assert bench.context.baseline is not None
    path = bench.context.baseline.with_name("other.onnx")
    path.write_bytes(bench.context.baseline.read_bytes() + b"\0")
    return _in_context(bench, baseline=path)


def _data(bench: Workbench) -> Workbench:
    data = replace(bench.task.data, fingerprint="0" * 64)
    return replace(bench, task=replace(bench.task, data=data))


def _profile(bench: Workbench) -> Workbench:
    profile = bench.context.profile
    return _in_context(bench, profile=replace(profile, error_pct=profile.error_pct + 1))


CHANGES: dict[str, Callable[[Workbench], Workbench]] = {
    "weights": _weights,
    "baseline": _baseline,
    "data": _data,
    "target": _profile,
    "latency": lambda b: _in_context(b, device="ssh://me@board"),
    "metric": lambda b: _in_context(b, metric="f1"),
    "settings": lambda b: replace(b, settings=replace(b.settings, seed=1)),
    "ceilings": lambda b: replace(b, limits=Limits(0.03, max_size_bytes=20_000)),
    "hardware": lambda b: replace(
        b, hardware=replace(b.hardware, bfloat16=not b.hardware.bfloat16)
    ),
}


@pytest.mark.parametrize("part", CHANGES)
def test_changed_part_of_the_bench_changes_its_part_of_the_key(
    part: str, bench: Workbench
) -> None:
    before, after = parts_of(bench), parts_of(CHANGES[part](bench))
    assert {name for name in before if before[name] != after[name]} == {part}


def test_limit_of_the_drop_is_no_part_of_the_key(bench: Workbench) -> None:
    """It decides about nothing that is computed; violations are told anew."""
    assert parts_of(replace(bench, limits=Limits(0.01, require_proof=True))) == parts_of(bench)


def test_other_confidence_threads_and_backend_change_the_key(bench: Workbench) -> None:
    before = parts_of(bench)
    assert parts_of(_in_context(bench, confidence=0.99)) != before
    assert bench_parts(bench, "local", Resources(2)) != before
    assert bench_parts(bench, "ray", Resources()) != before


def test_sensitivity_of_other_widths_bits_or_sizes_has_another_key() -> None:
    """Microcontrollers take single channels, where a Raspberry Pi's are in steps of four."""
    network = trace(seeded(NETWORKS["residual"]), IMAGE)
    keys = {
        sensitivity_key("weights", "data", SearchSpace.of(network, load_profile(name), opt_in))
        for name in ("raspberry-pi-4b", "cortex-m7-2mb")
        for opt_in in ((), ("resolution",))
    }
    assert len(keys) == 4
    again = SearchSpace.of(network, load_profile("raspberry-pi-4b"))
    assert sensitivity_key("weights", "data", again) in keys
    assert sensitivity_key("others", "data", again) not in keys


def test_other_version_of_a_package_changes_the_key(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = parts_of(bench)
    version = search.running.cache_key.version
    for package in ("torch", "onnxruntime", "numpy"):
        new = lambda name, p=package: "999" if name == p else version(name)  # noqa: E731
        monkeypatch.setattr(search.running.cache_key, "version", new)
        after = parts_of(bench)
        assert {name for name in before if before[name] != after[name]} == {"packages"}


def test_changed_code_changes_the_key(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours; and that of the person's model, also where it makes no other baseline."""
    before = parts_of(bench)
    hashed = search.running.cache_key.file_sha256
    for name, part in (("evaluators/size.py", "code"), ("search/training/train.py", "code"),
                       ("tests/networks.py", "model code")):  # fmt: skip
        changed = lambda path, n=name: hashed(path) + str(path).endswith(n) * "x"  # noqa: E731
        monkeypatch.setattr(search.running.cache_key, "file_sha256", changed)
        search.running.cache_key._code.cache_clear()
        after = parts_of(bench)
        assert {name for name in before if before[name] != after[name]} == {part}
    search.running.cache_key._code.cache_clear()


def test_other_gpu_changes_the_key(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same machine: another kind of GPU rounds differently."""
    on_gpu = replace(bench, hardware=Hardware(torch.device("cuda"), bfloat16=True))
    found = []
    for name in ("H200", "T4"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, n=name: f"NVIDIA {n}")
        found.append(parts_of(on_gpu))
    assert {part for part in found[0] if found[0][part] != found[1][part]} == {"hardware"}


SOMEBODYS = {
    "technique": (
        "from spaces.technique import Technique\n"
        "from {helper} import hooks\n"
        "class Bias(Technique):\n"
        "    name, order, opt_in = 'bias', 50, True\n"
        "TECHNIQUE = Bias()\n",
        "compression_search.techniques]\nbias = {module}:TECHNIQUE",
    ),
    "module as evaluator": (
        "name, cheap = 'nodes', True\n"
        "def applies(context): return False\n"
        "def evaluate(model, context):\n"
        "    from {helper} import hooks\n",
        "compression_search.evaluators]\nnodes = {module}",
    ),
}


@pytest.mark.parametrize("what", SOMEBODYS)
@pytest.mark.parametrize("where", ["in the package", "beside the module", "worked on"])
def test_changed_code_of_others_changes_the_key(
    what: str, where: str, bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry point's own file, and a helper of its distribution, wherever pip left that."""
    text, entry = SOMEBODYS[what]
    unique = f"of_{tmp_path.name}".replace("-", "_")
    if where == "in the package":
        (tmp_path / unique).mkdir()
        (tmp_path / unique / "__init__.py").write_text("")
        module, helper = f"{unique}.main", f"{unique}.helper"
    else:
        module, helper = unique, f"{unique}_helper"
    own, other = (tmp_path / f"{m.replace('.', '/')}.py" for m in (module, helper))
    own.write_text(text.format(helper=helper))
    other.write_text("hooks = 1\n")
    info = tmp_path / f"{unique}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {unique}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{entry.format(module=module)}\n")
    if where == "beside the module":
        (info / "RECORD").write_text(f"{own.name},,\n{other.name},,\n")
    if where == "worked on":
        (info / "top_level.txt").write_text(f"{module}\n{helper}\n")

    def code() -> str:
        for cached in (code_of, technique.discover, evaluators.discover):
            cached.cache_clear()
        return code_of()

    code_of = search.running.cache_key._code
    bare = code()
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        found = [bare, code()]
        for path in (own, other):
            path.write_text(path.read_text() + "# changed\n")
            found.append(code())
        assert code() == found[-1]
    finally:
        monkeypatch.undo()
        code()
    assert len(set(found)) == len(found)


def test_key_is_the_same_in_another_process(bench: Workbench, tmp_path: Path) -> None:
    def tell() -> None:
        (tmp_path / "key").write_text(job_key(parts_of(a_bench(tmp_path, TARGET)), Job(PLAN, 0.5)))

    pid = lives.begin(tell, tmp_path / "said")
    assert os.waitpid(pid, 0)[1] == 0, (tmp_path / "said").read_text()
    assert (tmp_path / "key").read_text() == job_key(parts_of(bench), Job(PLAN, 0.5))


PLAN = CompressionPlan({"pruning": {"kept": {"stem.0": 8}}})


def test_changed_job_changes_the_key(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    jobs = [
        Job(PLAN, 1.0),
        Job(CompressionPlan(), 1.0),
        Job(PLAN, 2.0),
        Job(PLAN, 1.0, False),
        Job(PLAN, 1.0, True, first),
        Job(PLAN, 1.0, True, second),
        Job(PLAN, 1.0, training=1),
    ]
    assert len({job_key({}, job) for job in jobs}) == len(jobs)
    second.write_bytes(b"1")
    assert job_key({}, jobs[4]) == job_key({}, jobs[5])  # content counts, not names


# The backend


def behind(listen: Listen, ran: list[Job] | None = None) -> InlineBackend:
    def runner(ticket: int, job: Job) -> Outcome:
        if ran is not None:
            ran.append(job)
        told = partial(listen, ticket)
        return outcome_from_json(fake_jobs.run(job_to_json(job), told))

    return InlineBackend(runner)


class TestCached(BackendContract):
    @pytest.fixture
    def make(self, tmp_path: Path, bench: Workbench) -> Make:
        def made(listen: Listen) -> CachedBackend:
            here = replace(bench, folder=tmp_path / "plans")
            return CachedBackend(behind(listen), cache_in(tmp_path), partial(job_key, {}), here)

        return made


class Answering(InlineBackend):
    """Gives one outcome to all jobs and remembers them."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(self._run)
        self.outcome, self.ran = outcome, list[Job]()

    def _run(self, _ticket: int, job: Job) -> Outcome:
        self.ran.append(job)
        return replace(self.outcome, model=job.exported or self.outcome.model)


def ask(backend: CachedBackend, job: Job) -> Outcome:
    backend.submit(5, job)
    finished = backend.next()
    assert isinstance(finished, Finished)
    assert finished.ticket == 5
    assert finished.outcome is not None
    return finished.outcome


def test_repeated_job_is_answered_from_before_and_told_as_cached(
    tmp_path: Path, bench: Workbench
) -> None:
    real = Answering(an_outcome(tmp_path / "made"))
    here = replace(bench, folder=tmp_path / "plans", limits=Limits(0.015))
    backend = CachedBackend(real, cache_in(tmp_path), partial(job_key, {}), here)
    first, again = ask(backend, fake_job()), ask(backend, fake_job())
    assert len(real.ran) == 1
    assert set(again.stages) == {"cached"}
    assert again.evaluation == first.evaluation
    assert again.violations["drop"] == pytest.approx(0.005 / 0.015)  # of this search's own limit
    assert again.model == tmp_path / "plans" / fake_job().plan.plan_id / "model.onnx"
    assert ask(backend, fake_job(sleep_s=0.001)).stages == {"train": 3.0}


def test_measured_latency_is_measured_again_on_the_file_of_before(
    tmp_path: Path, bench: Workbench
) -> None:
    real = Answering(an_outcome(tmp_path / "made", repeatable=False))
    here = replace(bench, folder=tmp_path / "plans")
    backend = CachedBackend(real, cache_in(tmp_path), partial(job_key, {}), here)
    ask(backend, fake_job())
    real.outcome = replace(an_outcome(tmp_path / "made", repeatable=False, latency_ms=7.0),
                           stages={"evaluate": 0.2}, checkpoint=None)  # fmt: skip
    again = ask(backend, fake_job())
    kept = tmp_path / "plans" / fake_job().plan.plan_id / "model.onnx"
    assert [job.exported for job in real.ran] == [None, kept]
    assert again.evaluation.value("latency_ms") == 7.0
    assert set(again.stages) == {"cached", "evaluate"}
    assert again.checkpoint == kept.with_name("weights.pt")


def test_figure_that_does_not_say_to_be_repeatable_is_measured_again_whatever_its_unit(
    tmp_path: Path, bench: Workbench
) -> None:
    made = an_outcome(tmp_path / "made")
    joules = Measurement("energy_mj", 3.0, "mJ", "measured", "a wattmeter at the board")
    real = Answering(replace(made, evaluation=made.evaluation.merged(Evaluation.of([joules]))))
    here = replace(bench, folder=tmp_path / "plans")
    backend = CachedBackend(real, cache_in(tmp_path), partial(job_key, {}), here)
    for _ in range(2):
        ask(backend, fake_job())
    kept = tmp_path / "plans" / fake_job().plan.plan_id / "model.onnx"
    assert [job.exported for job in real.ran] == [None, kept]


def test_rejection_by_a_measured_latency_is_not_believed_again(
    tmp_path: Path, bench: Workbench
) -> None:
    rejected = replace(
        an_outcome(tmp_path / "made", repeatable=False),
        model=None,
        checkpoint=None,
        reason="too slow",
    )
    real = Answering(rejected)
    backend = CachedBackend(real, cache_in(tmp_path), partial(job_key, {}), bench)
    for _ in range(2):
        ask(backend, fake_job())
    assert [job.exported for job in real.ran] == [None, None]


def test_failure_and_stopgap_are_not_kept(tmp_path: Path, bench: Workbench) -> None:
    made = an_outcome(tmp_path / "made")
    stopgap = replace(made.evaluation["latency_ms"], detail={"instead_of_emulated": "it hung"})
    real = Answering(replace(made, evaluation=made.evaluation.merged(Evaluation.of([stopgap]))))
    backend = CachedBackend(real, cache_in(tmp_path), partial(job_key, {}), bench)
    for _ in range(2):
        ask(backend, fake_job())
    assert len(real.ran) == 2
    ran: list[Job] = []
    backend = CachedBackend(
        behind(ignore, ran), cache_in(tmp_path), partial(job_key, {"of": "another"}), bench
    )
    for ticket in range(2):
        backend.submit(ticket, fake_job(**{"raise": "no"}))
        assert backend.next().error is not None
    assert len(ran) == 2


def test_answer_from_before_equals_the_fresh_one_and_can_go_on(
    tmp_path: Path, bench: Workbench
) -> None:
    """With real training, rung by rung: figures, file and what the next rung makes of it."""
    setting = pruning.uniform(bench.network, bench.context.profile, 0.5)
    plan = CompressionPlan({"pruning": setting})
    parts = parts_of(bench)

    def search_in(folder: Path, cached: bool) -> list[Outcome]:
        here = replace(bench, folder=folder / "plans")
        real = InlineBackend(lambda _, job: run_job(job, here, lambda *_: None))
        cache = cache_in(tmp_path if cached else folder)
        backend = CachedBackend(real, cache, partial(job_key, parts), here)
        short = ask(backend, Job(plan, 0.5, False))
        return [short, ask(backend, Job(plan, 1.0, True, short.checkpoint))]

    first = search_in(tmp_path / "one", True)
    fresh = search_in(tmp_path / "two", False)
    again = search_in(tmp_path / "three", True)
    assert [set(o.stages) for o in again] == [{"cached"}] * 2
    for outcomes in (fresh, again):
        for mine, theirs in zip(outcomes, first, strict=True):
            assert mine.model is not None
            assert theirs.model is not None
            assert figures(mine) == figures(theirs)
            assert mine.violations == theirs.violations
    assert again[1].model is not None
    assert fresh[1].model is not None
    assert again[1].model.read_bytes() == fresh[1].model.read_bytes()
    assert np.isfinite(again[1].evaluation.value("accuracy"))


def figures(outcome: Outcome) -> dict[str, float]:
    """But for the memory of a process, which no two processes share."""
    return {
        name: m.value
        for name, m in outcome.evaluation.measurements.items()
        if not name.startswith("peak_memory")
    }
