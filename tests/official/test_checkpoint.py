"""Import whole checkpoints.

`test_config_keys.py` tests their configs, and `tests/models/test_golden.py` the numbers.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from examples.tiny_pretrained import write_dinov2, write_stable_diffusion
from safetensors.torch import load_file
from torch import Tensor

from latentslots.cli.main import main
from latentslots.models.autoencoder import load_vae
from latentslots.models.stable_diffusion import empty_prompt
from latentslots.official import OfficialCheckpointError, load_official
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.pretrained import load_pretrained_parts
from tests.official.tools import (
    ENCODER,
    GOLDEN,
    PICKLED,
    SLOTS,
    UNET,
    WEIGHTS,
    edit_config,
    edit_tensors,
    pickle_weights,
)


def same_weights(one: LatentSlotDiffusionPipeline, other: LatentSlotDiffusionPipeline) -> None:
    for name in ("encoder", "slot_encoder", "unet"):
        torch.testing.assert_close(
            getattr(one, name).state_dict(), getattr(other, name).state_dict(), atol=0, rtol=0
        )


class Touch:
    """An object whose unpickling runs code, which writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["lsd_a", "lsd_b"])
def test_is_saved_as_a_pipeline_folder_and_loaded(name: str, tmp_path: Path) -> None:
    pipe = load_official(GOLDEN / name / "checkpoint-7")
    pipe.save_pretrained(tmp_path)
    loaded = LatentSlotDiffusionPipeline.from_pretrained(tmp_path)
    same_weights(loaded, pipe)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    scene = loaded.encode(
        (expected["images"] + 1).clamp(0, 2) / 2, slot_noise=expected.get("slot_noise")
    )
    assert scene.slots.shape == expected["slots"].shape
    with torch.no_grad():
        prediction = loaded.unet(
            expected["noisy_latents"], expected["timesteps"], expected["conditioning"]
        ).sample
    torch.testing.assert_close(prediction, expected["prediction"], atol=1e-4, rtol=0)
    assert not loaded.unet.training


@pytest.mark.parametrize("name", ["lsd_a", "lsd_b"])
def test_the_resolution_is_that_of_the_encoder(name: str) -> None:
    assert load_official(GOLDEN / name / "checkpoint-7").resolution == 64


def test_the_vae_is_optional(checkpoint: Path, vae_of_8: AutoencoderKL) -> None:
    assert load_official(checkpoint).vae is None
    assert load_official(checkpoint, vae=vae_of_8).vae is vae_of_8


def test_a_vae_that_does_not_fit_is_refused(checkpoint: Path, tiny_vae: AutoencoderKL) -> None:
    with pytest.raises(
        OfficialCheckpointError, match="in_channels is 4, must be 8: the latent channels of the VAE"
    ):
        load_official(checkpoint, vae=load_vae("bundled"))
    with pytest.raises(
        OfficialCheckpointError,
        match="sample_size is 8, must be 32: images of 64 pixels, and 2 pixels per latent",
    ):
        load_official(checkpoint, vae=tiny_vae)


class TestBin:
    def test_is_read(self, checkpoint: Path) -> None:
        expected = load_official(checkpoint)
        for part in (ENCODER, SLOTS, UNET):
            pickle_weights(checkpoint / part)
        same_weights(load_official(checkpoint), expected)

    def test_is_read_as_tensors_only(self, checkpoint: Path, tmp_path: Path) -> None:
        evidence = tmp_path / "code-ran"
        tensors = load_file(checkpoint / SLOTS / WEIGHTS)
        pickle_weights(checkpoint / SLOTS, {**tensors, "extra": Touch(evidence)})
        with pytest.raises(
            OfficialCheckpointError, match=f"{SLOTS}/{PICKLED} is damaged, or holds"
        ):
            load_official(checkpoint)
        assert not evidence.exists()

    @pytest.mark.parametrize("content", [[torch.zeros(2)], {"slot_mu": 3}, "text"])
    def test_of_other_objects_is_refused(self, checkpoint: Path, content: Any) -> None:
        pickle_weights(checkpoint / SLOTS, content)
        with pytest.raises(OfficialCheckpointError, match=f"{PICKLED} .*objects other than named"):
            load_official(checkpoint)


