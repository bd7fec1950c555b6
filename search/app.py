"""A whole search, from what was asked to what is handed over."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evaluators import Evaluation, EvaluationContext
from evaluators.latency.emulated import COUNT_S_PER_MAC
from evaluators.latency.tier import tier
from evaluators.runtimes.onnxruntime import logits
from evaluators.tasks.drop import metric_drop_bound
from evaluators.tasks.metrics import METRICS
from hardware_profiles import HardwareProfile
from hardware_profiles.host import cpu_name, usable_cores
from search.bundle.exports.exporter import Exported, exporters
from search.bundle.exports.make import make_exports
from search.bundle.write import write_bundle
from search.concluding.attribution import (
    MEASURE_S,
    SAVINGS_SHARE,
    Reexport,
    Saving,
    estimator,
    savings,
)
from search.concluding.conclude import (
    TestSplit,
    front_of,
    near_misses,
    prove_drop,
    strongest_simple,
)
from search.concluding.infeasible import blocks, closest_trial, parts_of, sentences
from search.concluding.openings import Openings, split_key
from search.deciding.baselines import INT8, dominated, simple_plans
from search.deciding.forecast import Experience, Untouched
from search.deciding.proposals import Proposer
from search.deciding.rungs import RUNGS, share_of
from search.deciding.sensitivity import (
    Sensitivity,
    cached_sensitivity,
    measure_sensitivity,
    rounding_losses,
)
from search.deciding.storage import elapsed_s, open_storage, optuna_url
from search.deciding.study import Ask, Study
from search.deciding.untrained import Losses, next_untrained
from search.errors import InputError
from search.inputs.own_code import one_line
from search.limits import Limits
from search.masking import masked
from search.publishing.tracker import Tracker
from search.result import SearchResult
from search.running.backends import Backend, Resources
from search.running.backends.cached import CachedBackend
from search.running.backends.finding import find_backend
from search.running.cache import EvaluationCache
from search.running.cache_key import bench_parts, job_key, sensitivity_key
from search.running.clock import Clock, OutOfTimeError
from search.running.driver import Driver
from search.running.fingerprint import model_fingerprint
from search.running.interruption import came, finishing, held
from search.running.study_folder import StudyFolder, check_identity
from search.task import Task
from search.telling import words
from search.telling.progress import Progress
from search.telling.report.page import write_report
from search.telling.words import metric_title
from search.training.export_check import IMAGES, check_export
from search.training.job import Job, Workbench, run_job
from search.training.speed import seconds_per_image
from search.training.step_clock import Pace
from search.training.teacher import (
    BASELINE,
    baseline_weights,
    cache_folder,
    teacher_views,
    unasked,
)
from search.training.thumbnails import nearest_labels
from search.training.train import Hardware, TrainSettings
from search.trial import Trial
from spaces import CompressionPlan
from spaces.space import SearchSpace
from spaces.tracing.network import Network, trace
from spaces.tracing.scopes import LeftAlone, left_alone, unmatched

# Training long enough for small data to recover, short enough for large data to be searched.
EPOCHS_LEAST, EPOCHS_MOST, IMAGES_SEEN = 6, 16, 15_000
SENSITIVITY = "looking at the sensitivity"
PACE_SHARE = 0.1  # of the look at the sensitivity, after which its pace is known
# Of the budget that is left at the start: when training the baseline, asking the teacher and
# looking at the sensitivity have to be done. What is left then is better spent on trials.
TRAINING_SHARE, TEACHER_SHARE, PREPARATION_SHARE = 0.35, 0.42, 0.6
LITTLE = 0.05  # by which thumbnails have to be better, by its bound, to be told
OUTDONE = 0.01  # a gain, by its bound, of which a person should know
RESERVE_SHARE, RESERVE_LEAST_S, RESERVE_MOST_S = 0.08, 12.0, 120.0
ENDING_S = 8.0  # for what ends a search of a small network
ROUNDING_IMAGES = 16
# Without training a search answers at once: fewer images are calibrated with, and no plan is begun
# that is expected to end later than so many seconds after the start.
UNTRAINED_IMAGES, UNTRAINED_S = 64, 45.0
COUNT_SHARE = 0.05  # of the budget, at most, for counting the untouched model on an emulated core
# At most, to compare the winner's classes on an emulated core; and for whoever interrupted.
AGREEMENT_S, INTERRUPTED_S = 60.0, 5.0
NAMES = 12  # of modules in a message
SHORT = 1  # the rung of the short training
VERSIONED = ("torch", "onnxruntime", "onnx", "optuna", "torch-pruning", "numpy")


@dataclass(frozen=True)
class Request:
    """What was asked of a search. ``trials`` and ``budget_s``: whichever comes first."""

    task: Task
    profile: HardwareProfile
    limits: Limits
    trials: int | None
    budget_s: float | None
    sampler: str
    seed: int
    command: str
    device: str | None = None
    opt_in: tuple[str, ...] = ()
    backend: str = "local"
    resources: Resources = field(default_factory=Resources)
    storage: str | None = None
    cached: bool = True
    exports: tuple[str, ...] = ()
    register: str | None = None
    untrained: bool = False  # nothing is trained but, where it has no weights, the baseline
    scopes: LeftAlone = field(default_factory=LeftAlone)
    baseline: TrainSettings = BASELINE  # how the untouched model is trained, without weights


@dataclass(frozen=True)
class Prepared:
    """What is known before plans are trained."""

    bench: Workbench
    space: SearchSpace
    sensitivity: Sensitivity | None = None  # None where there was no time for it, or no use


def training_epochs(images: int) -> float:
    """Epochs of a full training on so many images."""
    return float(min(EPOCHS_MOST, max(EPOCHS_LEAST, round(IMAGES_SEEN / images))))


def prepare(
    request: Request,
    folder: StudyFolder,
    told: Callable[[str, float | None], None],
    note: Callable[[str], None] = lambda _: None,
    until: Callable[[float], float | None] = lambda _: None,
) -> Prepared:
    """The baseline's weights and the traced network: all that trials without training need.

    ``until`` says when a share of the budget is spent, on the monotonic clock; None for never.
    """
    task, data = request.task, request.task.data
    pace = Pace(until(TRAINING_SHARE), lambda s, part: note(_training(s, part)))
    hardware = Hardware.detect()
    told("tracing the network", None)
    network = exportable_network(request)
    space = SearchSpace.of(network, request.profile, request.opt_in)
    check_opt_in(space, request.opt_in)
    settings = TrainSettings(training_epochs(len(data.train)), seed=request.seed)
    with hardware.threads(network.table.macs, settings.batch_size):
        weights = baseline_weights(
            task,
            request.seed,
            hardware,
            lambda done: told("training the baseline", done),
            pace,
            folder.path / "baseline.pt",
            request.baseline,
        )
    identity = {**identity_of(request), "weights": model_fingerprint(task, weights)}
    check_identity(folder, identity)
    if request.task.weights is None and request.untrained:
        note("The untouched model had no weights (--weights), so that it alone is trained.")
    warnings = _cut_short(pace.share, request.baseline.epochs)
    for warning in warnings:
        note(warning)
    task = with_notes(task, warnings)
    context = EvaluationContext(
        profile=request.profile,
        images=data.preprocess.apply(data.validation.images),
        labels=data.validation.labels,
        scratch=folder.scratch,
        device=request.device,
        metric=task.metric,
        confidence=request.limits.confidence,
        threads=_threads(request),
        counted=is_time_to_count(network.table.macs, _time_s(request)),
    )
    bench = Workbench(
        task=task,
        weights=weights,
        network=network,
        views=unasked(task),
        context=context,
        calibration=data.preprocess.apply(data.calibration.images),
        limits=request.limits,
        settings=settings,
        hardware=hardware,
        folder=folder.plans,
    )
    return Prepared(bench, space)


def learn(
    request: Request,
    prepared: Prepared,
    told: Callable[[str, float | None], None],
    note: Callable[[str], None],
    until: Callable[[float], float | None],
) -> Prepared:
    """The teacher's views, and the sensitivity where there is time for it: for training."""
    bench, space = prepared.bench, prepared.space
    task, data, network = bench.task, bench.task.data, bench.network
    teacher = task.build()
    teacher.load_state_dict(bench.weights)
    told("asking the teacher", None)
    with bench.hardware.threads(network.table.macs, bench.settings.batch_size):
        views = teacher_views(
            task, teacher, bench.hardware, request.seed, network.last_layer, until(TEACHER_SHARE)
        )
    warnings = _few_images(len(views.labels), len(data.train))
    for warning in warnings:
        note(warning)
    bench = replace(bench, views=views, task=with_notes(task, warnings))
    weights = model_fingerprint(task, bench.weights)
    key = sensitivity_key(weights, data.fingerprint, space)
    sensitivity: Sensitivity | None = None
    with (
        bench.hardware.threads(network.table.macs, bench.settings.batch_size),
        contextlib.suppress(OutOfTimeError),
    ):
        sensitivity = cached_sensitivity(
            cache_folder() / "sensitivity" / f"{key}.json",
            lambda: measure_sensitivity(
                teacher,
                network,
                request.profile,
                torch.from_numpy(bench.calibration),
                torch.from_numpy(data.calibration.labels),
                bench.hardware,
                lambda done: told(SENSITIVITY, done),
                sizes=network.sizes if "resolution" in request.opt_in else (),
            ),
        )
    return Prepared(bench, space, sensitivity)


