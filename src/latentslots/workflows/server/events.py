"""Server-sent events: what a page has to hear of without asking."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

MAX_WAITING = 1_000
"""Events that a page may be behind; one that is slower is told to reload."""
KEEP_ALIVE = 20.0
"""Seconds after which a comment is sent, so that closed connections are noticed."""


class Events:
    """Passes events from any thread to all pages that listen."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[str], asyncio.AbstractEventLoop] = {}

    def send(self, kind: str, content: Any) -> None:
        """Send an event to all pages.

        Args:
            kind: Its name.
            content: What it says, ready for JSON.
        """
        text = f"event: {kind}\ndata: {json.dumps(content)}\n\n"
        with self._lock:
            listeners = list(self._listeners.items())
        for waiting, loop in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, waiting, text)

    async def listen(self) -> AsyncIterator[str]:
        """All events from now on, as text of an event stream."""
        waiting: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING)
        with self._lock:
            self._listeners[waiting] = asyncio.get_running_loop()
        try:
            yield ": connected\n\n"
            while True:
                try:
                    yield await asyncio.wait_for(waiting.get(), KEEP_ALIVE)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            with self._lock:
                self._listeners.pop(waiting, None)


def _put(waiting: "asyncio.Queue[str]", text: str) -> None:
    if waiting.full():
        while not waiting.empty():
            waiting.get_nowait()
        text = "event: reload\ndata: null\n\n"
    waiting.put_nowait(text)
