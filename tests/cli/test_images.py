"""segment, edit, reconstruct: from image files to files."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from latentslots import editing
from latentslots.cli.main import main
from latentslots.config.sampling import Sampling
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows.reconstruct import reconstruct_files
from latentslots.workflows.scenes import load_scene
from tests import tiny

STEPS = ["--num-inference-steps", "2"]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image.copy()


@pytest.fixture
def images_dir(tmp_path: Path) -> Path:
    """Two square images of the model's size, and a wide one that is larger."""
    folder = tmp_path / "images"
    folder.mkdir()
    images, _ = tiny.squares(3, seed=5)
    for i in range(2):
        Image.fromarray(images[i]).save(folder / f"p{i}.png")
    Image.fromarray(images[2]).resize((96, 64)).save(folder / "wide.jpg")
    return folder


@pytest.fixture
def model(tiny_pipeline_dir: Path) -> str:
    return str(tiny_pipeline_dir)


class TestSegment:
    def test_every_image_gets_a_folder(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert main(["segment", model, str(images_dir), "--output-dir", str(out)]) == 0
        assert "3 images segmented" in capsys.readouterr().out
        assert {folder.name for folder in out.iterdir()} == {"p0", "p1", "wide"}
        pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
        image = opened(images_dir / "p1.png")
        expected = pipe.encode(image, generator=torch.Generator().manual_seed(0))
        scene = load_scene(out / "p1" / "slots.safetensors", pipe.fingerprint())
        torch.testing.assert_close(scene.slots, expected.slots, atol=1e-4, rtol=0)
        ids = np.asarray(opened(out / "p1" / "ids.png"))
        same = ids == expected.segmentation(32)[0].numpy()
        assert same.mean() > 0.99
        facts = json.loads((out / "p1" / "segments.json").read_text())
        counts = np.bincount(ids.ravel(), minlength=4).tolist()
        assert [slot["pixels"] for slot in facts["slots"]] == counts
        assert counts[facts["background"]] > 0.9 * max(counts)
        for slot in facts["slots"]:
            if "file" not in slot:
                assert slot["is_background"] or slot["pixels"] == 0
                continue
            cut = opened(out / "p1" / slot["file"])
            alpha = np.asarray(cut.getchannel("A"))
            assert ((alpha == 255) == (ids == slot["slot"])).all()
            assert cut.getchannel("A").getbbox() == tuple(slot["box"])
            own = np.asarray(cut)[..., :3][alpha == 255]
            assert (own == np.asarray(image.convert("RGB"))[alpha == 255]).all()

    def test_a_wide_image_keeps_its_size(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        assert main(["segment", model, str(images_dir / "wide.jpg"), "--output-dir", str(out)]) == 0
        ids = np.asarray(opened(out / "wide" / "ids.png"))
        assert ids.shape == (64, 96)
        assert (ids[:, :16] == 255).all()
        assert (ids[:, 80:] == 255).all()
        assert (ids[:, 16:80] < 4).all()
        before, after = (
            np.asarray(opened(path).convert("RGB"))
            for path in (images_dir / "wide.jpg", out / "wide" / "overlay.png")
        )
        assert (before[:, :16] == after[:, :16]).all()
        assert (before[:, 16:80] != after[:, 16:80]).any()

    def test_results_are_skipped_if_they_were_made_in_the_same_way(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = [
            "segment",
            model,
            str(images_dir),
            "--output-dir",
            str(tmp_path / "out"),
            "--json",
        ]
        done = []
        for words in ([], [], ["--seed", "1"], ["--num-slots", "3", "--seed", "1"]):
            assert main([*command, *words]) == 0
            done.append(json.loads(capsys.readouterr().out))
        assert [len(d["done"]) for d in done] == [3, 0, 3, 3]
        assert done[1]["skipped"] == ["p0", "p1", "wide"]
        (tmp_path / "out" / "p0" / "segments.json").write_text("{half of")
        assert main([*command, "--num-slots", "3", "--seed", "1"]) == 0
        assert json.loads(capsys.readouterr().out)["done"] == ["p0"]

    def test_results_of_release_0_1_are_skipped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = Path(__file__).parents[1] / "assets" / "release-0.1"
        shutil.copytree(written / "segmented", tmp_path / "scene")
        command = ["segment", str(written / "run"), str(written / "scene.png"), "--json"]
        assert main([*command, "--output-dir", str(tmp_path)]) == 0
        assert json.loads(capsys.readouterr().out)["skipped"] == ["scene"]

    def test_an_unreadable_image_is_named_and_the_others_are_processed(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (images_dir / "broken.png").write_bytes((images_dir / "p0.png").read_bytes()[:60])
        out = tmp_path / "out"
        assert main(["segment", model, str(images_dir), "--output-dir", str(out)]) == 2
        assert f"{images_dir / 'broken.png'} cannot be decoded" in capsys.readouterr().err
        assert {folder.name for folder in out.iterdir()} == {"p0", "p1", "wide"}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["nowhere.png"], "there is no file or folder nowhere.png"),
            (["."], "there is no image in the folder ."),
            (["images", "other"], "would have the same name"),
            (["images", "--merge-overlap", "2"], "below 1, got 2"),
            (["images", "--num-slots", "-3"], "or above, got -3"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self,
        model: str,
        images_dir: Path,
        tmp_path: Path,
        words: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "p0.jpg").write_bytes((images_dir / "p0.png").read_bytes())
        assert main(["segment", model, *words, "--output-dir", "out"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["segment", "edit"])
def test_a_folder_with_other_files_is_not_replaced(
    command: str, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "out" / "p1"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("years of work")
    words = [] if command == "segment" else ["--remove", "1"]
    out = ["--output-dir", str(tmp_path / "out")]
    assert main([command, model, str(images_dir), *words, *out]) == 2
    assert "p1 exists and holds something else" in capsys.readouterr().err
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p1"], "nothing else is written"


class TestEdit:
    def edit(self, model: str, path: Path, out: Path, *words: str) -> dict[str, torch.Tensor]:
        """Slots before and after."""
        command = ["edit", model, str(path), "--output-dir", str(out), *STEPS, *words]
        assert main(command) == 0
        pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
        image = opened(path)
        before = pipe.encode(image, generator=torch.Generator().manual_seed(0)).slots
        folder = out / path.stem
        after = load_scene(folder / "slots.safetensors", pipe.fingerprint()).slots
        assert opened(folder / "edited.png").size == image.size
        assert opened(folder / "strip.png").width > 96
        return {"before": before, "after": after}

    def test_a_slot_is_removed(self, model: str, images_dir: Path, tmp_path: Path) -> None:
        found = self.edit(model, images_dir / "p0.png", tmp_path / "out", "--remove", "2")
        torch.testing.assert_close(found["after"], found["before"][:, [0, 1, 3]])

    def test_several_edits_use_the_slot_numbers_before_the_edit(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        other = images_dir / "p1.png"
        words = ["--remove", "0", "--replace", f"3={other}:1", "--insert", f"{other}:2"]
        found = self.edit(model, images_dir / "p0.png", tmp_path / "out", *words)
        pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
        theirs = pipe.encode(opened(other), generator=torch.Generator().manual_seed(0)).slots
        expected = torch.cat([found["before"][:, 1:3], theirs[:, [1, 2]]], dim=1)
        torch.testing.assert_close(found["after"], expected)

    def test_slots_with_frames_are_moved_scaled_and_placed(
        self, images_dir: Path, tmp_path: Path
    ) -> None:
        model = str(tmp_path / "model")
        tiny.tiny_lsd(patch_decoder_weight=1.0, frames=True).save_pipeline(Path(model))
        other = str(images_dir / "p1.png")
        words = ["--move", "1=+8,-4", "--scale", "2=1.5", "--place", f"{other}:0=16,8"]
        found = self.edit(model, images_dir / "p0.png", tmp_path / "out", *words)
        expected = editing.move(found["before"], 1, (0.5, -0.25))
        expected = editing.scale(expected, 2, 1.5)
        torch.testing.assert_close(found["after"][:, :4], expected)
        center = found["after"][0, 4, -4:-2].tolist()
        assert center == pytest.approx([2 * 8.5 / 32 - 1, 2 * 16.5 / 32 - 1])
        pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
        kept = load_scene(tmp_path / "out" / "p0" / "slots.safetensors", pipe.fingerprint())
        assert kept.frames is not None
        assert torch.equal(kept.frames, found["after"][..., -4:])

    def test_slots_are_exchanged_mixed_and_copied(self, images_dir: Path, tmp_path: Path) -> None:
        model = str(tmp_path / "model")
        tiny.tiny_lsd(patch_decoder_weight=1.0, frames=True).save_pipeline(Path(model))
        other = str(images_dir / "p1.png")
        words = ["--exchange", f"0={other}:2", "--mix", f"1={other}:3,0.25", "--copy", "3=8,24,0.5"]
        found = self.edit(model, images_dir / "p0.png", tmp_path / "out", *words)
        pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
        theirs = pipe.encode(opened(Path(other)), generator=torch.Generator().manual_seed(0)).slots
        expected = editing.exchange(found["before"], 0, theirs[:, 2])
        expected = editing.mix(expected, 1, theirs[:, 3], 0.25)
        expected = editing.copy(expected, 3, (2 * 8.5 / 32 - 1, 2 * 24.5 / 32 - 1))
        expected = editing.scale(expected, 4, 0.5)
        torch.testing.assert_close(found["after"], expected)

    def test_the_slot_most_like_another_is_removed(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        one = images_dir / "p0.png"
        found = self.edit(model, one, tmp_path / "same", "--remove-like", f"{one}:2")
        torch.testing.assert_close(found["after"], found["before"][:, [0, 1, 3]])
        other = images_dir / "p1.png"
        found = self.edit(model, one, tmp_path / "other", "--remove-like", f"{other}:1")
        pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
        theirs = pipe.encode(opened(other), generator=torch.Generator().manual_seed(0)).slots[0, 1]
        cosines = torch.cosine_similarity(found["before"][0], theirs[None], dim=1)
        kept = [k for k in range(4) if k != int(cosines.argmax())]
        torch.testing.assert_close(found["after"], found["before"][:, kept])

    def test_resampling_paints_the_same_slots_anew(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        images = []
        for name, words in (("a", []), ("b", ["--resample", "0"]), ("c", ["--resample", "5"])):
            out = tmp_path / name
            self.edit(model, images_dir / "p0.png", out, "--remove", "1", "--no-blend", *words)
            images.append(np.asarray(opened(out / "p0" / "edited.png")))
        assert (images[0] == images[1]).all()
        assert (images[0] != images[2]).any()

    def test_a_pixel_selects_a_slot(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        image = [model, str(images_dir / "wide.jpg"), "--output-dir", str(out)]
        assert main(["segment", *image]) == 0
        ids = np.asarray(opened(out / "wide" / "ids.png"))
        expected = int(ids[40, 50])
        capsys.readouterr()
        assert main(["edit", model, str(images_dir / "wide.jpg"), "--at", "50,40"]) == 0
        assert f"under 50,40: slot {expected}" in capsys.readouterr().out
        words = ["--at", "50,40", "--remove", "at"]
        found = self.edit(model, images_dir / "wide.jpg", tmp_path / "edited", *words)
        kept = [k for k in range(4) if k != expected]
        torch.testing.assert_close(found["after"], found["before"][:, kept])

    def test_an_area_is_edited_at_the_size_of_the_image(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        """Pixels of --at and of the result are those of the whole image."""
        path, out = images_dir / "wide.jpg", tmp_path / "out"
        command = ["edit", model, str(path), "--output-dir", str(out), *STEPS]
        words = ["--area", "50,10,40,40", "--at", "70,30", "--remove", "at"]
        assert main([*command, *words]) == 0
        before, after = np.asarray(opened(path)), np.asarray(opened(out / "wide" / "edited.png"))
        inside = np.zeros(before.shape[:2], bool)
        inside[10:50, 50:90] = True
        assert (after[~inside] == before[~inside]).all()
        assert (after[inside] != before[inside]).any()
        assert json.loads((out / "wide" / "edited.json").read_text())["area"] == [50, 10, 90, 50]
        assert main([*command, *words, "--model-size"]) == 0
        assert opened(out / "wide" / "edited.png").size == (32, 32)

    @pytest.mark.parametrize(
        ("area", "message"),
        [
            ("50,10,40", "an area is X,Y,W,H, such as 300,120,400,400, got '50,10,40'"),
            ("50,10,40,30", "an area must be a square"),
            ("60,10,40,40", "must lie in the image of 96 x 64 pixels, got x from 60 to 100"),
        ],
    )
    def test_areas_that_are_none(
        self,
        model: str,
        images_dir: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        area: str,
        message: str,
    ) -> None:
        command = ["edit", model, str(images_dir / "wide.jpg"), "--output-dir", str(tmp_path / "o")]
        assert main([*command, "--remove", "1", "--area", area]) == 2
        assert message in capsys.readouterr().err
        assert not [*tmp_path.glob("o/*")]

    def test_saved_slots_and_their_masks_are_used(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        out, again = tmp_path / "out", tmp_path / "again"
        self.edit(model, images_dir / "p0.png", out, "--remove", "1")
        kept = str(out / "p0" / "slots.safetensors")
        command = ["edit", model, str(images_dir / "p0.png"), "--output-dir", str(again), *STEPS]
        assert main([*command, "--slots", kept, "--remove", "1"]) == 0
        fingerprint = LatentSlotDiffusionPipeline.from_pretrained(model).fingerprint()
        one = load_scene(kept, fingerprint)
        two = load_scene(again / "p0" / "slots.safetensors", fingerprint)
        assert torch.equal(two.slots, one.slots[:, [0, 2]])
        torch.testing.assert_close(
            one.masks.sum(dim=1), torch.ones_like(one.masks[:, 0]), atol=2e-3, rtol=0
        )

    def test_results_are_skipped_if_they_were_made_in_the_same_way(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        command = ["edit", model, str(images_dir), "--output-dir", str(out), "--json", *STEPS]
        done = []
        for words in (["--remove", "1"], ["--remove", "1"], ["--remove", "2"]):
            assert main([*command, *words]) == 0
            done.append(json.loads(capsys.readouterr().out))
        assert [len(d["done"]) for d in done] == [3, 0, 3]
        assert done[1]["skipped"] == ["p0", "p1", "wide"]
        facts = json.loads((out / "p0" / "edited.json").read_text())
        assert (facts["image"], facts["remove"], facts["blending"]) == ("p0.png", ["2"], True)

    def test_an_image_that_cannot_be_edited_is_named_and_the_others_are_edited(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        command = ["edit", model, str(images_dir), "--output-dir", str(out), *STEPS]
        assert main([*command, "--at", "40,40", "--remove", "at"]) == 2
        printed = capsys.readouterr()
        assert "1 images edited" in printed.out
        for name in ("p0", "p1"):
            assert f"pixel 40,40 lies outside of {images_dir / name}.png" in printed.err
        assert [folder.name for folder in out.iterdir()] == ["wide"]

    def test_the_background_is_exchanged(
        self, model: str, images_dir: Path, tmp_path: Path
    ) -> None:
        words = ["--swap-background", str(images_dir / "p1.png"), "--no-blend", "--invert"]
        found = self.edit(model, images_dir / "p0.png", tmp_path / "out", *words)
        changed = (found["after"] != found["before"]).any(dim=2)[0]
        assert changed.sum() == 1

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([], "there is nothing to do: pass --remove"),
            (["--remove", "4"], "there is no slot '4': the scene has slots 0 to 3"),
            (["--remove", "x"], "there is no slot 'x'"),
            (["--remove", "²"], "there is no slot '²'"),
            (["--remove", "1", "--output-dir", ""], "--output-dir is required"),
            (["--remove", "at"], "'at' means pixel 1 of --at, which has 0"),
            (["--at", "32,0"], "pixel 32,0 lies outside of"),
            (["--at", "3;4"], "a pixel is X,Y, such as 120,64, got '3;4'"),
            (["--replace", "2"], "--replace takes SLOT=OTHER:SLOT"),
            (["--move", "1=+2,1"], "the slots of this model have no frames"),
            (["--move", "1=2"], "--move takes SLOT=X,Y, pixels to the right and down"),
            (["--move", "9=2,3"], "there is no slot '9'"),
            (["--scale", "1=0"], "--scale takes SLOT=FACTOR, a factor above 0"),
            (["--scale", "1=-2"], "--scale takes SLOT=FACTOR, a factor above 0"),
            (["--place", "p1.png:1"], "--place takes OTHER:SLOT=X,Y"),
            (["--place", "p1.png:1=1,2,0"], "a slot is scaled by a factor above 0"),
            (["--copy", "1"], "--copy takes SLOT=X,Y, a pixel, or SLOT=X,Y,FACTOR"),
            (["--copy", "1=3,4"], "the slots of this model have no frames"),
            (["--exchange", "2"], "--exchange takes SLOT=OTHER:SLOT"),
            (["--mix", "2=p1.png:1"], "--mix takes SLOT=OTHER:SLOT,WEIGHT, a weight from 0 to 1"),
            (["--mix", "2=p1.png:1,1.5"], "--mix takes SLOT=OTHER:SLOT,WEIGHT, a weight from 0"),
            (["--remove-like", "p1.png"], "a slot of another scene is FILE:SLOT"),
            (["--remove", "1", "--resample", "-1"], "seed must be from 0 to 4294967295, got -1"),
            (["--place", "p1.png:1=99,3"], "pixel 99,3 lies outside of"),
            (["--insert", "p1.png"], "a slot of another scene is FILE:SLOT"),
            (["--insert", "none.png:1"], "there is no image file none.png"),
            (["--remove", "0", "1", "2", "3"], "all 4 slots would be removed"),
            (["--remove", "1", "--sampler", "magic"], "there is no sampler 'magic'"),
            (["--remove", "1", "--num-inference-steps", "0"], "must be at least 1, got 0"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self,
        model: str,
        images_dir: Path,
        words: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out"
        command = ["edit", model, str(images_dir / "p0.png"), "--output-dir", str(out)]
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()

    def test_slots_of_another_model_are_refused(
        self, model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        tiny.tiny_lsd(seed=1).save_pipeline(tmp_path / "other")
        out = tmp_path / "out"
        assert (
            main(["segment", str(tmp_path / "other"), str(images_dir), "--output-dir", str(out)])
            == 0
        )
        kept = str(out / "p0" / "slots.safetensors")
        command = ["edit", model, str(images_dir / "p0.png"), "--output-dir", str(tmp_path / "x")]
        assert main([*command, "--slots", kept, "--remove", "1"]) == 2
        assert "are those of another pipeline" in capsys.readouterr().err


def test_originals_are_not_overwritten(
    model: str, images_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in images_dir.iterdir()}
    assert (
        main(["reconstruct", model, str(images_dir), "--output-dir", str(images_dir), *STEPS]) == 2
    )
    assert f"{images_dir / 'p0.png'} exists and is no earlier result" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in images_dir.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        ["segment"],
        ["edit", "--remove", "1", *STEPS],
        ["edit", "--insert", "OTHER:1", *STEPS],
        ["reconstruct", *STEPS],
        ["generate", *STEPS],
    ],
    ids=["segment", "edit", "others", "reconstruct", "generate"],
)
def test_other_images_with_the_same_names_are_not_skipped(
    words: list[str],
    model: str,
    images_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, out = tmp_path / "other.png", tmp_path / "out"
    Image.fromarray(tiny.squares(1, seed=6)[0][0]).save(other)
    action, *options = [word.replace("OTHER", str(other)) for word in words]
    source = ["--from-images", str(images_dir)] if action == "generate" else [str(images_dir)]
    command = [action, model, *source, *options, "--output-dir", str(out)]

    def written() -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
        assert main(command) == 0
        capsys.readouterr()
        return {
            path.relative_to(out).parts[0].removesuffix(".png")
            for path in out.rglob("*.png")
            if before.get(path) != path.stat().st_mtime_ns and path.name != "contact_sheet.png"
        }

    assert written() == {"p0", "p1", "wide"}
    assert written() == set()
    changed = images_dir / "p1.png" if "OTHER" not in "".join(words) else other
    Image.fromarray(tiny.squares(1, seed=9)[0][0]).save(changed)
    assert written() == ({"p1"} if changed != other else {"p0", "p1", "wide"})


def test_images_are_reconstructed(
    model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["reconstruct", model, str(images_dir), *STEPS]
    printed = []
    for words in ([], [], ["--guidance-scale", "1.5"]):
        assert main([*command, "--output-dir", str(out), *words]) == 0
        printed.append(capsys.readouterr().out)
    assert "3 images reconstructed" in printed[0]
    assert "from slots: PSNR" in printed[0]
    assert "by the autoencoder: PSNR" in printed[0]
    assert "0 images reconstructed" in printed[1]
    assert "3 skipped" in printed[1]
    assert printed[1].splitlines()[1:] == printed[0].splitlines()[1:]
    assert "3 images reconstructed" in printed[2]
    scores = []
    for size in ("1", "32"):
        words = ["--output-dir", str(tmp_path / size), "--json", "--batch-size", size]
        for _ in range(2):
            assert main([*command, *words]) == 0
            scores.append(json.loads(capsys.readouterr().out)["pictures"])
    assert scores[0] == scores[1]
    for one, two in zip(scores[0], scores[2], strict=True):
        assert one["picture"] == two["picture"]
        assert one["psnr_slots"] == pytest.approx(two["psnr_slots"], abs=1e-2)
    assert opened(out / "p0.png").size == (3 * 32 + 4, 32)


@pytest.mark.skipif(find_spec("lpips") is not None, reason="lpips is installed")
def test_lpips_is_left_out_with_a_message(
    model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = str(images_dir / "p0.png")
    assert main(["reconstruct", model, image, "--output-dir", str(tmp_path), *STEPS]) == 0
    printed = capsys.readouterr()
    assert "no LPIPS: LPIPS needs its package: pip install 'latentslots[perceptual]'" in printed.err
    assert "LPIPS" not in printed.out


def test_a_perceptual_distance_is_among_the_scores(
    model: str, images_dir: Path, tmp_path: Path
) -> None:
    class Apart(nn.Module):
        """Mean absolute difference of pixels."""

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return (one - other).abs().mean()

    pipe = LatentSlotDiffusionPipeline.from_pretrained(model)
    result, (scores,) = reconstruct_files(
        pipe,
        [images_dir / "p0.png"],
        tmp_path,
        Sampling(num_inference_steps=2),
        perceptual=Apart(),
    )
    assert result.done == ["p0"]
    original, decoded, sampled = (
        np.asarray(opened(tmp_path / "p0.png")).astype(float)[:, i * 34 : i * 34 + 32]
        for i in range(3)
    )
    for kind, image in (("autoencoder", decoded), ("slots", sampled)):
        expected = np.abs(image - original).mean() / 127.5
        assert scores[f"lpips_{kind}"] == pytest.approx(expected, abs=0.01)


def test_other_files_beside_images_are_not_overwritten(
    model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "out" / "p1.json"
    note.parent.mkdir()
    note.write_text('["boxes of somebody"]')
    command = ["reconstruct", model, str(images_dir), "--output-dir", str(note.parent), *STEPS]
    assert main(command) == 2
    assert f"{note} exists and is no earlier result" in capsys.readouterr().err
    assert note.read_text() == '["boxes of somebody"]'
    note.unlink()
    assert main(command) == 0
    (note.parent / "p1.png").unlink()  # as if the command had been interrupted between the two
    assert main(command) == 0
    assert "1 images reconstructed" in capsys.readouterr().out.splitlines()[-3]


def test_another_autoencoder_is_another_model(
    images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for seed in (0, 1):
        pipe = tiny.tiny_lsd().to_pipeline()
        pipe.vae = tiny.tiny_autoencoder(seed)
        folders.append(str(tmp_path / f"model-{seed}"))
        pipe.save_pretrained(folders[-1])
    for action, *words in (["reconstruct"], ["edit", "--remove", "1"]):
        out = str(tmp_path / action)
        for folder in folders:
            assert main([action, folder, str(images_dir), *words, *STEPS, "--output-dir", out]) == 0
            assert "3 images" in capsys.readouterr().out


def test_images_that_cannot_be_used_are_named(
    model: str, images_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.rand(32, 32).astype(np.float32), mode="F").save(images_dir / "f.tiff")
    assert main(["segment", model, str(images_dir), "--output-dir", str(tmp_path / "out")]) == 2
    assert (
        f"{images_dir / 'f.tiff'} cannot be used: a floating-point image" in capsys.readouterr().err
    )
    assert (tmp_path / "out" / "p0" / "ids.png").is_file()
