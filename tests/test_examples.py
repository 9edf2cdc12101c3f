"""The examples run, on the bundled model and images."""

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
    "compose_scenes": ["--num-images", "8", "--num-concepts", "4", "--num-scenes", "2"],
    "compare_with_baseline": ["--num-images", "8"],
}
USED = {"tiny_pretrained"}
"""Called by other tests, and by commands of the pages."""


@pytest.mark.parametrize("name", FEW)
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output.png"
    words = [] if name == "compare_with_baseline" else ["--output", str(output)]
    monkeypatch.setattr(sys, "argv", [name, *FEW[name], *words])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    if words:
        assert str(output) in printed
        with Image.open(output) as image:
            assert min(image.size) >= 64
    else:
        slots, clusters = (float(line.split()[2]) for line in printed.splitlines())
        assert slots > clusters


def test_every_example_is_tried() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {name for name in names if not name.startswith("make_bundled_")} == {*FEW, *USED}
