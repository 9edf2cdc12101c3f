"""A test server on the loopback that drops connections, sends wrong checksums, and refuses."""

import base64
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONTENT = bytes(range(256)) * 4096  # a megabyte


class Server(ThreadingHTTPServer):
    """Serves files from memory.

    Attributes:
        files: Content by path.
        drops: For each of the next responses, the bytes after which the connection breaks off.
        errors: Status codes of the next responses.
        ranges: `Range` header of every request so far.
        num_sent: Bytes of content sent so far.
        supports_ranges: Whether parts of files are served.
        checksum: CRC32C to send in the headers.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file": CONTENT}
        self.drops: list[int] = []
        self.errors: list[int] = []
        self.ranges: list[str | None] = []
        self.num_sent = 0
        self.supports_ranges = True
        self.checksum: int | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        content = self.server.files.get(self.path)
        if content is None or self.server.errors:
            self.send_error(404 if content is None else self.server.errors.pop(0))
            return
        first, last = "0", ""
        if requested:
            first, _, last = requested.removeprefix("bytes=").partition("-")
        begin, end = int(first), int(last) + 1 if last else len(content)
        partial = bool(requested) and self.server.supports_ranges
        if partial and begin >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[begin:end] if partial else content
        self.send_response(206 if partial else 200)
        if partial:
            last_byte = begin + len(body) - 1
            self.send_header("Content-Range", f"bytes {begin}-{last_byte}/{len(content)}")
        self.send_header("Content-Length", str(len(body)))
        if self.server.checksum is not None:
            encoded = base64.b64encode(self.server.checksum.to_bytes(4, "big")).decode()
            self.send_header("x-goog-hash", f"crc32c={encoded}")
            self.send_header("x-goog-hash", "md5=bm90aGluZw==")
        self.end_headers()
        sent = body[: self.server.drops.pop(0)] if self.server.drops else body
        self.server.num_sent += len(sent)
        self.wfile.write(sent)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass
