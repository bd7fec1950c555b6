"""What an exported file is worth. One evaluator, one file; found by listing this package."""

from evaluators.evaluator import EvaluationContext, Evaluator, discover, evaluate
from evaluators.measurement import Evaluation, Measurement

__all__ = [
    "Evaluation",
    "EvaluationContext",
    "Evaluator",
    "Measurement",
    "discover",
    "evaluate",
]
