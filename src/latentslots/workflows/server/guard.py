"""What stands between the network and the editor.

Other pages must not use a server on this machine (cross-site requests), nor a name that leads here
(DNS rebinding): the headers `Host` and `Origin` are checked, and changes need a header that other
pages cannot send. With a token, everything needs that.
"""

import hmac
import json
from collections.abc import Collection
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BYTES = 50 * 2**20
"""Size of a request."""
MAX_SESSION = 500 * 2**20
"""Size of a saved session."""
HEADER = "x-latentslots"
"""Header of requests that change something; pages of other hosts cannot send it unasked."""
COOKIE = "latentslots-token"
SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Refuses requests that do not come from the editor's own page.

    Args:
        app: The application.
        hosts: The values of the header `Host` by which the page is reached without a token.
        token: What the address of the page has to contain; empty for none.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], token: str = "") -> None:
        self.app, self.hosts, self.token = app, set(hosts), token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a sentence."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, secured(send))
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _limit(scope):
                raise HTTPException(413, _too_large(scope))
            return message

        await self.app(scope, limited, secured(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        # With a token, the page may be reached by any name: other sites do not know the token.
        if not self.token and host not in self.hosts:
            return refuse(421, f"this editor is not {host!r}: open the address that it printed")
        if origin is not None and origin.split("://")[-1] != host:
            return refuse(403, f"requests from {origin} are refused")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not (
            scope["method"] == "GET" and scope["path"] == "/"
        ):
            return refuse(403, "requests from other sites are refused")
        if scope["method"] not in ("GET", "HEAD") and HEADER not in headers:
            return refuse(403, f"changes need the header {HEADER}")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _limit(scope):
            return refuse(413, _too_large(scope))
        return self._without_token(scope, headers) if self.token else None

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        (given,) = query.pop("token", [""])[:1]
        if scope["path"] == "/" and given and _same(given, self.token):
            # The address loses the token, which a cookie holds from now on.
            rest = urlencode(query, doseq=True)
            answer = RedirectResponse("/" + (f"?{rest}" if rest else ""), status_code=303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        cookies = SimpleCookie(headers.get("cookie", ""))
        if COOKIE in cookies and _same(cookies[COOKIE].value, self.token):
            return None
        return refuse(401, "the address needs the token that the editor printed at its start")


def secured(send: Send) -> Send:
    """Add the security headers to a response."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await send(message)

    return with_headers


def refuse(status: int, sentence: str) -> Response:
    """A response that says in one sentence why a request is refused."""
    return Response(
        json.dumps({"error": sentence}), status_code=status, media_type="application/json"
    )


def _limit(scope: Scope) -> int:
    return MAX_SESSION if scope["path"] == "/api/session" else MAX_BYTES


def _too_large(scope: Scope) -> str:
    return f"a file may have {_limit(scope) // 2**20} MB"


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
