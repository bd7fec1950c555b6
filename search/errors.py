"""What can go wrong, as a person meets it.

    SearchError                 exit code 1
    ├── InputError              exit code 2: what was given breaks a rule; nothing was started
    ├── StudyError              exit code 2: the study on disk can't be used as asked
    ├── StorageError            exit code 1: the storage was away for too long; resume
    ├── PublishError            exit code 1: MLflow took not all of a study; run it again
    └── TrialsFailedError       exit code 1: trial after trial raised; the study is kept

Every message states the rule, the value and the remedy, in one line. Infeasible is not an
error but a result (exit code 3), and so is an interruption (exit code 130).
"""

from __future__ import annotations


class SearchError(Exception):
    """Base of everything that this project raises for a person to read."""

    exit_code = 1


class InputError(SearchError):
    """Something given on the command line, in a file or by a function breaks a rule."""

    exit_code = 2


class StudyError(SearchError):
    """An existing study can't be used in the way that was asked."""

    exit_code = 2


class StorageError(SearchError):
    """The study's storage takes no results; what it took before is kept."""


class PublishError(SearchError):
    """MLflow does not take a study; what it took before stays there."""


class TrialsFailedError(SearchError):
    """Too many trials in a row raised; what was measured before is kept."""