def exportable_network(request: Request) -> Network:
    """One look at the untouched model, whose exported file was seen to answer as it does.

    Raises:
        InputError: it can't be exported, the file answers otherwise, or what is to be left alone
            is not in it.
    """
    task, data = request.task, request.task.data
    model = task.build()
    if task.weights is not None:
        model.load_state_dict(task.weights)
    network = trace(model, (data.preprocess.channels, *data.preprocess.size))
    images = data.preprocess.apply(data.calibration.images[:IMAGES])
    network = check_export(model, network, images, request.profile)
    if missing := unmatched(network, request.scopes):
        names = sorted({*(layer.name for layer in network.layers), *network.blocks})
        raise InputError(
            f"--keep-float, --keep-width and --exclude must name modules of the network, but "
            f"{missing[0]!r} is of none; they are {', '.join(names[:NAMES])}"
            f"{', …' if names[NAMES:] else ''} (--dry-run lists the channels)"
        )
    return left_alone(network, request.scopes)


def _time_s(request: Request) -> float | None:
    """Seconds that the search may take; None for any number."""
    return UNTRAINED_S if request.untrained and request.budget_s is None else request.budget_s


def is_time_to_count(macs: float, time_s: float | None) -> bool:
    """Whether counts on an emulated core fit into a search of so many seconds (None: any)."""
    return time_s is None or COUNT_S_PER_MAC * macs <= COUNT_SHARE * time_s


