"""The contract of every pipeline."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    ImagePipelineOutput,
    UniPCMultistepScheduler,
)
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from torch import Generator, Tensor

import latentslots.pipelines.folder
from latentslots.models import SlotEncoder
from latentslots.pipelines import LatentSlotDiffusionPipeline, SlotOutput
from latentslots.pipelines.slot_layout import place_slots
from tests.tiny import squares, tiny_autoencoder, tiny_lsd

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "registers": {"num_registers": 3, "condition_dropout": 0.1, "prediction_type": "v_prediction"},
    "null": {"condition_dropout": 0.1},
    "learned": {"slot_init": "learned", "num_heads": 2},
    "patch-decoder": {"patch_decoder_weight": 1.0},
    "map": {"patch_decoder_weight": 1.0, "map_channels": 5, "condition_dropout": 0.1},
    "frames": {
        "patch_decoder_weight": 1.0,
        "map_channels": 5,
        "condition_dropout": 0.1,
        "frames": True,
    },
    "map-registers": {"patch_decoder_weight": 1.0, "map_channels": 5, "num_registers": 2},
}


def build(**options: Any) -> LatentSlotDiffusionPipeline:
    objective = tiny_lsd(**options)
    for extra in (objective.slot_encoder.null, objective.slot_encoder.registers):
        if extra is not None:
            torch.nn.init.normal_(extra)  # as training would move it
    pipe = objective.to_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=VARIANTS)
def pipe(request: pytest.FixtureRequest) -> LatentSlotDiffusionPipeline:
    return build(**VARIANTS[request.param])


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in squares(3, seed=5)[0]]


@pytest.fixture(scope="module")
def slots() -> Tensor:
    return torch.randn(3, 4, 16, generator=seeds(9))


@pytest.fixture
def swap(tiny_pipeline: LatentSlotDiffusionPipeline) -> Any:
    """Change the shared pipeline's sampler; it is put back afterwards."""
    before = tiny_pipeline.scheduler

    def replace(sampler: Any) -> LatentSlotDiffusionPipeline:
        tiny_pipeline.scheduler = sampler.from_config(before.config)
        return tiny_pipeline

    yield replace
    tiny_pipeline.scheduler = before


def seeds(*numbers: int) -> Any:
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    return generators[0] if len(generators) == 1 else generators


def paint(pipe: LatentSlotDiffusionPipeline, slots: Tensor, **options: Any) -> Tensor:
    options = {"num_inference_steps": 3, "output_type": "pt", **options}
    return pipe(slots=slots, **options).images


