"""Every recipe: round trip, shrunk, built. training/test_recipes_run.py trains them."""

import dataclasses
import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from latentslots.build.methods import build_objective
from latentslots.config import (
    AutoencoderConfig,
    DinosaurConfig,
    LSDConfig,
    MethodConfig,
    MLPDecoderConfig,
    SlateConfig,
    SlotAttentionConfig,
    StableLSDConfig,
    TrainConfig,
    TransformerDecoderConfig,
    UNetEncoderConfig,
)
from latentslots.config import methods as method_configs
from latentslots.config import networks as network_configs
from latentslots.config import run as run_configs
from latentslots.config.io import dumps, from_dict
from latentslots.models import AutoregressiveDecoder
from latentslots.objectives import (
    AutoencoderObjective,
    DinosaurObjective,
    LatentSlotDiffusionObjective,
    SlateObjective,
    SlotAttentionObjective,
)
from latentslots.objectives.auxiliary import ContrastLoss, GuidanceLoss, PatchLoss
from latentslots.pipelines.inference import InferenceSettings
from latentslots.recipes import RECIPES, recipe

LEAVES = Path(__file__).parent / "config_leaves.txt"
METHODS = (
    LSDConfig,
    StableLSDConfig,
    SlotAttentionConfig,
    SlateConfig,
    DinosaurConfig,
    AutoencoderConfig,
)


@pytest.fixture(params=RECIPES)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return recipe(request.param)


@pytest.fixture
def small(
    config: TrainConfig,
    scenes_store: Path,
    tiny_vae_dir: Path,
    tiny_vit_dir: Path,
    tiny_diffusion_dir: Path,
) -> TrainConfig:
    return shrink(
        config,
        data=scenes_store,
        vae=tiny_vae_dir,
        vit=tiny_vit_dir,
        diffusion=tiny_diffusion_dir,
    )


def shrink(
    config: TrainConfig,
    *,
    data: Path,
    vae: Path,
    vit: Path = Path("nowhere"),
    diffusion: Path = Path("nowhere"),
) -> TrainConfig:
    """The same choices at the least sizes: 32 px, eight channels."""
    method: Any = config.method
    if isinstance(method, DinosaurConfig):
        method = replace(
            method,
            num_slots=3,
            slot_dim=8,
            slot_mlp_dim=8,
            encoder=replace(method.encoder, name=str(vit), image_size=32),
            decoder=shrink_decoder(method.decoder),
        )
    elif isinstance(method, StableLSDConfig):
        method = replace(
            method,
            num_slots=3,
            slot_dim=8,
            slot_mlp_dim=8,
            encoder=replace(
                method.encoder,
                name=str(vit),
                image_size=32,
                num_layers=min(method.encoder.num_layers, 2),
            ),
            unet=replace(method.unet, name=str(diffusion)),
            guidance_blocks=("up_blocks.1",),
        )
    elif not isinstance(method, AutoencoderConfig):
        encoder: Any = replace(method.encoder, out_channels=8)
        if isinstance(encoder, UNetEncoderConfig):
            encoder = narrow(encoder, attention_head_dim=8)
        else:
            encoder = replace(encoder, channels=8)
        method = replace(method, num_slots=3, slot_dim=8, slot_mlp_dim=8, encoder=encoder)
    if isinstance(method, LSDConfig):
        method = replace(method, unet=narrow(method.unet, num_attention_heads=2), vae=str(vae))
    elif isinstance(method, SlotAttentionConfig):
        method = replace(method, decoder=replace(method.decoder, channels=8))
    elif isinstance(method, SlateConfig):
        dvae = replace(method.dvae, vocab_size=8, channels=8)
        method = replace(method, dvae=dvae, decoder=shrink_decoder(method.decoder))
    elif isinstance(method, AutoencoderConfig):
        method = narrow(method)
    return replace(
        config,
        method=method,
        data=replace(config.data, path=str(data), resolution=32, num_workers=0),
    )


def shrink_decoder(decoder: Any) -> Any:
    if isinstance(decoder, MLPDecoderConfig):
        return replace(decoder, mlp_dim=8)
    return replace(decoder, hidden_dim=8, num_layers=2, num_heads=2)


def narrow(part: Any, **changes: Any) -> Any:
    """With as many levels, each of eight channels."""
    widths = (8,) * len(part.block_out_channels)
    return replace(part, block_out_channels=widths, norm_num_groups=4, **changes)


