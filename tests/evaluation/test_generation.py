from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor, nn

from latentslots.config.sampling import Sampling
from latentslots.evaluation.features import AutoencoderFeatures, load_features
from latentslots.evaluation.generation import (
    compare_with_real,
    compositional_consistency,
    shuffle_patches,
)
from tests import tiny


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(5, 4, tiny.SLOT_DIM)


class _Output:
    def __init__(self, slots: Tensor, slots_mask: Tensor | None = None) -> None:
        self.slots, self.slots_mask = slots, slots_mask


class _Predicts:
    """Predicts `scenes[i]` for image i."""

    def __init__(self, scenes: Tensor, slots_mask: Tensor | None = None) -> None:
        self.scenes, self.slots_mask, self.place = scenes, slots_mask, 0

    def encode_pixel_values(self, pixel_values: Tensor, *, generator: Any) -> _Output:
        part = slice(self.place, self.place + len(pixel_values))
        self.place += len(pixel_values)
        mask = None if self.slots_mask is None else self.slots_mask[part]
        return _Output(self.scenes[part], mask)


def test_slots_that_are_predicted_again_are_consistent(slots: Tensor) -> None:
    library, images = torch.randn(500, tiny.SLOT_DIM), torch.zeros(5, 3, 32, 32)
    turned = slots[:, [2, 0, 3, 1]] + 0.05 * torch.randn_like(slots)
    assert compositional_consistency(_Predicts(turned), slots, images, library, batch_size=2) == 1
    half = turned.clone()
    half[:, :2] = torch.randn(5, 2, tiny.SLOT_DIM)
    found = compositional_consistency(_Predicts(half), slots, images, library, batch_size=2)
    assert 0.4 < found < 0.7


def test_consistency_agrees_with_a_loop_over_slots(slots: Tensor) -> None:
    library, images = torch.randn(500, tiny.SLOT_DIM), torch.zeros(5, 3, 32, 32)
    seen = slots[:, [1, 3, 2, 0]] + 1.2 * torch.randn_like(slots)
    draws = torch.Generator().manual_seed(3)
    hits = 0
    for scene, predicted in zip(slots.numpy(), seen.numpy(), strict=True):
        others = library[torch.randint(500, (100,), generator=draws)].numpy()
        rows, columns = linear_sum_assignment(cdist(scene, predicted, "cosine"))
        for mine, partner in zip(rows, columns, strict=True):
            own = cdist(predicted[partner][None], scene[mine][None], "cosine")[0, 0]
            hits += bool(own < cdist(predicted[partner][None], others, "cosine").min())
    assert 0 < hits < 20
    found = compositional_consistency(_Predicts(seen), slots, images, library, seed=3, batch_size=2)
    assert found == hits / 20


def test_chance_is_one_in_a_hundred_and_one() -> None:
    slots, others = torch.randn(2000, 1, 8), torch.randn(2000, 1, 8)
    images = torch.zeros(2000, 3, 8, 8)
    found = compositional_consistency(_Predicts(others), slots, images, torch.randn(5000, 8))
    assert 0.004 < found < 0.018


def test_slots_that_do_not_exist_do_not_count(slots: Tensor) -> None:
    library, images = torch.randn(500, tiny.SLOT_DIM), torch.zeros(5, 3, 32, 32)
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[:, 3] = False
    there = slots.clone()
    there[:, 3] = 0
    sees = _Predicts(there, mask)
    found = compositional_consistency(sees, slots, images, library, slots_mask=mask)
    assert found == 1
    found = compositional_consistency(_Predicts(there, mask), slots, images, library)
    assert found == 0.75, "a slot without a match is not found"


def test_shuffled_patches_are_all_there() -> None:
    images = torch.rand(3, 3, 16, 16)
    shuffled = shuffle_patches(images, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled, images)
    for before, after in zip(images, shuffled, strict=True):
        tiles = [
            {tuple(x[:, r : r + 8, c : c + 8].flatten().tolist()) for r in (0, 8) for c in (0, 8)}
            for x in (before, after)
        ]
        assert tiles[0] == tiles[1]
    with pytest.raises(ValueError, match="8 px do not fill an image of 20 x 16 pixels"):
        shuffle_patches(torch.rand(1, 3, 16, 20))