def with_tier_of(context: EvaluationContext, untouched: Trial | None) -> EvaluationContext:
    """The context, in which latencies come from where the study's first one came from.

    Raises:
        InputError: that source is not here.
    """
    if untouched is None or untouched.evaluation is None:
        return context
    before = (untouched.evaluation["latency_ms"].detail or {}).get("tier")
    if before == "analytic":
        return replace(context, counted=False)
    context = replace(context, counted=True)
    if before == "emulated" and tier(context) != "emulated":
        raise InputError(
            "all latencies of a study must come from one source: this one's were counted on an "
            "emulated core, but the emulator is not installed; run 'python -m hardware_profiles "
            "emulator install', or start a new study with --study"
        )
    return context


def _threads(request: Request) -> int:
    """Threads of one worker: its share of this machine's cores, as torch has it."""
    stated, workers = request.resources.cpus_per_trial, request.resources.workers
    here = usable_cores() // workers if request.backend == "local" else 1
    return max(1, stated or here)


def _training(all_s: float, share: float) -> str:
    """What is said once a few steps show how long the baseline's training takes."""
    told = f"Training the untouched model takes about {words.duration(all_s)}"
    if share == 1:
        return f"{told}."
    return (
        f"{told}, and the budget has {words.duration(share * all_s)} for it: it is cut short. "
        f"Better: trained weights (--weights FILE), or a larger --budget."
    )


def _cut_short(share: float, epochs: float) -> list[str]:
    """A warning, which stays with the result, where the budget was short for the baseline."""
    if share == 1:
        return []
    return [
        f"the untouched model got {int(100 * share)} % of its training of {epochs:g} "
        f"epochs, as the budget had time for no more: the drop is against a model that could be "
        f"better; give trained weights (--weights) or a larger --budget"
    ]


def _few_images(images: int, of: int) -> list[str]:
    """The same where it was short for the teacher's answers."""
    if images == of:
        return []
    return [
        f"trials learn from {images:,} of {of:,} training images, as the budget had no time to "
        f"ask the teacher about more; give a larger --budget or a smaller --image-size"
    ]


