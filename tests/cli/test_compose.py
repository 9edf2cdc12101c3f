"""concepts and generate: from a data set to images of new scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from latentslots.cli.main import main
from latentslots.concepts import ConceptLibrary
from latentslots.data import load_dataset
from latentslots.data.store.reader import dataset_fingerprint
from latentslots.fingerprint import model_fingerprint
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows.compose import compose
from latentslots.workflows.scenes import load_scene, locate_slots
from tests import tiny

STEPS = ["--num-inference-steps", "2"]


def test_a_patch_decoder_predicts_masks_of_composed_slots() -> None:
    pipe = tiny.tiny_lsd(patch_decoder_weight=1.0).to_pipeline()
    slots, image = torch.randn(1, 3, tiny.SLOT_DIM), torch.rand(1, 3, 32, 32)
    scene = locate_slots(pipe, slots, image, seed=0)
    expected = pipe.patch_decoder.segment(slots, image * 2 - 1)
    torch.testing.assert_close(scene.masks, expected)


def test_a_folder_with_other_files_does_not_become_a_library(
    tiny_pipeline_dir: Path,
    scenes_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "wheat.txt").write_text("a year of work")
    command = ["concepts", "fit", str(tiny_pipeline_dir), "--data", str(scenes_store)]
    assert main([*command, "--output-dir", str(tmp_path)]) == 2
    assert "holds something else, without a library.json" in capsys.readouterr().err
    assert (tmp_path / "crops" / "wheat.txt").read_text() == "a year of work"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, dtype=int)


@pytest.fixture(scope="module")
def library(
    tiny_pipeline_dir: Path, scenes_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    folder = tmp_path_factory.mktemp("concepts") / "library"
    command = ["concepts", "fit", str(tiny_pipeline_dir), "--data", str(scenes_store)]
    words = ["--num-concepts", "6", "--num-images", "20", "--output-dir", str(folder)]
    assert main([*command, *words]) == 0
    return str(folder)


def test_a_library_is_shown(
    library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["concepts", "show", library, "--output", str(tmp_path / "library.png")]) == 0
    assert capsys.readouterr().out.startswith("6 concepts of ")
    assert len(pixels(tmp_path / "library.png")) > 6 * 48
    assert main(["concepts", "show", library, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["concepts"] == len(facts["shares"]) == 6
    assert ConceptLibrary.load(library).info.num_images == 20


def test_the_number_of_concepts_can_be_chosen_automatically(
    tiny_pipeline_dir: Path,
    scenes_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["concepts", "fit", str(tiny_pipeline_dir), "--data", str(scenes_store)]
    words = ["--num-concepts", "auto", "--num-images", "6", "--output-dir", str(tmp_path / "x")]
    assert main([*command, *words]) == 0
    assert "silhouette by number of concepts: 4: " in capsys.readouterr().out


def test_images_of_composed_scenes_are_generated_and_measured(
    tiny_pipeline_dir: Path,
    library: str,
    scenes_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ["generate", str(tiny_pipeline_dir), "--concepts", library, "--num", "5", *STEPS]
    words = ["--slots-per-scene", "3", "--reference", str(scenes_store)]
    assert main([*command, *words, "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "5 scenes generated" in printed
    assert "Fréchet distance (bundled-autoencoder)" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["num_images"] == 5
    assert report["format"] == 1
    assert report["command"].startswith(f"latentslots generate {tiny_pipeline_dir} --concepts")
    assert report["packages"]["latentslots"]
    assert report["data_hash"] == dataset_fingerprint(
        load_dataset(scenes_store, split="validation")
    )
    parts = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir).components.values()
    hashes = {model_fingerprint(p)[:12] for p in parts if isinstance(p, torch.nn.Module)}
    assert set(report["model_hash"].split("-")) == hashes
    assert 0 <= report["consistency"] <= 1
    assert report["floor"] is not None
    names = [f"scene_{i:04d}" for i in range(5)]
    assert {p.stem for p in out.glob("scene_*.png")} == set(names)
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    scene = load_scene(out / "scene_0000.safetensors", pipe.fingerprint())
    assert scene.masks.shape[1] == 3
    assert scene.masks.sum(dim=1).max() > 0.9, "its slots have masks, for further edits"
    again = tmp_path / "again"
    files = [str(out / f"{name}.safetensors") for name in names]
    assert main([*command[:2], "--slots", *files, *STEPS, "--output-dir", str(again)]) == 0
    for name in names:
        difference = pixels(out / f"{name}.png") - pixels(again / f"out_{name}.png")
        assert abs(difference).max() <= 1, "the slots beside an image reproduce it"


@pytest.mark.parametrize("layout", ["layout", "independent", "per-image"])
def test_a_scene_does_not_depend_on_the_number_of_scenes(library: str, layout: Any) -> None:
    made = ConceptLibrary.load(library)
    few, many = (compose(made, count, layout=layout, num_slots=None, seed=0) for count in (3, 30))
    assert many.names[:3] == few.names
    for i in range(3):
        one, other = (scenes.slots[i][scenes.slots_mask[i]] for scenes in (few, many))
        assert torch.equal(one, other)
    sizes = many.slots_mask.sum(dim=1)
    assert set(sizes.tolist()) <= set(made.slot_counts.tolist()) | {made.num_concepts}
    with pytest.raises(ValueError, match="num_scenes must be at least 1, got 0"):
        compose(made, 0, layout=layout, num_slots=None, seed=0)


def test_an_interrupted_run_is_resumed(
    tiny_pipeline_dir: Path, library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["generate", str(tiny_pipeline_dir), "--concepts", library, "--num", "5", *STEPS]
    command += ["--slots-per-scene", "3", "--output-dir", str(out)]
    assert main(command) == 0
    before = {path.name: pixels(path) for path in out.glob("scene_*.png")}
    for name in ("scene_0001", "scene_0004"):
        (out / f"{name}.png").unlink()
    capsys.readouterr()
    assert main(command) == 0
    assert "2 scenes generated" in capsys.readouterr().out
    for name, image in before.items():
        assert abs(pixels(out / name) - image).max() <= 1
    assert main([*command, "--seed", "4"]) == 2
    assert "made with another seed: name another" in capsys.readouterr().err


def test_images_are_generated_for_scales_and_seeds(
    tiny_pipeline_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = tiny.squares(2, seed=5)
    (tmp_path / "images").mkdir()
    for i in range(2):
        Image.fromarray(images[i]).save(tmp_path / "images" / f"p{i}.png")
    (tmp_path / "images" / "x.png").write_bytes(b"no image")
    words = ["--from-images", str(tmp_path / "images"), "--guidance-scale", "1", "1.5", "2"]
    command = ["generate", str(tiny_pipeline_dir), *words, "--num-seeds", "2", *STEPS]
    assert main([*command, "--output-dir", str(tmp_path / "out")]) == 2, "a file cannot be read"
    assert "x.png cannot be decoded" in capsys.readouterr().err
    assert pixels(tmp_path / "out" / "p1.png").shape == (3 * 32 + 4, 2 * 32 + 2, 3)
    assert (tmp_path / "out" / "p1.safetensors").is_file()
    strip = pixels(tmp_path / "out" / "p1_slots.jpg")
    assert strip.shape == (32, 6 * 32 + 5 * 2, 3), "the image, its segmentation, four slots"
    assert abs(strip[:, :32] - images[1].astype(int)).mean() < 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "pass one of --concepts, --slots and --from-images"),
        (["--concepts", "nowhere"], "nowhere holds no concept library"),
        (["--concepts", "LIBRARY", "--slots-per-scene", "9"], "num_slots must be 1 to 4"),
        (["--concepts", "LIBRARY", "--num", "0"], "num_scenes must be at least 1, got 0"),
        (["--concepts", "LIBRARY", "--num-seeds", "0"], "must be at least one, got"),
        (["--concepts", "LIBRARY", "--guidance-scale", "-1"], "guidance_scale must be 0 or above"),
        (["--concepts", "LIBRARY", "--slots", "x"], "pass one of"),
        (["--slots", "x.safetensors"], "there is no file x.safetensors"),
        (
            ["--concepts", "LIBRARY", "--num", "1", "--reference", "bundled"],
            "a distance needs two scenes or more, got 1",
        ),
        (
            ["--concepts", "LIBRARY", "--num-seeds", "2", "--reference", "x"],
            "--reference measures one image of each scene",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    tiny_pipeline_dir: Path,
    library: str,
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [library if word == "LIBRARY" else word for word in words]
    out = tmp_path / "out"
    assert main(["generate", str(tiny_pipeline_dir), *words, "--output-dir", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_scenes_of_chosen_concepts(
    tiny_pipeline_dir: Path, library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(tiny_pipeline_dir), "--concepts", library, "--num", "2", *STEPS]
    words = ["--layout", "independent", "--only-concepts", "1", "2", "--output-dir"]
    assert main([*command, *words, str(tmp_path / "out")]) == 0
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    known = ConceptLibrary.load(library)
    for path in sorted((tmp_path / "out").rglob("*.safetensors")):
        slots = load_scene(path, pipe.fingerprint()).slots[0]
        nearest = torch.cdist(slots, known.slots).argmin(dim=1)
        assert set(known.concept[nearest].tolist()) <= {1, 2}
    assert main([*command, *words[:3], "99", "--output-dir", str(tmp_path / "no")]) == 2
    assert "there is no concept 99" in capsys.readouterr().err


def test_a_concept_replaces_a_slot(
    tiny_pipeline_dir: Path, library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = tiny.squares(1, seed=5)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    command = ["edit", str(tiny_pipeline_dir), str(tmp_path / "a.png"), *STEPS, "--output-dir"]
    assert main([*command, str(tmp_path / "out"), "--replace", f"2={library}:1.1"]) == 0
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    slots = load_scene(tmp_path / "out" / "a" / "slots.safetensors", pipe.fingerprint()).slots
    known = ConceptLibrary.load(library)
    torch.testing.assert_close(slots[0, 2], known.slots[known.members(1)[1]])
    for text, message in (
        ("99", "there is no concept '99'"),
        ("1.9999", "there is no member '1.9999': concept 1 has members 1.0 to 1."),
        ("x", "there is no concept 'x'"),
    ):
        capsys.readouterr()
        assert main([*command, str(tmp_path / "no"), "--replace", f"2={library}:{text}"]) == 2
        assert message in capsys.readouterr().err
    assert main([*command, str(tmp_path / "no"), "--swap-background", library]) == 2
    assert "is a folder: name an image" in capsys.readouterr().err


def test_a_library_of_another_model_is_refused(
    library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.tiny_lsd(seed=1).save_pipeline(tmp_path / "other")
    command = ["generate", str(tmp_path / "other"), "--concepts", library]
    assert main([*command, "--output-dir", str(tmp_path / "out")]) == 2
    assert "made by another pipeline" in capsys.readouterr().err


def test_names_with_dots_are_kept(
    tiny_pipeline_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = tiny.squares(2, seed=5)
    names = ["v1.0", "v1.1"]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in names]
    out = tmp_path / "out"
    command = ["generate", str(tiny_pipeline_dir), "--from-images", *files, *STEPS]
    for _ in range(2):
        assert main([*command, "--output-dir", str(out)]) == 0
    assert "0 scenes generated" in capsys.readouterr().out
    made = {path.name for path in out.iterdir()}
    assert {f"{name}{suffix}" for name in names for suffix in (".png", ".safetensors")} <= made
    assert not [name for name in made if name.endswith(".partial")]
    sheet = ["generate", str(tiny_pipeline_dir), "--from-images", str(out / "contact_sheet.png")]
    assert main([*sheet, *STEPS, "--output-dir", str(tmp_path / "again")]) == 2
    assert "cannot be named as the contact sheet" in capsys.readouterr().err


def test_images_of_an_earlier_library_are_not_mixed_with_others(
    tiny_pipeline_dir: Path,
    scenes_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    library, out = str(tmp_path / "library"), str(tmp_path / "out")
    fit = ["concepts", "fit", str(tiny_pipeline_dir), "--data", str(scenes_store)]
    command = ["generate", str(tiny_pipeline_dir), "--concepts", library, "--num", "2", *STEPS]
    for number, status in (("3", 0), ("2", 2)):
        words = ["--num-concepts", number, "--num-images", "6", "--output-dir", library]
        assert main([*fit, *words]) == 0
        assert main([*command, "--output-dir", out]) == status
    assert "images that were made with another library" in capsys.readouterr().err
