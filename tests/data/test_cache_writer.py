import json
import pickle
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from latentslots.data import (
    DataError,
    ImageDataset,
    LatentCache,
    build_loader,
    cache_latents,
    dataset_fingerprint,
    load_dataset,
)
from latentslots.data.loading import cache_writer
from latentslots.fingerprint import model_fingerprint

from .conftest import noise_image, snapshot, tiny_vae

RESOLUTION = 16


def make(nlvr: Dataset, vae: AutoencoderKL, path: Path, **options: Any) -> LatentCache:
    return cache_latents(
        nlvr, vae, path, **{"resolution": RESOLUTION, "batch_size": 4, "flip": True, **options}
    )


def reopen(nlvr: Dataset, vae: AutoencoderKL, path: Path, **options: Any) -> LatentCache:
    needed = {
        "fingerprint": model_fingerprint(vae),
        "resolution": RESOLUTION,
        "dataset_fingerprint": dataset_fingerprint(nlvr),
    }
    return LatentCache.open(path, **{**needed, **options})


@pytest.fixture(scope="module")
def made(nlvr: Dataset, vae: AutoencoderKL, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(nlvr, vae, tmp_path_factory.mktemp("cache") / "latents").path


@pytest.mark.parametrize("flip", [False, True])
def test_it_holds_the_posterior_of_the_vae(
    nlvr: Dataset, vae: AutoencoderKL, made: Path, flip: bool
) -> None:
    cache = reopen(nlvr, vae, made)
    assert len(cache) == 12
    for index in (0, 7, 11):
        pixels = ImageDataset(nlvr, RESOLUTION)[index, flip]["pixel_values"]
        with torch.no_grad():
            posterior = vae.encode(pixels[None]).latent_dist
        mean, std = cache[index, flip]
        assert mean.dtype == std.dtype == torch.float32
        assert mean.shape == (3, 8, 8)
        torch.testing.assert_close(mean, posterior.mean[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(std, posterior.std[0], atol=1e-3, rtol=1e-3)


def test_a_flipped_image_has_other_latents(nlvr: Dataset, vae: AutoencoderKL, made: Path) -> None:
    cache = reopen(nlvr, vae, made)
    plain, flipped = cache[0, False][0], cache[0, True][0]
    assert not torch.allclose(plain, flipped)
    # A convolution is not symmetric, so flipping the latents instead would be wrong.
    assert not torch.allclose(plain.flip(-1), flipped)


def test_batches_hold_the_latents_of_their_rows(
    nlvr: Dataset, vae: AutoencoderKL, made: Path
) -> None:
    cache = reopen(nlvr, vae, made)
    loader = build_loader(
        ImageDataset(nlvr, RESOLUTION, latents=cache), batch_size=6, random_flip=True
    )
    batch = next(iter(loader))
    requests = next(iter(loader.batch_sampler))
    assert len({flip for _, flip in requests}) == 2
    for place, request in enumerate(requests):
        assert torch.equal(batch["latent_mean"][place], cache[request][0])
        assert torch.equal(batch["latent_std"][place], cache[request][1])


def test_arrays_are_half_precision_and_memory_mapped(made: Path) -> None:
    array = np.load(made / "plain" / "mean.npy", mmap_mode="r")
    assert array.dtype == np.float16
    assert array.shape == (12, 3, 8, 8)
    assert sorted(name for name in snapshot(made) if not name.startswith(".")) == [
        f"{folder}/{name}" for folder in ("flip", "plain") for name in ("cache.json", *ARRAYS)
    ]


ARRAYS = ("mean.npy", "std.npy")


def test_a_pickle_does_not_contain_the_arrays(
    nlvr: Dataset, vae: AutoencoderKL, made: Path
) -> None:
    cache = reopen(nlvr, vae, made)
    mean, _ = cache[0, False]
    content = pickle.dumps(cache)
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content)[0, False][0], mean)


@pytest.mark.parametrize("flip", [False, True])
def test_an_interrupted_call_is_resumed(
    nlvr: Dataset,
    vae: AutoencoderKL,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flip: bool,
) -> None:
    path = tmp_path / "latents"
    real, calls = cache_writer._encode_latents, []

    def encode(*args: Any) -> Any:
        if len(calls) == (5 if flip else 2):
            raise KeyboardInterrupt
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(cache_writer, "_encode_latents", encode)
    with pytest.raises(KeyboardInterrupt):
        make(nlvr, vae, path)
    assert path.joinpath("plain").exists() == flip
    assert not path.joinpath("flip").exists()
    if not flip:
        with pytest.raises(DataError, match="there is no cache of latents at"):
            reopen(nlvr, vae, path)

    calls.clear()
    monkeypatch.setattr(cache_writer, "_encode_latents", lambda *a: calls.append(a) or real(*a))
    make(nlvr, vae, path)
    assert len(calls) == (1 if flip else 4)  # of six batches
    assert snapshot(path) == snapshot(made)


def test_a_killed_call_is_resumed_from_the_last_save(
    nlvr: Dataset, vae: AutoencoderKL, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = cache_writer._encode_latents, []

    def encode(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            shutil.copytree(tmp_path / "latents", tmp_path / "killed")
        return real(*args)

    monkeypatch.setattr(cache_writer, "_BATCHES_BETWEEN_SAVES", 1)
    monkeypatch.setattr(cache_writer, "_encode_latents", encode)
    make(nlvr, vae, tmp_path / "latents", flip=False)
    make(nlvr, vae, tmp_path / "killed", flip=False)
    assert len(calls) == 3 + 1  # two of three batches were saved
    assert snapshot(tmp_path / "killed" / "plain") == snapshot(made / "plain")


def test_an_interrupted_cache_of_other_data_is_deleted(
    nlvr: Dataset,
    vae: AutoencoderKL,
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cache_writer, "_encode_latents", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make(nlvr, tiny_vae(seed=1), tmp_path / "latents")
    monkeypatch.undo()
    make(nlvr, vae, tmp_path / "latents")
    assert snapshot(tmp_path / "latents") == snapshot(made)
    assert "was made from other data or models: starting over" in caplog.text


def test_a_complete_cache_is_not_made_again(
    nlvr: Dataset, vae: AutoencoderKL, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_writer, "_encode_latents", lambda *_: 1 / 0)
    assert make(nlvr, vae, made).has_flip


def test_flips_can_be_added_later(nlvr: Dataset, vae: AutoencoderKL, tmp_path: Path) -> None:
    plain = make(nlvr, vae, tmp_path / "latents", flip=False)
    assert not plain.has_flip
    with pytest.raises(DataError, match="has none of flipped images"):
        plain[0, True]
    with pytest.raises(DataError, match="random_flip needs the latents of flipped images"):
        build_loader(ImageDataset(nlvr, RESOLUTION, latents=plain), batch_size=2, random_flip=True)
    assert make(nlvr, vae, tmp_path / "latents").has_flip


def test_another_vae_resolution_or_data_set_is_refused(
    nlvr: Dataset, vae: AutoencoderKL, made: Path
) -> None:
    other = tiny_vae(seed=1)
    with pytest.raises(DataError, match=r"made with another VAE.*: remove it, or choose another"):
        reopen(nlvr, other, made)
    with pytest.raises(DataError, match="made with another VAE"):
        make(nlvr, other, made)
    with pytest.raises(DataError, match="made at resolution 16, not 32"):
        reopen(nlvr, vae, made, resolution=32)
    with pytest.raises(DataError, match="made from other data"):
        reopen(nlvr.select(range(11)), vae, made)
    with pytest.raises(DataError, match="made from other data"):
        make(nlvr.shuffle(seed=0), vae, made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "has format 3, not 2"),
        ({"holds": "features"}, "holds features, not latents"),
        ({"transform": "stretch"}, "another transform \\('stretch'\\)"),
        ({"dtype": "float32"}, "holds float32, not float16"),
    ],
)
def test_each_difference_is_named(
    nlvr: Dataset, vae: AutoencoderKL, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = make(nlvr, vae, tmp_path, flip=False).path / "plain" / "cache.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "0" * 64, **change}))
    with pytest.raises(DataError, match=message):
        reopen(nlvr, vae, tmp_path, fingerprint="0" * 64)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"cache.json is damaged"):
        reopen(nlvr, vae, tmp_path)


def test_a_cache_of_fewer_rows_is_refused(nlvr: Dataset, vae: AutoencoderKL, made: Path) -> None:
    cache = reopen(nlvr, vae, made)
    with pytest.raises(DataError, match="has 12 rows, but the data set has 5"):
        ImageDataset(nlvr.select(range(5)), RESOLUTION, latents=cache)
    with pytest.raises(DataError, match=r"has rows 0\.\.11, got 12"):
        cache[12, False]


def test_a_missing_cache(nlvr: Dataset, vae: AutoencoderKL, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"there is no cache of latents at {tmp_path}"):
        reopen(nlvr, vae, tmp_path)
    (tmp_path / "plain").mkdir()
    with pytest.raises(
        DataError, match=r"exists and is not a cache of latents: it has no cache.json"
    ):
        make(nlvr, vae, tmp_path)


def test_the_fingerprint_of_a_vae() -> None:
    vae = tiny_vae(seed=0)
    first = model_fingerprint(vae)
    assert first == model_fingerprint(tiny_vae(seed=0))
    assert first != model_fingerprint(tiny_vae(seed=1))
    assert first != model_fingerprint(tiny_vae(seed=0).to(torch.bfloat16))
    with torch.no_grad():
        vae.encoder.conv_in.bias[0] += 1e-3
    assert first != model_fingerprint(vae)
    scaled = tiny_vae(seed=0)
    scaled.register_to_config(scaling_factor=0.5)
    assert first != model_fingerprint(scaled)


def test_a_vae_survives_a_save(tmp_path: Path) -> None:
    vae = tiny_vae(seed=0)
    vae.save_pretrained(tmp_path)
    assert model_fingerprint(AutoencoderKL.from_pretrained(tmp_path)) == model_fingerprint(vae)


def test_the_vae_and_the_global_generator_are_unchanged(nlvr: Dataset, tmp_path: Path) -> None:
    vae = tiny_vae(seed=0).train()
    before = torch.get_rng_state()
    make(nlvr, vae, tmp_path, flip=False)
    assert vae.training
    assert torch.equal(torch.get_rng_state(), before)


def test_latents_that_are_not_finite_are_refused(nlvr: Dataset, tmp_path: Path) -> None:
    vae = tiny_vae(seed=0)
    with torch.no_grad():
        vae.quant_conv.bias[0] = 1e6
    with pytest.raises(DataError, match=r"latents of rows 0\.\.3 are not finite in half precision"):
        make(nlvr, vae, tmp_path)
    assert not (tmp_path / "plain").exists()


def test_a_lack_of_disk_space_is_reported_first(
    nlvr: Dataset, vae: AutoencoderKL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 100

    monkeypatch.setattr(cache_writer.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(DataError, match=r"needs 0\.0 GB, but 0\.0 are free"):
        make(nlvr, vae, tmp_path)


def test_a_bad_row_stops_or_is_replaced(vae: AutoencoderKL, tmp_path: Path) -> None:
    for row in range(4):
        noise_image(tmp_path / f"{row}.png", seed=row)
    (tmp_path / "1.png").write_text("x")
    rows = load_dataset(tmp_path)
    with pytest.raises(DataError, match=r"row 1, image \(.*1\.png\) cannot be decoded"):
        make(rows, vae, tmp_path / "latents", batch_size=1)
    cache = make(rows, vae, tmp_path / "latents", batch_size=1, on_bad_sample="skip")
    assert torch.equal(cache[1, False][0], cache[2, False][0])
    assert not torch.equal(cache[0, False][0], cache[1, False][0])
    sample = ImageDataset(rows, RESOLUTION, latents=cache, on_bad_sample="skip")[1]
    assert torch.equal(sample["latent_mean"], cache[2, False][0])


def test_progress_goes_to_stderr(
    nlvr: Dataset, vae: AutoencoderKL, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(nlvr, vae, tmp_path, flip=False, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "latents (plain): 100%" in captured.err


class Older(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(width))


class Newer(Older):
    @register_to_config
    def __init__(self, width: int = 2, option: bool = False) -> None:
        super().__init__(width)


def test_a_new_option_at_its_default_does_not_change_the_fingerprint() -> None:
    assert model_fingerprint(Newer()) == model_fingerprint(Older())
    assert model_fingerprint(Newer(option=True)) != model_fingerprint(Older())


def test_only_one_of_two_callers_makes_the_cache(
    nlvr: Dataset, vae: AutoencoderKL, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second waits for the first, and opens its cache; of the next one either may be first."""
    begun, go_on = threading.Event(), threading.Event()
    encoded = []

    class Slow(AutoencoderKL):
        def encode(self, *arguments: Any) -> Any:
            encoded.append(len(arguments[0]))
            begun.set()
            go_on.wait(30)
            return super().encode(*arguments)

    slow = Slow.from_config(vae.config)
    slow.load_state_dict(vae.state_dict())

    def work() -> None:
        make(nlvr, slow, tmp_path / "made")

    threads = [threading.Thread(target=work) for _ in range(2)]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    while "waiting for it" not in caplog.text:
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join(30)
    by_two = sum(encoded)
    make(nlvr, slow, tmp_path / "again")
    assert sum(encoded) == 2 * by_two, "one caller alone encodes as much as two"
    assert len(list((tmp_path / "made").glob("plain*"))) == 1
