"""Downloading files over HTTP: interrupted downloads are resumed, and checksums are compared."""

import base64
import os
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from crc32c import crc32c

from latentslots.data.errors import DataError
from latentslots.files import publish, retry

TIMEOUT_SECONDS = 60.0
_CHUNK = 2**20
_REFUSED = (400, 401, 403, 404, 405, 410)
_RANGE_NOT_SATISFIABLE = 416


def is_url(location: str | os.PathLike[str]) -> bool:
    """Whether a location is a web address rather than a path."""
    return str(location).startswith(("http://", "https://"))


def download(url: str, path: Path, *, retries: int = 8) -> Path:
    """Download a file, unless it exists.

    The bytes received are kept beside it, in `.NAME.part`; after a broken connection, and in a
    later call, only the rest is requested. If the server sends a CRC32C checksum, as Google Cloud
    Storage does, it is compared.

    Args:
        url: Address of the file.
        path: Destination of the file.
        retries: Attempts in a row that may fail without receiving anything. The wait between them
            starts at half a second and doubles each time.

    Raises:
        DataError: If the server refuses, or the checksum differs.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        checksum = retry(
            partial(_fetch, url, part),
            retries=retries,
            retriable=_is_retriable,
            progress=partial(_size, part),
        )
    except HTTPError as error:
        raise DataError(f"{url} cannot be fetched: {error.code} {error.reason}") from None
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        raise DataError(f"{url} cannot be fetched: {error}") from None
    if checksum is not None and checksum != _checksum(part):
        part.unlink()
        raise DataError(
            f"{url} was damaged in transfer: its checksum is not the one that the server sent"
        )
    publish(part, path)
    return path


def _is_retriable(error: Exception) -> bool:
    """Whether the connection or the server failed, rather than the disk or the request."""
    if isinstance(error, HTTPError):
        return error.code not in _REFUSED
    return isinstance(error, URLError | ConnectionError | TimeoutError | HTTPException)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _fetch(url: str, part: Path) -> int | None:
    """Receive the missing bytes of a file.

    Returns:
        The checksum of the whole file, if the server sent it.
    """
    received_before = _size(part)
    headers = {"Range": f"bytes={received_before}-"} if received_before else {}
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()  # releases the connection
        if error.code == _RANGE_NOT_SATISFIABLE:
            if received_before and _total(error.headers.get("Content-Range")) == received_before:
                return _sent_checksum(error.headers.get_all("x-goog-hash"))
            part.unlink(missing_ok=True)  # the file at this address has changed
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        expected = response.headers.get("Content-Length")
        received = 0
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            received += len(chunk)
    if expected is not None and received < int(expected):
        raise HTTPException(f"the connection broke off after {received} of {expected} bytes")
    return _sent_checksum(response.headers.get_all("x-goog-hash"))


def _total(content_range: str | None) -> int | None:
    """Size of the whole file according to a `Content-Range` header."""
    size = (content_range or "").rpartition("/")[2]
    return int(size) if size.isdigit() else None


def _sent_checksum(hashes: list[str] | None) -> int | None:
    """CRC32C among the `x-goog-hash` headers of a response."""
    for value in ",".join(hashes or []).split(","):
        kind, _, encoded = value.strip().partition("=")
        if kind == "crc32c":
            return int.from_bytes(base64.b64decode(encoded), "big")
    return None


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = crc32c(chunk, value)
    return value
