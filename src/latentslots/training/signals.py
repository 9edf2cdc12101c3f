"""Stopping on signals: SIGINT (Ctrl-C) and SIGTERM."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(Exception):  # noqa: N818  (nothing went wrong)
    """A run that stopped on a signal, with its state saved.

    Attributes:
        signum: The signal.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class SignalWatch:
    """A context that records the first signal; a second one has its usual effect.

    Outside of the main thread, where signals cannot be handled, it records none.

    Args:
        print_line: Prints a line for the user.

    Attributes:
        signum: The signal that was received; `None` before.
    """

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.print_line = print_line
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        try:
            self._before = {one: signal.signal(one, self._record) for one in WATCHED}
        except ValueError:
            self._before = {}

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _record(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()
        self.print_line(f"{signal.Signals(signum).name}: saving, then stopping")

    def _restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)


def leave_signals_to_parent(worker_id: int) -> None:
    """Ignore signals in a data worker, which a terminal or launcher sends to the whole group.

    The trainer needs its batches to finish the step; then it ends its workers itself.
    """
    for signum in WATCHED:
        signal.signal(signum, signal.SIG_IGN)
