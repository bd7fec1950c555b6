"""The whole job against handwork, measured: ResNet18 and MobileNetV2 on ELPV and digits.

    python examples/elpv_npz.py elpv.npz --size 128
    python benchmarks/headline.py --data npz:elpv.npz --output headline     # two hours
    python benchmarks/headline.py --data npz:elpv.npz --output headline --job elpv  # 45 minutes

Each job is one search on this machine, `--target host --max-drop 0.03`, and one front. At limits
of 0.5, 1 and 3 points the fastest trial that meets the limit (by point estimate, validation
split) stands against the fastest uniform pruning that does, in float or int8, trained as long and
as often as a finalist, of 12.5 % to 87.5 % in steps of 12.5, and 93.75 %. Pairs are measured
interleaved in one run. MobileNetV2 stands against its own plain int8. A job that is done in the
output folder is read, one that was interrupted goes on. Exits 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from record import open_bench, uniform_plans

from evaluators.latency.host import FINAL_BUDGET_S, close_host_agent, measure
from search.deciding.finals import FINAL_SHARE, TRAININGS, best_training
from search.deciding.kept import trial_from_json
from search.deciding.rungs import FULL_SHARE
from search.sqlite_url import sqlite_url
from search.training.job import Job, Workbench, build, export, run_job
from search.trial import Trial
from spaces import CompressionPlan
from spaces.space import SearchSpace, bind
from spaces.techniques import quantization

LIMITS = (0.005, 0.01, 0.03)
# What the whole ELPV job must show: times as fast as FP32, times as small; and against uniform
# pruning, there and as a geometric mean over limits and data.
FASTER, SMALLER, THAN_UNIFORM, THAN_INT8 = 40.0, 100.0, 1.3, 2.0


@dataclass(frozen=True)
class Search:
    """One search of the benchmark."""

    name: str
    model: str
    elpv: bool
    against_uniform: bool

    def options(self, data: str | None) -> list[str]:
        """Of the command line, the target's and the output's left out."""
        return ["--model", self.model, *(["--data", data] if self.elpv and data else [])]


JOBS = (
    Search("elpv", "torchvision:resnet18", elpv=True, against_uniform=True),
    Search("digits", "torchvision:resnet18", elpv=False, against_uniform=True),
    Search("mobilenet-elpv", "torchvision:mobilenet_v2", elpv=True, against_uniform=False),
    Search("mobilenet-digits", "torchvision:mobilenet_v2", elpv=False, against_uniform=False),
)


@dataclass(frozen=True)
class Found:
    """The fastest that meets a limit: its file, its drop on validation images."""

    name: str
    model: Path
    drop: float
    latency_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="ELPV as npz:FILE; without it, only digits")
    parser.add_argument("--output", type=Path, required=True, help="folder of studies and results")
    parser.add_argument("--budget", default="30m", help="of each search (default 30m)")
    parser.add_argument("--job", action="append", choices=[j.name for j in JOBS])
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = [j for j in JOBS if not args.job or j.name in args.job]
    if not args.data and any(j.elpv for j in chosen):
        parser.error("ELPV must be given: --data npz:FILE, made by examples/elpv_npz.py")
    figures: dict[str, Any] = {}
    missed: list[str] = []
    gains: list[float] = []
    for job in chosen:
        result = searched(job, args.data, args.output, args.budget)
        folder = args.output / job.name
        print(f"\n{job.name}: {result['trials']['completed']} trials in {result['seconds']:.0f} s")
        if job.against_uniform:
            rows = against_uniform(job, args.data, folder)
            gains += [row["than_uniform"] for row in rows]
            figures[job.name] = {"limits": rows, "winner": summary(result)}
        else:
            figures[job.name] = against_int8(job, args.data, folder, result)
        missed += list(misses(job, figures[job.name]))
    if gains:
        mean = math.exp(sum(map(math.log, gains)) / len(gains))
        figures["than_uniform"] = mean
        print(f"\ngeometric mean over limits and data: {mean:.2f}x as fast as the best uniform")
        if mean < THAN_UNIFORM:
            missed.append(f"{mean:.2f}x the best uniform on the whole, not {THAN_UNIFORM:g}x")
    for each in missed:
        print(f"missed: {each}")
    print(json.dumps(figures | {"missed": missed}))
    return int(bool(missed))


def searched(job: Search, data: str | None, output: Path, budget: str) -> dict[str, Any]:
    """The result of the job's search, run unless it is there."""
    kept = output / f"{job.name}.json"
    if not kept.exists():
        command = [
            *(sys.executable, "-m", "search", "--target", "host", "--max-drop", "0.03"),
            *(
                "--budget",
                budget,
                "--study",
                job.name,
                "--output",
                str(output),
                "--json",
                "--no-cache",
            ),
            *job.options(data),
        ]
        if (output / job.name).exists():
            command.append("--resume")
        output.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(done.returncode)  # the search has said why
        kept.write_text(done.stdout.splitlines()[-1] + "\n")
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def trials_of(folder: Path) -> list[Trial]:
    """Evaluated trials of a study, each with the best of its trainings, fastest first."""
    study = optuna.load_study(study_name=None, storage=sqlite_url(folder / "study.db"))
    trainings: dict[int, list[Trial]] = {}
    for kept in (t.user_attrs for t in study.get_trials(deepcopy=False)):
        told = kept.get("trial") or kept.get("training")
        if told:
            trial = trial_from_json(told)
            trainings.setdefault(trial.number, []).append(trial)
    trials = [best_training(each) for each in trainings.values()]
    complete = [t for t in trials if t.state == "complete" and t.evaluation and t.model]
    return sorted(complete, key=_latency_ms)


