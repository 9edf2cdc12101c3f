"""Stopping when asked to: SIGINT (Ctrl-C) and SIGTERM."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

WATCHED = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(Exception):  # noqa: N818  (nothing went wrong)
    """A run that was asked to stop, and has saved its state.

    Attributes:
        signum: The signal that asked.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class SignalWatch:
    """A context that turns the first signal into a wish to stop; a second one acts at once.

    Outside of the main thread, which alone can watch signals, it watches none.

    Args:
        say: Prints a line for the user.

    Attributes:
        signum: The signal that came; `None` before.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        try:
            self._before = {one: signal.signal(one, self._remember) for one in WATCHED}
        except ValueError:
            self._before = {}

    def __exit__(self, *error: object) -> None:
        self._put_back()

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._put_back()
        self.say(f"{signal.Signals(signum).name}: saving, then leaving")

    def _put_back(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)


def leave_signals_to_parent(worker_id: int) -> None:
    """Let a loading process outlive the signals that a terminal or launcher sends to a group.

    The trainer still needs its batches to finish the step; then it ends its workers itself.
    """
    for signum in WATCHED:
        signal.signal(signum, signal.SIG_IGN)
