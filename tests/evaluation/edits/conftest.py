from pathlib import Path

import pytest

from latentslots.data import SceneOptions, make_scenes


@pytest.fixture(autouse=True)
def _short_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentslots.pipelines.edit.NUM_INVERSION_STEPS", 2)


@pytest.fixture(scope="package")
def part_pairs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of 32 px before and after an edit of a part."""
    out = tmp_path_factory.mktemp("pairs") / "parts"
    options = SceneOptions(kind="parts", size=32, edit_pairs=True)
    make_scenes(out, options, num_train=0, num_validation=16, workers=1)
    return out
