"""Strict conversion between configs, dictionaries and JSON files."""

import dataclasses
import difflib
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from latentslots.config.methods import MethodConfig
from latentslots.config.run import TrainConfig


class ConfigError(ValueError):
    """A config with an unknown key, or a value of the wrong type."""


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to plain dictionaries, lists, numbers and strings; `kind` names a method."""
    result: dict[str, Any] = {}
    if isinstance(getattr(config, "kind", None), str):
        result["kind"] = config.kind
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        result[field.name] = value
    return result


def from_dict(values: Any, cls: type = TrainConfig, where: str = "") -> Any:
    """Build a config from a dictionary, refusing unknown keys.

    Keys that are left out keep their defaults.

    Raises:
        ConfigError: For an unknown key (with the nearest known one), a missing or another `kind`,
            or a value of the wrong type, named by its path (`method.encoder.out_channels`).
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'a config'} must be an object with keys, got {values!r}")
    hints = get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    kind = getattr(cls, "kind", None)
    arguments = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else key
        if key == "kind" and isinstance(kind, str):
            if value != kind:
                raise ConfigError(f"{path} must be {kind!r}, got {value!r}")
            continue
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
            raise ConfigError(f"unknown config key {path!r}; the nearest known one is {near[0]!r}")
        arguments[key] = _convert(value, hints[key], path)
    try:
        return cls(**arguments)
    except TypeError as error:  # a key without a default was left out
        raise ConfigError(f"{where or 'the config'} is incomplete: {error}") from None


def _convert(value: Any, hint: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin is Literal:
        if value not in get_args(hint):
            allowed = ", ".join(map(repr, get_args(hint)))
            raise ConfigError(f"{path} must be one of {allowed}, got {value!r}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_kind(value, get_args(hint), path)
    if hint is MethodConfig:
        return _convert_kind(value, tuple(_methods(MethodConfig)), path)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(value, hint, path)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} must be a list, got {value!r}")
        return tuple(_convert(v, get_args(hint)[0], f"{path}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path} must be {hint.__name__}, got {value!r}")
    return value


def _methods(cls: type[MethodConfig]) -> Iterator[type[MethodConfig]]:
    """All methods that were imported, also those defined outside of the package."""
    for subclass in cls.__subclasses__():
        if "kind" in vars(subclass):
            yield subclass
        yield from _methods(subclass)


def _convert_kind(value: Any, options: tuple[Any, ...], path: str) -> Any:
    """Build the dataclass whose `kind` the value names."""
    kinds = {option.kind: option for option in options}
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind not in kinds:
        raise ConfigError(f"{path}.kind must be one of {', '.join(kinds)}, got {kind!r}")
    return from_dict(value, kinds[kind], path)


def differences(old: Any, new: Any) -> list[str]:
    """List the paths at which two configs differ, with both values."""
    return _differences(to_dict(old), to_dict(new), "")


def _differences(old: Any, new: Any, where: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted(old.keys() | new.keys())
            for line in _differences(old.get(key), new.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{where}: {old!r} -> {new!r}"]


def dumps(config: Any) -> str:
    """Convert a config to JSON text."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load_config(path: str | Path) -> TrainConfig:
    """Read a training config from a JSON file.

    Raises:
        ConfigError: If there is no such file, it is not JSON, or it does not fit.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a JSON file in UTF-8: {error}") from None
    return from_dict(values)