def leaves(cls: type, where: str = "") -> Iterator[str]:
    """The path of every knob; a method's by its kind."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        hint, path = hints[field.name], f"{where}{field.name}"
        options = METHODS if hint is MethodConfig else get_args(hint) or (hint,)
        for option in options:
            if dataclasses.is_dataclass(option):
                name = f"{path}[{option.kind}]" if len(options) > 1 else path
                yield from leaves(option, f"{name}.")
        if not any(dataclasses.is_dataclass(option) for option in options):
            yield path


def test_a_json_round_trip_keeps_everything(config: TrainConfig) -> None:
    assert from_dict(json.loads(dumps(config))) == config


def test_its_docstring_states_cost_and_result(config: TrainConfig) -> None:
    name = next(name for name, function in RECIPES.items() if function() == config)
    summary, _, rest = inspect.getdoc(RECIPES[name]).partition("\n")
    assert summary.endswith(".")
    assert len(rest.split()) >= 5  # what it costs, what to expect


@pytest.mark.parametrize(
    "name", ["lsd-clevr", "lsd-clevr-mix", "lsd-clevrtex", "lsd-ffhq", "lsd-movi-c"]
)
def test_its_docstring_states_which_hyper_parameters_are_unknown(name: str) -> None:
    said = inspect.getdoc(RECIPES[name])
    assert "nknown" in said
    ours = said.partition("ours")[2]
    assert "lsd-movi-e" in ours or "lsd-clevr" in ours


def test_names_are_those_of_their_functions() -> None:
    assert list(RECIPES) == sorted(RECIPES)
    for name, function in RECIPES.items():
        assert function.__name__.replace("_", "-") == name


def test_the_recipes_of_every_kind_of_user_are_there() -> None:
    assert {"lsd-smoke", "autoencoder", "lsd-nlvr-64", "lsd-movi-e", "slot-attention-64"} <= set(
        RECIPES
    )
    assert {"slate-64", "dinosaur-coco"} <= set(RECIPES)


def test_an_unknown_recipe_is_named_with_the_nearest_and_with_all() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'lsd-nlvr', only (.*); did you mean lsd-nlvr"):
        recipe("lsd-nlvr")
    with pytest.raises(ValueError, match=", ".join(RECIPES)):
        recipe("zzz")


def test_every_knob_is_in_the_reviewed_list() -> None:
    """Adding one is a change of tests/config_leaves.txt, which someone reviews."""
    assert list(leaves(TrainConfig)) == LEAVES.read_text().splitlines()


def test_every_knob_is_documented() -> None:
    """The string under a field is its help."""
    source = "\n".join(
        inspect.getsource(module) for module in (method_configs, network_configs, run_configs)
    )
    names = {path.rsplit(".", 1)[-1] for path in leaves(TrainConfig)}
    lines = source.splitlines()
    for name in names:
        places = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
        assert places, name
        for place in places:
            assert lines[place + 1].startswith('    """'), name


def test_builds_the_parts_of_its_config(small: TrainConfig) -> None:
    objective = build_objective(small)
    method = small.method
    if isinstance(method, AutoencoderConfig):
        assert isinstance(objective, AutoencoderObjective)
        assert objective.mse_weight == method.mse_weight
        assert objective.kl_weight == method.kl_weight
        assert objective.vae.config.latent_channels == method.latent_channels
        assert tuple(objective.vae.config.block_out_channels) == method.block_out_channels
        return
    if not isinstance(method, DinosaurConfig | StableLSDConfig):
        for name, value in dataclasses.asdict(method.encoder).items():
            assert tuple_or_value(objective.encoder.config[name]) == value, name
    assert objective.inference == InferenceSettings(
        method.num_inference_slots, method.merge_overlap
    )
    if isinstance(method, StableLSDConfig):
        builds_stable(objective, method)
        return
    if not isinstance(method, LSDConfig):
        builds_baseline(objective, method)
        return
    assert isinstance(objective, LatentSlotDiffusionObjective)
    slots, unet = objective.slot_encoder.config, objective.unet.config
    assert slots.num_slots == 3
    names = ("slot_init", "bi_level", "num_iterations", "num_heads", "temperature", "position")
    for name in names:
        assert slots[name] == getattr(method, name), name
    for name in ("block_out_channels", "attention_levels", "layers_per_block", "position"):
        assert tuple_or_value(unet[name]) == getattr(method.unet, name), name
    assert objective.noise_schedule.config.prediction_type == method.prediction_type
    for name in ("snr_gamma", "timestep_shift", "condition_dropout"):
        assert getattr(objective, name) == getattr(method, name), name
    if method.patch_decoder_weight:
        (added,) = objective.auxiliary
        assert isinstance(added, PatchLoss)
        assert added.patch_decoder is objective.patch_decoder
        assert added.weight == method.patch_decoder_weight
        assert added.distillation_weight == method.mask_distillation_weight
        assert (added.patch_size, added.plain_steps) == (
            method.patch_size,
            method.patch_plain_steps,
        )
    else:
        assert (objective.patch_decoder, objective.auxiliary) == (None, ())
    assert objective.slot_encoder.can_drop_condition == (
        method.condition_dropout > 0 or method.num_registers > 0
    )
    assert objective.resolution == 32
    assert unet.sample_size == 16  # the tiny VAE halves


