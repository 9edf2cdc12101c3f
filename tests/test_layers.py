"""Which modules may import which (CONTRIBUTING.md), for all imports, also inside functions."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "latentslots"

# From the top; a file imports from lower rows, and from its own package.
ROWS = (
    ("__init__", "__main__"),
    ("cli",),
    ("workflows",),
    ("training",),
    ("build",),
    ("objectives", "evaluation", "concepts", "recipes", "official"),
    ("pipelines",),
    ("models", "data"),
    ("metrics", "editing", "visualize"),
    ("config", "files", "device", "fingerprint", "bundled"),
)
LEVEL = {part: level for level, row in enumerate(ROWS) for part in row}

# Models are handed plain arguments, never a config; they may find what ships with the package.
NOTHING_OF_OURS = ("models",)
STANDARD_LIBRARY_ONLY = ("config",)
LIGHT = {"annotated_types"}  # a module of names without dependencies

# Where a third party may be imported.
FENCES = {
    "tyro": ("cli",),
    "starlette": ("workflows/server",),
    "uvicorn": ("workflows/server",),
    "av": ("data",),
    "accelerate": ("training", "cli"),
    "transformers": ("models/dinov2_encoder", "models/stable_diffusion"),
    "mujoco": ("data/scenes/renderer",),
    "datasets": ("data",),
    "torchmetrics": ("metrics",),
}
# What `load_dataset` returns is the type that flows between layers, so all may name it.
ANYWHERE = {"datasets.Dataset"}


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split("/")[: -node.level]
                base = ".".join(["latentslots", *package, *filter(None, [base])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def violations(file: str, source: str) -> list[str]:
    """What is wrong with the imports of a file, given by its path inside the package."""
    module = file.removesuffix(".py")
    part = module.split("/")[0]
    if part not in LEVEL:
        return [f"{file}: {part!r} has no place in the layers"]
    found = []
    for line, name in imports(source, module):
        root, *rest = name.split(".")
        if root == "latentslots":
            problem = _ours(part, rest[0] if rest else "__init__")
        else:
            problem = _theirs(module, root, name)
        if problem:
            found.append(f"{file}:{line}: {name} {problem}")
    return found


def _ours(part: str, other: str) -> str:
    if other == part:
        return ""
    if other not in LEVEL:
        return "goes through latentslots/__init__.py: import from the module"
    if part in NOTHING_OF_OURS and other != "bundled":
        return f"is ours, and {part} knows nothing else of ours"
    if LEVEL[other] == LEVEL[part]:
        return f"is in the same row as {part}"
    return f"is above {part}" if LEVEL[other] < LEVEL[part] else ""


def _theirs(module: str, root: str, name: str) -> str:
    part = module.split("/")[0]
    if part in STANDARD_LIBRARY_ONLY and root not in sys.stdlib_module_names | LIGHT:
        return f"is not of the standard library, which is all that {part} may import"
    fence = FENCES.get(root)
    rooms = {module, *(str(room) for room in PurePosixPath(module).parents)}
    if fence is None or name in ANYWHERE or rooms & {*fence}:
        return ""
    return f"may only be imported in {', '.join(fence)}"


def test_every_import_goes_down() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 30
    found = [
        line
        for file in files
        for line in violations(file.relative_to(PACKAGE).as_posix(), file.read_text())
    ]
    assert not found, "\n".join(found)


def room_of(module: str, depth: int | None) -> str:
    """The folder, `depth` deep, that a module lies in; its own name where it lies higher."""
    folders = module.split("/")[:-1]
    return module if depth is None or len(folders) < depth else "/".join(folders[:depth])


def graph(depth: int | None) -> dict[str, set[str]]:
    """What every file, or every folder, imports of ours."""
    files = {
        p.relative_to(PACKAGE).as_posix().removesuffix(".py"): p for p in PACKAGE.rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        if path.name == "__init__.py":
            continue  # it hands names on
        here = found.setdefault(room_of(module, depth), set())
        for _, name in imports(path.read_text(), module):
            parts = name.split(".")[1:] if name.startswith("latentslots.") else []
            for length in range(len(parts), 0, -1):
                other = "/".join(parts[:length])
                if other in files:
                    here.add(room_of(other, depth))
                    break
    return {room: others - {room} for room, others in found.items()}


@pytest.mark.parametrize("depth", [None, 1, 2])
def test_there_are_no_circular_imports(depth: int | None) -> None:
    """Neither among files, nor among folders, nor among the rooms of `data` and the like."""
    tuple(TopologicalSorter(graph(depth)).static_order())


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("pipelines/base.py", "from latentslots.training.run import train", "above pipelines"),
        ("pipelines/base.py", "import latentslots.cli.main", "above pipelines"),
        ("config/run.py", "from latentslots.build.data import build_split", "above config"),
        ("build/methods.py", "import latentslots.workflows.demo.run", "above build"),
        ("data/store/reader.py", "from latentslots.models import SlotUNet", "same row as data"),
        ("evaluation/report.py", "from latentslots.concepts import x", "same row as evaluation"),
        ("models/slot_unet.py", "from latentslots.config import LSDConfig", "nothing else of ours"),
        ("models/slot_unet.py", "from ..pipelines.base import SlotOutput", "nothing else of ours"),
        ("data/store/reader.py", "from ...models import SlotUNet", "same row as data"),
        ("data/store/reader.py", "from ... import build", "above data"),
        ("data/store/reader.py", "from latentslots import build", "above data"),
        ("cli/train.py", "from latentslots import train", "import from the module"),
        ("cli/train.py", "import latentslots", "above cli"),
        ("config/run.py", "import torch", "standard library"),
        ("config/io.py", "from numpy import array", "standard library"),
        ("training/run.py", "import tyro", "may only be imported in cli"),
        ("workflows/session.py", "import uvicorn", "may only be imported in workflows/server"),
        ("objectives/base.py", "from accelerate import Accelerator", "training, cli"),
        ("models/slot_unet.py", "import transformers", "models/dinov2_encoder"),
        ("data/store/reader.py", "from mujoco import MjModel", "data/scenes/renderer"),
        ("training/run.py", "from datasets import load_dataset", "may only be imported in data"),
        ("training/run.py", "import datasets", "may only be imported in data"),
        ("evaluation/segmentation.py", "from torchmetrics.image import x", "in metrics"),
        ("utils.py", "import os", "'utils' has no place in the layers"),
    ],
)
@pytest.mark.parametrize("indent", ["", "def f():\n    ", "if TYPE_CHECKING:\n    "])
def test_the_checker_reports_violations(file: str, line: str, expected: str, indent: str) -> None:
    (found,) = violations(file, f"import os\n{indent}{line}\n")
    assert found.startswith(file)
    assert expected in found
    if "no place" not in expected:
        assert f":{2 + indent.count(chr(10))}: " in found


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("cli/train.py", "from latentslots.training.run import train"),
        ("cli/train.py", "import tyro"),
        ("training/trainer.py", "from accelerate import Accelerator"),
        ("evaluation/report.py", "from datasets import Dataset"),
        ("data/loading/loader.py", "from ..store.reader import load_dataset"),
        ("data/loading/loader.py", "from datasets import Image"),
        ("models/slot_unet.py", "from latentslots.models.position import PositionEmbedding"),
        ("models/dinov2_encoder.py", "from transformers import AutoModel"),
        ("workflows/server/run.py", "import uvicorn"),
        ("config/io.py", "from latentslots.config import TrainConfig"),
        ("__init__.py", "from latentslots.training.run import train"),
    ],
)
def test_the_checker_accepts_allowed_imports(file: str, line: str) -> None:
    assert violations(file, line) == []
