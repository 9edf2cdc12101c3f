"""Jobs of the editor: one at a time, in a thread of their own, with progress and cancellation."""

import itertools
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_WAITING = 20
"""Jobs that may wait."""
MAX_SECONDS = 600.0
"""How long a job may take between two steps of progress."""
BETWEEN = 0.15
"""Seconds between two reports of progress, at least."""

Progress = Callable[[int, int], None]
"""Called with what is done and the total; raises `Canceled`."""


class Canceled(Exception):  # noqa: N818  (no error)
    """Raised in a job that was canceled."""


@dataclass
class Job:
    """A job and how far it has come.

    Attributes:
        id: Its number.
        kind: What it does, such as `run`.
        subject: What it is about, such as the id of a picture.
        state: Where it stands.
        done: Steps that are done.
        total: All steps.
        error: Why it failed, in a sentence.
        result: What it returned.
        seconds: How long it ran.
    """

    id: int
    kind: str
    subject: str
    state: Literal["waiting", "running", "done", "canceled", "failed"] = "waiting"
    done: int = 0
    total: int = 0
    error: str = ""
    result: Any = None
    seconds: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    finished: threading.Event = field(default_factory=threading.Event, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """What a page shows of it, ready for JSON."""
        names = ("id", "kind", "subject", "state", "done", "total", "error", "result", "seconds")
        return {name: getattr(self, name) for name in names}


class Jobs:
    """Runs jobs in the order in which they were submitted.

    Args:
        notify: Called, in the thread of the jobs, when a job has come further.
    """

    def __init__(self, notify: Callable[[Job], None] = lambda job: None) -> None:
        self.notify = notify
        self._numbers = itertools.count(1)
        self._queue: queue.Queue[tuple[Job, Callable[[Progress], Any]] | None] = queue.Queue()
        self._jobs: dict[int, Job] = {}
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def submit(self, kind: str, subject: str, run: Callable[[Progress], Any]) -> Job:
        """Append a job.

        Args:
            kind: What it does.
            subject: What it is about.
            run: Does it; what it returns must be ready for JSON.

        Raises:
            ValueError: If too many jobs wait.
        """
        waiting = sum(job.state == "waiting" for job in self._jobs.values())
        if waiting >= MAX_WAITING:
            raise ValueError(f"{waiting} jobs wait already: wait for them, or cancel some")
        job = Job(next(self._numbers), kind, subject)
        self._jobs = {i: one for i, one in self._jobs.items() if not one.finished.is_set()}
        self._jobs[job.id] = job
        self._queue.put((job, run))
        self.notify(job)
        return job

    def cancel(self, number: int) -> None:
        """Cancel a job; nothing happens if it has ended."""
        job = self._jobs.get(number)
        if job is not None:
            job.stop.set()

    def current(self) -> list[Job]:
        """The jobs that run or wait."""
        return [job for job in self._jobs.values() if not job.finished.is_set()]

    def close(self) -> None:
        """Cancel all jobs, and end the thread."""
        for job in self.current():
            job.stop.set()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            self._run(*item)

    def _run(self, job: Job, run: Callable[[Progress], Any]) -> None:
        start = last = time.monotonic()
        told = -math.inf

        def progress(done: int, total: int) -> None:
            nonlocal last, told
            if job.stop.is_set():
                raise Canceled
            now = time.monotonic()
            if now - last > MAX_SECONDS:
                raise TimeoutError(f"no progress in {MAX_SECONDS:g} seconds")
            last, job.done, job.total = now, done, total
            if now - told > BETWEEN:  # pages that draw every step would slow the steps
                told = now
                self.notify(job)

        try:
            job.state = "running"
            progress(0, 0)
            job.result = run(progress)
            job.state = "done"
        except Canceled:
            job.state = "canceled"
        except Exception as error:
            # The thread must live on; the page shows the sentence.
            job.state, job.error = "failed", " ".join(str(error).split()) or type(error).__name__
        job.seconds = round(time.monotonic() - start, 3)
        job.finished.set()
        self.notify(job)