@pytest.mark.parametrize("name", [WEIGHTS, PICKLED])
@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_truncated_file_is_named(checkpoint: Path, name: str, size: int) -> None:
    if name == PICKLED:
        pickle_weights(checkpoint / UNET)
    file = checkpoint / UNET / name
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(OfficialCheckpointError, match=f"{UNET}/{name} is damaged"):
        load_official(checkpoint)


@pytest.mark.parametrize(
    ("part", "tensor"),
    [
        (ENCODER, "downscale_cnn.weight"),
        (ENCODER, "mid_block.attentions.0.to_q.bias"),
        (SLOTS, "slot_log_sigma"),
        (SLOTS, "pos.projection.bias"),
        (SLOTS, "project_k.weight"),
        (UNET, "up_blocks.3.attentions.2.transformer_blocks.0.attn2.pos_emb.1.projection.weight"),
        (UNET, "conv_out.bias"),
    ],
)
class TestTensors:
    def test_a_missing_one_is_named(self, checkpoint: Path, part: str, tensor: str) -> None:
        edit_tensors(checkpoint / part, lambda tensors: tensors.pop(tensor))
        with pytest.raises(OfficialCheckpointError, match=f"{part} lacks the tensor {tensor}$"):
            load_official(checkpoint)

    def test_an_unexpected_one_is_named(self, checkpoint: Path, part: str, tensor: str) -> None:
        edit_tensors(
            checkpoint / part, lambda tensors: tensors.update({f"{tensor}_2": torch.zeros(3)})
        )
        with pytest.raises(
            OfficialCheckpointError, match=f"{part} holds the unexpected tensor {tensor}_2$"
        ):
            load_official(checkpoint)

    def test_another_shape_is_named(self, checkpoint: Path, part: str, tensor: str) -> None:
        shapes = {}

        def transpose(tensors: dict[str, Tensor]) -> None:
            wrong = tensors[tensor].movedim(0, -1)
            wrong = wrong[None] if wrong.shape == tensors[tensor].shape else wrong
            shapes.update(right=tuple(tensors[tensor].shape), wrong=tuple(wrong.shape))
            tensors[tensor] = wrong.contiguous()

        edit_tensors(checkpoint / part, transpose)
        with pytest.raises(OfficialCheckpointError) as error:
            load_official(checkpoint)
        assert str(error.value).endswith(
            f"{part}: the tensor {tensor} has shape {shapes['wrong']}, but the config requires "
            f"{shapes['right']}"
        )