def _latency_ms(trial: Trial) -> float:
    assert trial.evaluation is not None
    return trial.evaluation.value("latency_ms")


def found_in(trials: Sequence[Trial], folder: Path, limit: float) -> Found:
    """The fastest trial that meets the limit; the untouched model always does."""
    for trial in trials:
        assert trial.evaluation is not None
        assert trial.model is not None
        drop = trial.evaluation.value("drop") if trial.plan.settings else 0.0
        if drop <= limit:
            return Found(trial.plan.plan_id, folder / trial.model, drop, _latency_ms(trial))
    raise ValueError("a study has the untouched model")


def against_uniform(job: Search, data: str | None, folder: Path) -> list[dict[str, Any]]:
    """Prints and returns, for each limit, ours and the best uniform plan, measured in pairs."""
    trials = trials_of(folder)
    untouched = folder / next(t.model for t in trials if not t.plan.settings and t.model)
    rows = []
    print(f"{'limit':>6}{'ours':>10}{'uniform':>10}{'FP32':>10}   as fast as uniform, as FP32")
    with tempfile.TemporaryDirectory() as scratch:
        bench, prepared, _ = open_bench(
            *("host", data if job.elpv else None, Path(scratch), job.model),
            weights=baseline_of(folder, Path(scratch)),
        )
        uniform = Uniform(bench, prepared.space, untouched, folder / "uniform.json")
        for limit in LIMITS:
            ours, theirs = found_in(trials, folder, limit), uniform.fastest(limit)
            pair = measure(ours.model, theirs.model, budget_s=FINAL_BUDGET_S)
            whole = measure(ours.model, untouched, budget_s=FINAL_BUDGET_S)
            assert pair.baseline_p50_ms is not None
            assert whole.baseline_p50_ms is not None
            row = {
                "limit": limit,
                "ours": ours.name,
                "uniform": theirs.name,
                "ours_ms": whole.p50_ms,
                "uniform_ms": pair.baseline_p50_ms,
                "fp32_ms": whole.baseline_p50_ms,
                "drop": ours.drop,
                "uniform_drop": theirs.drop,
                "than_uniform": 1 / pair.interval.value,
                "than_fp32": 1 / whole.interval.value,
                "smaller": untouched.stat().st_size / ours.model.stat().st_size,
            }
            rows.append(row)
            print(
                f"{limit:6.1%}{whole.p50_ms:7.3f} ms{pair.baseline_p50_ms:7.3f} ms"
                f"{whole.baseline_p50_ms:7.2f} ms   {row['than_uniform']:.2f}x "
                f"({theirs.name}), {row['than_fp32']:.1f}x; {row['smaller']:.0f}x smaller"
            )
    close_host_agent()
    return rows


def baseline_of(folder: Path, scratch: Path) -> Path | None:
    """Untouched weights of a search whose budget cut their training short; others are cached."""
    shortened = folder / "baseline.pt"
    if not shortened.exists():
        return None
    weights = scratch / "baseline.pt"
    torch.save(torch.load(shortened, weights_only=True)["weights"], weights)
    return weights


