"""What an exported file is worth. One evaluator, one file; found by listing this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluators.evaluator import EvaluationContext, Evaluator, discover, evaluate
    from evaluators.measurement import Evaluation, Measurement

_FROM = {
    "Evaluation": "evaluators.measurement",
    "EvaluationContext": "evaluators.evaluator",
    "Evaluator": "evaluators.evaluator",
    "Measurement": "evaluators.measurement",
    "discover": "evaluators.evaluator",
    "evaluate": "evaluators.evaluator",
}
__all__ = [
    "Evaluation",
    "EvaluationContext",
    "Evaluator",
    "Measurement",
    "discover",
    "evaluate",
]


def __getattr__(name: str) -> Any:
    """Imports what is used when it is used, so that a Python without numpy can be told."""
    from importlib import import_module

    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FROM[name]), name)
