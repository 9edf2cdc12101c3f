"""`latentslots COMMAND ...`: runs a command, and prints user errors as one sentence."""

import importlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper

COMMANDS = {
    "demo": ("latentslots.cli.demo", "a page about what the bundled model does"),
    "recipes": ("latentslots.cli.recipes", "list the training recipes, or print one as JSON"),
    "data": ("latentslots.cli.data", "import, inspect and prepare data sets"),
    "train": ("latentslots.cli.train", "train a model by a recipe"),
    "segment": ("latentslots.cli.segment", "find the objects in images: masks, cutouts, slots"),
    "reconstruct": ("latentslots.cli.reconstruct", "reconstruct images from their slots"),
    "concepts": ("latentslots.cli.concepts", "cluster the slots of many images into a library"),
    "generate": ("latentslots.cli.generate", "generate images of composed or saved scenes"),
    "edit": ("latentslots.cli.edit", "remove objects from images, replace them, insert others"),
    "app": ("latentslots.cli.app", "edit pictures object by object in the browser"),
    "evaluate": ("latentslots.cli.evaluate", "score how well a model's slots find objects"),
    "evaluate-masks": ("latentslots.cli.evaluate_masks", "score the masks of any method"),
    "evaluate-edits": ("latentslots.cli.evaluate_edits", "score edits against true images"),
    "compare": ("latentslots.cli.compare", "test whether two reports differ by more than noise"),
    "import-official": (
        "latentslots.cli.import_official",
        "convert a checkpoint of the official code to a pipeline folder",
    ),
}
"""For each command its module, and a line of help."""

KILLED_LOADER = re.compile(r"DataLoader worker \(pid.*\) (exited unexpectedly|is killed by signal)")
"""What PyTorch says of it."""
USER_ERROR = 2
"""Exit code."""


def usage() -> str:
    """The help of the program as a whole."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: latentslots [--debug] COMMAND ...",
            "",
            "Latent Slot Diffusion: find objects in images without labels.",
            "",
            "commands:",
            *lines,
            "",
            "latentslots COMMAND --help lists the flags of a command; --debug shows tracebacks.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name may have letters that a terminal has not
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments[:1]
    arguments = arguments[1:] if debug else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else USER_ERROR
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("latentslots"))
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(
            f"latentslots: there is no command {name!r}, only {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return USER_ERROR
    return _run(name, rest, debug=debug)


def _run(name: str, arguments: list[str], *, debug: bool) -> int:
    """Run a command. User errors, a full disk among them, are printed as one sentence."""
    # Telemetry would only fail, and delay the command, on a machine without a network.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Commands draw into files. A notebook passes on a backend of its own, which may be missing.
    os.environ["MPLBACKEND"] = "agg"
    try:
        module = importlib.import_module(COMMANDS[name][0])
        return module.run(arguments) or 0
    except KeyboardInterrupt:
        print("latentslots: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError, FloatingPointError) as error:
        hint = ""
        if isinstance(error, PermissionError) and ".cache" in str(error.filename):
            hint = "; set HF_HOME to a folder that can be written to"
        said = " ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
        return _report_error(name, said + hint, debug=debug)
    except RuntimeError as error:
        from accelerate.utils.memory import should_reduce_batch_size

        if should_reduce_batch_size(error):
            return _report_error(name, f"out of memory; use a smaller batch ({error})", debug=debug)
        if KILLED_LOADER.search(str(error)):
            return _report_error(
                name,
                "a process that loads data was killed, perhaps for lack of memory: repeat the "
                "command (train with --resume), with fewer workers (--data.num-workers)",
                debug=debug,
            )
        raise  # a bug of ours, which its traceback explains


def _report_error(name: str, message: str, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"latentslots {name}: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR
