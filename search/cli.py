"""The command line: ``python -m search --target arm --max-drop 0.03``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hardware_profiles.printable import printable
from hardware_profiles.regular_files import shortened
from search.durations import seconds, size_bytes
from search.errors import InputError, SearchError
from search.inputs.own_code import use_folder
from search.masked_stream import masking
from search.masking import masked, masked_command
from search.quiet import quiet_libraries
from search.running.interruption import EXIT_INTERRUPTED, came, caught

if TYPE_CHECKING:
    from search.app import Request
    from search.result import SearchResult
    from search.task import Task
    from search.training.train import TrainSettings

EXIT_INFEASIBLE = 3
DEFAULT_TRIALS = 40
DIGITS = re.compile("[0-9]{1,10}")
DEFAULT_BUDGET = "15m"
T = TypeVar("T")

_EPILOG = """\
examples:
  python -m search --target arm --max-drop 0.03
      ResNet18 on the embedded digits, for a Raspberry Pi 4B
  python -m search --target raspberry-pi-5 --max-drop 0.01 --budget 30m \\
      --model torchvision:mobilenet_v2 --weights mine.pt --data folder:photos
      your own model and images
  python -m search --target host --max-drop 0.03 --resume
      go on with the last search of this target
  python -m search --target arm --max-drop 0.03 --dry-run
      what would be searched, and how long it would take
  python -m search publish STUDY --tracking-uri http://mlflow:5000
      bring an MLflow store up to date with a study, at any time (publish --help)

--data npz:PATH takes a file of numpy.savez with these arrays:
  images          (N, H, W), (N, C, H, W) or (N, H, W, C), C 1 or 3; uint8 0..255 or float 0..1
  labels          (N,), integers from 0
  classes         their names; may be left out
  or train_images, train_labels, val_images, val_labels, test_images, test_labels, to keep splits
  of your own (x_train, y_train and so on will do, too); what is missing is taken from train

