"""Routes of the editor: they read requests, call the session, and write responses.

Reading is `GET`; everything that changes something is `POST` or `DELETE`. Errors of users are
`{"error": SENTENCE}` with status 400.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from latentslots.data.transforms import to_rgb
from latentslots.workflows import edit_operations, session_batch, session_exchange
from latentslots.workflows.jobs import Job, Jobs
from latentslots.workflows.server.events import Events
from latentslots.workflows.server.page import ERROR_HANDLERS, PAGE_ROUTES, Endpoint
from latentslots.workflows.session import Session
from latentslots.workflows.session_store import History
from latentslots.workflows.session_views import command, concept_crop, cutout, slot_map, things

THUMBNAIL = 96
"""Pixels of the longer side of a thumbnail."""
LARGEST_VIEW = 4096
"""Pixels of the longer side of a picture that is shown; what is saved has all."""


class EditorApp:
    """The endpoints of one session.

    Args:
        session: The session.
        model: The model's name, as printed commands name it.
        notices: Sentences that the page shows at its start.
        options: Flags of how slots are inferred, for printed commands.
    """

    def __init__(
        self, session: Session, *, model: str, notices: list[str], options: Sequence[str] = ()
    ) -> None:
        self.session, self.model, self.notices = session, model, notices
        self.options = options
        self.events = Events()
        self.jobs = Jobs(self._tell)
        self._thumbnails: dict[str, tuple[str, bytes]] = {}

    def routes(self) -> list[Route]:
        """All routes."""
        picture = "/api/pictures/{picture}"
        table: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/api/session", self.describe_session),
            ("POST", "/api/pictures", self.add_picture),
            ("GET", picture, self.describe_picture),
            ("DELETE", picture, self.discard),
            ("GET", picture + "/original.png", self.original),
            ("GET", picture + "/image.png", self.image),
            ("GET", picture + "/thumbnail.png", self.thumbnail),
            ("GET", picture + "/map.png", self.map),
            ("GET", picture + "/things/{thing:int}.png", self.thing),
            ("GET", picture + "/command", self.command),
            ("GET", picture + "/saved/{what}", self.saved),
            ("POST", picture + "/slots", self.give_slots),
            ("POST", picture + "/edit", self.edit),
            ("POST", picture + "/go", self.go),
            ("POST", picture + "/run", self.run),
            ("GET", "/api/concepts/{concept}.png", self.concept),
            ("POST", "/api/recompose", self.recompose),
            ("POST", "/api/batch", self.batch),
            ("POST", "/api/jobs/{job:int}/cancel", self.cancel),
            ("GET", "/api/session.zip", self.save_session),
            ("POST", "/api/session", self.open_session),
        ]
        routes = [Route(path, _endpoint(call), methods=[method]) for method, path, call in table]
        routes.append(Route("/api/events", self.listen, methods=["GET"]))
        return routes + PAGE_ROUTES

    async def listen(self, request: Request) -> Response:
        """The stream of events."""
        return StreamingResponse(self.events.listen(), media_type="text/event-stream")

    def close(self) -> None:
        """Cancel all jobs, and let other processes use the session."""
        self.jobs.close()
        self.session.close()

    def _tell(self, job: Job) -> None:
        self.events.send("job", job.to_dict())

    def _changed(self, history: History) -> dict[str, Any]:
        """Tell all pages that a picture has changed, and describe it."""
        self.events.send("picture", history.id)
        return self._picture(history)

    # What there is

    def describe_session(self, request: Request, body: bytes) -> Any:
        """The model, the pictures, the library, and the jobs that run."""
        session = self.session
        library = [] if session.library is None else session.library.shares.tolist()
        return {
            "model": self.model,
            "can_edit": session.painter.can_edit,
            "has_frames": session.pipe.has_frames,
            "resolution": session.pipe.resolution,
            "sampling": asdict(session.sampling),
            "notices": self.notices,
            "library": [{"concept": i, "share": share} for i, share in enumerate(library)],
            "pictures": [self._summary(history) for history in session.pictures],
            "jobs": [job.to_dict() for job in self.jobs.current()],
        }

    def _summary(self, history: History) -> dict[str, Any]:
        shown = self.session.shown(history)
        version = self.session.key(history, history.steps[shown].state) if shown else ""
        return {"id": history.id, "name": history.name, "thumbnail": version}

    def describe_picture(self, request: Request, body: bytes) -> Any:
        """A picture with its things and its history."""
        return self._picture(self.session.open(request.path_params["picture"]))

    def _picture(self, history: History) -> dict[str, Any]:
        session, state = self.session, history.state
        file = session.editor(history, state.area).file
        width, height = file.image.size
        shown = session.shown(history)
        return {
            **self._summary(history),
            "width": width,
            "height": height,
            "square": file.square,
            "things": [asdict(view) for view in things(session, history.id)],
            "state": state.to_dict(),
            "steps": [step.label for step in history.steps],
            "position": history.position,
            "painted": session.is_painted(history),
            "shown": shown,
            "shown_state": history.steps[shown].state.to_dict(),
            "version": session.key(history),
        }

    # Pictures

    def add_picture(self, request: Request, body: bytes) -> Any:
        """Add an uploaded picture."""
        history = self.session.add(body, request.query_params.get("name", "picture.png"))
        self.events.send("pictures", None)
        return self._summary(history)

    def discard(self, request: Request, body: bytes) -> Any:
        """Take a picture out of the session."""
        self.session.discard(request.path_params["picture"])
        self.events.send("pictures", None)
        return {}

    def original(self, request: Request, body: bytes) -> Response:
        """A picture as it was."""
        history = self.session.open(request.path_params["picture"])
        return _png(_fitting(self.session.editor(history, history.state.area).file.image))

    def image(self, request: Request, body: bytes) -> Response:
        """A picture as it is now, or with a given result."""
        key = request.query_params.get("key", "")
        return _png(_fitting(to_rgb(self.session.image(request.path_params["picture"], key))))

    def thumbnail(self, request: Request, body: bytes) -> Response:
        """A small picture."""
        history = self.session.picture(request.path_params["picture"])
        version = self._summary(history)["thumbnail"]
        known, content = self._thumbnails.get(history.id, (None, b""))
        if version != known:
            image = to_rgb(self.session.image(history.id))
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            content = bytes(_png(image).body)
            self._thumbnails[history.id] = (version, content)
        return _kept(Response(content, media_type="image/png"), request)

    def map(self, request: Request, body: bytes) -> Response:
        """The number of the thing in each pixel of the square, as gray values."""
        history = self.session.open(request.path_params["picture"])
        text = request.query_params.get("position", str(history.position))
        if not text.isdecimal() or int(text) >= len(history.steps):
            raise ValueError(f"there is no state {text!r} in the history")
        ids = slot_map(self.session, history.id, history.steps[int(text)].state)
        return _png(Image.fromarray(ids))

    def thing(self, request: Request, body: bytes) -> Response:
        """A thing, cut out."""
        params = request.path_params
        return _kept(
            _png(_fitting(cutout(self.session, params["picture"], params["thing"]))), request
        )

    def concept(self, request: Request, body: bytes) -> Response:
        """The crop of a concept of the library."""
        return _png(concept_crop(self.session, request.path_params["concept"]))

    # Edits

    def edit(self, request: Request, body: bytes) -> Any:
        """Apply an operation."""
        identity = request.path_params["picture"]
        return self._changed(edit_operations.apply(self.session, identity, _json(body)))

    def go(self, request: Request, body: bytes) -> Any:
        """Undo or redo."""
        position = edit_operations.whole(_json(body).get("position"), "position")
        return self._changed(self.session.go(request.path_params["picture"], position))

    def run(self, request: Request, body: bytes) -> Any:
        """Paint the current state, in a job."""
        identity, preview = request.path_params["picture"], bool(_json(body).get("preview"))
        self.session.painter.check()
        state = self.session.open(identity).state

        def paint(progress: Any) -> Any:
            return self.session.run(identity, progress, state=state, preview=preview)

        kind = "preview" if preview else "run"
        return self.jobs.submit(kind, identity, paint).to_dict()

    def cancel(self, request: Request, body: bytes) -> Any:
        """Cancel a job."""
        self.jobs.cancel(request.path_params["job"])
        return {}

    def command(self, request: Request, body: bytes) -> Any:
        """The command that makes the current state."""
        folder = ["FOLDER"] if request.query_params.get("folder") else []
        return {
            "command": command(self.session, request.path_params["picture"], self.model, folder)
        }

    def recompose(self, request: Request, body: bytes) -> Any:
        """Compose a new picture of concepts, in a job."""
        options = session_batch.composition(self.session, _json(body))

        def compose(progress: Any) -> Any:
            history = session_batch.compose(self.session, options, progress)
            self.events.send("pictures", None)
            return {"picture": history.id}

        return self.jobs.submit("recompose", "", compose).to_dict()

    def batch(self, request: Request, body: bytes) -> Any:
        """Apply an operation to all pictures, in a job."""
        change = session_batch.change_of_all(self.session, _json(body))

        def apply(progress: Any) -> Any:
            return session_batch.apply_to_all(
                self.session, change, progress, lambda one: self.events.send("picture", one)
            )

        return self.jobs.submit("batch", "", apply).to_dict()

    # Files

    def saved(self, request: Request, body: bytes) -> Response:
        """A picture, its masks, its cutouts or its slots, as a file to save."""
        params = request.path_params
        name, content, kind = session_exchange.export(
            self.session, params["picture"], params["what"]
        )
        return _download(content, name, kind)

    def give_slots(self, request: Request, body: bytes) -> Any:
        """Use uploaded slots, or an id map, instead of the slots that the model finds."""
        history = session_exchange.give_slots(self.session, request.path_params["picture"], body)
        return self._changed(history)

    def save_session(self, request: Request, body: bytes) -> Response:
        """The whole session as a file that opens again."""
        return _download(session_exchange.pack(self.session), "session.zip", "application/zip")

    def open_session(self, request: Request, body: bytes) -> Any:
        """Add the pictures of a saved session, with their histories."""
        added = session_exchange.unpack(self.session, body)
        self.events.send("pictures", None)
        return {"added": [self._summary(history) for history in added]}


def build_app(editor: EditorApp) -> Starlette:
    """The application, without its guard."""
    return Starlette(routes=editor.routes(), exception_handlers=ERROR_HANDLERS)


def _endpoint(call: Callable[[Request, bytes], Any]) -> Endpoint:
    """Run a function of a request in a thread, and make a response of what it returns."""

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        try:
            answer = await run_in_threadpool(partial(call, request, body))
        except (ValueError, OSError) as error:
            sentence = " ".join(str(error).split())
            return JSONResponse({"error": sentence}, status_code=400)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return endpoint


def _json(body: bytes) -> Mapping[str, Any]:
    """Parse the body of a request.

    Raises:
        ValueError: If it is no JSON object.
    """
    try:
        content = json.loads(body or b"{}")
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("the request is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("the request is no JSON object")
    return content


def _fitting(image: Image.Image) -> Image.Image:
    """A picture of a size that a page can show."""
    if max(image.size) > LARGEST_VIEW:
        image = image.copy()
        image.thumbnail((LARGEST_VIEW, LARGEST_VIEW))
    return image


def _kept(response: Response, request: Request) -> Response:
    """A response that the browser may keep, if the address names the version."""
    if "v" in request.query_params:
        response.headers["cache-control"] = "private, max-age=86400"
    return response


def _png(image: Image.Image) -> Response:
    buffer = io.BytesIO()
    if image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA" if "A" in image.mode else "RGB")
    image.save(buffer, format="PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png")


def _download(content: bytes, name: str, kind: str) -> Response:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_. ") else "_" for c in name)
    disposition = {"content-disposition": f'attachment; filename="{plain}"'}
    return Response(content, media_type=kind, headers=disposition)
