"""The examples run, on what ships with the package."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = {
    "find_objects": [],
    "remove_object": [],
    "exchange_backgrounds": ["--scenes", "5", "9"],
    "compose_scenes": ["--num-images", "16", "--num-concepts", "6"],
    "compare_with_baseline": ["--num-images", "8"],
}
USED = {"tiny_pretrained"}
"""What other tests, and the pages' commands, call."""


@pytest.mark.parametrize("name", FEW)
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    words = [] if name == "compare_with_baseline" else ["--output", str(picture)]
    monkeypatch.setattr(sys, "argv", [name, *FEW[name], *words])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    if words:
        assert str(picture) in printed
        with Image.open(picture) as image:
            assert min(image.size) >= 64
    else:
        slots, clusters = (float(line.split()[2]) for line in printed.splitlines())
        assert slots > clusters


def test_every_example_is_tried() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {name for name in names if not name.startswith("make_bundled_")} == {*FEW, *USED}