class Uniform:
    """The grid of uniform plans: measured untrained, then trained from the fastest on.

    A slower plan than one that meets a limit can't be the best at that limit, so it is not
    trained. What was trained is kept in a file.
    """

    def __init__(self, bench: Workbench, space: SearchSpace, untouched: Path, kept: Path) -> None:
        self._bench = bench
        self._kept = kept
        # Of each training of a plan.
        self._drops: dict[str, list[float]] = json.loads(kept.read_text()) if kept.exists() else {}
        found = []
        for plan, name in uniform_plans(space):
            model = untrained(bench, plan)
            ratio = measure(model, untouched).interval.value
            found.append((ratio, name, plan, model))
        self._grid = sorted(found, key=lambda each: each[0])

    def fastest(self, limit: float) -> Found:
        """The fastest plan of the grid that meets the limit.

        Raises:
            SystemExit: none does.
        """
        for ratio, name, plan, model in self._grid:
            drops = self._drops.setdefault(name, [])
            # As many chances as a search gives its finalists.
            while min(drops, default=math.inf) > limit and len(drops) < TRAININGS:
                share = FINAL_SHARE if drops else FULL_SHARE
                epochs = share * self._bench.settings.epochs
                job = Job(plan, epochs, training=len(drops))
                outcome = run_job(job, self._bench, lambda stage, done: None)
                drops.append(outcome.evaluation.value("drop"))
                self._kept.write_text(json.dumps(self._drops))
            if min(drops) <= limit:
                return Found(name, model, min(drops), ratio)
        raise SystemExit(f"no uniform plan meets {limit:.1%}")


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of the search's own winner: what it promised, and whether it showed it."""
    winner, baseline = result["winner"], result["baseline"]
    if winner is None:
        return {"proven": False}
    print(
        f"winner {winner['plan_id']}: drop on test images {winner['drop']:.2%}, shown to be at "
        f"most {winner['drop_bound']:.2%}; {baseline['size_bytes'] / winner['size_bytes']:.0f}x "
        f"smaller"
    )
    kept = ("plan_id", "accuracy_test", "drop", "drop_bound", "proven", "latency_ms", "size_bytes")
    return {name: winner[name] for name in kept}


def plain_int8(
    job: Search, data: str | None, trials: Sequence[Trial], folder: Path, scratch: Path
) -> Path:
    """The search's own, or one made for its shapes where the budget had no time to train it."""
    for trial in trials:
        if trial.origin == "baseline:int8" and trial.model is not None:
            return folder / trial.model
    bench, prepared, _ = open_bench("host", data if job.elpv else None, scratch, job.model)
    plan = CompressionPlan({"quantization": quantization.everywhere(prepared.space.network, 8)})
    return untrained(bench, plan)


def untrained(bench: Workbench, plan: CompressionPlan) -> Path:
    """A file of the plan's shapes and bits, which is all that latency depends on."""
    folder = bench.folder / f"untrained-{plan.plan_id}"
    folder.mkdir(parents=True)
    hooks = bind(plan)
    model, _ = build(bench, hooks)
    return export(model, hooks, bench, folder)


def against_int8(
    job: Search, data: str | None, folder: Path, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Prints and returns the winner against plain int8, measured in a pair."""
    trials = trials_of(folder)
    winner = summary(result)
    with tempfile.TemporaryDirectory() as scratch:
        int8 = plain_int8(job, data, trials, folder, Path(scratch))
        ours = next((t.model for t in trials if t.plan.plan_id == winner.get("plan_id")), None)
        pair = measure(folder / ours if ours else int8, int8, budget_s=FINAL_BUDGET_S)
    close_host_agent()
    gain = 1 / pair.interval.value
    print(
        f"ours {pair.p50_ms:.3f} ms, plain int8 {pair.baseline_p50_ms:.3f} ms: {gain:.2f}x as fast"
    )
    row = {"ours_ms": pair.p50_ms, "int8_ms": pair.baseline_p50_ms, "than_int8": gain}
    return {"winner": winner, **row}


def misses(job: Search, figures: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each bound that a job's figures miss."""
    if not figures["winner"].get("proven"):
        yield f"{job.name}: the winner's drop is not shown to be within the limit"
    if not job.against_uniform:
        if figures["than_int8"] < THAN_INT8:
            yield f"{job.name}: {figures['than_int8']:.2f}x plain int8, not {THAN_INT8:g}x"
        return
    if job.name == "elpv":
        row = figures["limits"][-1]
        bounds = {"than_fp32": FASTER, "smaller": SMALLER, "than_uniform": THAN_UNIFORM}
        for name, bound in bounds.items():
            if row[name] < bound:
                yield f"{job.name}: {name} {row[name]:.2f}x, not {bound:g}x"


if __name__ == "__main__":
    sys.exit(main())