exit codes: 0 done (proved, or delivered and labeled unproven), 1 the search failed,
2 bad input, 3 nothing meets the limits, or no compressed model was finished in the budget (or
unproven with --require-proof), 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """Bad input is one line and exit code 2; no option may be shortened."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (--help explains)")


def build_parser() -> argparse.ArgumentParser:
    """All options, in the order in which a newcomer needs them."""
    parser = _Parser(
        prog="search",
        description="Finds the fastest compressed version of an image classifier whose accuracy\n"
        "drop is shown to be at most what you allow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    release = version("compression-search")
    parser.add_argument("--version", action="version", version=f"compression-search {release}")
    add = parser.add_argument_group("what to reach").add_argument
    add(
        "--target",
        required=True,
        metavar="NAME",
        help="device: arm, raspberry-pi-5, host, …, "
        "or a profile's .toml file (python -m hardware_profiles list)",
    )
    add(
        "--device",
        metavar="URL",
        help="measure on a real device: ssh://user@board[:port][/path/to/python], or ray:RESOURCE "
        "for a node of the Ray cluster",
    )
    add(
        "--max-drop",
        required=True,
        type=_fraction,
        metavar="X",
        help="largest allowed drop of the metric, absolute: 0.03 is three points",
    )
    add("--max-latency", type=_positive, metavar="MS", help="milliseconds per image")
    add("--max-size", type=_parsed(size_bytes), metavar="SIZE", help="of the file, such as 500kB")
    add("--max-memory", type=_parsed(size_bytes), metavar="SIZE", help="peak, such as 80MB")
    add(
        "--confidence",
        type=_confidence,
        default=0.95,
        metavar="P",
        help="with which the drop is shown (default 0.95)",
    )
    add("--require-proof", action="store_true", help="exit 3 unless the drop is shown")

    add = parser.add_argument_group("what to compress").add_argument
    add(
        "--model",
        metavar="SPEC",
        help="torchvision:NAME, timm:NAME, package.module:function or an exported program, "
        "FILE.pt2 (default torchvision:resnet18)",
    )
    add("--weights", type=Path, metavar="FILE", help="its trained state dict (.pt, .safetensors)")
    add(
        "--data",
        metavar="SPEC",
        help="digits (default), folder:PATH, npz:PATH, torchvision:NAME, "
        "parquet:PATH or package.module:function",
    )
    for name in ("train", "val", "test"):
        add(f"--{name}", type=Path, metavar="FOLDER", help=f"folder of {name} images, by class")
    add("--image-size", metavar="N|HxW", help="pixels to which images are resized")
    add("--preprocess", type=Path, metavar="FILE", help="JSON with size, resize, mean, std")
    add(
        "--groups",
        metavar="SPEC",
        help="images that belong together, of one patient or video, stay in one split and are "
        "resampled together in the proof: column:NAME (parquet, npz), file:PATH (CSV of image "
        "and group) or pattern:REGEX over file names, such as 'pattern:(patient[0-9]+)'",
    )
    add(
        "--technique",
        action="append",
        default=[],
        metavar="NAME",
        help="search this, too: resolution (a smaller input); may be repeated",
    )
    for name, help_ in (
        ("keep-float", "layers that are not quantized, such as 'layer4.*' or fc"),
        ("keep-width", "layers whose channels are not pruned"),
        ("exclude", "both, and no block is left out that holds them"),
    ):
        add(f"--{name}", action="append", default=[], metavar="PATTERN", help=help_)
    add(
        "--metric",
        choices=("accuracy", "balanced_accuracy", "f1", "agreement"),
        default="accuracy",
        help="default accuracy",
    )

    add = parser.add_argument_group("how long and how").add_argument
    add(
        "--trials",
        type=_trials,
        metavar="N",
        help=f"evaluated trials, baselines included; 0 trains nothing "
        f"(default {DEFAULT_TRIALS}, unless --budget is given)",
    )
    add(
        "--no-training",
        action="store_true",
        help="the best that can be had at once: int8, layers left in float, a little pruning",
    )
    add(
        "--budget",
        type=_parsed(seconds),
        metavar="TIME",
        help=f"such as 90s, 30m, 2h (default {DEFAULT_BUDGET}, unless --trials is given)",
    )
    add("--sampler", choices=("tpe", "gp", "nsga2", "random"), default="tpe", help="default tpe")
    add(
        "--train-epochs",
        type=_training_number("number of epochs", 10_000),
        metavar="N",
        help="of the untouched model, where it has no weights (default 15)",
    )
    add(
        "--train-lr",
        type=_training_number("learning rate", 10),
        metavar="X",
        help="its learning rate (default 0.001)",
    )
    add("--seed", type=_seed, default=0, metavar="N", help="default 0")

    add = parser.add_argument_group("who runs it").add_argument
    add("--workers", type=_count, default=1, metavar="N", help="trials at a time (default 1)")
    add(
        "--cpus-per-trial",
        type=_count,
        metavar="N",
        help="threads of a trial (default: cores / workers)",
    )
    add("--backend", default="local", metavar="NAME", help="local (default) or ray")
    add("--address", metavar="URL", help="of a Ray cluster: auto or ray://HOST:PORT")
    add(
        "--gpus-per-trial",
        type=_amount,
        metavar="X",
        help="of a Ray cluster (default: its GPUs / workers, at most one)",
    )

    add = parser.add_argument_group("where it goes").add_argument
    add("--study", metavar="NAME", help="name of the study and its folder")
    add("--output", type=Path, default=Path("runs"), metavar="FOLDER", help="default runs")
    add("--resume", action="store_true", help="go on with an existing study")
    add(
        "--storage",
        metavar="URL",
        default=os.environ.get("COMPRESSION_SEARCH_STORAGE"),
        help="database for the trials, such as postgresql://user@host/database (default a "
        "SQLite file in the study's folder; COMPRESSION_SEARCH_STORAGE is honored)",
    )
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default a SQLite file in the output "
        "folder; MLFLOW_TRACKING_URI is honored)",
    )
    add(
        "--export",
        action="append",
        default=[],
        metavar="FORMAT",
        help="hand the winner over in this format, too: tflite, tensorrt or ort; may be repeated",
    )
    add("--register", metavar="NAME", help="register the winner in MLflow as models:/NAME@TARGET")
    add(
        "--no-cache",
        action="store_true",
        help="train and evaluate everything, also what an earlier search has",
    )
    add("--dry-run", action="store_true", help="say what would be searched, and stop")
    add(
        "--json",
        action="store_true",
        help="print the result (of --dry-run: the outline) as one line of JSON at the end",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    began = time.monotonic()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["publish"]:
        return _publish(given[1:])
    try:
        args = build_parser().parse_args(given)
    except InputError as error:
        _tell(str(error))
        return error.exit_code
    out = sys.stdout
    addresses = [str(a) for a in vars(args).values() if isinstance(a, str) and "://" in a]
    # Whatever libraries and the person's own code print is talk; the result comes last.
    with masking(addresses), caught(), contextlib.redirect_stdout(sys.stderr):
        try:
            code, line = _run(args, given, began)
        except SearchError as error:
            _tell(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            print(
                "search: interrupted before the search had begun; --resume goes on with trials "
                "from before, if there are any",
                file=sys.stderr,
            )
            return EXIT_INTERRUPTED
    if line is not None:
        print(line, file=out, flush=True)
    return code


def _publish(arguments: Sequence[str]) -> int:
    """``publish``: the one word that may stand where a search has its options."""
    from search.publishing import command

    try:
        with masking([a.partition("=")[2] if a.startswith("--") else a for a in arguments]):
            return command.main(arguments, _Parser)
    except SearchError as error:
        _tell(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        print("search: interrupted; what is published stays there", file=sys.stderr)
        return EXIT_INTERRUPTED


def _tell(sentence: str) -> None:
    """One line on standard error, whatever names in it hold."""
    line = re.sub(r"\S{300,}", lambda word: shortened(word[0]), " ".join(sentence.splitlines()))
    print(f"search: {printable(line)}", file=sys.stderr)


def _run(args: argparse.Namespace, given: Sequence[str], began: float) -> tuple[int, str | None]:
    """The exit code and, where it was asked for, the result as one line of JSON."""
    try:
        request = request_of(args, masked_command(again(given)))
    except OSError as error:
        raise InputError(
            f"a path must be one that can be opened here, but {shortened(error.filename or '')!r} "
            f"is not ({error.strerror}); check the options that name files"
        ) from error
    if args.dry_run:
        from search.telling.dry_run import outline

        found = outline(request)
        print(printable(found.told()), file=sys.stderr)
        return 0, json.dumps(found.to_json(), allow_nan=False) if args.json else None
    result = search_for(request, args, began)
    from search.telling.summary import summary, to_json

    print(printable(summary(result)), file=sys.stderr)
    line = json.dumps(to_json(result), allow_nan=False) if args.json else None
    if came():
        return EXIT_INTERRUPTED, line
    unproven = result.winner is None or (args.require_proof and not result.winner.proven)
    if unproven or result.short_of_time:
        return EXIT_INFEASIBLE, line
    return 0, line


def again(given: Sequence[str]) -> list[str]:
    """A command that searches the same anew: without a study's name, which is taken by now."""
    kept = [a for a in given if a != "--resume" and not a.startswith("--study=")]
    if "--study" in kept:
        at = kept.index("--study")
        del kept[at : at + 2]
    return ["python", "-m", "search", *kept]


