"""Records plans for benchmarks/search_efficiency.py: each is trained through every rung.

    python benchmarks/record.py digits --plans 400                 # about an hour on one core
    python benchmarks/record.py elpv --data npz:elpv.npz --plans 100   # about two hours

Appends to benchmarks/data/NAME.jsonl after every plan: interrupt it whenever you like and run it
again to go on. Uniform pruning comes first (12.5 % to 87.5 % in steps of 12.5, and 93.75 %, float
and int8), then plans of the search's own model, of a random sampler, and neighbors of good ones.
examples/elpv_npz.py makes elpv.npz.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from recorded import FOLDER, Header, Recorded, at_least_one, load

from evaluators import discover, evaluate
from evaluators.runtimes.onnxruntime import logits
from hardware_profiles import load_profile
from search.app import Prepared, Request, prepare
from search.deciding.allocation import Allocator
from search.deciding.baselines import simple_plans
from search.deciding.rungs import RUNGS, Rung
from search.inputs.loading import load_task
from search.limits import Limits
from search.running.study_folder import StudyFolder
from search.training import job as worker
from search.training.job import Job, Workbench, run_job
from spaces import CompressionPlan
from spaces.dimension import Choice, ParamValue, Real
from spaces.space import SearchSpace
from spaces.techniques import pruning, quantization

UNIFORM_RATIOS = (*(n / 8 for n in range(1, 8)), 0.9375)
TARGETS = {"digits": "raspberry-pi-4b", "elpv": "x86-vnni"}
FIGURE = "accuracy"
MUTATED = 0.2  # of all dimensions, on the average


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(TARGETS))
    parser.add_argument("--data", help="as of python -m search; digits need none")
    parser.add_argument(
        "--plans", type=at_least_one, required=True, help="in the table at the end"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = FOLDER / f"{args.name}.jsonl"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            record(path, TARGETS[args.name], args.data, args.plans, Path(scratch))
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            return 130
    return 0


def record(path: Path, target: str, data: str | None, count: int, scratch: Path) -> None:
    """Appends plans to the table at ``path`` until it has so many."""
    bench, prepared, accuracy = open_bench(target, data, scratch)
    assert prepared.sensitivity is not None
    if not path.exists():
        header = Header(
            bench.task.model_spec,
            bench.task.data.name,
            len(bench.task.data.classes),
            bench.network.input_shape,
            target,
            accuracy,
            prepared.sensitivity,
        )
        path.write_text(header.to_line() + "\n")
    header, rows = load(path)
    whole = path.with_suffix(".whole")  # without the half of a line that a kill leaves
    whole.write_text("\n".join([header.to_line(), *(r.to_line() for r in rows)]) + "\n")
    whole.replace(path)
    if header.baseline_accuracy != accuracy:
        raise SystemExit(f"{path} is of another baseline; move it away to begin anew")
    known = {row.plan.plan_id for row in rows}
    for plan, source in plans(prepared, rows):
        if len(rows) >= count:
            return
        if plan.plan_id in known:
            continue
        row = run(plan, source, bench)
        known.add(plan.plan_id)
        rows.append(row)
        with path.open("a") as table:
            table.write(row.to_line() + "\n")
        spent_s = sum(row.seconds.values())
        print(f"{len(rows):4d}  {source:<24}{row.drops['full']:8.2%}{spent_s:8.1f} s", flush=True)


def open_bench(
    target: str,
    data: str | None,
    scratch: Path,
    model: str | None = None,
    weights: Path | None = None,
) -> tuple[Workbench, Prepared, float]:
    """A bench on which all is compared with the untouched model; that one's accuracy is last."""
    request = Request(
        load_task(model, weights, data),
        load_profile(target),
        Limits(0.03),
        None,
        None,
        "tpe",
        0,
        "record",
    )
    folder = StudyFolder(scratch / "study")
    folder.scratch.mkdir(parents=True)
    folder.plans.mkdir()
    prepared = prepare(request, folder, lambda stage, done: None)
    # Of a plan, no more is recorded; latency comes from the cost function.
    chosen = [e for e in discover() if e.name == FIGURE]
    worker.evaluate = lambda model, context: evaluate(model, context, chosen)
    bench = prepared.bench
    outcome = run_job(Job(CompressionPlan(), 0), bench, lambda stage, done: None)
    assert outcome.model is not None
    predictions = logits(outcome.model, bench.context.images, bench.context.profile).argmax(axis=1)
    context = replace(bench.context, baseline=outcome.model, baseline_predictions=predictions)
    return replace(bench, context=context), prepared, outcome.evaluation.value("accuracy")


