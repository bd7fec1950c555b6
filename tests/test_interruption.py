"""Ctrl-C and SIGTERM in a process of their own: what the first does, and what the second."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
START = """
import sys, time
from search.running.interruption import came, caught, finishing, held
def say(text): print(text, flush=True)
def wait(): time.sleep(10); say("not interrupted")
"""


def run(script: str, *signals: tuple[str, int], ignored: bool = False) -> tuple[int, list[str]]:
    """Runs a script, sends each signal when the line before it was said; code and lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", START + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Not as inherited: what a shell starts in the background ignores the signal.
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL
        ),
    )
    assert process.stdout is not None
    lines = []
    for awaited, number in signals:
        while not lines or lines[-1] != awaited:
            line = process.stdout.readline()
            assert line, f"ended before {awaited!r}: {lines}"
            lines.append(line.rstrip())
        process.send_signal(number)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 8
    return process.returncode, [*lines, *rest.splitlines()]


@SIGNALS
def test_first_signal_interrupts(number: int) -> None:
    script = """
with caught():
    try:
        say("ready"); wait()
    except KeyboardInterrupt:
        say(f"interrupted {came()}")
"""
    assert run(script, ("ready", number)) == (0, ["ready", "interrupted True"])


@SIGNALS
def test_signal_waits_until_what_is_held_is_whole(number: int) -> None:
    script = """
with caught():
    try:
        with held():
            say("ready"); time.sleep(1); say("whole")
        say("went on")
    except KeyboardInterrupt:
        say("interrupted")
"""
    assert run(script, ("ready", number)) == (0, ["ready", "whole", "interrupted"])


@SIGNALS
def test_signal_is_only_remembered_at_the_end(number: int) -> None:
    script = """
with caught():
    finishing()
    say("ready"); time.sleep(1); say(f"finished {came()}")
"""
    assert run(script, ("ready", number)) == (0, ["ready", "finished True"])


@SIGNALS
def test_second_signal_ends_at_once(number: int) -> None:
    script = """
with caught():
    try:
        say("ready"); wait()
    except KeyboardInterrupt:
        finishing(); say("exporting"); wait()
"""
    code, lines = run(script, ("ready", number), ("exporting", number))
    assert code == 130
    assert lines[-1] == "search: interrupted twice; ended at once (--resume goes on)"
    assert "not interrupted" not in lines


def test_signal_that_the_shell_ignores_stays_ignored() -> None:
    """As with nohup or a job in the background of a script."""
    script = """
with caught():
    say("ready"); time.sleep(1); say(f"went on {came()}")
"""
    assert run(script, ("ready", signal.SIGINT), ignored=True) == (0, ["ready", "went on False"])


def test_handlers_are_given_back() -> None:
    from search.running.interruption import came, caught

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with caught():
        # An ignored Ctrl-C stays ignored: that is how shells start what runs in the background.
        assert (signal.getsignal(signal.SIGINT) in before) == (before[0] is signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) not in before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert came()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with caught():
        assert not came()
