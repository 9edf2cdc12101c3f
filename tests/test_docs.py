"""The commands and the Python of README and docs run, on tiny data and the recipe `lsd-smoke`."""

import gzip
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from examples.tiny_pretrained import write_dinov2, write_stable_diffusion
from PIL import Image

from latentslots.cli.main import COMMANDS, main
from latentslots.data import load_dataset
from tests import tiny
from tests.official.tools import GOLDEN

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES_RUN = (
    "README.md",
    "docs/datasets/scenes.md",
    "docs/datasets/nlvr.md",
    "docs/data.md",
    "docs/streaming.md",
    "docs/train.md",
    "docs/evaluate.md",
    "docs/edit.md",
    "docs/photographs.md",
    "docs/official.md",
)
FEW = "--num-train 2 --num-validation 1"
PAIRS = "--num-train 0 --num-validation 16"
TINY = "--max-train-steps 2 --validation-steps 2 --preview-steps 2 --checkpointing-steps 2"


def blocks(page: Path) -> list[str]:
    """The indented blocks of a page."""
    found, lines = [], []
    for line in [*page.read_text().splitlines(), "end"]:
        if line.startswith("    ") or (not line and lines):
            lines.append(line[4:])
        elif lines:
            found.append("\n".join(lines).strip())
            lines = []
    return found


def commands(page: Path) -> list[str]:
    """The commands in a page's indented blocks; in the README also those between backticks."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    if page.name == "README.md":
        inline = re.findall(r"`(latentslots [^`]* [^`]*)`", page.read_text())
        lines += sorted(inline, key=lambda line: "data make" not in line)  # what others read
    return [line.split("  #")[0].strip() for line in lines if line.startswith("latentslots ")]


def shrink(command: str) -> list[str] | None:
    """The same command at a size for tests; `None` for help and for what needs a network.

    Public data sets are not here either; the tests of each importer make small true ones, those of
    `import-official` a checkpoint of Stable-LSD. `make demo` runs the demo.
    """
    if any(part in command for part in ("--help", "--stable-diffusion", "latentslots demo")):
        return None
    command = command.replace("stabilityai/sd-vae-ft-mse", "runs/tiny/vae")
    command = command.replace("shape_label", "color_label")  # all squares have one shape
    words = shlex.split(command)[1:]
    if words[:2] == ["data", "import"] and words[2] not in ("arrays", "folder"):
        return None
    if any(f"data/{name}" in words for name in ("clevr", "coco")) or "CelebA-HQ/" in words:
        return None
    if "runs/coco" in words:
        return None
    words = [re.sub(r"^lsd-(nlvr|scenes|parts)-(64|128)$", "lsd-smoke", word) for word in words]
    if words[0] == "recipes":
        return words
    if words[:3] == ["data", "import", "arrays"]:
        return [re.sub(r"^data/nlvr", "made/nlvr", word) for word in words]
    if words[:2] == ["data", "make"]:
        words = [re.sub(r"^data/", "made/", word) for word in words]  # others are there already
        few = PAIRS if "--edit-pairs" in words else FEW
        return [*words, *few.split(), *(["--num-test", "2"] if "--num-test" in words else [])]
    if "test" in words:
        return [re.sub(r"^data/", "made/", word) for word in words]
    if words[0] == "evaluate-edits":
        if "runs/parts" in words:
            return None  # a model that finds parts takes an hour to train
        words = [re.sub(r"^data/", "made/", word) for word in words]
        return [*words, "--num-pairs", "3", "--num-inference-steps", "1"]
    if words[:2] == ["data", "cache-latents"]:
        return [word if word != "64" else "32" for word in words]
    if words[0] in ("edit", "generate", "reconstruct"):
        words = [re.sub("^256$", "4", word) for word in words]
        return [*words, "--num-inference-steps", "2"]
    if words[0] == "train" and "--resume" not in words:
        small = "--method.block-out-channels 8 8 --method.norm-num-groups 4 --data.resolution 32"
        words += TINY.split() + (small.split() if words[1] == "autoencoder-small" else [])
    return words


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages suppose: arrays, photos, masks, a data set, a picture."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("nlvr", "scenes", "scenes-textured"):
        tiny.write_squares(folder / "data" / name, num_train=16, num_validation=8)
    draws = np.random.default_rng(0)
    for name in ("train", "dev", "kandinsky"):
        image = draws.integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"{name}.npz", image=image, mask=image[..., 0] // 128)
    known = json.dumps([[{"color": "red", "size": 20}]] * 8)
    write_stable_diffusion(folder / "runs" / "tiny" / "stable-diffusion")
    write_dinov2(folder / "runs" / "tiny" / "dinov2")
    tiny.tiny_autoencoder_of_8().save_pretrained(folder / "runs" / "tiny" / "vae")
    shutil.copytree(GOLDEN / "lsd_a" / "checkpoint-7", folder / "checkpoint-200000")
    (folder / "objects.json.gz").write_bytes(gzip.compress(known.encode()))
    for number in range(10):
        for where, mode in (("photos", "RGB"), ("ids", "L")):
            (folder / where).mkdir(exist_ok=True)
            suffix = "jpg" if where == "photos" else "png"
            Image.new(mode, (40, 32), number).save(folder / where / f"{number}.{suffix}")
    for where in ("found", "truth"):
        (folder / where).mkdir()
        for number in range(3):
            ids = Image.fromarray(draws.integers(0, 3, (16, 16), dtype=np.uint8))
            ids.save(folder / where / f"{number}.png")
    scenes = load_dataset("bundled", split="validation")
    faces = folder / "thumbnails128x128" / "00000"
    faces.mkdir(parents=True)
    for number in range(10):
        scenes[number]["image"].resize((128, 128)).save(faces / f"{number:05d}.png")
    scenes[0]["image"].save(folder / "picture.png")
    scenes[1]["image"].save(folder / "other.png")
    photo = Image.new("RGB", (1200, 800), (90, 90, 90))
    photo.paste(scenes[0]["image"].resize((400, 400)), (300, 120))  # the area of docs/edit.md
    photo.save(folder / "photo.jpg")
    return folder


def test_every_command_that_a_page_names_exists() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"latentslots ([a-z-]+)", page.read_text())
    }
    named -= {"as"}  # import latentslots as ls
    assert named <= set(COMMANDS)
    assert {"train", "evaluate", "data", "demo"} <= named


@pytest.mark.slow
def test_commands_and_python_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    ran = []
    for page in PAGES_RUN:
        for number, command in enumerate(commands(ROOT / page)):
            words = shrink(command)
            if words is None:
                continue
            if words[0] == "train" and "--output-dir" in words and "--resume" not in words:
                # Pages train the same run more than once.
                target = Path(words[words.index("--output-dir") + 1])
                if target.exists():
                    words[words.index("--output-dir") + 1] += f"-{Path(page).stem}-{number}"
            elif words[0] == "train" and "--resume" not in words:
                words += ["--output-dir", f"runs/{Path(page).stem}-{number}"]
            assert main(words) == 0, command
            ran.append(words[0])
    assert ran.count("train") >= 4
    for page in ("README.md", "docs/data.md", "docs/evaluate.md", "docs/python.md", "docs/edit.md"):
        names: dict[str, object] = {}
        for block in blocks(ROOT / page):
            if re.search(r"\bls\.", block):
                exec(compile(block, page, "exec"), names)
