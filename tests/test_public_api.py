import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import latentslots

EXPECTED = {
    "ConceptLibrary",
    "DataConfig",
    "InferenceSettings",
    "LatentSlotDiffusionPipeline",
    "MethodConfig",
    "OptimConfig",
    "SegmentationReport",
    "SlotEdit",
    "SlotObjective",
    "SlotOutput",
    "SlotPipeline",
    "SlotsConfig",
    "TrainConfig",
    "collapse_metrics",
    "editing",
    "evaluate",
    "load_config",
    "load_dataset",
    "load_official",
    "load_pipeline",
    "recipe",
    "train",
    "visualize",
}


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_names_are_the_expected_ones() -> None:
    assert set(latentslots.__all__) == EXPECTED


@pytest.mark.parametrize(
    "package",
    [
        "latentslots",
        "latentslots.data",
        "latentslots.evaluation",
        "latentslots.metrics",
        "latentslots.models",
        "latentslots.objectives",
        "latentslots.pipelines",
        "latentslots.recipes",
        "latentslots.training",
    ],
)
def test_every_name_of_all_exists(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_all_is_sorted_and_complete() -> None:
    """Type checkers, `dir` and the lazy table know the same names."""
    tree = ast.parse(Path(latentslots.__file__).read_text())
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == latentslots._MODULES
    assert sorted(typed) == latentslots.__all__ == dir(latentslots)


def test_an_unknown_name_is_an_attribute_error() -> None:
    name = "nothing"
    with pytest.raises(AttributeError, match="module 'latentslots' has no attribute 'nothing'"):
        getattr(latentslots, name)


@pytest.mark.parametrize("module", ["latentslots", "latentslots.data", "latentslots.cli.main"])
def test_importing_costs_nothing(module: str) -> None:
    heavy = run(
        f"import sys, {module}\n"
        "heavy = ('torch', 'numpy', 'diffusers', 'transformers', 'datasets', 'accelerate', 'PIL')\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    assert heavy == ""


def test_recipes_and_configs_need_no_torch() -> None:
    code = (
        "import sys, latentslots\n"
        "from latentslots.config.io import dumps\n"
        "assert 'lsd' in dumps(latentslots.recipe('lsd-smoke'))\n"
        "print('torch' in sys.modules)"
    )
    assert run(code) == "False"
