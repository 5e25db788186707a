"""Signals that end a run early: Ctrl-C, SIGTERM, and SLURM's warning SIGUSR1.

A run that is training ends after the step in hand, when that is saved; one that only prepares ends
at once. Exit codes follow the shell: 130, 143 and 138.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from medvlp.errors import RunError

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """A signal asked for a stop, and the last checkpoint is written.

    Args:
        number: The signal.
        step: The last step that was saved.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(number, step)
        self.number = number
        self.step = step


class Preempted(RunError):
    """The system stopped the run; repeating the command continues it.

    Args:
        number: The signal.
        message: What happened.
        remedy: What to do.
    """

    def __init__(self, number: int, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = 128 + number


class StopSignals:
    """Takes the signals over while it is entered, where it is entered in the main thread.

    Attributes:
        asked: The signal that asked for a stop; 0 before.
        training: Whether somebody looks at `asked` after each step.
        saved: The last step that was saved.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.training = False
        self.saved = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in HANDLED}
            self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, again where somebody else has set his own in the meantime."""
        if self._before:
            for number in HANDLED:
                signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Ask for a stop; a second Ctrl-C interrupts at once."""
        if number == signal.SIGINT and (self.asked or not self.training):
            signal.default_int_handler(number, frame)
        self.asked = self.asked or number
        if not self.training:
            raise Stopped(number, self.saved)


def preempted(stopped: Stopped, *, first: bool) -> BaseException:
    """What a stopped run ends with; under SLURM, SIGUSR1 puts its job back into the queue.

    Args:
        stopped: Signal and step.
        first: Whether this is the first process, which alone speaks to SLURM and to the user.
    """
    if stopped.number == signal.SIGINT:
        return KeyboardInterrupt()
    name = signal.Signals(stopped.number).name
    saved = f"step {stopped.step} is saved" if stopped.step else "nothing was trained yet"
    told, remedy = f"stopped by {name}; {saved}", "repeat the command to go on"
    job = job_id(os.environ)
    if first and job and stopped.number == signal.SIGUSR1:
        done = _requeue(job)
        told += f"; job {job} is {'requeued' if done else 'NOT requeued: scontrol failed'}"
        remedy = "none needed, SLURM starts it again" if done else "submit the job again"
    return Preempted(stopped.number, told, remedy=remedy)


def job_id(environment: Mapping[str, str]) -> str | None:
    """The SLURM job's id as ``scontrol`` takes it; an array's task has one of its own.

    >>> job_id({"SLURM_JOB_ID": "12"}), job_id({})
    ('12', None)
    >>> job_id({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "3"})
    '9_3'
    """
    if "SLURM_ARRAY_JOB_ID" in environment and "SLURM_ARRAY_TASK_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID")


def _requeue(job: str) -> bool:
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0
