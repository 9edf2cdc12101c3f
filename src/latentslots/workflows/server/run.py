"""Starting the editor: a free port, the page in a browser, and an orderly end."""

import asyncio
import errno
import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass

import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from latentslots.workflows.server.guard import Guard
from latentslots.workflows.server.page import ERROR_HANDLERS, PAGE_ROUTES

_TAKEN = {errno.EADDRINUSE}
LOCAL = ("127.0.0.1", "localhost", "::1")
HTTP = 80
"""Port that browsers leave out of `Host`."""
NUM_PORTS = 20
"""Ports that are tried, from the given one on."""
WAIT = 0.05
"""Seconds between two looks whether the model is loaded."""
LINGER = 1
"""Seconds that open pages get when the editor ends."""


def free_socket(host: str, port: int) -> socket.socket:
    """Listen on a port, or the next one that is free.

    Args:
        host: The address to listen on.
        port: The first port to try; any free one if 0.

    Raises:
        ValueError: If none of them is free, or there is no such address.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be from 0 to {2**16 - 1}, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = min(port + NUM_PORTS, 2**16) if port else 1
    for number in range(port, last):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            listening.listen(128)  # from now on, so that the port is taken and the page can connect
        except PermissionError as error:
            listening.close()
            raise ValueError(f"--port {number} may not be used here: {error.strerror}") from error
        except socket.gaierror as error:
            listening.close()
            raise ValueError(f"there is no address --host {host}: {error.strerror}") from error
        except OSError as error:
            listening.close()
            if error.errno not in _TAKEN:
                raise ValueError(f"--host {host} cannot be used: {error.strerror}") from error
            continue
        return listening
    raise ValueError(f"the ports {port} to {last - 1} are taken: choose another --port")


@dataclass(frozen=True)
class Loaded:
    """The editor, ready for use.

    Attributes:
        app: All of its routes.
        close: Ends it.
    """

    app: ASGIApp
    close: Callable[[], None]


class Loading:
    """Serves the page at once, and holds all other requests until the model is loaded."""

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self._page = Starlette(routes=PAGE_ROUTES, exception_handlers=ERROR_HANDLERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, now or later."""
        if scope["type"] == "http" and not scope["path"].startswith("/api/"):
            await self._page(scope, receive, send)
            return
        while self.loaded is None:
            await asyncio.sleep(WAIT)
        await self.loaded.app(scope, receive, send)


def serve(
    load: Callable[[], Loaded],
    listening: socket.socket,
    *,
    host: str,
    browser: bool,
    say: Callable[[str], None],
) -> None:
    """Serve the editor until it is interrupted.

    Args:
        load: Loads it, in a thread; if it raises, so does this function.
        listening: See `free_socket`.
        host: The address that was asked for; other than this machine's, the page needs a token.
        browser: Whether to open the page in a browser.
        say: Prints the address.
    """
    port = listening.getsockname()[1]
    token = "" if host in LOCAL else secrets.token_urlsafe(16)
    shown = _outward_address() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    names = {shown, "127.0.0.1", "localhost", "[::1]"}
    hosts = {f"{name}:{port}" for name in names} | (names if port == HTTP else set())
    loading = Loading()
    app = Guard(loading, hosts=hosts, token=token)
    config = uvicorn.Config(
        app,
        log_level=logging.WARNING,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=LINGER,
    )
    server, problems = uvicorn.Server(config), list[BaseException]()

    def prepare() -> None:
        try:
            loading.loaded = load()
        except BaseException as error:
            problems.append(error)
            server.should_exit = True

    threading.Thread(target=prepare, name="load", daemon=True).start()
    say(address)
    if browser:
        threading.Timer(0.3, webbrowser.open, [address]).start()
    try:
        server.run(sockets=[listening])
    finally:
        if loading.loaded is not None:
            loading.loaded.close()
    if problems:
        raise problems[0]


def _outward_address() -> str:
    """The address by which others reach this machine; its name where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outward:
        try:
            outward.connect(("192.0.2.1", 9))  # nothing is sent
            return str(outward.getsockname()[0])
        except OSError:
            return socket.gethostname()
