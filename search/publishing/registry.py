"""The winner's name and alias in MLflow's registry."""

from __future__ import annotations

import re

from search.errors import InputError

# What `models:/NAME@ALIAS` may not have as an alias, as it means a version already.
_RESERVED = re.compile(r"v\d+|latest", re.IGNORECASE)


def address(name: str, target: str) -> str:
    """What MLflow's commands and loaders take: the model's newest version for this target."""
    return f"models:/{name}@{target}"


def check_registration(name: str, target: str) -> None:
    """Whether MLflow will take the winner under this name, with the target's as its alias.

    The rules are those of MLflow 3.17, ``mlflow/utils/validation.py``: ``_validate_model_name``,
    ``_validate_model_alias_name`` and ``_validate_model_alias_name_reserved``, here because
    importing MLflow takes seconds.

    Raises:
        InputError: it won't, and would say so only after the search.
    """
    if not name.strip() or re.search("[/:]", name) or name == "." or name.startswith(".."):
        raise InputError(
            f"--register must be a name that MLflow takes, not empty, without / and :, "
            f"neither . nor beginning with .., but got {name!r}; try {_simple(name)!r}"
        )
    if not re.fullmatch(r"[\w-]{1,255}", target) or _RESERVED.fullmatch(target):
        raise InputError(
            f"--register makes the target's name an alias, which MLflow takes when it has only "
            f"letters, digits, - and _ and is no version, but it is {target!r}; change `name` in "
            f"the profile"
        )


def _simple(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "my-classifier"
