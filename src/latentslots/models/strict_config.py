"""Strict model configs: a key that is silently ignored results in a wrong model."""

from typing import Any

from diffusers.configuration_utils import ConfigMixin


class StrictConfigMixin(ConfigMixin):
    """A diffusers config in which a key that the class does not honor is an error."""

    @classmethod
    def extract_init_dict(cls, config_dict: dict, **kwargs: Any) -> tuple[dict, dict, dict]:
        """Split a config as diffusers does, but refuse keys that `__init__` does not accept."""
        known = cls._get_init_keys(cls)
        unknown = sorted(key for key in config_dict if key not in known and not key.startswith("_"))
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no config key{'s' * (len(unknown) > 1)} "
                f"{', '.join(unknown)}; it has {', '.join(sorted(known - {'self'}))}"
            )
        return super().extract_init_dict(config_dict, **kwargs)
