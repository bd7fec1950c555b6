"""What a store can answer: it is away, it refuses, or a person has to do something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from search.masking import masked

# Codes with which a store says that this very record is at fault: trying again won't help.
_REFUSALS = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
_UNKNOWN_USER = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"}


class NotPublishedError(Exception):
    """Base of the three."""


class AwayError(NotPublishedError):
    """The store can't be reached, or can't take anything now."""


class RefusedError(NotPublishedError):
    """The store, or a missing file, makes this one record impossible to publish."""


class TellPersonError(NotPublishedError):
    """The store will take nothing until somebody does what the message says."""


@contextmanager
def outcomes(*, opening: bool = False) -> Iterator[None]:
    """Turns what a store can raise into one of the three; ``opening``: before the first record."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except NotPublishedError:
        raise
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        said = masked(str(error), [os.environ["MLFLOW_TRACKING_URI"]])
        code = getattr(error, "error_code", None)
        if remedy := _remedy(error, said, code):
            raise TellPersonError(remedy) from error
        why = " ".join(said.split())[:300]
        if not opening and code in _REFUSALS:
            raise RefusedError(why) from error
        raise AwayError(why) from error


def _remedy(error: Exception, said: str, code: str | None) -> str | None:
    """What a person has to do, where nothing else will help."""
    uri = masked(os.environ["MLFLOW_TRACKING_URI"])
    if "out-of-date database schema" in said:
        return (
            f"its database has the schema of another MLflow: back it up and run `mlflow db "
            f"upgrade {uri}`; if that does not know the schema, the other one is newer (pip "
            f"install -U mlflow)"
        )
    if "maintenance mode" in said:
        return (
            f"a folder of files ({uri}) is no store that MLflow still takes: give "
            f"--tracking-uri sqlite:///mlflow.db (`mlflow migrate-filestore` moves what is "
            f"there), or set MLFLOW_ALLOW_FILE_STORE=true"
        )
    if "unsupported URI" in said:
        return f"--tracking-uri must be http(s)://…, sqlite:///… or another database, but is {uri}"
    if isinstance(error, ImportError):
        return f"{uri} needs the Python package {error.name}: install it with pip"
    if code in _UNKNOWN_USER:
        return (
            f"{uri} does not let you in: set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    return None
