"""Named training configurations: each recipe is a function that returns a complete one."""

import difflib
from collections.abc import Callable

from latentslots.config import TrainConfig
from latentslots.recipes.autoencoder import autoencoder, autoencoder_small
from latentslots.recipes.baselines import dinosaur_coco, slate_64, slot_attention_64
from latentslots.recipes.lsd import (
    lsd_movi_e,
    lsd_nlvr_64,
    lsd_parts_64,
    lsd_scenes_64,
    lsd_scenes_128,
    lsd_scenes_textured_64,
    lsd_smoke,
)
from latentslots.recipes.paper import (
    lsd_clevr,
    lsd_clevr_mix,
    lsd_clevrtex,
    lsd_ffhq,
    lsd_movi_c,
)
from latentslots.recipes.stable_lsd import (
    stable_lsd_coco,
    stable_lsd_coco_plus,
    stable_lsd_movi_e,
    stable_lsd_tiny,
    stable_lsd_voc,
)

__all__ = ["RECIPES", "recipe"]

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "autoencoder": autoencoder,
    "autoencoder-small": autoencoder_small,
    "dinosaur-coco": dinosaur_coco,
    "lsd-clevr": lsd_clevr,
    "lsd-clevr-mix": lsd_clevr_mix,
    "lsd-clevrtex": lsd_clevrtex,
    "lsd-ffhq": lsd_ffhq,
    "lsd-movi-c": lsd_movi_c,
    "lsd-movi-e": lsd_movi_e,
    "lsd-nlvr-64": lsd_nlvr_64,
    "lsd-parts-64": lsd_parts_64,
    "lsd-scenes-128": lsd_scenes_128,
    "lsd-scenes-64": lsd_scenes_64,
    "lsd-scenes-textured-64": lsd_scenes_textured_64,
    "lsd-smoke": lsd_smoke,
    "slate-64": slate_64,
    "slot-attention-64": slot_attention_64,
    "stable-lsd-coco": stable_lsd_coco,
    "stable-lsd-coco-plus": stable_lsd_coco_plus,
    "stable-lsd-movi-e": stable_lsd_movi_e,
    "stable-lsd-tiny": stable_lsd_tiny,
    "stable-lsd-voc": stable_lsd_voc,
}


def recipe(name: str) -> TrainConfig:
    """Return the configuration of a recipe; `dataclasses.replace` changes it.

    Raises:
        ValueError: If there is no such recipe; the message lists all.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no recipe {name!r}, only {', '.join(RECIPES)}{hint}")
    return RECIPES[name]()
