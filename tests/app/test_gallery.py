from pathlib import Path

import numpy as np
import pytest
import torch

from latentslots import editing
from latentslots.app.gallery import NUM_SHOWN, Gallery
from latentslots.data import load_dataset
from latentslots.evaluation.page import Page
from latentslots.pipelines import LatentSlotDiffusionPipeline


@pytest.fixture
def gallery(tiny_pipeline_dir: Path, scenes_store: Path) -> Gallery:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    return Gallery.of(pipe, load_dataset(scenes_store, split="validation"), seed=0)


def test_the_background_is_the_largest_and_the_object_another(gallery: Gallery) -> None:
    owners = gallery.masks().argmax(dim=1)
    for ids, background, chosen in zip(
        owners, gallery.backgrounds(), gallery.objects(), strict=True
    ):
        shares = torch.bincount(ids.flatten(), minlength=4)
        assert shares[background] == shares.max()
        assert chosen != background


def test_an_edit_starts_from_the_noise_of_its_scene(gallery: Gallery) -> None:
    slots = gallery.found.slots
    alone = gallery.paint(slots[:1])
    together = gallery.paint(slots)
    assert len(together) == NUM_SHOWN
    one, other = (np.asarray(image, dtype=int) for image in (alone[0], together[0]))
    assert abs(one - other).max() <= 1
    gone = gallery.paint(editing.remove(slots, gallery.objects()[0]))
    assert gone[0].tobytes() != together[0].tobytes()


def test_it_shows_three_pictures(gallery: Gallery) -> None:
    page = Page("title", "lead")
    gallery.show(page)
    assert page.to_html().count("data:image/png;base64,") == 3
