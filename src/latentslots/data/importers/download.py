"""Fetching files over HTTP: what breaks off goes on where it stopped, and is checked at the end."""

import base64
import os
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from crc32c import crc32c

from latentslots.data.errors import DataError

TIMEOUT_SECONDS = 60.0
_PIECE = 2**20
_GIVE_UP = (400, 401, 403, 404, 405, 410)
_DONE = 416


def is_url(place: str | os.PathLike[str]) -> bool:
    """Tell an address of the web from a path."""
    return str(place).startswith(("http://", "https://"))


def download(
    url: str, path: Path, *, retries: int = 8, wait: Callable[[float], None] = time.sleep
) -> Path:
    """Fetch a file, unless it is there.

    What arrives is kept beside it, in a file `.NAME.part`; after a broken connection, and in a
    later call, only the rest is asked for. A checksum that the server tells (CRC32C, as Google
    Cloud Storage does) is compared.

    Args:
        url: Where it lies.
        path: Where it shall be.
        retries: How often to try again without getting any further; twice as long after each wait,
            from half a second on.
        wait: How to pass the time.

    Raises:
        DataError: If the server refuses, or the file is not what the server says it is.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            checksum = _fetch(url, part)
            break
        except HTTPError as error:
            error.close()  # it holds the connection
            if error.code in _GIVE_UP:
                raise DataError(f"{url} cannot be fetched: {error.code} {error.reason}") from None
            reason: Exception = error
        except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
            reason = error  # the connection's; what the disk does not like goes up
        failures = 1 if part.is_file() and part.stat().st_size > before else failures + 1
        if failures > retries:
            raise DataError(f"{url} cannot be fetched: {reason}") from None
        wait(0.5 * 2 ** (failures - 1))
    if checksum is not None and checksum != _checksum(part):
        part.unlink()
        raise DataError(f"{url} arrived damaged: its checksum is not what the server says")
    part.replace(path)
    return path


def _fetch(url: str, part: Path) -> int | None:
    """Get what is missing of a file; returns the checksum of the whole, where there is one."""
    there = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={there}-"} if there else {}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code == _DONE and there and _total(error.headers.get("Content-Range")) == there:
            error.close()
            return _told(error.headers.get_all("x-goog-hash"))
        if error.code == _DONE:
            part.unlink()  # another file lies there now
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        expected = response.headers.get("Content-Length")
        received = 0
        while piece := response.read(_PIECE):
            file.write(piece)
            received += len(piece)
    if expected is not None and received < int(expected):
        raise HTTPException(f"the connection broke off after {received} of {expected} bytes")
    return _told(response.headers.get_all("x-goog-hash"))


def _total(content_range: str | None) -> int | None:
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _told(hashes: list[str] | None) -> int | None:
    for value in ",".join(hashes or []).split(","):
        kind, _, encoded = value.strip().partition("=")
        if kind == "crc32c":
            return int.from_bytes(base64.b64decode(encoded), "big")
    return None


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            value = crc32c(piece, value)
    return value