def with_notes(task: Task, notes: Sequence[str]) -> Task:
    """The task with more to be told with its result."""
    return replace(task, data=replace(task.data, notes=(*task.data.notes, *notes)))


def check_opt_in(space: SearchSpace, opt_in: Sequence[str]) -> None:
    """Sees to it that what was asked for can be had.

    Raises:
        InputError: a technique has nothing to vary in this network.
    """
    for technique in space.techniques:
        if technique.name in opt_in and not technique.dimensions(space.network, space.profile):
            raise InputError(
                f"--technique {technique.name} must have something to vary, but this network on "
                f"this target offers it nothing; leave it out"
            )


def identity_of(request: Request) -> dict[str, str]:
    """What a resumed study must be of, but for the weights; trials and budget may grow."""
    task, limits = request.task, request.limits
    stated = asdict(limits)
    stated.pop("require_proof")  # decides about the exit code alone
    return {
        "model": task.model_spec,
        "data": task.data.fingerprint,
        "target": request.profile.name,
        "metric": task.metric,
        "limits": ", ".join(f"{k} {v:g}" for k, v in stated.items() if v is not None),
        "techniques": ", ".join(sorted(request.opt_in)) or "the default ones",
        "what is left alone": _scopes_told(request.scopes),
        "sampler": request.sampler,
        "seed": str(request.seed),
    }


def _scopes_told(scopes: LeftAlone) -> str:
    stated = [f"{name} {pattern}" for name, each in asdict(scopes).items() for pattern in each]
    return ", ".join(stated) or "nothing"


