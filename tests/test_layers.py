"""Who may import whom: DESIGN section 3, checked on every import, also inside functions."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "latentslots"

# From the top; a file imports from lower rows, and from its own package.
ROWS = (
    ("__init__", "__main__"),
    ("cli",),
    ("app",),
    ("training",),
    ("build",),
    ("build_data", "build_stable"),
    ("objectives", "evaluation", "concepts", "recipes", "official"),
    ("pipelines",),
    ("models", "data", "metrics", "editing", "visualize"),
    ("config_io",),
    ("config", "bundled"),
)
LEVEL = {part: level for level, row in enumerate(ROWS) for part in row}

# Models are handed plain arguments, never a config; they may find what ships with the package.
NOTHING_OF_OURS = ("models",)
STANDARD_LIBRARY_ONLY = ("config", "config_io")

# Where a third party may be imported.
FENCES = {
    "tyro": ("cli",),
    "gradio": ("app/ui",),
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
    if part in STANDARD_LIBRARY_ONLY and root not in sys.stdlib_module_names:
        return f"is not of the standard library, which is all that {part} may import"
    fence = FENCES.get(root)
    if fence is None or name in ANYWHERE or part in fence or module in fence:
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


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("pipelines/base.py", "from latentslots.training.run import train", "above pipelines"),
        ("pipelines/base.py", "import latentslots.cli.main", "above pipelines"),
        ("config.py", "from latentslots.config_io import dumps", "above config"),
        ("build.py", "from latentslots.app import demo", "above build"),
        ("data/store.py", "from latentslots.models import SlotUNet", "same row as data"),
        ("evaluation/report.py", "from latentslots.concepts import x", "same row as evaluation"),
        ("models/slot_unet.py", "from latentslots.config import LSDConfig", "nothing else of ours"),
        ("models/slot_unet.py", "from ..pipelines.base import SlotOutput", "nothing else of ours"),
        ("data/store.py", "from ..models import SlotUNet", "same row as data"),
        ("data/store.py", "from .. import build", "above data"),
        ("data/store.py", "from latentslots import build", "above data"),
        ("cli/train.py", "from latentslots import train", "import from the module"),
        ("cli/train.py", "import latentslots", "above cli"),
        ("config.py", "import torch", "standard library"),
        ("config_io.py", "from numpy import array", "standard library"),
        ("training/run.py", "import tyro", "may only be imported in cli"),
        ("app/session.py", "import gradio as gr", "may only be imported in app/ui"),
        ("objectives/base.py", "from accelerate import Accelerator", "training, cli"),
        ("models/slot_unet.py", "import transformers", "models/dinov2_encoder"),
        ("data/store.py", "from mujoco import MjModel", "data/scenes/renderer"),
        ("training/run.py", "from datasets import load_dataset", "may only be imported in data"),
        ("training/run.py", "import datasets", "may only be imported in data"),
        ("evaluation/segmentation.py", "from torchmetrics.image import x", "in metrics"),
        ("utils.py", "import os", "'utils' has no place in the layers"),
    ],
)
@pytest.mark.parametrize("indent", ["", "def f():\n    ", "if TYPE_CHECKING:\n    "])
def test_the_checker_finds(file: str, line: str, expected: str, indent: str) -> None:
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
        ("data/loader.py", "from .store import load_dataset"),
        ("data/loader.py", "from datasets import Image"),
        ("models/slot_unet.py", "from latentslots.models.position import PositionEmbedding"),
        ("models/dinov2_encoder.py", "from transformers import AutoModel"),
        ("app/ui.py", "import gradio"),
        ("config_io.py", "from latentslots.config import TrainConfig"),
        ("__init__.py", "from latentslots.training.run import train"),
    ],
)
def test_the_checker_lets_pass(file: str, line: str) -> None:
    assert violations(file, line) == []