def run(plan: CompressionPlan, source: str, bench: Workbench) -> Recorded:
    """One plan through every rung, whatever it shows on the way."""
    drops: dict[str, float] = {}
    seconds: dict[str, float] = {}
    checkpoint = None
    for rung in RUNGS:
        found = run_rung(plan, rung, checkpoint, bench)
        drops[rung.name], seconds[rung.name], checkpoint = found
    return Recorded(plan, source, drops, seconds)


def run_rung(
    plan: CompressionPlan, rung: Rung, checkpoint: Path | None, bench: Workbench
) -> tuple[float, float, Path | None]:
    """The drop at a rung, the CPU seconds it took, and the weights for the next."""
    begun = time.process_time()
    job = Job(plan, rung.share * bench.settings.epochs, rung.constrained, checkpoint)
    outcome = run_job(job, bench, lambda stage, done: None)
    return outcome.evaluation.value("drop"), time.process_time() - begun, outcome.checkpoint


def uniform_plans(space: SearchSpace) -> Iterator[tuple[CompressionPlan, str]]:
    """The grid that stands for handwork, the strongest first."""
    int8 = quantization.everywhere(space.network, 8)
    for ratio in reversed(UNIFORM_RATIOS):
        kept = {"pruning": pruning.uniform(space.network, space.profile, ratio)}
        yield CompressionPlan({**kept, "quantization": int8}), f"uniform-{ratio * 100:g}-int8"
        yield CompressionPlan(kept), f"uniform-{ratio * 100:g}-fp32"


def plans(prepared: Prepared, rows: Sequence[Recorded]) -> Iterator[tuple[CompressionPlan, str]]:
    """Plans without end; the same for the same table."""
    space = prepared.space
    yield from uniform_plans(space)
    yield from ((p, origin) for p, origin in simple_plans(space) if p.settings)
    assert prepared.sensitivity is not None
    prior = Allocator(space, prepared.sensitivity)
    fastest_ms = prior.fastest_ms()
    uniform_75 = CompressionPlan(
        {
            "pruning": pruning.uniform(space.network, space.profile, 0.75),
            "quantization": quantization.everywhere(space.network, 8),
        }
    )
    slowest_ms = 1.5 * space.table(uniform_75).latency_ms(space.profile)
    before, tries = -1, 0
    while True:
        # A plan that is in the table already is drawn anew.
        before, tries = len(rows), tries + 1 if len(rows) == before else 0
        chance = random.Random(f"{before}, {tries}")
        kind = before % 4
        if kind < 2:
            # The model with other beliefs: what it comes to after corrections, for any data.
            weights = {u.name: math.exp(chance.gauss(0, 0.7)) for u in prior.units}
            allocator = Allocator(space, prepared.sensitivity, weights)
            aim_ms = fastest_ms * (slowest_ms / fastest_ms) ** chance.random()
            yield allocator.plan(allocator.solve(aim_ms)), "model"
        elif kind == 2:
            yield space.decode(sample(space, chance)), "random"
        else:
            good = sorted(rows, key=lambda row: merit(row, space))[: max(8, len(rows) // 4)]
            params = space.encode(chance.choice(good).plan)
            other = sample(space, chance)
            mixed = {k: other[k] if chance.random() < MUTATED else v for k, v in params.items()}
            yield space.decode(mixed), "neighbor"


def merit(row: Recorded, space: SearchSpace) -> float:
    """Low for plans that lose little and are fast: a logarithm of both."""
    latency_ms = space.table(row.plan).latency_ms(space.profile)
    return math.log(max(row.drops["full"], 0.0) + 0.01) + math.log(latency_ms)


def sample(space: SearchSpace, chance: random.Random) -> dict[str, ParamValue]:
    """Every dimension at random; one plan in two leans to strong pruning, as searches do."""
    lean = chance.choice((1.0, 0.35))
    found: dict[str, ParamValue] = {}
    for dimension in space.dimensions:
        if isinstance(dimension, Choice):
            found[dimension.name] = chance.choice(dimension.options)
        elif isinstance(dimension, Real):
            share = chance.random() ** lean
            low, high = dimension.low, dimension.high
            value = low * (high / low) ** share if dimension.log else low + (high - low) * share
            found[dimension.name] = value
    return found


if __name__ == "__main__":
    sys.exit(main())
