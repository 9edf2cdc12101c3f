"""Code that runs on any device asks for double precision by `in_double`: MPS has none."""

import ast
from pathlib import Path

import pytest
import torch

import latentslots
from latentslots import device
from latentslots.device import forked_random, in_double

ROOT = Path(latentslots.__file__).parent
PARTS = ("models", "pipelines", "objectives", "metrics", "editing")
FILES = sorted(file for part in PARTS for file in (ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_tensor_is_doubled_on_its_device(file: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "double":
            pytest.fail(f"line {call.lineno}: use latentslots.device.in_double")
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if "float64" in keywords.get("dtype", ""):
            assert "device" not in keywords, f"line {call.lineno}: float64 on any device"


def test_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_double(torch.ones(2, dtype=torch.float16)).dtype == torch.float64
    monkeypatch.setattr(device, "NO_DOUBLES", ("meta",))
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self) or torch.zeros(2))
    assert in_double(torch.ones(2, device="meta")).device.type == "cpu"
    assert len(moved) == 1


def test_random_states_come_back() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with forked_random(torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)