def builds_stable(objective: Any, method: StableLSDConfig) -> None:
    assert isinstance(objective, LatentSlotDiffusionObjective)
    encoder, unet, slots = objective.encoder, objective.unet, objective.slot_encoder.config
    for name in ("image_size", "num_layers"):
        assert encoder.config[name] == getattr(method.encoder, name), name
    for name in ("tuned", "lora_rank"):
        assert unet.config[name] == getattr(method.unet, name), name
    names = ("num_slots", "slot_dim", "num_iterations", "num_heads", "slot_init", "bi_level")
    for name in (*names, "position"):
        assert slots[name] == getattr(method, name), name
    assert slots.mlp_dim == method.slot_mlp_dim
    assert slots.in_channels == 8 * method.encoder.num_layers
    assert slots.cross_attention_dim == unet.cross_attention_dim
    added = {type(one): one for one in objective.auxiliary}
    assert (GuidanceLoss in added, ContrastLoss in added) == (
        method.guidance_weight > 0,
        method.contrastive_weight > 0,
    )
    if guidance := added.get(GuidanceLoss):
        assert (guidance.weight, guidance.blocks) == (
            method.guidance_weight,
            method.guidance_blocks,
        )
    if contrast := added.get(ContrastLoss):
        assert (contrast.weight, contrast.start) == (
            method.contrastive_weight,
            method.contrastive_start,
        )
    for name in ("snr_gamma", "timestep_shift", "condition_dropout", "include_pretrained"):
        assert getattr(objective, name) == getattr(method, name), name
    assert objective.noise_schedule.config.prediction_type == "v_prediction"  # the folder's own
    learns = {"slot_encoder"} if method.unet.tuned == "nothing" else {"slot_encoder", "unet"}
    assert set(objective.trained()) == learns


def builds_baseline(objective: Any, method: Any) -> None:
    classes = {
        SlotAttentionConfig: SlotAttentionObjective,
        SlateConfig: SlateObjective,
        DinosaurConfig: DinosaurObjective,
    }
    assert isinstance(objective, classes[type(method)])
    names = ["slot_init", "num_iterations", "num_slots", "slot_dim"]
    if isinstance(method, DinosaurConfig):
        assert objective.encoder.config.image_size == method.encoder.image_size
        assert objective.slot_encoder.config.position == "none"
        assert objective.decoder.config.learned_position_size == 4  # 32 px by patches of 8
    else:
        names.append("position")
    for name in names:
        assert objective.slot_encoder.config[name] == getattr(method, name), name
    for name, value in dataclasses.asdict(method.decoder).items():
        assert objective.decoder.config[name] == value, name
    if isinstance(method, SlotAttentionConfig):
        assert objective.decoder.config.position == method.position
    if isinstance(method, SlateConfig):
        assert objective.temperature_steps == method.dvae.temperature_steps
        for name in ("vocab_size", "patch_size", "channels"):
            assert objective.dvae.config[name] == getattr(method.dvae, name), name
        assert objective.decoder.config.num_tokens == 64  # 32 px by patches of 4