class TestFolders:
    def test_a_folder_holds_every_component(
        self,
        pipe: LatentSlotDiffusionPipeline,
        images: list[Image.Image],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        pipe.save_pretrained(tmp_path)
        diffusers_logging.enable_propagation()
        try:
            with caplog.at_level(logging.WARNING):
                loaded = type(pipe).from_pretrained(tmp_path)
        finally:
            diffusers_logging.disable_propagation()
        loaded.set_progress_bar_config(disable=True)
        assert caplog.records == []
        assert loaded.resolution == pipe.resolution == 32
        learned = {"encoder", "slot_encoder", "unet", "vae", "patch_decoder"}
        assert set(loaded.components) == {*learned, "scheduler"}
        assert (loaded.patch_decoder is None) == (pipe.patch_decoder is None)
        for name, component in pipe.components.items():
            assert type(loaded.components[name]) is type(component)

        scenes = [p.encode(images, generator=seeds(1)) for p in (pipe, loaded)]
        torch.testing.assert_close(scenes[1].slots, scenes[0].slots, atol=0, rtol=0)
        torch.testing.assert_close(scenes[1].masks, scenes[0].masks, atol=0, rtol=0)
        painted = [paint(p, scenes[0].slots, generator=seeds(2)) for p in (pipe, loaded)]
        # oneDNN chooses other kernels for weights that lie elsewhere in memory.
        torch.testing.assert_close(painted[1], painted[0], atol=1e-5, rtol=0)
        for name in ("encoder", "slot_encoder", "unet", "vae"):
            weights = [p.components[name].state_dict() for p in (pipe, loaded)]
            torch.testing.assert_close(weights[1], weights[0], atol=0, rtol=0)

    def test_it_holds_no_pickled_code(self, tiny_pipeline_dir: Path) -> None:
        suffixes = {file.suffix for file in tiny_pipeline_dir.rglob("*") if file.is_file()}
        assert suffixes == {".json", ".safetensors"}

    def test_a_run_folder_loads_as_its_pipeline(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, tiny_pipeline_dir: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(tiny_pipeline_dir, tmp_path / "run" / "pipeline")
        loaded = LatentSlotDiffusionPipeline.from_pretrained(str(tmp_path / "run"))
        expected = tiny_pipeline.unet.state_dict()
        torch.testing.assert_close(loaded.unet.state_dict(), expected, atol=0, rtol=0)

    def test_a_hub_repository_is_downloaded_to_a_folder(
        self, tiny_pipeline_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = {}

        def snapshot_download(repo_id: str, **options: Any) -> str:
            asked[repo_id] = options
            return str(tiny_pipeline_dir)

        monkeypatch.setattr(latentslots.pipelines.folder, "snapshot_download", snapshot_download)
        loaded = LatentSlotDiffusionPipeline.from_pretrained(
            "someone/lsd", revision="v2", local_files_only=True
        )
        assert isinstance(loaded, LatentSlotDiffusionPipeline)
        assert asked == {"someone/lsd": {"revision": "v2", "local_files_only": True}}

    @pytest.mark.parametrize(
        "name", ["nothing-here", "/no/such", "./nothing", "a/b/c", "../runs/x"]
    )
    def test_a_missing_folder_is_named(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"there is no folder {Path(name)}$"):
            LatentSlotDiffusionPipeline.from_pretrained(name)

    def test_what_may_be_a_folder_or_a_hub_id_is_named_as_both(self) -> None:
        with pytest.raises(ValueError, match="no folder runs/nothing, and no hub repository"):
            LatentSlotDiffusionPipeline.from_pretrained("runs/nothing")

    def test_a_folder_without_a_pipeline_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=f"{tmp_path} contains no pipeline: model_index"):
            LatentSlotDiffusionPipeline.from_pretrained(tmp_path)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(
        self,
        pipe: LatentSlotDiffusionPipeline,
        images: list[Image.Image],
        tmp_path: Path,
        dtype: torch.dtype,
    ) -> None:
        pipe.save_pretrained(tmp_path)
        half = type(pipe).from_pretrained(tmp_path, dtype=dtype)
        half.set_progress_bar_config(disable=True)
        assert {half.encoder.dtype, half.slot_encoder.dtype, half.unet.dtype} == {dtype}

        scenes, expected = (p.encode(images, generator=seeds(1)) for p in (half, pipe))
        assert (scenes.masks.float() - expected.masks).abs().mean() < 0.01
        painted, full = (paint(p, expected.slots, generator=seeds(2)) for p in (half, pipe))
        assert painted.dtype == torch.float32
        assert (painted - full).abs().mean() < 0.02


class TestEncode:
    def test_masks_sum_to_1_at_every_pixel(
        self, pipe: LatentSlotDiffusionPipeline, images: list[Image.Image]
    ) -> None:
        scene = pipe.encode(images)
        side = 16 if pipe.patch_decoder is None else 32  # tokens, or pixels
        assert scene.slots.shape == (3, 4, 16)
        assert scene.masks.shape == (3, 4, side, side)
        assert scene.masks.min() >= 0
        torch.testing.assert_close(scene.masks.sum(dim=1), torch.ones(3, side, side))

    def test_a_seed_gives_the_same_slots_alone_or_in_a_batch(
        self, pipe: LatentSlotDiffusionPipeline, images: list[Image.Image]
    ) -> None:
        together = pipe.encode(images, generator=seeds(1, 2, 3))
        for index, image in enumerate(images):
            alone = pipe.encode(image, generator=seeds(index + 1))
            torch.testing.assert_close(alone.slots[0], together.slots[index], atol=1e-4, rtol=0)
            torch.testing.assert_close(alone.masks[0], together.masks[index], atol=1e-4, rtol=0)

    def test_another_seed_gives_other_slots(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, images: list[Image.Image]
    ) -> None:
        first, second = (tiny_pipeline.encode(images, generator=seeds(s)).slots for s in (1, 2))
        assert not torch.allclose(first, second, atol=1e-2)

    def test_slot_noise_can_be_passed(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, images: list[Image.Image]
    ) -> None:
        noise = tiny_pipeline.slot_encoder.draw_noise(3, num_slots=6, generator=seeds(4))
        given = tiny_pipeline.encode(images, slot_noise=noise)
        drawn = tiny_pipeline.encode(images, num_slots=6, generator=seeds(4))
        torch.testing.assert_close(given.slots, drawn.slots)
        assert given.slots.shape[1] == 6

    def test_every_type_of_image_is_preprocessed_alike(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, images: list[Image.Image]
    ) -> None:
        arrays = np.stack([np.asarray(image) for image in images])
        floats = (arrays / 255).astype(np.float32)
        tensor = torch.from_numpy(floats).permute(0, 3, 1, 2)
        expected = tensor * 2 - 1
        for batch in (images, arrays, list(arrays), floats, list(floats), tensor, list(tensor)):
            torch.testing.assert_close(tiny_pipeline.preprocess(batch), expected)
        for one in (images[0], arrays[0], floats[0], tensor[0]):
            torch.testing.assert_close(tiny_pipeline.preprocess(one), expected[:1])

    def test_pil_images_are_resized_and_tensors_are_not(
        self, tiny_pipeline: LatentSlotDiffusionPipeline
    ) -> None:
        assert tiny_pipeline.preprocess(Image.new("L", (100, 50))).shape == (1, 3, 32, 32)
        assert tiny_pipeline.preprocess(np.zeros((50, 70, 3), np.uint8)).shape == (1, 3, 32, 32)
        assert tiny_pipeline.preprocess(torch.zeros(3, 24, 40)).shape == (1, 3, 24, 40)
        assert tiny_pipeline.encode(torch.zeros(3, 24, 40)).masks.shape == (1, 4, 12, 20)

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize(
        ("image", "error", "message"),
        [
            (torch.zeros(1, 4, 32, 32), ValueError, r"\[B, 3, H, W\], got \[1, 4, 32, 32\]"),
            (torch.zeros(32, 32), ValueError, r"\[B, 3, H, W\], got \[1, 32, 32\]"),
            (torch.full((3, 32, 32), 1.5), ValueError, r"in \[0, 1\], got .* in \[1.5, 1.5\]"),
            (torch.zeros(3, 32, 32) - 1, ValueError, r"got torch.float32 in \[-1, -1\]"),
            (torch.full((3, 32, 32), torch.nan), ValueError, r"in \[nan, nan\]"),
            (torch.zeros(3, 32, 32, dtype=torch.uint8), ValueError, "got torch.uint8"),
            (np.zeros((32, 32)), ValueError, r"\[H, W, 3\], got \[32, 32\]"),
            (np.zeros((32, 32, 4)), ValueError, r"got \[1, 4, 32, 32\]"),
            (["a.png"], TypeError, "must be PIL, an array or a tensor, got <class 'str'>"),
            ([], ValueError, "no image"),
        ],
    )
    def test_inputs_that_are_not_images_are_refused(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        image: Any,
        error: type[Exception],
        message: str,
    ) -> None:
        with pytest.raises(error, match=message):
            tiny_pipeline.encode(image)


class TestSegment:
    def test_is_the_slot_with_the_largest_mask(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, images: list[Image.Image]
    ) -> None:
        scene = tiny_pipeline.encode(images, generator=seeds(1))
        assert torch.equal(scene.segmentation(), scene.masks.argmax(dim=1))
        segmentation = tiny_pipeline.segment(images, generator=seeds(1))
        assert segmentation.dtype == torch.int64
        assert segmentation.shape == (3, 32, 32)
        assert torch.equal(segmentation, scene.segmentation(32))

    @pytest.mark.parametrize(("size", "shape"), [(16, (16, 16)), ((20, 28), (20, 28))])
    def test_at_any_size(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        images: list[Image.Image],
        size: int | tuple[int, int],
        shape: tuple[int, int],
    ) -> None:
        assert tiny_pipeline.segment(images, size).shape == (3, *shape)

    def test_masks_are_upsampled_before_the_slot_is_chosen(self) -> None:
        masks = torch.tensor([[[0.6, 0.1, 0.1]], [[0.4, 0.9, 0.9]]])[None]
        scene = SlotOutput(slots=torch.zeros(1, 2, 3), masks=masks)
        # Bilinearly, cell centers: slot 0 takes .6 .475 .225 ... of six columns.
        assert scene.segmentation((1, 6)).tolist() == [[[0, 1, 1, 1, 1, 1]]]
        assert scene.segmentation().tolist() == [[[0, 1, 1]]]


class TestPaint:
    def test_a_seed_gives_the_same_image(
        self, pipe: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        first, again, other = (paint(pipe, slots, generator=seeds(s)) for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=1e-3)

    @pytest.mark.parametrize(
        "sampler",
        [
            None,
            DDIMScheduler,
            DDPMScheduler,
            EulerAncestralDiscreteScheduler,
            EulerDiscreteScheduler,
            HeunDiscreteScheduler,
            UniPCMultistepScheduler,
        ],
    )
    def test_an_image_does_not_depend_on_its_batch(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        swap: Callable[..., LatentSlotDiffusionPipeline],
        slots: Tensor,
        sampler: Any,
    ) -> None:
        pipe = tiny_pipeline if sampler is None else swap(sampler)
        together = paint(pipe, slots, generator=seeds(1, 2, 3))
        for index in range(3):
            alone = paint(pipe, slots[index : index + 1], generator=seeds(index + 1))
            torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=0)

    def test_an_image_with_guidance_does_not_depend_on_its_batch(
        self, pipe: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        mask = torch.tensor([[True] * 4, [True, True, False, False], [True, False, True, True]])
        options = {"guidance_scale": 2.0}
        together = paint(pipe, slots, generator=seeds(1, 2, 3), slots_mask=mask, **options)
        for index in range(3):
            alone = paint(
                pipe,
                slots[index : index + 1, mask[index]],
                generator=[seeds(index + 1)],
                **options,
            )
            torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=0)

    @pytest.mark.parametrize("sampler", [DDIMScheduler, DDPMScheduler])
    def test_other_samplers_keep_the_schedule_and_do_not_clip_latents(
        self, tmp_path: Path, sampler: Any
    ) -> None:
        build(prediction_type="v_prediction").save_pretrained(tmp_path)
        scheduler = LatentSlotDiffusionPipeline.from_pretrained(tmp_path).scheduler
        config = sampler.from_config(scheduler.config).config
        assert config.clip_sample is False
        assert config.prediction_type == "v_prediction"
        assert (config.beta_schedule, config.beta_start, config.beta_end) == (
            "linear",
            0.00085,
            0.012,
        )

    def test_samplers_of_the_same_equation_agree(
        self, swap: Callable[..., LatentSlotDiffusionPipeline], slots: Tensor
    ) -> None:
        """Euler's method in sigma is DDIM (Song et al., 2021), from noise of another scale."""
        one, other = (
            paint(swap(sampler), slots, generator=seeds(1), output_type="latent")
            for sampler in (DDIMScheduler, EulerDiscreteScheduler)
        )
        assert (one - other).std() < 0.01 * one.std()

    @pytest.mark.parametrize("num_inference_steps", [1, 4, 25])
    def test_sampling_starts_at_the_noisiest_timestep(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, num_inference_steps: int
    ) -> None:
        scheduler = tiny_pipeline.scheduler
        assert type(scheduler).__name__ == "DPMSolverMultistepScheduler"
        assert scheduler.config.algorithm_type == "dpmsolver++"
        assert scheduler.config.solver_order == 2
        scheduler.set_timesteps(num_inference_steps)
        assert scheduler.timesteps[0] == 999
        assert len(scheduler.timesteps) == num_inference_steps

    def test_masking_slots_equals_dropping_them(
        self, pipe: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        keep = torch.tensor([True, False, True, False])
        mask = keep.expand(3, -1)
        masked = paint(pipe, slots, slots_mask=mask, generator=seeds(1))
        dropped = paint(pipe, slots[:, keep], generator=seeds(1))
        torch.testing.assert_close(masked, dropped, atol=1e-5, rtol=0)
        everything = paint(pipe, slots, generator=seeds(1))
        assert not torch.allclose(masked, everything, atol=1e-4)

    def test_slots_have_no_order(self, pipe: LatentSlotDiffusionPipeline, slots: Tensor) -> None:
        painted = paint(pipe, slots, generator=seeds(1))
        shuffled = paint(pipe, slots[:, [2, 0, 3, 1]], generator=seeds(1))
        torch.testing.assert_close(shuffled, painted, atol=1e-4, rtol=0)

    def test_the_initial_noise_can_be_passed(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        latents = torch.randn(3, 4, 16, 16, generator=seeds(3))
        drawn = paint(tiny_pipeline, slots, generator=seeds(3))
        torch.testing.assert_close(paint(tiny_pipeline, slots, latents=latents), drawn)

    def test_other_sizes(self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor) -> None:
        assert paint(tiny_pipeline, slots, height=24, width=48).shape == (3, 3, 24, 48)
        assert paint(tiny_pipeline, slots, width=16).shape == (3, 3, 32, 16)

    def test_output_types(self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor) -> None:
        pt, pil, np_, latent = (
            paint(tiny_pipeline, slots, output_type=kind, generator=seeds(1))
            for kind in ("pt", "pil", "np", "latent")
        )
        assert pt.shape == (3, 3, 32, 32)
        assert 0 <= pt.min() < pt.max() <= 1
        assert np_.shape == (3, 32, 32, 3)
        np.testing.assert_allclose(np_, pt.permute(0, 2, 3, 1).numpy())
        assert [image.size for image in pil] == [(32, 32)] * 3
        np.testing.assert_allclose(np.stack(pil) / 255, np_, atol=0.51 / 255)
        assert latent.shape == (3, 4, 16, 16)

    def test_latents_are_in_the_denoisers_units(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        latents = paint(tiny_pipeline, slots, output_type="latent", generator=seeds(1))
        vae = tiny_pipeline.vae
        with torch.no_grad():
            pixels = vae.decode(latents / vae.config.scaling_factor).sample
        expected = paint(tiny_pipeline, slots, generator=seeds(1))
        torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1), expected)

    def test_tuple_and_dict(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        options = {"num_inference_steps": 2, "output_type": "pt"}
        wrapped = tiny_pipeline(slots, generator=seeds(1), **options)
        assert isinstance(wrapped, ImagePipelineOutput)
        (images,) = tiny_pipeline(slots, generator=seeds(1), return_dict=False, **options)
        assert torch.equal(images, wrapped.images)

    def test_no_gradient_is_kept(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        assert not paint(tiny_pipeline, slots.clone().requires_grad_()).requires_grad
        assert not tiny_pipeline.encode(torch.zeros(3, 32, 32)).slots.requires_grad

    def test_a_callback_is_called_after_every_step(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor
    ) -> None:
        seen: list[tuple[int, int]] = []

        def look(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> Any:
            assert pipe is tiny_pipeline
            assert values["latents"].shape == (3, 4, 16, 16)
            seen.append((step, int(timestep)))
            return {}

        plain = paint(tiny_pipeline, slots, generator=seeds(1, 2, 3))
        options = {"generator": seeds(1, 2, 3), "callback_on_step_end": look}
        watched = paint(tiny_pipeline, slots, **options)
        assert torch.equal(watched, plain)
        assert [step for step, _ in seen] == list(range(len(seen)))
        assert [timestep for _, timestep in seen] == tiny_pipeline.scheduler.timesteps.tolist()

        def erase(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> Any:
            return {"latents": torch.zeros_like(values["latents"])}

        erased = paint(tiny_pipeline, slots, callback_on_step_end=erase, output_type="latent")
        assert not erased.any()

        def stop(pipe: Any, step: int, timestep: Tensor, values: dict[str, Tensor]) -> Any:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            paint(tiny_pipeline, slots, callback_on_step_end=stop)

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"slots": torch.zeros(4, 16)}, r"slots must have shape \[B, K, 16\], got \[4, 16\]"),
            ({"slots": torch.zeros(1, 4, 8)}, r"\[B, K, 16\], got \[1, 4, 8\]"),
            (
                {"slots_mask": torch.ones(3, 5, dtype=torch.bool)},
                r"slots_mask must have shape \[3, 4\], got \[3, 5\]",
            ),
            (
                {"slots_mask": torch.zeros(3, 4, dtype=torch.bool)},
                "a scene without slots can only be",
            ),
            ({"slots": torch.zeros(3, 0, 16)}, "a scene without slots can only be"),
            ({"generator": seeds(1, 2)}, "2 generators were given for 3 scenes"),
            ({"latents": torch.zeros(2, 4, 16, 16)}, "2 latents were given for 3 scenes"),
            ({"output_type": "jpg"}, "pil, np, pt or latent, got 'jpg'"),
            ({"height": 31}, "height must be a multiple of 2 pixels, got 31"),
            ({"width": 0}, "width must be a multiple of 2 pixels, got 0"),
        ],
    )
    def test_arguments_that_do_not_fit_are_named(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        slots: Tensor,
        change: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            paint(tiny_pipeline, **{"slots": slots, **change})


class TestMap:
    def test_the_image_depends_on_the_layout(self, slots: Tensor) -> None:
        pipe = build(**VARIANTS["map"])
        before = paint(pipe, slots, generator=seeds(1, 2, 3))
        with torch.no_grad():
            pipe.patch_decoder.mlp[-1].weight[3].neg_()
        after = paint(pipe, slots, generator=seeds(1, 2, 3))
        assert (before - after).abs().max() > 1e-3

    def test_a_map_requires_a_patch_decoder(self, slots: Tensor) -> None:
        pipe = build(**VARIANTS["map"])
        pipe.patch_decoder = None
        with pytest.raises(ValueError, match="map_channels needs a patch decoder"):
            paint(pipe, slots)

    def test_a_rendering_requires_sprites(self, slots: Tensor) -> None:
        pipe = build(**VARIANTS["frames"])
        pipe.patch_decoder = build(**VARIANTS["map"]).patch_decoder
        with pytest.raises(ValueError, match="rendering_factor needs a decoder of sprites"):
            paint(pipe, slots)

    def test_the_layout_is_the_mean_of_the_pixels_masks(self, slots: Tensor) -> None:
        pipe = build(**VARIANTS["frames"])
        layout, rendering, _ = place_slots(pipe.unet, pipe.patch_decoder, slots, None, (16, 16))
        assert layout is not None
        assert rendering is not None
        scene = pipe.patch_decoder(slots, height=32, width=32)
        masks = scene.masks.unflatten(2, (16, 2, 16, 2)).mean(dim=(3, 5))
        torch.testing.assert_close(layout, masks)
        pixels = scene.mixture().transpose(1, 2).unflatten(2, (32, 32))
        torch.testing.assert_close(torch.pixel_shuffle(rendering, 2), pixels)


class TestGuidance:
    @pytest.mark.parametrize("variant", ["null", "registers", "map"])
    def test_extrapolates_from_the_unconditional_to_the_conditional_prediction(
        self, variant: str, slots: Tensor
    ) -> None:
        pipe = build(**VARIANTS[variant])
        latents = torch.randn(3, 4, 16, 16)
        timestep = torch.tensor(999)
        encoder: SlotEncoder = pipe.slot_encoder
        with torch.no_grad():
            states, _ = encoder.condition(slots)
            nothing = encoder.condition(None)[0].expand(3, -1, -1)
            places, _ = place_slots(pipe.unet, pipe.patch_decoder, slots, None, (16, 16)).inputs
            nowhere = None if places is None else torch.ones(3, 1, 16, 16)
            conditional = pipe.unet(latents, timestep, states, None, places).sample
            unconditional = pipe.unet(latents, timestep, nothing, None, nowhere).sample
        guided = 3 * conditional - 2 * unconditional
        pipe.scheduler.set_timesteps(1)
        expected = pipe.scheduler.step(guided, timestep, latents).prev_sample
        painted = paint(
            pipe,
            slots,
            latents=latents,
            guidance_scale=3.0,
            num_inference_steps=1,
            output_type="latent",
        )
        torch.testing.assert_close(painted, expected, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("variant", ["null", "registers"])
    def test_scale_zero_does_not_depend_on_the_slots(self, variant: str, slots: Tensor) -> None:
        pipe = build(**VARIANTS[variant])
        one, other = (
            paint(pipe, scene, guidance_scale=0.0, generator=seeds(1))
            for scene in (slots, slots.flip(2))
        )
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_warns_if_no_unconditional_branch_was_trained(
        self, variant: str, slots: Tensor, caplog: pytest.LogCaptureFixture
    ) -> None:
        pipe = build(**VARIANTS[variant])
        paint(pipe, slots, num_inference_steps=1)
        assert caplog.records == []
        paint(pipe, slots, num_inference_steps=1, guidance_scale=1.5)
        warnings = [record.getMessage() for record in caplog.records]
        if variant in ("null", "registers", "map", "map-registers", "frames"):
            assert warnings == []
        else:
            (warning,) = warnings
            assert warning.startswith("guidance_scale=1.5 on a model that was trained without")

    def test_a_scene_without_slots_is_painted_from_registers(self, slots: Tensor) -> None:
        pipe = build(**VARIANTS["registers"])
        mask = torch.zeros(3, 4, dtype=torch.bool)
        one, other = (
            paint(pipe, scene, slots_mask=mask, generator=seeds(1))
            for scene in (slots, slots.flip(2))
        )
        torch.testing.assert_close(one, other)


class TestEdit:
    def test_latents_of_an_image_are_painted_back(self, tiny_pipeline: Any) -> None:
        pixel_values = torch.rand(3, 3, 32, 32) * 2 - 1
        latents = tiny_pipeline.encode_latents(pixel_values)
        posterior = tiny_pipeline.vae.encode(pixel_values).latent_dist
        expected = posterior.mean * tiny_pipeline.vae.config.scaling_factor
        torch.testing.assert_close(latents, expected)

    @pytest.mark.parametrize("sampler", [DDIMScheduler, DPMSolverMultistepScheduler])
    def test_an_inverted_image_is_painted_back(
        self, swap: Any, slots: Tensor, sampler: Any
    ) -> None:
        pipe = swap(sampler)
        image_latents = torch.randn(3, 4, 16, 16, generator=seeds(1))
        noise = pipe.invert(image_latents, slots, num_inference_steps=25)
        options = {"num_inference_steps": 25, "output_type": "latent"}
        back = pipe(slots, latents=noise, **options).images
        other = pipe(slots, generator=seeds(2), **options).images
        error, chance = ((x - image_latents).square().mean() for x in (back, other))
        assert error < 0.05 * chance

    @pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
    def test_latents_outside_the_edit_mask_are_kept(
        self, tiny_pipeline: Any, slots: Tensor, guidance_scale: float
    ) -> None:
        image_latents = torch.randn(3, 4, 16, 16, generator=seeds(1))
        mask = torch.zeros(3, 1, 16, 16)
        mask[:, :, 4:10, 6:12] = 1
        options = {"output_type": "latent", "guidance_scale": guidance_scale}
        edited = paint(
            tiny_pipeline,
            slots,
            image_latents=image_latents,
            edit_mask=mask,
            generator=seeds(1, 2, 3),
            **options,
        )
        outside = mask.expand_as(edited) == 0
        assert torch.equal(edited[outside], image_latents[outside])
        free = paint(tiny_pipeline, slots, generator=seeds(1, 2, 3), **options)
        everywhere = paint(
            tiny_pipeline,
            slots,
            image_latents=image_latents,
            edit_mask=torch.ones_like(mask),
            generator=seeds(1, 2, 3),
            **options,
        )
        torch.testing.assert_close(everywhere, free)
        assert (edited - free)[~outside].abs().max() > 1e-3, "what is inside sees what is kept"

    def test_image_latents_and_edit_mask_must_be_passed_together(
        self, tiny_pipeline: Any, slots: Tensor
    ) -> None:
        with pytest.raises(ValueError, match="image_latents and edit_mask go together"):
            paint(tiny_pipeline, slots, edit_mask=torch.ones(3, 1, 16, 16))

    @pytest.mark.usefixtures("unchecked")
    def test_an_edit_of_another_size_is_named(self, tiny_pipeline: Any, slots: Tensor) -> None:
        image, mask = torch.zeros(3, 4, 16, 16), torch.ones(3, 1, 32, 32)
        with pytest.raises(ValueError, match=r"edit_mask must have shape \[3, 1, 16, 16\], got"):
            paint(tiny_pipeline, slots, image_latents=image, edit_mask=mask)
        with pytest.raises(ValueError, match=r"image_latents must have shape \[3, 4, 16, 16\]"):
            paint(tiny_pipeline, slots, image_latents=image[:2], edit_mask=mask)


class TestPatchDecoder:
    def test_masks_are_the_responsibilities_of_slots_for_pixels(
        self, images: list[Image.Image]
    ) -> None:
        pipe = build(patch_decoder_weight=1.0)
        scene = pipe.encode(images, generator=seeds(1))
        pixel_values = pipe.preprocess(images)
        expected = pipe.patch_decoder.segment(scene.slots, pixel_values)
        torch.testing.assert_close(scene.masks, expected)
        assert torch.equal(pipe.segment(images, generator=seeds(1)), expected.argmax(dim=1))

    def test_without_it_masks_are_the_attention(
        self, images: list[Image.Image], tmp_path: Path
    ) -> None:
        whole = build(patch_decoder_weight=1.0)
        whole.save_pretrained(tmp_path)
        loaded = LatentSlotDiffusionPipeline.from_pretrained(tmp_path)
        attentive = LatentSlotDiffusionPipeline.from_pretrained(tmp_path, patch_decoder=None)
        one, same, other = (
            p.encode(images, generator=seeds(1)) for p in (whole, loaded, attentive)
        )
        torch.testing.assert_close(same.masks, one.masks)
        torch.testing.assert_close(other.slots, one.slots)
        noise = whole.slot_encoder.draw_noise(3, generator=seeds(1))
        attention = whole.slot_encoder(whole.encoder(whole.preprocess(images)), noise=noise)
        torch.testing.assert_close(other.masks.flatten(2), attention.attention)


class TestWithoutVAE:
    @pytest.fixture
    def blind(self, tiny_pipeline_dir: Path, tmp_path: Path) -> LatentSlotDiffusionPipeline:
        pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir, vae=None)
        pipe.save_pretrained(tmp_path / "blind")
        assert not (tmp_path / "blind" / "vae").exists()
        loaded = LatentSlotDiffusionPipeline.from_pretrained(tmp_path / "blind")
        loaded.set_progress_bar_config(disable=True)
        return loaded

    def test_it_cannot_encode_latents(self, blind: LatentSlotDiffusionPipeline) -> None:
        with pytest.raises(ValueError, match="no VAE to encode images with"):
            blind.encode_latents(torch.zeros(1, 3, 32, 32))

    def test_it_encodes_images_but_cannot_paint(
        self, blind: LatentSlotDiffusionPipeline, images: list[Image.Image], slots: Tensor
    ) -> None:
        assert blind.vae is None
        assert blind.resolution == 32
        assert blind.segment(images).shape == (3, 32, 32)
        with pytest.raises(ValueError, match="has no VAE, so it cannot turn latents") as error:
            paint(blind, slots)
        assert "\n" not in str(error.value)
        assert paint(blind, slots, output_type="latent").shape == (3, 4, 16, 16)

    def test_one_can_be_passed(
        self, blind: LatentSlotDiffusionPipeline, tmp_path: Path, slots: Tensor
    ) -> None:
        pipe = LatentSlotDiffusionPipeline.from_pretrained(
            tmp_path / "blind", vae=tiny_autoencoder()
        )
        pipe.set_progress_bar_config(disable=True)
        assert paint(pipe, slots).shape == (3, 3, 32, 32)


def test_the_index_records_the_resolution(tiny_pipeline_dir: Path) -> None:
    index = json.loads((tiny_pipeline_dir / "model_index.json").read_text())
    assert index["resolution"] == 32


def test_the_resolution_follows_from_the_parts() -> None:
    parts = build().components
    assert LatentSlotDiffusionPipeline(**parts).resolution == 32
    assert LatentSlotDiffusionPipeline(**{**parts, "vae": None}).resolution == 128
    assert LatentSlotDiffusionPipeline(**parts, resolution=48).resolution == 48


def test_the_generator_of_an_image_advances_the_same_in_any_batch(
    tiny_pipeline: LatentSlotDiffusionPipeline, slots: Tensor
) -> None:
    generators: list[Generator] = seeds(1, 2, 3)
    paint(tiny_pipeline, slots, generator=generators, num_inference_steps=1)
    alone = seeds(2)
    paint(tiny_pipeline, slots[1:2], generator=alone, num_inference_steps=1)
    assert torch.equal(generators[1].get_state(), alone.get_state())
