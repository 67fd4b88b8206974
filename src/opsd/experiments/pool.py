"""Runs independent trainings in parallel: one worker process per core, one thread each, which
report their progress to the parent; the parent itself loads no model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from opsd.console import SELDOM, bar, log
from opsd.types import RunFailed


class Job(Protocol):
    """A training: `label` is its name in the progress bar, and `size` how long it is, in a `unit`
    such as "token" or "step"."""

    @property
    def label(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def unit(self) -> str: ...


J = TypeVar("J", bound=Job)
R = TypeVar("R")

_news: Any = None


def tell(label: str, done: int, note: str) -> None:
    """Reports how much of a job is done, in its unit, and what it is doing. The last note is logged
    as its outcome."""
    if _news is not None:
        _news.put((label, done, note))


def run_all(jobs: Sequence[J], work: Callable[[J], R]) -> Iterator[tuple[J, R]]:
    """Yields each job with its result, as jobs end. If a job fails, all end with its error;
    RunFailed if a worker was killed from outside."""
    if not jobs:
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    news: Any = context.SimpleQueue()
    executor = ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs)), context, _begin, (news,))
    with bar() as progress, closing(executor, news):
        with _held_back():
            waiting = {executor.submit(work, job): job for job in jobs}
        total = progress.add_task("all arms", total=len(jobs), unit="arm", note="")
        shown: dict[str, Any] = {}
        known = {job.label: job for job in jobs}
        spoken = time.monotonic()
        while waiting:
            ended = [future for future in waiting if future.done()]
            while not news.empty():
                label, done, note = news.get()
                _show(progress, shown, known[label], done, note)
            for future in ended:
                made = _result(future)
                job = waiting.pop(future)
                _end(progress, shown, job)
                progress.advance(total)
                yield job, made
            if progress.disable and time.monotonic() - spoken > SELDOM:
                spoken = time.monotonic()
                log(f"{len(jobs) - len(waiting)}/{len(jobs)} arms; {_under_way(progress, shown)}")
            time.sleep(0.1)


@contextmanager
def _held_back() -> Iterator[None]:
    """Blocks Ctrl-C while workers are started, here and in the workers (until `_begin`): the signal
    goes to all processes at once, and a worker that is still importing would print a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker process was killed from outside, perhaps for lack of memory: run the same"
            " command again"
        ) from error


@contextmanager
def closing(executor: ProcessPoolExecutor, news: Any) -> Iterator[None]:
    """Waits for the running jobs at the end, and cancels the waiting ones; reads the workers'
    messages meanwhile, so that none blocks. Ctrl-C ends all workers, also those that have not
    received it."""
    try:
        yield
    except KeyboardInterrupt:
        for worker in [*executor._processes.values()]:
            worker.terminate()
        raise
    finally:
        workers = [*executor._processes.values()]  # the shutdown clears this
        executor.shutdown(wait=False, cancel_futures=True)
        while any(worker.is_alive() for worker in workers):
            while not news.empty():
                news.get()
            time.sleep(0.1)


def _begin(news: Any) -> None:
    """Prepares a worker."""
    global _news
    import torch
    from transformers.utils import logging

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # the parent reports it
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    _news = news


def _outlive_nobody() -> None:
    """Ends a worker after its parent was killed: otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _under_way(progress: Any, shown: dict[str, Any]) -> str:
    """The progress of the running arms, in words."""
    told = [
        f"{task.description} {int(task.completed):,}/{int(task.total):,} {task.fields['unit']}s"
        f" {task.fields['note']}".rstrip()
        for task in progress.tasks
        if task.id in shown.values()
    ]
    return "; ".join(told) or "starting"


def _show(progress: Any, shown: dict[str, Any], job: Job, done: int, note: str) -> None:
    if job.label not in shown:
        shown[job.label] = progress.add_task(job.label, total=job.size, unit=job.unit, note="")
    progress.update(shown[job.label], completed=min(done, job.size), note=note)


def _end(progress: Any, shown: dict[str, Any], job: Job) -> None:
    number = shown.pop(job.label, None)
    notes = [task.fields["note"] for task in progress.tasks if task.id == number]
    if notes:
        progress.remove_task(number)
        if progress.disable:
            log(f"{job.label}: {notes[0]}")