class Search:
    """One search over a prepared folder; ``run`` may be called once."""

    def __init__(
        self,
        request: Request,
        folder: StudyFolder,
        progress: Progress,
        tracker: Tracker,
        tracking_uri: str | None = None,
        began: float | None = None,
    ) -> None:
        """``began`` is when the command did, on the monotonic clock: the budget is from there."""
        self._request = request
        self._folder = folder
        self._progress = progress
        self._tracker = tracker
        self._tracking_uri = tracking_uri
        self._began = time.monotonic() if began is None else began
        self._ready = self._began  # when what the command loads was loaded
        self._spent_s = 0.0  # before it was resumed
        self._looking: tuple[float, float] | None = None  # since when, and the share done then
        self._untouched: Untouched | None = None
        self._cut_off: tuple[str, ...] = ()  # what the budget had no time for, in words

    def run(self) -> SearchResult:
        """Searches, proves, exports and reports.

        Raises:
            SearchError: the search could not go on; what was measured is kept.
        """
        self._ready = max(self._began, time.monotonic())
        storage = open_storage(self._request.storage, self._folder.database)
        self._spent_s = elapsed_s(storage, self._folder.name)
        prepared = prepare(
            self._request, self._folder, self._preparing, self._progress.note, self._until
        )
        study = Study(
            prepared.space,
            storage,
            self._folder.name,
            metric=self._request.task.metric,
            sampler=self._request.sampler,
            seed=self._request.seed,
            owner=self._folder.id,
            note=self._progress.note,
        )
        self._folder.check_results(len(study.trials))
        prepared = self._with_source(prepared, study)
        with self._openings(prepared.bench).held():
            pass  # what can't be read or written is said before the search
        self._tracker.begin(study, self._request.task.data)
        budget = self._request.budget_s
        reserve = min(max(RESERVE_SHARE * (budget or 0), RESERVE_LEAST_S), RESERVE_MOST_S)
        reserve = min(reserve, self._reserve_most_s())
        reserve += sum(exporters()[name].seconds for name in self._request.exports)
        clock = Clock(budget, reserve, self._began, study.elapsed_s)
        trainings = [again for each in study.trainings.values() for again in each]
        self._progress.resumed([*study.trials, *trainings], study.elapsed_s)
        study.propose(simple_plans(prepared.space))
        for origin in dominated(prepared.space):
            self._progress.note(
                f"Of the simple baselines {words.origin(origin)} is left out: by the cost model "
                f"float is as fast."
            )
        prepared = replace(prepared, bench=self._baseline(study, prepared.bench, clock))
        ending_s = min(self._ending_s(study, prepared), self._reserve_most_s())
        clock = replace(clock, reserve_s=max(clock.reserve_s, ending_s))
        try:
            self._first_int8(study, prepared, clock)
            if self._request.untrained or self._is_too_short(study, prepared, clock):
                stopped_by = self._untrained(study, prepared, clock)
            else:
                prepared = learn(
                    self._request, prepared, self._preparing, self._progress.note, self._until
                )
                stopped_by = self._trained(study, prepared, clock)
        except KeyboardInterrupt:  # there is something to deliver from trial 0 on
            stopped_by = "interrupt"
        finishing()
        if stopped_by == "interrupt":
            self._progress.note("Interrupted: the best so far is proved and exported.")
        if any(trial.feasible for trial in study.trials):
            self._progress.note("Opening the test split for the proof.")
        else:
            self._progress.note("Nothing meets the limits, so that there is nothing to prove.")
        result = self._conclude(study, prepared, stopped_by, clock)
        self._tracker.finish(result, self._folder.report, result.folder / "best")
        return result

    def _with_source(self, prepared: Prepared, study: Study) -> Prepared:
        """The one source of all latencies of the study; said where counting takes too long."""
        bench = prepared.bench
        untouched = next((trial for trial in study.trials if trial.number == 0), None)
        context = with_tier_of(bench.context, untouched)
        if not context.counted and tier(replace(context, counted=True)) == "emulated":
            count_s = COUNT_S_PER_MAC * bench.network.table.macs
            self._progress.note(
                f"Latency is the analytic estimate: to count the untouched model on an emulated "
                f"core would take about {words.duration(count_s)}, more than "
                f"{words.percent(COUNT_SHARE)} of the time for this search."
            )
        return replace(prepared, bench=replace(bench, context=context))

    def _trained(self, study: Study, prepared: Prepared, clock: Clock) -> str:
        """Runs the search itself, and says what ended it."""
        bench = prepared.bench
        if prepared.sensitivity is not None:
            study.consult(
                Proposer(prepared.space, prepared.sensitivity, self._request.limits).next
            )

        def listen(ticket: int, stage: str, fraction: float | None) -> None:
            clock.check()
            self._progress.stage(ticket, stage, fraction)

        def make_job(plan: CompressionPlan, rung: int, checkpoint: Path | None) -> Job:
            epochs = share_of(rung, checkpoint is None) * bench.settings.epochs
            return Job(plan, epochs, RUNGS[rung].constrained, checkpoint)

        kind = find_backend(self._request.backend)
        backend = kind.start(bench, self._request.resources, listen, self._progress.note)
        if self._request.cached:
            backend = self._with_cache(backend, bench)
        with closing(backend):
            driver = Driver(
                study,
                backend,
                make_job,
                clock,
                self._request.trials,
                self._progress,
                self._tracker,
                self._folder.path,
                self._request.limits.max_drop,
                Experience(lambda plan: prepared.space.table(plan).macs, self._untouched),
            )
            return driver.run()

    def _with_cache(self, backend: Backend, bench: Workbench) -> Backend:
        """What an earlier search has run isn't run again."""
        request = self._request
        cache = EvaluationCache(cache_folder() / "evaluations", self._progress.note)
        parts = bench_parts(bench, request.backend, request.resources)
        return CachedBackend(backend, cache, partial(job_key, parts), bench)

    def _preparing(self, stage: str, fraction: float | None) -> None:
        self._progress.stage(0, stage, fraction)
        until = self._until(PREPARATION_SHARE)
        if stage == SENSITIVITY and until is not None and self._looking_ends(fraction) > until:
            self._progress.note(
                "The budget leaves no time to look at the sensitivity: the sampler searches alone."
            )
            raise OutOfTimeError

    def _looking_ends(self, fraction: float | None) -> float:
        """When the look at the sensitivity ends at its pace so far; now, where that is unknown."""
        now, done = time.monotonic(), fraction or 0.0
        if self._looking is None:
            self._looking = now, done
        since, from_done = self._looking
        if done - from_done < PACE_SHARE:
            return now
        return now + (now - since) * (1 - done) / (done - from_done)

    def _until(self, share: float) -> float | None:
        """When such a share of what was left of the budget is spent; None without a budget."""
        if self._request.budget_s is None:
            return None
        end = self._began + self._request.budget_s - self._spent_s
        return self._ready + share * max(0.0, end - self._ready)

    def _baseline(self, study: Study, bench: Workbench, clock: Clock) -> Workbench:
        """Trial 0, the untouched model; then a bench on which all else is compared with it."""
        if not study.trials:
            trial = self._evaluate(study, study.ask(), bench, clock)
            if trial.state == "failed":
                raise InputError(
                    f"the untouched model must export to ONNX and run in onnxruntime, but that "
                    f"raised {trial.reason}; try another --image-size or --model"
                )
        model = study.trials[0].model
        assert model is not None
        path = self._folder.path / model
        shown = bench.context
        predictions = logits(path, shown.images, shown.profile, shown.threads).argmax(axis=1)
        context = replace(bench.context, baseline=path, baseline_predictions=predictions)
        poor = poor_baseline(bench, predictions)
        if not poor and self._request.task.weights is None:
            poor = learned_little(bench, predictions)
        for note in poor:
            self._progress.note(note)
        return replace(bench, context=context, task=with_notes(bench.task, poor))

    def _evaluate(self, study: Study, ask: Ask, bench: Workbench, clock: Clock) -> Trial:
        """One plan as it is, without training, in this process; kept and told unless it is new."""
        number = max((trial.number for trial in study.trials), default=-1) + 1

        def listen(stage: str, fraction: float | None) -> None:
            self._progress.stage(number, stage, fraction)

        trial = Trial(number, ask.plan, "failed", ask.origin)
        try:
            outcome = run_job(Job(ask.plan, 0, constrained=False), bench, listen)
        except Exception as error:  # of the person's model, too: anything
            trial = replace(trial, reason=one_line(error)[:300])
            if number == 0:
                return trial
        else:
            trial = replace(
                trial,
                state="complete" if outcome.reason is None else "rejected",
                evaluation=outcome.evaluation,
                violations=outcome.violations,
                reason=outcome.reason,
                stages=outcome.stages,
                model=self._relative(outcome.model),
                rung=RUNGS[0].name if ask.plan.settings else None,
            )
        with held():
            study.tell(ask, trial, clock.elapsed_s)
            self._progress.trial(trial)
            self._tracker.trial(trial)
        return trial

    def _first_int8(self, study: Study, prepared: Prepared, clock: Clock) -> None:
        """Trial 1, plain int8 without training: in seconds, whatever the budget."""
        if all(trial.origin != INT8 for trial in study.trials) and study.is_proposed(INT8):
            bench = prepared.bench
            if self._request.untrained:
                bench = replace(bench, calibration=bench.calibration[:UNTRAINED_IMAGES])
            self._evaluate(study, study.ask(), bench, clock)

    def _is_too_short(self, study: Study, prepared: Prepared, clock: Clock) -> bool:
        """Whether what is left of the budget is too short for one short training, and says so."""
        if clock.budget_s is None:
            return False
        bench = prepared.bench
        with bench.hardware.threads(bench.network.table.macs, bench.settings.batch_size):
            model = bench.task.build()
            image_s = seconds_per_image(
                bench.task, model, bench.network.table.macs, bench.hardware
            )
        images = len(bench.task.data.train)
        self._untouched = Untouched(
            bench.network.table.macs,
            image_s * images * bench.settings.epochs,
            study.trials[0].seconds,
        )
        # The teacher looks at each image once; a plan's short training has a share of the epochs.
        needed_s = image_s * images * (1 / 3 + RUNGS[SHORT].share * bench.settings.epochs / 2)
        if needed_s < clock.left_s:
            return False
        left = words.duration(max(clock.left_s, 0.0))
        self._progress.note(
            f"The budget has {left} for trials, and a short training would take about "
            f"{words.duration(needed_s)}: what can be had without is evaluated."
        )
        self._cut_off += ("training",)
        return True

    def _untrained(self, study: Study, prepared: Prepared, clock: Clock) -> str:
        """Evaluates what can be had without training, and says what ended it."""
        bench = prepared.bench
        bench = replace(bench, calibration=bench.calibration[:UNTRAINED_IMAGES])

        @cache
        def losses() -> Losses:
            teacher = bench.task.build()
            teacher.load_state_dict(bench.weights)
            images = torch.from_numpy(bench.calibration[:ROUNDING_IMAGES])
            return rounding_losses(teacher, bench.network, images, bench.hardware)

        study.clear_proposals()
        while True:
            proposal = next_untrained(prepared.space, study.trials, losses)
            if proposal is None:
                return "untrained"
            expected_s = 1.1 * max(trial.seconds for trial in study.trials)
            left_s = min(clock.left_s, UNTRAINED_S - clock.elapsed_s)
            if expected_s > (clock.left_s if clock.budget_s else left_s):
                self._cut_off += (words.origin(proposal[1]),)
                return "budget" if clock.budget_s else "minute"
            study.propose([proposal])
            self._evaluate(study, study.ask(), bench, clock)

    def _reserve_most_s(self) -> float:
        """Of a small budget half is for trials, whatever its end takes."""
        budget_s = self._request.budget_s
        return math.inf if budget_s is None else budget_s / 2

    def _ending_s(self, study: Study, prepared: Prepared) -> float:
        """Seconds for proof, bundle and report, by how long the untouched model's trial took."""
        stages, data = study.trials[0].stages, prepared.bench.task.data
        image_s = stages.get("evaluate", 0.0) / max(1, len(data.validation))
        # The untouched model, the winner and the strongest simple one on the test split.
        return ENDING_S + 3 * image_s * len(data.test) + stages.get("export", 0.0)

    def _openings(self, bench: Workbench) -> Openings:
        """Earlier openings of these test images, by whatever search."""
        key = split_key(bench.task.data.test)
        return Openings([self._folder.openings, cache_folder() / "openings" / f"{key}.json"])

    def _agreement_s(self, clock: Clock) -> float:
        """Seconds to compare the winner's classes on an emulated core."""
        time_s = _time_s(self._request)
        left_s = math.inf if time_s is None else time_s - clock.elapsed_s - ENDING_S
        return max(0.0, min(left_s, INTERRUPTED_S if came() else AGREEMENT_S))

    def _relative(self, model: Path | None) -> Path | None:
        return model.relative_to(self._folder.path) if model else None

    def _conclude(
        self, study: Study, prepared: Prepared, stopped_by: str, clock: Clock
    ) -> SearchResult:
        request, bench, trials = self._request, prepared.bench, study.finished
        test = TestSplit(request.task.data, bench.context, request.task.metric)
        winner, finalists = prove_drop(
            trials,
            self._folder.path,
            test,
            request.limits,
            self._openings(bench),
            self._folder.name,
            model_fingerprint(bench.task, bench.weights),
        )
        simple = strongest_simple(trials)
        baseline = trials[0]
        assert baseline.model is not None
        if winner is not None:
            assert winner.trial.model is not None
            model = self._folder.path / winner.trial.model
            full = test.full(model).merged(test.on_target(model, self._agreement_s(clock)))
            self._tell_agreement(full)
            finalists = tuple(
                replace(f, test=full) if f.trial.number == winner.trial.number else f
                for f in finalists
            )
            winner = replace(winner, test=full)
        exports: tuple[Exported, ...] = ()
        if winner is not None and request.exports:
            self._progress.note(f"Exporting to {', '.join(request.exports)}, too.")
            test_images = request.task.data.test
            exports = make_exports(
                request.exports, winner.trial, bench, self._folder.path, test_images
            )
        parts = parts_of(prepared.space, prepared.sensitivity, trials)
        blocked = blocks(trials, request.limits, request.profile, parts)
        result = SearchResult(
            study=self._folder.name,
            folder=self._folder.path,
            profile=request.profile,
            limits=request.limits,
            metric=request.task.metric,
            data=with_notes(bench.task, [*outdone_baseline(trials), *_repeated(test)]).data,
            model_spec=request.task.model_spec,
            trials=trials,
            front=front_of(trials, request.task.metric),
            baseline=baseline,
            strongest_simple=simple,
            winner=winner,
            finalists=finalists,
            baseline_test=test.full(self._folder.path / baseline.model),
            simple_test=(
                test.full(self._folder.path / simple.model) if simple and simple.model else None
            ),
            near_misses=near_misses(trials, request.limits),
            blocking=sentences(trials, request.limits, blocked),
            stopped_by=stopped_by,
            seconds=clock.elapsed_s,
            command=request.command,
            environment=environment(request.seed),
            tracking_uri=self._tracking_uri,
            storage=masked(optuna_url(request.storage)) if request.storage else None,
            register=request.register,
            exports=exports,
            savings=self._savings(winner.trial, prepared, trials, clock) if winner else (),
            closest=closest_trial(trials, request.limits),
            blocks=blocked,
            cut_off=self._cut_off,
        )
        self._progress.note("Writing the bundle and the report.")
        if winner is not None and winner.trial.model is not None:
            write_bundle(self._folder.path, result, winner, self._folder.path / winner.trial.model)
        write_report(self._folder.report, result, sensitivity=prepared.sensitivity)
        return result

    def _savings(
        self, winner: Trial, prepared: Prepared, trials: tuple[Trial, ...], clock: Clock
    ) -> tuple[Saving, ...]:
        """What the winner's choices save and cost; in seconds that the reserve can spare."""
        seconds = MEASURE_S if clock.budget_s is None else SAVINGS_SHARE * clock.reserve_s
        if came() or prepared.sensitivity is None:
            seconds = 0.0  # whoever interrupted, or was short of time, does not wait for it
        measure = Reexport(winner, prepared.bench, self._folder.path, seconds)
        estimate = estimator(prepared.space, prepared.sensitivity, trials)
        with closing(measure):
            return savings(winner.plan, prepared.space, estimate, measure)

    def _tell_agreement(self, evaluation: Evaluation) -> None:
        """Says it when the target would see other classes than this host."""
        found = evaluation.measurements.get("target_agreement")
        detail = (found.detail or {}) if found else {}
        if detail.get("flagged"):
            self._progress.note(
                f"The target sees another class in {detail['different']} of {detail['images']} "
                f"images; likely cause: {detail['cause']}."
            )