def request_of(
    args: argparse.Namespace, command: str, model: Any = None, data: Any = None
) -> Request:
    """What the options ask for, all of it checked; notes on the data go to standard error.

    ``model`` and ``data`` are objects that stand for the options of these names; ``command`` is
    what reproduces the search.

    Raises:
        InputError: something breaks a rule.
    """
    # Heavy imports come after the arguments are known to be good.
    from hardware_profiles import ProfileError, load_profile
    from search.bundle.exports.exporter import check_exports
    from search.inputs.early_checks import check_early

    try:
        profile = load_profile(args.target)
    except ProfileError as error:
        raise InputError(str(error)) from None
    model, data = (args.model if model is None else model), (args.data if data is None else data)
    check_early(args, profile.name, model, data)
    exports = check_exports(args.export)
    quiet_libraries()

    from search.app import Request
    from search.inputs.data.preprocessing import parse_image_size
    from search.inputs.loading import load_task
    from search.inputs.models.given import GivenBuild
    from search.limits import Limits
    from search.running.backends import Resources
    from search.running.backends.finding import find_backend
    from spaces.tracing.scopes import LeftAlone

    opt_in = _opt_in(args.technique)
    untrained = args.no_training or args.trials == 0
    if args.no_training and args.trials:
        raise InputError(
            f"--no-training evaluates a handful of plans, so that --trials must be left out, but "
            f"got {args.trials}"
        )
    resources = Resources(args.workers, args.cpus_per_trial, args.gpus_per_trial, args.address)
    find_backend(args.backend).check(resources, profile, args.device)
    if args.device:
        _reach(args.device)

    use_folder(os.getcwd())  # a person's own module lies where they stand
    task = load_task(
        model,
        args.weights,
        data,
        train=args.train,
        val=args.val,
        test=args.test,
        image_size=parse_image_size(args.image_size) if args.image_size else None,
        preprocess=args.preprocess,
        groups=args.groups,
        seed=args.seed,
        metric=args.metric,
        sample=args.dry_run,
    )
    if isinstance(task.build, GivenBuild) and (args.workers > 1 or args.backend != "local"):
        raise InputError(
            f"a model that is handed over must be searched in this process alone, but got "
            f"{args.workers} worker(s) of the backend {args.backend!r}; name the model, such as "
            f"'package.module:function'"
        )
    for note in task.data.notes:
        _tell(note)
    return Request(
        task=task,
        profile=profile,
        limits=Limits(
            args.max_drop,
            args.confidence,
            args.max_latency,
            args.max_size,
            args.max_memory,
            args.require_proof,
        ),
        trials=args.trials or (None if args.budget or untrained else DEFAULT_TRIALS),
        budget_s=args.budget or (None if args.trials or untrained else seconds(DEFAULT_BUDGET)),
        untrained=untrained,
        sampler=args.sampler,
        device=args.device,
        opt_in=opt_in,
        baseline=_baseline_training(args, task),
        scopes=LeftAlone(tuple(args.keep_float), tuple(args.keep_width), tuple(args.exclude)),
        backend=args.backend,
        resources=resources,
        storage=args.storage,
        cached=not args.no_cache,
        exports=exports,
        register=args.register,
        seed=args.seed,
        command=command,
    )


