"""`latentslots app`: the editor in the browser."""

import sys
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class App:
    """Edit pictures object by object in the browser, on this machine.

    Point at a thing, and take it away, move, scale, copy, exchange or mix it.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "bundled"
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: tuple[str, ...] = ()
    """Image files, and folders of them, to open. Without any, a new session begins with the bundled
    scenes."""
    concepts: str = ""
    """A concept library, to take things from (see `latentslots concepts fit`)."""
    session: str = ""
    """Folder in which pictures, histories and results are kept, so that the next start goes on with
    them; by default latentslots/session in the user's cache folder."""
    host: str = "127.0.0.1"
    """Address to listen on. Others than this machine can reach any but the default one; they need
    the token that is printed then."""
    port: int = 7860
    """Port to listen on, or the next one that is free."""
    browser: bool = True
    """Open the page in a browser."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    """How images are sampled; the page can change some of it."""


def run(arguments: list[str]) -> int:
    """Parse, and serve the editor until it is interrupted."""
    options = tyro.cli(App, prog="latentslots app", args=arguments)
    options.sampling.check()

    try:
        from latentslots.workflows.server.run import Loaded, free_socket, serve
    except ImportError as error:
        raise ValueError(
            f"the editor needs the package {error.name}: pip install 'latentslots[app]'"
        ) from error

    def load() -> Loaded:
        from latentslots.cli.model import load_pipeline
        from latentslots.workflows.open_session import open_session
        from latentslots.workflows.server.app import EditorApp, build_app

        pipe = load_pipeline(options.model, options.inference)
        opened = open_session(
            pipe,
            options.session,
            images=options.images,
            library=options.concepts,
            sampling=options.sampling,
        )
        notices = opened.notices
        if options.port not in (0, port):
            notices.append(f"Port {options.port} is taken, so the editor uses {port}.")
        for notice in notices:
            print(f"latentslots app: {notice}", file=sys.stderr)
        flags = [
            word
            for name, value in asdict(options.inference).items()
            if value is not None
            for word in (f"--{name.replace('_', '-')}", str(value))
        ]
        editor = EditorApp(opened.session, model=options.model, notices=notices, options=flags)
        return Loaded(build_app(editor), editor.close)

    def say(address: str) -> None:
        print(f"The editor is at {address}  (Ctrl+C ends it)", flush=True)

    with free_socket(options.host, options.port) as listening:
        port = listening.getsockname()[1]
        serve(load, listening, host=options.host, browser=options.browser, say=say)
    return 0