def _repeated(test: TestSplit) -> list[str]:
    """What is said of copies among the test images."""
    if not test.repeated:
        return []
    return [f"{test.repeated:,} test images are copies of others and count once in the proof"]


def poor_baseline(bench: Workbench, predictions: NDArray[np.int64]) -> list[str]:
    """A warning where the untouched model is not shown to be better than one fixed answer.

    ``predictions`` (N,) are its classes on the validation split. A drop against a model that
    knows nothing is worth nothing.
    """
    labels, metric = bench.context.labels, bench.task.metric
    answer = np.bincount(bench.task.data.train.labels).argmax()
    fixed = np.full_like(labels, answer)
    gain = metric_drop_bound(metric, labels, fixed, predictions, bench.context.confidence)
    if gain.bound < 0:
        return []
    score = METRICS[metric]
    return [
        f"the untouched model is not shown to have learned anything: its {metric_title(metric)} "
        f"on validation is {words.percent(score(labels, predictions))}, and always answering "
        f"{bench.task.data.classes[answer]!r} has {words.percent(score(labels, fixed))}; give "
        f"trained weights (--weights), their --preprocess, or a larger --budget"
    ]


def learned_little(bench: Workbench, predictions: NDArray[np.int64]) -> list[str]:
    """A warning where a model that was trained here is outdone by comparing thumbnails.

    ``predictions`` (N,) are its classes on the validation split.
    """
    metric, data = bench.task.metric, bench.task.data
    if metric == "agreement":
        return []
    chosen, nearest = nearest_labels(data.train, data.validation)
    labels, own = data.validation.labels[chosen], predictions[chosen]
    gain = metric_drop_bound(metric, labels, own, nearest, bench.context.confidence)
    if gain.bound > -LITTLE:
        return []
    score = METRICS[metric]
    return [
        f"the untouched model has learned little: its {metric_title(metric)} on validation is "
        f"{words.percent(score(labels, own))}, and the label of the training image with the most "
        f"similar thumbnail has {words.percent(score(labels, nearest))}; give trained weights "
        f"(--weights), or train it longer or otherwise (--train-epochs, --train-lr)"
    ]


def outdone_baseline(trials: Sequence[Trial]) -> list[str]:
    """A warning where the bound of a compressed model says that it is better by a point.

    Then the untouched one could be better, too, and a drop against it says little. It is no
    proof: the bound holds for one model, and of many the best is looked at.
    """
    bounds = [
        (t.evaluation.value("drop_bound"), t.number)
        for t in trials
        if t.plan.settings and t.evaluation is not None and "drop_bound" in t.evaluation
    ]
    bound, number = min(bounds, default=(0.0, 0))
    if bound > -OUTDONE:
        return []
    return [
        f"trial {number} seems better than the untouched model (on validation images by at least "
        f"{words.points(-bound)}, as the best of all trials): the untouched model could have been "
        f"trained better, and the drop is against it as it is; give weights that were trained "
        f"longer (--weights)"
    ]


def environment(seed: int) -> Mapping[str, str]:
    """Versions, processor and seed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    found |= {name: version(name) for name in VERSIONED}
    return found | {"processor": cpu_name(), "seed": str(seed)}


__all__ = ["Prepared", "Request", "Search", "prepare"]
