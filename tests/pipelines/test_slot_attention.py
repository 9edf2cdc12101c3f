"""Slot Attention as a pipeline: folder, masks, painting; and loading a pipeline of any class."""

import json
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from latentslots.data import load_dataset
from latentslots.evaluation import evaluate
from latentslots.pipelines import (
    LatentSlotDiffusionPipeline,
    SlotAutoencoderPipeline,
    load_pipeline,
)
from tests.tiny import tiny_slot_attention


def images(number: int = 3) -> Tensor:
    return torch.rand(number, 3, 32, 32, generator=Generator().manual_seed(0)) * 2 - 1


def draws(*seeds: int) -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def pipe() -> SlotAutoencoderPipeline:
    return tiny_slot_attention().to_pipeline()


@pytest.fixture(scope="module")
def folder(pipe: SlotAutoencoderPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slot-attention")
    pipe.save_pretrained(path)
    return path


def test_a_folder_loads_as_its_class(
    pipe: SlotAutoencoderPipeline, folder: Path, tiny_pipeline_dir: Path
) -> None:
    other = load_pipeline(folder)
    assert isinstance(other, SlotAutoencoderPipeline)
    assert isinstance(load_pipeline(tiny_pipeline_dir), LatentSlotDiffusionPipeline)
    one, two = (p.encode_pixel_values(images(), generator=draws(0, 1, 2)) for p in (pipe, other))
    assert torch.equal(one.slots, two.slots)
    assert torch.equal(one.masks, two.masks)
    painted = [p(one.slots, output_type="pt").images for p in (pipe, other)]
    assert torch.equal(*painted)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["encoder"] == ["latentslots.models.unet_encoder", "UNetEncoder"]
    assert index["slot_encoder"] == ["latentslots.models.slot_attention", "SlotEncoder"]
    assert index["decoder"] == ["latentslots.models.broadcast_decoder", "BroadcastDecoder"]


def test_another_class_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ValueError, match=r"a StableDiffusionPipeline, and only .*Latent"):
        load_pipeline(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        load_pipeline(tmp_path / "nowhere")


def test_masks_are_the_decoders_or_the_attention(pipe: SlotAutoencoderPipeline) -> None:
    scene = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
    assert scene.masks.shape == (3, 4, 32, 32)
    torch.testing.assert_close(scene.masks.sum(dim=1), torch.ones(3, 32, 32))
    expected = pipe.decoder(scene.slots, height=32, width=32).masks
    assert torch.equal(scene.masks, expected)
    assert pipe.mask_source == "decoder"
    other = tiny_slot_attention().to_pipeline()
    other.use_attention_masks()
    assert other.mask_source == "attention"
    attended = other.encode_pixel_values(images(), generator=draws(0, 1, 2))
    assert attended.masks.shape == (3, 4, 16, 16)
    assert torch.equal(attended.slots, scene.slots)


def test_an_image_does_not_depend_on_its_batch(pipe: SlotAutoencoderPipeline) -> None:
    together = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
    alone = pipe.encode_pixel_values(images()[1:2], generator=draws(1))
    torch.testing.assert_close(alone.slots[0], together.slots[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.masks[0], together.masks[1], atol=1e-4, rtol=1e-4)


def test_it_paints_the_reconstruction_of_its_objective(pipe: SlotAutoencoderPipeline) -> None:
    objective = tiny_slot_attention()
    noise = torch.randn(3, 4, 16)
    with torch.no_grad():
        loss, _ = objective({"pixel_values": images(), "slot_noise": noise})
        slots = objective.slot_encoder(objective.encoder(images()), noise=noise).slots
    painted = pipe(slots, output_type="pt").images * 2 - 1
    assert (painted - images()).square().mean().item() == pytest.approx(loss.item(), rel=1e-4)


def test_scenes_of_different_size_and_other_sizes(pipe: SlotAutoencoderPipeline) -> None:
    slots = torch.randn(2, 4, 16)
    exists = torch.tensor([[True, True, False, False], [True] * 4])
    (painted,) = pipe(slots, slots_mask=exists, output_type="pt", return_dict=False)
    fewer = pipe(slots[:1, :2], output_type="pt").images
    torch.testing.assert_close(painted[:1], fewer)
    wide = pipe(slots, height=24, width=40).images[0]
    assert wide.size == (40, 24)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"slots": torch.zeros(1, 4, 9)}, r"slots must have shape \[B, K, 16\], got \[1, 4, 9\]"),
        ({"output_type": "latent"}, "output_type must be pil, np or pt, got 'latent'"),
        ({"height": 30}, "must be multiples of 4, got 30 and 32"),
    ],
)
def test_what_cannot_be_painted_is_refused(
    words: dict, message: str, pipe: SlotAutoencoderPipeline
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**{"slots": torch.zeros(1, 4, 16), **words})


def test_it_is_evaluated_like_any_other(pipe: SlotAutoencoderPipeline, scenes_store: Path) -> None:
    dataset = load_dataset(scenes_store, split="validation")
    report = evaluate(pipe, dataset, num_images=4, progress=False)
    assert -1 <= report.fg_ari <= 1
    assert report.scoring_resolution == 32
