"""Work in processes of its own: one that dies takes its own piece of work along, and no other."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Generic, TypeVar

J = TypeVar("J")

DIED = "its process died (killed, or out of memory)"

_CONTEXT = multiprocessing.get_context("forkserver")
"""The server imports what cells need once; it runs no threads, so that forking it is safe."""

_CONTEXT.set_forkserver_preload(["medvlp.evaluate.suite.cells"])


class _Worker(Generic[J]):
    """One process that does job after job."""

    def __init__(self, work: Callable[[J], str | None], threads: int) -> None:
        self.pipe, other = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(other, work, threads), daemon=True)
        self.process.start()
        other.close()

    def answer(self) -> tuple[str | None, bool]:
        """Why the job failed, or None, and whether the process goes on."""
        try:
            reason: str | None = self.pipe.recv()
        except (EOFError, OSError):
            return DIED, False
        return reason, True

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def run_apart(
    work: Callable[[J], str | None], jobs: Sequence[J], workers: int
) -> Iterator[tuple[J, str | None]]:
    """Do `work` on each job, up to `workers` at a time, in the order in which they finish.

    Args:
        work: Returns why a job failed, or None; importable by name.
        jobs: What crosses to the process.
        workers: Processes, each of which does job after job.

    Yields:
        Each job with its reason of failure, or None. An exception that `work` lets through is
        told by its kind and place.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    idle = [_Worker(work, threads) for _ in range(min(workers, len(jobs)))]
    running: dict[Connection, tuple[_Worker[J], J]] = {}
    waiting = deque(jobs)
    try:
        while waiting or running:
            while waiting and idle:
                worker, job = idle.pop(), waiting.popleft()
                worker.pipe.send(job)
                running[worker.pipe] = worker, job
            for pipe in wait(list(running)):
                worker, job = running.pop(pipe)  # type: ignore[call-overload]
                reason, alive = worker.answer()
                if not alive:
                    worker.end()
                    worker = _Worker(work, threads)
                idle.append(worker)
                yield job, reason
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            worker.end()


def _serve(pipe: Connection, work: Callable[[J], str | None], threads: int) -> None:
    """Do what comes through the pipe until it is closed.

    Several processes' bars would write over each other: the suite has the only one.
    """
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        sys.stderr = nowhere
        while True:
            try:
                job: J = pipe.recv()
            except EOFError:
                return
            try:
                reason = work(job)
            except Exception as error:
                # The words of a library may name a file, and a file's name a patient.
                frame = traceback.extract_tb(error.__traceback__)[-1]
                reason = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            pipe.send(reason)


def _end_with_parent() -> None:
    """Nobody would take the result of a killed command, nor stop who works on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
