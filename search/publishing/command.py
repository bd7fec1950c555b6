"""``python -m search publish STUDY``: brings an MLflow store up to date with a study."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from search.errors import InputError, PublishError, StudyError
from search.masking import masked
from search.publishing.publish import (
    ENVIRONMENT,
    STORAGE,
    Published,
    Publisher,
    Source,
    is_searched,
    resolve_tracking_uri,
)
from search.publishing.registry import address
from search.quiet import quiet_libraries


def build_parser(make: type[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """The options; ``make`` is the command line's own parser."""
    parser = make(
        prog="search publish",
        description="Brings an MLflow store up to date with a study: its trials and, once it has "
        "ended, its end.\nWhat is there already is left alone, so it may be run at any time, "
        "also during the search.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("study", metavar="STUDY", help="its name, or its folder")
    add("--output", type=Path, default=Path("runs"), metavar="FOLDER", help="default runs")
    add(
        "--storage",
        metavar="URL",
        default=os.environ.get(STORAGE),
        help=f"as for the search (default the file in the study's folder; {STORAGE} is honored)",
    )
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store (default a SQLite file in the output folder; MLFLOW_TRACKING_URI is "
        "honored)",
    )
    add("--register", metavar="NAME", help="register the winner in MLflow as models:/NAME@TARGET")
    return parser


def publish(args: argparse.Namespace) -> int:
    """Publishes what the options name; says on standard error what was new.

    Raises:
        InputError, StudyError: there is no such study, or it can't be read.
        PublishError: the store is away, or somebody has to do something.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    from search.publishing.outcomes import NotPublishedError

    folder = study_folder(args.study, args.output)
    if args.storage is None and not (folder / "study.db").exists():
        raise InputError(
            f"--storage must be given for a study whose trials are in a database server, and "
            f"{folder} has no study.db"
        )
    uri = resolve_tracking_uri(args.tracking_uri, folder.parent)
    quiet_libraries()
    try:
        publisher = Publisher(folder, Source(folder, args.storage), args.register)
    except KeyError:
        raise StudyError(
            f"the storage must have the study, but {folder.name!r} is not in it; give the "
            f"--storage of the search"
        ) from None
    try:
        with _settings(uri):
            done = publisher.publish(is_searched(folder))
    except NotPublishedError as error:
        raise PublishError(
            f"MLflow must take the study, but {masked(uri)} does not: {error}"
        ) from error
    except (OSError, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        why = masked(" ".join(str(error.__cause__ or error).split())[:300])
        raise PublishError(
            f"the study must be readable and its folder writable, but {folder} is not: {why}"
        ) from error
    print(_told(done, folder.name, masked(uri)), file=sys.stderr)
    return 0


@contextmanager
def _settings(uri: str) -> Iterator[None]:
    """MLflow's own, for as long as it lasts; what the person has set wins."""
    before = dict(os.environ)
    quiet = {**ENVIRONMENT, "MLFLOW_LOGGING_LEVEL": "ERROR"}
    os.environ.update({**quiet, **before, "MLFLOW_TRACKING_URI": uri})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def study_folder(study: str, runs: Path) -> Path:
    """The folder of a study, by its name or its path.

    Raises:
        StudyError: there is none.
    """
    for folder in (runs / study, Path(study)):
        if (folder / "study.json").exists():
            return folder.resolve()
    raise StudyError(
        f"STUDY must be the name of a study in {runs} (--output) or its folder, but got {study!r}"
    )


def _told(done: Published, study: str, uri: str) -> str:
    news = [f"{done.trials} trials"] if done.trials != 1 else ["1 trial"]
    news = [*(news if done.trials else []), *(["the end"] if done.ending else [])]
    lines = [f"{study}: published {' and '.join(news) or 'nothing, as all is there'} ({uri})."]
    lines += [f"MLflow refused {refused}." for refused in done.refused]
    lines += [f"The winner is registered: {address(*model)}." for model in done.registered]
    return "\n".join(lines)


def main(arguments: Sequence[str], make: type[argparse.ArgumentParser]) -> int:
    """Runs the command."""
    return publish(build_parser(make).parse_args(arguments))
