"""Which source a latency is taken from, most truthful first."""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

from evaluators.evaluator import EvaluationContext
from hardware_profiles import emulator

Tier = Literal["device", "host", "emulated", "analytic"]


def tier(context: EvaluationContext) -> Tier:
    """A device that was given, this host where it is the target, counts, shapes.

    Where counts would serve but for the emulator, that is said once.
    """
    if context.device is not None:
        return "device"
    if context.profile.name == "host":
        return "host"
    if context.profile.counts is None or not context.counted:
        return "analytic"
    try:
        emulator.find()
    except emulator.EmulatorError as error:
        warn_once(f"latency is the analytic estimate, since {error}")
        return "analytic"
    return "emulated"


@cache
def warn_once(message: str) -> None:
    """Logs a warning the first time this process says it."""
    logging.getLogger("evaluators").warning(message)