class _MeanColor(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_generated_images_are_measured_beside_references() -> None:
    real = torch.rand(40, 3, 16, 16) * torch.rand(40, 3, 1, 1)
    report = compare_with_real(
        _MeanColor(),
        (real + 0.5).roll(1, dims=0),
        real,
        real.flip(0),
        name="mean color",
        sampler="DDIMScheduler",
        sampling=Sampling(guidance_scale=1.5, seed=3),
        consistency=0.5,
    )
    assert report.frechet == pytest.approx(3 * 0.25, abs=1e-4)
    assert report.floor == pytest.approx(0, abs=1e-5)
    assert report.ceiling == pytest.approx(0, abs=1e-5), "shuffling keeps the mean color"
    assert report.kernel[0] > 0
    text = report.to_markdown()
    assert "FID" not in text
    assert "40 images at 16 px" in text
    assert "DDIMScheduler, 25 steps, guidance 1.5, seed 3" in text
    assert "| compositional consistency (chance 0.010) | 0.500 |" in text


def test_reconstructions_are_a_reference_of_their_own() -> None:
    real = torch.rand(40, 3, 16, 16) * torch.rand(40, 3, 1, 1)
    report = compare_with_real(
        _MeanColor(),
        real,
        real,
        reconstructions=real + 0.1,
        name="mean color",
        sampler="DDIMScheduler",
        sampling=Sampling(),
    )
    assert report.reconstructions == pytest.approx(3 * 0.01, abs=1e-4)
    assert "real images from their slots | 0.030 |" in report.to_markdown()
    assert "other real images | - |" in report.to_markdown()


@pytest.mark.usefixtures("unchecked")
def test_sets_of_different_size_are_not_compared() -> None:
    images = torch.rand(6, 3, 16, 16)
    with pytest.raises(
        ValueError, match="for 6 generated images there must be as many real ones, got"
    ):
        compare_with_real(
            _MeanColor(), images, images[:4], name="x", sampler="y", sampling=Sampling()
        )


class TestFeatures:
    def test_a_module_of_other_code(self) -> None:
        features, name = load_features("module:tests.evaluation.test_generation:_MeanColor")
        assert name == "tests.evaluation.test_generation:_MeanColor"
        assert features(torch.ones(1, 3, 8, 8)).tolist() == [[1.0, 1.0, 1.0]]
        with pytest.raises(ValueError, match="there is no 'Nobody' in 'tests'"):
            load_features("module:tests:Nobody")
        with pytest.raises(ValueError, match="returned a dict, not a torch module"):
            load_features("module:builtins:dict")

    def test_those_of_the_autoencoder_are_what_it_sees(self, tiny_vae: Any) -> None:
        images = torch.rand(2, 3, 32, 32)
        features = AutoencoderFeatures(tiny_vae)(images)
        encoder, hidden = tiny_vae.encoder, tiny_vae.encoder.conv_in(images * 2 - 1)
        for block in encoder.down_blocks:
            hidden = block(hidden)
        hidden = encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(hidden))).flatten(2)
        expected = torch.cat([hidden.mean(dim=2), hidden.std(dim=2)], dim=1)
        torch.testing.assert_close(features, expected)

    def test_the_bundled_ones_are_not_called_fid(self) -> None:
        features, name = load_features("bundled")
        assert name == "bundled-autoencoder"
        assert features(torch.rand(2, 3, 64, 64)).shape == (2, 256)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
    @pytest.mark.parametrize("with_option", [True, False])
    def test_a_torchscript_file_gets_bytes(self, with_option: bool, tmp_path: Path) -> None:
        class Plain(nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.to(torch.float32).mean(dim=(2, 3))

        class Inception(nn.Module):
            def forward(self, images: Tensor, return_features: bool = False) -> Tensor:
                means = images.to(torch.float32).mean(dim=(2, 3))
                return means if return_features else means[:, :1]

        path = tmp_path / "inception.pt"
        torch.jit.script(Inception() if with_option else Plain()).save(path)
        features, name = load_features(f"inception:{path}")
        assert name == "inception"
        found = features(torch.full((2, 3, 8, 8), 100.4 / 255))
        torch.testing.assert_close(found, torch.full((2, 3), 100.0))

    def test_a_dinov2_folder_gives_its_class_token(self, tmp_path: Path) -> None:
        from transformers import Dinov2Config, Dinov2Model

        config = Dinov2Config(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, patch_size=56, image_size=224
        )
        Dinov2Model(config).save_pretrained(tmp_path / "dino")
        features, name = load_features(f"dinov2:{tmp_path / 'dino'}")
        images = torch.rand(2, 3, 32, 32)
        found = features(images)
        assert name.startswith("dinov2 ")
        assert found.shape == (2, 8)
        torch.testing.assert_close(features(images[1:]), found[1:])

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("fid", "features must be bundled, inception:FILE"),
            ("inception:/nowhere/x.pt", "there is no file /nowhere/x.pt; the standard weights"),
            ("dinov2:/nowhere/dino", "cannot load a DINOv2 from '/nowhere/dino'"),
        ],
    )
    def test_features_that_cannot_be_loaded_are_named(self, name: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            load_features(name)

    def test_a_file_of_another_kind_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "x.pt").write_bytes(b"no network")
        with pytest.raises(ValueError, match=r"x\.pt is not a TorchScript file"):
            load_features(f"inception:{tmp_path / 'x.pt'}")


def test_a_slot_is_not_compared_with_itself(slots: Tensor) -> None:
    """Even if the library holds the scenes' own slots only."""
    images = torch.zeros(5, 3, 32, 32)
    seen = _Predicts(slots + 0.01 * torch.randn_like(slots))
    assert compositional_consistency(seen, slots, images, slots.flatten(0, 1)) == 1