def search_for(request: Request, args: argparse.Namespace, began: float) -> SearchResult:
    """Searches in the folder that the options name; ``began``: see ``Search``.

    Raises:
        SearchError: the study can't be used, or the search could not go on.
    """
    from search.app import Search, identity_of
    from search.publishing.mlflow import MlflowTracker
    from search.publishing.publish import resolve_tracking_uri
    from search.running.study_folder import compare_identity, in_use, open_folder
    from search.telling.progress import Score, show_progress

    folder = open_folder(args.output, args.study, args.resume, request.profile.name)
    compare_identity(folder, identity_of(request))  # before anything is written or takes long
    score = Score(request.task.metric, request.trials, request.budget_s)
    with in_use(folder), show_progress(score) as progress:
        uri = resolve_tracking_uri(args.tracking_uri, args.output)
        tracker = MlflowTracker(
            folder.path,
            uri,
            request.task.metric,
            vars_of(args),
            progress.note,
            register=args.register,
            storage=request.storage,
            budget_s=request.budget_s,
        )
        try:
            return Search(request, folder, progress, tracker, masked(uri), began).run()
        finally:
            tracker.close()


def _baseline_training(args: argparse.Namespace, task: Task) -> TrainSettings:
    """How the untouched model is trained.

    Raises:
        InputError: it has weights, so that it is not trained.
    """
    from search.training.teacher import BASELINE

    stated = {"epochs": args.train_epochs, "learning_rate": args.train_lr}
    stated = {name: value for name, value in stated.items() if value is not None}
    if stated and task.weights is not None:
        raise InputError(
            "--train-epochs and --train-lr are for a model without weights, which is trained "
            "here, but this one has some; leave them out, or --weights"
        )
    return replace(BASELINE, **stated)


def _opt_in(asked: Sequence[str]) -> tuple[str, ...]:
    """The techniques that were asked for, each once.

    Raises:
        InputError: there is none of that name that has to be asked for.
    """
    from spaces.technique import discover

    offered = sorted(t.name for t in discover().values() if t.opt_in)
    for name in asked:
        if name not in offered:
            raise InputError(
                f"--technique must be one of {', '.join(offered)}, but got {name!r}; all others "
                f"are searched without being asked for"
            )
    return tuple(sorted(set(asked)))


def _reach(url: str) -> None:
    """Talks to the device once, so that a wrong address shows before the search begins.

    Raises:
        InputError: the address is malformed, or the device can't be used.
    """
    from evaluators.latency.device import shared
    from hardware_profiles.devices.device import DeviceError

    try:
        shared(url).about()
    except DeviceError as error:
        raise InputError(f"--device must name a device that can be used: {error}") from None


def vars_of(args: argparse.Namespace) -> dict[str, object]:
    """The options as they are shown with the search."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    return {n: masked(v) if isinstance(v, str) else v for n, v in given.items()}


def _parsed(parse: Callable[[str], T]) -> Callable[[str], T]:
    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def _training_number(name: str, most: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = _number(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a {name} above 0 and of at most {most:g}, got {text}"
            )
        return value

    return convert


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1], got {text}; three points are 0.03")
    return value


def _confidence(text: str) -> float:
    value = _number(text)
    if not 0.5 <= value < 1:
        raise argparse.ArgumentTypeError(f"must lie in [0.5, 1), got {text}; usual is 0.95")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above zero, got {text}")
    return value


def _seed(text: str) -> int:
    if not DIGITS.fullmatch(text) or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2^32-1, got {text!r}")
    return int(text)


def _trials(text: str) -> int:
    if not DIGITS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _amount(text: str) -> float:
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be zero or above, got {text}")
    return value


def _count(text: str) -> int:
    if not DIGITS.fullmatch(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
