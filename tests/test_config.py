import json
from dataclasses import FrozenInstanceError, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from latentslots.config import (
    AutoencoderConfig,
    DataConfig,
    LSDConfig,
    OptimConfig,
    SlotUNetConfig,
    TrainConfig,
)
from latentslots.config.io import (
    ConfigError,
    differences,
    dumps,
    from_dict,
    load_config,
    to_dict,
)


@pytest.fixture
def config() -> TrainConfig:
    """Every kind of value away from its default."""
    return TrainConfig(
        method=LSDConfig(
            num_slots=5,
            bi_level=True,
            position="learned",
            vae="some/where",
            unet=SlotUNetConfig(block_out_channels=(8, 16), attention_levels=(False, True)),
        ),
        optim=OptimConfig(learning_rate=3e-4),
        max_train_steps=7,
        mixed_precision="bf16",
    )


@pytest.fixture
def values(config: TrainConfig) -> dict[str, Any]:
    return to_dict(config)


def put(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


def test_a_file_round_trip_keeps_everything(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "train_config.json"
    file.write_text(dumps(config))
    assert load_config(file) == config
    assert load_config(str(file)) == config


def test_is_plain_json_that_names_its_method(values: dict[str, Any]) -> None:
    assert json.loads(json.dumps(values)) == values
    assert values["method"]["kind"] == "lsd"
    assert values["method"]["unet"]["block_out_channels"] == [8, 16]
    assert to_dict(TrainConfig(method=AutoencoderConfig()))["method"]["kind"] == "autoencoder"


def test_tuples_are_loaded_as_tuples(values: dict[str, Any]) -> None:
    loaded = from_dict(values)
    assert loaded.method.unet.attention_levels == (False, True)
    assert hash(loaded) == hash(from_dict(values))


def test_missing_keys_have_their_defaults() -> None:
    loaded = from_dict({"method": {"kind": "lsd", "num_slots": 3}})
    assert loaded == TrainConfig(method=LSDConfig(num_slots=3))


def test_an_integer_is_accepted_as_a_float() -> None:
    loaded = from_dict({"method": {"kind": "lsd", "snr_gamma": 5}})
    assert loaded.method.snr_gamma == 5.0
    assert isinstance(loaded.method.snr_gamma, float)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("max_train_step", 3, r"unknown config key 'max_train_step'; .* 'max_train_steps'"),
        ("method.num_slot", 3, r"'method.num_slot'; the nearest known one is 'num_slots'"),
        ("method.unet.positions", "none", r"'method.unet.positions'; .* is 'position'"),
        ("zzz", 1, r"unknown config key 'zzz'"),
        (
            "method.kind",
            "slot-diffusion",
            r"method.kind must be one of lsd, .*, autoencoder, got 'slot-diff",
        ),
        (
            "method.kind",
            None,
            r"method.kind must be one of lsd, .*, autoencoder, got None",
        ),
        ("method", 3, r"method.kind must be one of lsd, .*, autoencoder, got None"),
        ("method.unet", 3, "method.unet must be an object with keys, got 3"),
        ("data", [], r"data must be an object with keys, got \[\]"),
        ("max_train_steps", "10", "max_train_steps must be int, got '10'"),
        ("max_train_steps", 10.0, "max_train_steps must be int, got 10.0"),
        ("max_train_steps", True, "max_train_steps must be int, got True"),
        ("max_train_steps", None, "max_train_steps must be int, got None"),
        ("optim.learning_rate", "1e-4", "optim.learning_rate must be float, got '1e-4'"),
        ("optim.learning_rate", True, "optim.learning_rate must be float, got True"),
        ("compile", 1, "compile must be bool, got 1"),
        ("compile", "no", "compile must be bool, got 'no'"),
        ("data.path", 3, "data.path must be str, got 3"),
        (
            "mixed_precision",
            "fp8",
            "mixed_precision must be one of 'no', 'fp16', 'bf16', 'auto', got",
        ),
        ("mixed_precision", False, "mixed_precision must be one of .*, got False"),
        ("method.unet.block_out_channels", 8, "block_out_channels must be a list, got 8"),
        ("method.unet.block_out_channels", [8, 1.5], r"channels\[1\] must be int, got 1.5"),
        ("method.unet.attention_levels", [0, 1], r"attention_levels\[0\] must be bool, got 0"),
    ],
)
def test_values_that_do_not_fit_are_named(
    values: dict[str, Any], path: str, value: Any, message: str
) -> None:
    put(values, path, value)
    with pytest.raises(ConfigError, match=message):
        from_dict(values)


def test_a_method_is_required() -> None:
    with pytest.raises(ConfigError, match=r"incomplete: .*'method'"):
        from_dict({})


def test_another_kind_of_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind must be 'autoencoder', got 'lsd'"):
        from_dict({"kind": "lsd"}, AutoencoderConfig)
    assert from_dict({"kind": "autoencoder"}, AutoencoderConfig) == AutoencoderConfig()


def test_a_config_cannot_be_changed(config: TrainConfig) -> None:
    with pytest.raises(FrozenInstanceError):
        config.max_train_steps = 3  # type: ignore[misc]  # the refusal is the point


def test_differences_are_named_with_both_values(config: TrainConfig) -> None:
    assert differences(config, config) == []
    other = replace(
        config,
        max_train_steps=9,
        method=replace(config.method, unet=replace(config.method.unet, block_out_channels=(8, 8))),
        data=DataConfig(path="elsewhere"),
    )
    assert differences(config, other) == [
        "data.path: 'data/scenes' -> 'elsewhere'",
        "max_train_steps: 7 -> 9",
        "method.unet.block_out_channels: [8, 16] -> [8, 8]",
    ]
    assert "method.kind: 'lsd' -> 'autoencoder'" in differences(
        config, replace(config, method=AutoencoderConfig())
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no config file {file}"),
        (b"{", "{file} is not a JSON file in UTF-8"),
        (b"\xff\xfe\x00", "{file} is not a JSON file in UTF-8"),
        (b"[]", r"a config must be an object with keys, got \[\]"),
    ],
)
def test_a_file_that_is_not_a_config_is_named(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "c.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=message.format(file=file)):
        load_config(file)


def test_any_dataclass_can_be_read() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Inner:
        ratio: float = 0.5

    @dataclass(frozen=True, kw_only=True)
    class Outer:
        name: str
        inner: Inner = field(default_factory=Inner)

    assert from_dict({"name": "a", "inner": {"ratio": 2}}, Outer) == Outer(
        name="a", inner=Inner(ratio=2.0)
    )
    with pytest.raises(ConfigError, match=r"'inner.ration'; the nearest known one is 'ratio'"):
        from_dict({"name": "a", "inner": {"ration": 2}}, Outer)
