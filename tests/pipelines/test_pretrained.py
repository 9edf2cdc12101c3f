"""Saved pipelines that reference frozen parts by id and hash."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from examples.tiny_pretrained import write_stable_diffusion
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor

from latentslots.build.methods import build_objective
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.pipelines import LatentSlotDiffusionPipeline, load_pipeline
from latentslots.pipelines.conditioning import guided_states
from latentslots.recipes import recipe
from tests.test_recipes import shrink

PARTS = ("encoder", "unet", "vae")


@pytest.fixture
def diffusion(tmp_path: Path) -> Path:
    """A Stable Diffusion to move or to change."""
    return write_stable_diffusion(tmp_path / "diffusion")


@pytest.fixture
def objective(diffusion: Path, tiny_vit_dir: Path) -> LatentSlotDiffusionObjective:
    return build(diffusion, tiny_vit_dir)


def build(diffusion: Path, vit: Path, name: str = "stable-lsd-voc", **changes: Any) -> Any:
    torch.manual_seed(0)
    nowhere = Path("nowhere")
    config = shrink(recipe(name), data=nowhere, vae=nowhere, vit=vit, diffusion=diffusion)
    for key, value in changes.items():
        object.__setattr__(config.method, key, value)
    return build_objective(config).eval()


def paint(pipe: LatentSlotDiffusionPipeline, pixels: Tensor, **options: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    scene = pipe.encode_pixel_values(pixels, generator=Generator().manual_seed(0))
    options = {"num_inference_steps": 2, "output_type": "pt", **options}
    return pipe(scene.slots, generator=Generator().manual_seed(1), **options).images


def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=Generator().manual_seed(3)) * 2 - 1


def weights(folder: Path) -> dict[str, list[str]]:
    return {
        part.name: sorted(p.name for p in part.glob("*.safetensors"))
        for part in folder.iterdir()
        if part.is_dir()
    }


@pytest.mark.parametrize("include", [False, True])
def test_is_saved_and_loaded(
    objective: LatentSlotDiffusionObjective, tmp_path: Path, include: bool
) -> None:
    with torch.no_grad():
        for parameter in objective.unet.tuned_parameters().values():
            parameter.mul_(1.5)  # as if trained
    objective.include_pretrained = include
    objective.save_pipeline(tmp_path / "saved")
    whole = ["diffusion_pytorch_model.safetensors"]
    if include:
        named: dict[str, Any] = {"encoder": whole, "unet": whole, "vae": whole}
    else:
        named = {"encoder": [], "unet": ["tuned.safetensors"], "vae": []}
        tuned = load_file(tmp_path / "saved" / "unet" / "tuned.safetensors")
        assert set(tuned) == set(objective.unet.tuned_parameters())
    assert weights(tmp_path / "saved") == {**named, "slot_encoder": whole, "scheduler": []}
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert set(index["pretrained"]) == (set() if include else set(PARTS))
    kinds = {name: index[name][1] or index["pretrained"][name]["kind"] for name in PARTS}
    assert kinds == {
        "encoder": "DINOv2Encoder",
        "unet": "StableDiffusionUNet",
        "vae": "AutoencoderKL",
    }
    if include:  # the modules of classes are part of the format
        modules = [index[name][0] for name in ("encoder", "unet")]
        assert modules == [
            f"latentslots.models.{m}" for m in ("dinov2_encoder", "stable_diffusion")
        ]

    pipe, again = objective.to_pipeline(), load_pipeline(tmp_path / "saved")
    for name in (*PARTS, "slot_encoder"):
        one, other = (p.components[name].state_dict() for p in (pipe, again))
        torch.testing.assert_close(other, one, atol=0, rtol=0)
    for scale in (1.0, 2.0):
        images = [paint(p, pixels(), guidance_scale=scale) for p in (pipe, again)]
        torch.testing.assert_close(images[1], images[0], atol=1e-4, rtol=0)
    assert again.fingerprint() == pipe.fingerprint()


def test_a_loaded_pipeline_is_saved_the_same_way(
    objective: LatentSlotDiffusionObjective, tmp_path: Path
) -> None:
    objective.save_pipeline(tmp_path / "one")
    load_pipeline(tmp_path / "one").save_pretrained(tmp_path / "two")
    for file in sorted((tmp_path / "one").rglob("*.json")):
        other = tmp_path / "two" / file.relative_to(tmp_path / "one")
        contents = [json.loads(path.read_text()) for path in (file, other)]
        for content in contents:
            content.pop("_name_or_path", None)
        assert contents[1] == contents[0], file
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_relative_folder_is_saved_as_absolute(
    diffusion: Path, tiny_vit_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(diffusion.parent)
    objective = build(Path(diffusion.name), tiny_vit_dir)
    objective.save_pipeline(tmp_path / "saved")
    monkeypatch.chdir("/")
    load_pipeline(tmp_path / "saved")


def test_a_part_that_was_replaced_is_copied(
    objective: LatentSlotDiffusionObjective, tmp_path: Path
) -> None:
    pipe = objective.to_pipeline()
    pipe.vae = type(pipe.vae).from_config(pipe.vae.config)
    pipe.save_pretrained(tmp_path / "saved")
    assert weights(tmp_path / "saved")["vae"] == ["diffusion_pytorch_model.safetensors"]
    assert weights(tmp_path / "saved")["encoder"] == []
    again = load_pipeline(tmp_path / "saved")
    torch.testing.assert_close(again.vae.state_dict(), pipe.vae.state_dict())


def test_a_part_that_was_passed_is_copied(
    objective: LatentSlotDiffusionObjective, tmp_path: Path
) -> None:
    objective.save_pipeline(tmp_path / "one")
    other = type(objective.vae).from_config(objective.vae.config)
    load_pipeline(tmp_path / "one", vae=other).save_pretrained(tmp_path / "two")
    again = load_pipeline(tmp_path / "two")
    torch.testing.assert_close(again.vae.state_dict(), other.state_dict())
    load_pipeline(tmp_path / "one", vae=None).save_pretrained(tmp_path / "three")
    assert load_pipeline(tmp_path / "three").vae is None


def test_exactly_the_tuned_tensors_are_saved(
    objective: LatentSlotDiffusionObjective, diffusion: Path, tiny_vit_dir: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in objective.unet.tuned_parameters().values():
            parameter.mul_(1.5)
    saved = tmp_path / "saved"
    objective.save_pipeline(saved)
    plain = build(diffusion, tiny_vit_dir, "stable-lsd-coco")
    plain.to_pipeline().save_pretrained(tmp_path / "plain")
    shutil.copy(saved / "unet" / "tuned.safetensors", tmp_path / "plain" / "unet")
    plain.to_pipeline().save_pretrained(tmp_path / "plain")  # over a tuned one
    torch.testing.assert_close(
        load_pipeline(tmp_path / "plain").unet.state_dict(), plain.unet.state_dict()
    )
    file = saved / "unet" / "tuned.safetensors"
    tensors = {k: v.clone() for k, v in load_file(file).items()}  # the file is written anew
    name = next(iter(tensors))
    fewer = {k: v for k, v in tensors.items() if k != name}
    for broken in ({}, fewer, {**tensors, "other": tensors[name].clone()}):
        save_file(broken, file)
        with pytest.raises(ValueError, match=r"does not hold the \d+ tensors that were tuned"):
            load_pipeline(saved)
    file.unlink()
    with pytest.raises(ValueError, match=r"tuned\.safetensors is missing"):
        load_pipeline(saved)


@pytest.mark.parametrize(
    "source", [{"kind": "Other", "name": "x", "subfolder": "", "sha256": ""}, {"name": "x"}, 3]
)
def test_wrong_entries_of_the_index_are_refused(
    objective: LatentSlotDiffusionObjective, tmp_path: Path, source: Any
) -> None:
    objective.save_pipeline(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["pretrained"]["vae"] = source
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"model_index\.json: a pretrained part must have the keys kind"
    ):
        load_pipeline(tmp_path)


def test_parts_may_be_passed_and_in_half_precision(
    objective: LatentSlotDiffusionObjective, diffusion: Path, tmp_path: Path
) -> None:
    objective.save_pipeline(tmp_path / "saved")
    for dtype in (torch.bfloat16, {"default": torch.bfloat16}):
        half = load_pipeline(tmp_path / "saved", dtype=dtype)
        assert {half.components[name].dtype for name in PARTS} == {torch.bfloat16}
    shutil.rmtree(diffusion)
    parts = {"unet": objective.unet, "vae": objective.vae}
    assert load_pipeline(tmp_path / "saved", **parts).unet is objective.unet


def test_missing_and_changed_parts_are_named(
    objective: LatentSlotDiffusionObjective, diffusion: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    objective.save_pipeline(saved)
    moved = diffusion.rename(tmp_path / "moved")
    with pytest.raises(
        ValueError, match=r"saved without its unet, .*/diffusion'.*change its name in "
    ):
        load_pipeline(saved)
    index = (saved / "model_index.json").read_text()
    (saved / "model_index.json").write_text(index.replace(str(diffusion), str(moved)))
    load_pipeline(saved)
    unet = UNet2DConditionModel.from_pretrained(moved / "unet")
    with torch.no_grad():
        unet.conv_in.bias.add_(1e-3)
    unet.save_pretrained(moved / "unet")
    with pytest.raises(ValueError, match=r"holds another unet than .* \(its hash is \w+, not \w+"):
        load_pipeline(saved)


def test_lora_is_saved_without_the_weights_that_it_changes(
    diffusion: Path, tiny_vit_dir: Path, tmp_path: Path
) -> None:
    config = recipe("stable-lsd-coco")
    unet = type(config.method.unet)(name=str(diffusion), tuned="lora", lora_rank=2)
    objective = build(diffusion, tiny_vit_dir, "stable-lsd-coco", unet=unet)
    with torch.no_grad():
        for parameter in objective.unet.tuned_parameters().values():
            parameter.normal_()
    objective.save_pipeline(tmp_path / "saved")
    again = load_pipeline(tmp_path / "saved")
    torch.testing.assert_close(again.unet.state_dict(), objective.unet.state_dict())
    images = [paint(p, pixels()) for p in (objective.to_pipeline(), again)]
    torch.testing.assert_close(images[1], images[0], atol=1e-4, rtol=0)


class TestGuidance:
    def test_the_unconditional_branch_is_the_empty_prompt_cut_to_the_slots(
        self, diffusion: Path, tiny_vit_dir: Path
    ) -> None:
        objective = build(diffusion, tiny_vit_dir, "stable-lsd-coco")
        pipe = objective.to_pipeline()
        slots = torch.randn(2, 3, 8, generator=Generator().manual_seed(0))
        states, mask = guided_states(pipe.slot_encoder, slots, None, 2.0)
        assert mask is None
        assert states.shape == (4, 3, 12)
        torch.testing.assert_close(states[:2], pipe.slot_encoder.project(slots))
        empty = pipe.slot_encoder.condition(None)[0]
        torch.testing.assert_close(states[2:], empty[:, :3].expand(2, -1, -1))

    def test_the_unconditional_branch_is_the_registers_if_there_are_any(
        self, objective: LatentSlotDiffusionObjective
    ) -> None:
        pipe = objective.to_pipeline()
        slots = torch.randn(2, 3, 8, generator=Generator().manual_seed(0))
        states, mask = guided_states(pipe.slot_encoder, slots, None, 2.0)
        assert states.shape == (4, 3 + 7, 12)
        assert mask is not None
        assert mask[2:].tolist() == [[False] * 3 + [True] * 7] * 2

    @pytest.mark.parametrize(("scale", "images"), [(1.0, 2), (2.0, 4)])
    def test_without_guidance_the_denoiser_runs_on_one_branch(
        self, objective: LatentSlotDiffusionObjective, scale: float, images: int
    ) -> None:
        batch_sizes: list[int] = []
        objective.unet.register_forward_pre_hook(lambda _, args: batch_sizes.append(len(args[0])))
        paint(objective.to_pipeline(), pixels(), guidance_scale=scale)
        assert batch_sizes == [images] * 2


def test_a_painted_image_has_the_trained_resolution(
    objective: LatentSlotDiffusionObjective,
) -> None:
    pipe = objective.to_pipeline()
    assert paint(pipe, pixels()).shape == (2, 3, 32, 32)
    # Not the size of the denoiser's own latents.
    object.__setattr__(objective, "resolution", 48)
    larger = objective.to_pipeline()
    assert paint(larger, pixels()).shape == (2, 3, 48, 48)
    assert paint(larger, pixels(), height=32, width=40).shape == (2, 3, 32, 40)