class TestParts:
    def test_stable_lsd_is_recognized(self, checkpoint: Path) -> None:
        shutil.rmtree(checkpoint / ENCODER)
        shutil.rmtree(checkpoint / UNET)
        with pytest.raises(OfficialCheckpointError, match=r"is a Stable-LSD checkpoint: .* DINOv2"):
            load_official(checkpoint)

    def test_stable_lsd_is_imported_with_its_parts(self, checkpoint: Path, tmp_path: Path) -> None:
        expected = load_official(checkpoint).slot_encoder
        shutil.rmtree(checkpoint / ENCODER)
        shutil.rmtree(checkpoint / UNET)
        diffusion = write_stable_diffusion(tmp_path / "diffusion", text_width=24)
        vit = write_dinov2(tmp_path / "vit", width=24)
        out = tmp_path / "out"
        words = ["--stable-diffusion", str(diffusion), "--dinov2", str(vit), "--dinov2-size", "64"]
        assert main(["import-official", str(checkpoint), str(out), *words]) == 0
        pipe = LatentSlotDiffusionPipeline.from_pretrained(out)
        assert not list((out / "unet").glob("*.safetensors"))
        for name, tensor in expected.state_dict().items():
            torch.testing.assert_close(pipe.slot_encoder.state_dict()[name], tensor)
        torch.testing.assert_close(pipe.slot_encoder.null, empty_prompt(str(diffusion)))
        scene = pipe.encode(torch.rand(2, 3, 64, 64))
        assert scene.slots.shape == (2, 5, 32)
        pipe.set_progress_bar_config(disable=True)
        options = {"num_inference_steps": 1, "height": 32, "width": 32, "guidance_scale": 1.3}
        assert pipe(scene.slots, **options).images[0].size == (32, 32)
        assert pipe.resolution == 256

    def test_parts_are_for_stable_lsd_only(self, checkpoint: Path, tmp_path: Path) -> None:
        parts = load_pretrained_parts(
            str(write_stable_diffusion(tmp_path / "diffusion")), str(write_dinov2(tmp_path / "vit"))
        )
        with pytest.raises(OfficialCheckpointError, match="is not a Stable-LSD checkpoint, so it"):
            load_official(checkpoint, parts=parts)

    @pytest.mark.parametrize(
        ("width", "image_size", "message"),
        [
            (16, 64, "input_size is 24, must be 16: the channels of the DINOv2"),
            (24, 32, "input_resolution is 16, must be 8: patches per side of the DINOv2's images"),
            (24, 64, "out_size is 24, must be 12: the prompt width of the Stable Diffusion"),
        ],
    )
    def test_parts_that_do_not_fit_are_named(
        self, checkpoint: Path, tmp_path: Path, width: int, image_size: int, message: str
    ) -> None:
        parts = load_pretrained_parts(
            str(write_stable_diffusion(tmp_path / "diffusion")),
            str(write_dinov2(tmp_path / "vit", width=width)),
            image_size=image_size,
        )
        shutil.rmtree(checkpoint / ENCODER)
        shutil.rmtree(checkpoint / UNET)
        with pytest.raises(OfficialCheckpointError, match=message):
            load_official(checkpoint, parts=parts)

    def test_stable_diffusion_and_dinov2_go_together(
        self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["import-official", str(checkpoint), str(tmp_path / "out"), "--dinov2", "x"]
        assert main(command) == 2
        assert "--stable-diffusion and --dinov2 go together" in capsys.readouterr().err

    @pytest.mark.parametrize("gone", [(ENCODER,), (SLOTS,), (UNET,), (ENCODER, SLOTS, UNET)])
    def test_missing_ones_are_named(self, checkpoint: Path, gone: tuple[str, ...]) -> None:
        for part in gone:
            shutil.rmtree(checkpoint / part)
        with pytest.raises(
            OfficialCheckpointError,
            match=f"is not an official LSD checkpoint: it lacks {', '.join(gone)}$",
        ):
            load_official(checkpoint)

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(OfficialCheckpointError, match=f"there is no folder {tmp_path}/none$"):
            load_official(tmp_path / "none")

    def test_one_without_weights_is_named(self, checkpoint: Path) -> None:
        (checkpoint / UNET / WEIGHTS).unlink()
        with pytest.raises(
            OfficialCheckpointError, match=f"{UNET} holds neither {WEIGHTS} nor {PICKLED}$"
        ):
            load_official(checkpoint)


class TestOtherPositions:
    @staticmethod
    def rebuild(
        checkpoint: Path, pos_type: str, add: Callable[[str, int], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Replace the positions of the U-Net; `add(layer, channels)` returns the new tensors."""

        def change(tensors: dict[str, Tensor]) -> None:
            for name in [name for name in tensors if ".pos_emb." in name]:
                removed = tensors.pop(name)
                if name.endswith("projection.bias"):
                    layer = name.removesuffix(".pos_emb.1.projection.bias")
                    tensors.update(add(layer, len(removed)))

        edit_tensors(checkpoint / UNET, change)
        edit_config(checkpoint / UNET, pos_type=pos_type)
        return load_file(checkpoint / UNET / WEIGHTS)

    def test_learned_ones_are_tables_in_row_major_order(self, checkpoint: Path) -> None:
        def size(layer: str) -> int:
            level = {
                "down_blocks.0": 8,
                "down_blocks.1": 4,
                "down_blocks.2": 2,
                "mid_block.atten": 1,
                "up_blocks.1": 2,
                "up_blocks.2": 4,
                "up_blocks.3": 8,
            }
            return next(value for prefix, value in level.items() if layer.startswith(prefix))

        tensors = self.rebuild(
            checkpoint,
            "learned",
            lambda layer, channels: {
                f"{layer}.pos_emb.pe": torch.randn(1, size(layer) ** 2, channels)
            },
        )
        unet = load_official(checkpoint).unet
        assert unet.config.position == "learned"
        assert len(unet.attn_processors) == sum(".pos_emb." in name for name in tensors)
        for name, processor in unet.attn_processors.items():
            table = tensors[name.replace(".processor", ".pos_emb.pe")][0]
            side = size(name)
            torch.testing.assert_close(processor.position(side, side), table, atol=0, rtol=0)

    def test_a_table_of_another_size_is_named(self, checkpoint: Path) -> None:
        self.rebuild(
            checkpoint,
            "learned",
            lambda layer, channels: {f"{layer}.pos_emb.pe": torch.randn(1, 64, channels)},
        )
        with pytest.raises(
            OfficialCheckpointError, match=r"pos_emb.pe has shape \(1, 64, 32\), .* \(1, 16, 32\)$"
        ):
            load_official(checkpoint)

    def test_none(self, checkpoint: Path) -> None:
        self.rebuild(checkpoint, "none", lambda layer, channels: {})
        unet = load_official(checkpoint).unet
        assert unet.config.position == "none"
        assert not any("position" in name for name in unet.state_dict())

    def test_positions_in_spite_of_the_config_are_unexpected(self, checkpoint: Path) -> None:
        edit_config(checkpoint / UNET, pos_type="none")
        with pytest.raises(
            OfficialCheckpointError, match=r"unexpected tensor down_blocks.*pos_emb.1.projection"
        ):
            load_official(checkpoint)


class TestCommand:
    def test_makes_a_pipeline_folder(
        self,
        checkpoint: Path,
        vae_of_8: AutoencoderKL,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out, vae = tmp_path / "made" / "pipeline", tmp_path / "vae"
        vae_of_8.save_pretrained(vae)
        assert main(["import-official", str(checkpoint), str(out), "--vae", str(vae)]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        assert [entry.name for entry in out.parent.iterdir()] == ["pipeline"]
        pipe = LatentSlotDiffusionPipeline.from_pretrained(out)
        same_weights(pipe, load_official(checkpoint))
        assert pipe.vae is not None

    def test_without_a_vae(self, checkpoint: Path, tmp_path: Path) -> None:
        assert main(["import-official", str(checkpoint), str(tmp_path / "out")]) == 0
        assert LatentSlotDiffusionPipeline.from_pretrained(tmp_path / "out").vae is None

    @pytest.mark.parametrize("trouble", ["exists", "tensor", "vae", "pickle"])
    def test_errors_are_one_sentence_and_leave_no_files(
        self,
        checkpoint: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        trouble: str,
    ) -> None:
        out = tmp_path / "out"
        arguments = ["import-official", str(checkpoint), str(out)]
        if trouble == "exists":
            out.mkdir()
            expected = f"{out} exists already; name a folder that does not"
        elif trouble == "tensor":
            edit_tensors(checkpoint / SLOTS, lambda tensors: tensors.pop("slot_mu"))
            expected = f"{checkpoint / SLOTS} lacks the tensor slot_mu"
        elif trouble == "vae":
            arguments += ["--vae", str(tmp_path / "no-vae")]
            expected = f"cannot load the VAE '{tmp_path / 'no-vae'}'"
        else:
            pickle_weights(checkpoint / SLOTS, Touch(tmp_path / "code-ran"))
            expected = f"{checkpoint / SLOTS / PICKLED} is damaged, or holds objects other than"
        before = sorted(tmp_path.iterdir())
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith(f"latentslots import-official: {expected}")
        assert sorted(tmp_path.iterdir()) == before
