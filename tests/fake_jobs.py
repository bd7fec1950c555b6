"""Jobs that only pretend to work, for tests of who runs them and of what is kept.

What a job does stands in its plan, under ``fake``. Worker processes of tests import this file:
nothing heavy here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Listen = Callable[[str, float | None], None]
WAIT_S = 60.0


def open_fake(argument: Any) -> Callable[[Mapping[str, Any], Listen], dict[str, Any]]:
    """A worker's runner; the argument says how long jobs sleep and where to write who works."""
    argument = argument or {}
    if "unable" in argument:
        raise RuntimeError(argument["unable"])
    if "pids" in argument:
        with Path(argument["pids"]).open("a") as file:
            file.write(f"{os.getpid()}\n")

    def sleep_and_run(job: Mapping[str, Any], listen: Listen) -> dict[str, Any]:
        if "begun" in argument:
            with Path(argument["begun"]).open("a") as file:
                file.write(f"{os.getpid()}\n")
        time.sleep(argument.get("sleep_s", 0))
        return run(job, listen)

    return sleep_and_run


def run(job: Mapping[str, Any], listen: Listen) -> dict[str, Any]:
    """Does what the plan says and gives an outcome that depends on the plan and epochs alone."""
    told = job["plan"]["settings"].get("fake", {})
    listen("train", None)
    listen("train", 0.5)
    if "pid" in told:  # lets the test know who works
        with Path(told["pid"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if "lock" in told:
        with Path(told["lock"]).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            Path(told["locked"]).touch()
            time.sleep(WAIT_S)
    if "touch" in told:
        Path(told["touch"]).touch()
    if "await" in told:
        await_file(Path(told["await"]))
    if "warn" in told:
        logging.getLogger("evaluators").warning(told["warn"])
    if "raise" in told:
        raise RuntimeError(told["raise"])
    if "die" in told and not Path(told["die"]).exists():
        Path(told["die"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if told.get("always_die"):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(told.get("sleep_s", 0))
    return outcome(job, {name: os.environ.get(name) for name in told.get("environment", ())})


def outcome(job: Mapping[str, Any], detail: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An outcome in JSON; figures are drawn from a hash, and get better with training."""
    text = json.dumps(job["plan"], sort_keys=True)
    digest = hashlib.sha256(text.encode()).digest()
    drop = digest[0] / 255 * 0.2 / (1 + job["epochs"])
    latency_ms = 1 + digest[1] / 16
    figures = [
        ("accuracy", 0.95 - drop, ""),
        ("drop", drop, ""),
        ("drop_bound", drop + 0.01, ""),
        ("latency_ms", latency_ms, "ms"),
    ]
    measurements = [
        {"name": name, "value": value, "unit": unit, "source": "measured", "how": "made up"}
        for name, value, unit in figures
    ]
    measurements[0]["detail"] = dict(detail or {})
    return {
        "evaluation": {"version": 1, "measurements": measurements},
        "violations": {"drop": drop - 0.03},
        "stages": {"train": 0.1},
        "model": None,
        "reason": None,
        "checkpoint": None,
    }


def await_file(path: Path) -> None:
    """Waits until the file is there.

    Raises:
        TimeoutError: it does not come.
    """
    give_up = time.monotonic() + WAIT_S
    while not path.exists():
        if time.monotonic() > give_up:
            raise TimeoutError(str(path))
        time.sleep(0.01)


def open_shared(argument: Any) -> Callable[[Mapping[str, Any], Listen], dict[str, Any]]:
    """A worker's runner that tells whose memory its argument's ``array`` is in."""
    flags = argument["array"].flags

    def run(job: Mapping[str, Any], _listen: Listen) -> dict[str, Any]:
        await_file(Path(job["plan"]["settings"]["fake"]["await"]))
        return outcome(job, {"own": flags.owndata, "writeable": flags.writeable})

    return run
