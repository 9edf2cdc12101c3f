"""The files of the page, which are served before the model is loaded."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PAGE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


async def page_file(request: Request) -> Response:
    """A file of the page."""
    name = request.path_params.get("name", "index.html")
    kind = PAGE_TYPES.get(name.rpartition(".")[2])
    folder = files("latentslots") / "assets" / "app"
    if kind is None or name not in {entry.name for entry in folder.iterdir()}:
        raise HTTPException(404, f"there is no {name}")
    return Response((folder / name).read_bytes(), headers={"content-type": kind})


async def http_error(request: Request, error: Exception) -> Response:
    """Errors of HTTP as JSON, as all others."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)


async def our_error(request: Request, error: Exception) -> Response:
    """A bug of ours: the server prints its traceback, and the page says so."""
    sentence = f"the editor has a bug ({type(error).__name__}); the terminal shows where"
    return JSONResponse({"error": sentence}, status_code=500)


ERROR_HANDLERS = {HTTPException: http_error, Exception: our_error}
Endpoint = Callable[[Request], Awaitable[Response]]
PAGE_ROUTES = [
    Route("/", page_file, methods=["GET"]),
    Route("/{name}", page_file, methods=["GET"]),
]