def tuple_or_value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if getattr(recipe(name).method, "vae", "") == "bundled"]
)
def test_the_bundled_vae_fits(name: str) -> None:
    """Recipes that name the bundled autoencoder have a resolution that it divides."""
    config = recipe(name)
    objective = build_objective(config)
    assert objective.vae.config.latent_channels == objective.unet.config.in_channels == 8
    assert objective.unet.config.sample_size == config.data.resolution // 4


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_is_switched_on(
    scenes_store: Path, tiny_vae_dir: Path, checkpointing: bool
) -> None:
    config = shrink(recipe("lsd-movi-e"), data=scenes_store, vae=tiny_vae_dir)
    objective = build_objective(replace(config, gradient_checkpointing=checkpointing))
    assert objective.unet.is_gradient_checkpointing == checkpointing
    assert objective.encoder.is_gradient_checkpointing == checkpointing


@pytest.mark.parametrize("name", ["lsd-smoke", "lsd-movi-e"])  # residual blocks, and a U-Net
def test_a_resolution_that_the_encoder_does_not_divide_is_named(
    name: str, scenes_store: Path, tiny_vae_dir: Path
) -> None:
    config = shrink(recipe(name), data=scenes_store, vae=tiny_vae_dir)
    encoder = replace(config.method.encoder, downscale_factor=5)
    config = replace(config, method=replace(config.method, encoder=encoder))
    with pytest.raises(ValueError, match=r"a multiple of the encoder's \d+ pixels, got 32"):
        build_objective(config)


def test_a_resolution_that_the_dvae_does_not_divide_is_named(
    scenes_store: Path, tiny_vae_dir: Path
) -> None:
    config = shrink(recipe("slate-64"), data=scenes_store, vae=tiny_vae_dir)
    config = replace(config, data=replace(config.data, resolution=34))
    with pytest.raises(ValueError, match="of the dVAE's 4 pixels per patch, got 34"):
        build_objective(config)


def test_dinosaur_accepts_the_transformer_decoder(
    scenes_store: Path, tiny_vae_dir: Path, tiny_vit_dir: Path
) -> None:
    config = recipe("dinosaur-coco")
    method = replace(config.method, decoder=TransformerDecoderConfig())
    config = shrink(
        replace(config, method=method), data=scenes_store, vae=tiny_vae_dir, vit=tiny_vit_dir
    )
    decoder = build_objective(config).decoder
    assert isinstance(decoder, AutoregressiveDecoder)
    assert (decoder.config.in_dim, decoder.config.out_dim, decoder.config.num_tokens) == (8, 8, 16)


@pytest.fixture
def stable(scenes_store: Path, tiny_vit_dir: Path, tiny_diffusion_dir: Path) -> TrainConfig:
    return shrink(
        recipe("stable-lsd-voc"),
        data=scenes_store,
        vae=Path("nowhere"),
        vit=tiny_vit_dir,
        diffusion=tiny_diffusion_dir,
    )


def test_the_contrastive_loss_requires_two_images_per_batch(stable: TrainConfig) -> None:
    with pytest.raises(ValueError, match="train_batch_size must be at least 2, got 1"):
        build_objective(replace(stable, train_batch_size=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"registers": "learned"}, "num_registers must be above 0 .* got 0 with 'learned'"),
        ({"num_registers": 3}, "and 0 otherwise; got 3 with 'empty-prompt'"),
        ({"vae": "bundled"}, "latents of 4 channels, and the VAE 'bundled' has 8"),
        (
            {"guidance_blocks": ("up_blocks.0",)},
            "no block up_blocks.0 .* it has down_blocks.0, mid",
        ),
    ],
)
def test_options_that_do_not_fit_stable_lsd_are_named(
    stable: TrainConfig, changes: dict[str, Any], message: str
) -> None:
    changed = {name: value for name, value in changes.items() if name != "resolution"}
    data = replace(stable.data, resolution=changes.get("resolution", 32))
    config = replace(stable, method=replace(stable.method, **changed), data=data)
    with pytest.raises(ValueError, match=message):
        build_objective(config)


def test_a_resolution_that_the_vae_does_not_divide_is_named(
    scenes_store: Path, tiny_vae_dir: Path
) -> None:
    config = shrink(recipe("lsd-smoke"), data=scenes_store, vae=tiny_vae_dir)
    config = replace(config, data=replace(config.data, resolution=33))
    with pytest.raises(ValueError, match="a multiple of the VAE's 2 pixels per latent, got 33"):
        build_objective(config)
