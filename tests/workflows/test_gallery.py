from pathlib import Path

import numpy as np
import pytest
import torch

from latentslots.data import load_dataset
from latentslots.evaluation.report.html_page import Page
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows.demo.gallery import NUM_SHOWN, Gallery


@pytest.fixture
def gallery(tiny_pipeline_dir: Path, scenes_store: Path) -> Gallery:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    return Gallery.of(pipe, load_dataset(scenes_store, split="validation"), seed=0)


def test_the_background_is_the_largest_and_the_object_another(gallery: Gallery) -> None:
    for masks, background, chosen in zip(
        gallery.masks(), gallery.backgrounds(), gallery.objects(), strict=True
    ):
        shares = torch.bincount(masks[0].argmax(dim=0).flatten(), minlength=4)
        assert shares[background] == shares.max()
        assert chosen != background


def test_a_scene_is_painted_from_its_own_noise(gallery: Gallery) -> None:
    together = gallery.painted
    assert len(together) == NUM_SHOWN
    (alone,) = gallery.paint(gallery.scenes[:1])
    one, other = (np.asarray(image, dtype=int) for image in (alone, together[0]))
    assert abs(one - other).max() <= 1


def test_edits_change_what_they_name(gallery: Gallery) -> None:
    nothing = [torch.zeros(1, 32, 32, dtype=torch.bool) for _ in gallery.scenes]
    kept = gallery.edit(gallery.scenes, nothing)
    for edit in (gallery.without_object, gallery.with_object, gallery.elsewhere):
        edited = edit()
        assert len(edited) == NUM_SHOWN
        assert all(a.tobytes() != b.tobytes() for a, b in zip(kept, edited, strict=True))


def test_scenes_may_differ_in_their_number_of_slots(
    tiny_pipeline_dir: Path, scenes_store: Path
) -> None:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    dataset = load_dataset(scenes_store, split="validation")
    masks = torch.cat([scene.masks for scene in Gallery.of(pipe, dataset, seed=0).found])
    overlaps = torch.nn.functional.normalize(masks.flatten(2), dim=2)
    pipe.set_inference(merge_overlap=float((overlaps @ overlaps.transpose(1, 2)).median()))
    gallery = Gallery.of(pipe, dataset, seed=0)
    assert len({scene.shape[1] for scene in gallery.scenes}) > 1
    page = Page("title", "lead")
    gallery.show(page)
    assert page.to_html().count("data:image/png;base64,") == 2


def test_it_shows_two_pictures(gallery: Gallery) -> None:
    page = Page("title", "lead")
    gallery.show(page)
    assert page.to_html().count("data:image/png;base64,") == 2
