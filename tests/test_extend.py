"""A method from outside the package: that of docs/extend.md, trained, saved and scored."""

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import latentslots as ls
from tests.training.runs import losses, rows, run

PAGE = Path(__file__).parents[1] / "docs" / "extend.md"


@pytest.fixture
def patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The first block of the page, as the module that it says it is."""
    code, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(code.splitlines()) < 80
    (tmp_path / "patches.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("patches", None)
    return importlib.import_module("patches")


def test_a_method_from_outside_trains_saves_loads_and_is_scored(
    patches: ModuleType, scenes_store: Path, tmp_path: Path
) -> None:
    config = patches.patches_64()
    config = replace(
        config,
        data=replace(config.data, path=str(scenes_store), resolution=32, num_workers=0),
        max_train_steps=2,
        train_batch_size=4,
        num_validation_images=4,
        checkpointing_steps=1,
    )
    folder = tmp_path / "run"
    run(config, folder)
    assert len(losses(folder)) == 2
    assert {"validation/loss", "validation/fg_ari"} <= rows(folder)[-1].keys()
    assert (folder / "previews" / "step_0000002.png").is_file()

    saved = ls.load_config(folder / "train_config.json")
    assert saved == config
    assert json.loads((folder / "train_config.json").read_text())["method"]["kind"] == "patches"
    run(replace(config, max_train_steps=3), folder, resume=True)
    assert len(losses(folder)) == 3

    pipe = ls.load_pipeline(folder)
    assert type(pipe) is patches.PatchPipeline
    pipe.set_inference(num_slots=5)
    pipe.save_pretrained(tmp_path / "copy")
    copy = ls.load_pipeline(tmp_path / "copy")
    scene = copy.encode(torch.rand(2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    assert scene.slots.shape == (2, 5, 64)
    report = ls.evaluate(copy, ls.load_dataset(scenes_store, split="validation"), progress=False)
    assert 0 <= report.miou_objects <= 1


def test_a_pipeline_of_an_unknown_class_is_named(patches: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "OtherPipeline"}))
    with pytest.raises(ValueError, match=r"holds a OtherPipeline, .* import the module of a class"):
        ls.load_pipeline(tmp_path)
