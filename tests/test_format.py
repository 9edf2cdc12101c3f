"""The pipeline folder is a saved format: the modules of its classes must never move."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from latentslots.pipelines import LatentSlotDiffusionPipeline

GOLDEN_INDEX = {
    "_class_name": "LatentSlotDiffusionPipeline",
    "_latentslots_format": 2,
    "encoder": ["latentslots.models.unet_encoder", "UNetEncoder"],
    "slot_encoder": ["latentslots.models.slot_attention", "SlotEncoder"],
    "unet": ["latentslots.models.slot_unet", "SlotUNet"],
    "vae": ["diffusers", "AutoencoderKL"],
    "patch_decoder": [None, None],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "resolution": 32,
    "inference": {"num_slots": 0, "merge_overlap": 0.0, "merge_error": 0.0},
}
NOT_OURS = ("_diffusers_version", "_name_or_path")
FILES = {
    "model_index.json",
    "encoder/config.json",
    "encoder/diffusion_pytorch_model.safetensors",
    "slot_encoder/config.json",
    "slot_encoder/diffusion_pytorch_model.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
}


def index(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "model_index.json").read_text())
    return {key: value for key, value in content.items() if key not in NOT_OURS}


def test_modules_and_classes_stay_where_they_are(tiny_pipeline_dir: Path) -> None:
    assert index(tiny_pipeline_dir) == GOLDEN_INDEX


def test_files_stay_where_they_are(tiny_pipeline_dir: Path) -> None:
    files = {
        file.relative_to(tiny_pipeline_dir).as_posix()
        for file in tiny_pipeline_dir.rglob("*")
        if file.is_file()
    }
    assert files == FILES


def test_an_absent_vae_is_recorded_as_such(tiny_pipeline_dir: Path, tmp_path: Path) -> None:
    LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir, vae=None).save_pretrained(
        tmp_path
    )
    found = index(tmp_path)
    assert found["vae"] in ([None, None], None)  # None: diffusers 0.40
    assert found == {**GOLDEN_INDEX, "vae": found["vae"]}


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "slot_encoder",
            {
                "slot_mean",
                "slot_log_std",
                "position_embedding.projection.weight",
                "position_embedding.projection.bias",
                "norm_in.weight",
                "norm_in.bias",
                "mlp_in.0.weight",
                "mlp_in.0.bias",
                "mlp_in.2.weight",
                "mlp_in.2.bias",
                "slot_attention.norm_inputs.weight",
                "slot_attention.norm_inputs.bias",
                "slot_attention.norm_slots.weight",
                "slot_attention.norm_slots.bias",
                "slot_attention.norm_mlp.weight",
                "slot_attention.norm_mlp.bias",
                "slot_attention.to_query.weight",
                "slot_attention.to_key.weight",
                "slot_attention.to_value.weight",
                "slot_attention.gru.weight_ih",
                "slot_attention.gru.weight_hh",
                "slot_attention.gru.bias_ih",
                "slot_attention.gru.bias_hh",
                "slot_attention.mlp.0.weight",
                "slot_attention.mlp.0.bias",
                "slot_attention.mlp.2.weight",
                "slot_attention.mlp.2.bias",
                "norm_out.weight",
                "norm_out.bias",
                "linear_out.weight",
                "linear_out.bias",
            },
        ),
    ],
)
def test_weights_keep_their_names(
    tiny_pipeline: LatentSlotDiffusionPipeline, part: str, names: set[str]
) -> None:
    assert set(tiny_pipeline.components[part].state_dict()) == names


def test_the_denoisers_positions_keep_their_names(
    tiny_pipeline: LatentSlotDiffusionPipeline,
) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.position.projection"
    assert f"{name}.weight" in tiny_pipeline.unet.state_dict()
    assert set(tiny_pipeline.encoder.state_dict()) >= {"stem.weight", "unet.conv_in.weight"}


def test_a_folder_without_an_entry_for_the_patch_decoder_loads(
    tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_pipeline_dir, tmp_path / "old")
    file = tmp_path / "old" / "model_index.json"
    known = json.loads(file.read_text())
    del known["patch_decoder"]
    file.write_text(json.dumps(known))
    assert LatentSlotDiffusionPipeline.from_pretrained(tmp_path / "old").patch_decoder is None


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_permissions_of_the_umask(
    tiny_pipeline: LatentSlotDiffusionPipeline, tmp_path: Path, umask: int, mode: int
) -> None:
    """safetensors alone would write files that nobody else can read."""
    before = os.umask(umask)
    try:
        tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    finally:
        os.umask(before)
    files = [file for file in (tmp_path / "pipeline").rglob("*") if file.is_file()]
    assert {file.stat().st_mode & 0o777 for file in files} == {mode}
