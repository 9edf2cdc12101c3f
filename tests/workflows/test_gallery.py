from pathlib import Path

import numpy as np
import pytest
import torch

from latentslots.data import load_dataset
from latentslots.evaluation.report.html_page import Page
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.workflows.demo import gallery as figures
from latentslots.workflows.demo.gallery import Gallery

NUM_SHOWN = 3


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "NUM_SHOWN", NUM_SHOWN)
    monkeypatch.setattr(figures, "NUM_INFERENCE_STEPS", 2)


@pytest.fixture
def gallery(tiny_pipeline_dir: Path, scenes_store: Path) -> Gallery:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    return Gallery.of(pipe, load_dataset(scenes_store, split="validation"), seed=0)


def test_the_object_is_not_the_background(gallery: Gallery) -> None:
    for masks, chosen in zip(gallery.masks(), gallery.objects(), strict=True):
        areas = torch.bincount(masks[0].argmax(dim=0).flatten(), minlength=4)
        assert chosen != areas.argmax()
        assert areas[chosen] > 0


def test_an_image_is_sampled_from_its_own_noise(gallery: Gallery) -> None:
    together = gallery.reconstructions
    assert len(together) == NUM_SHOWN
    alone = gallery.pipe(
        gallery.scenes[1].slots,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(1),
    ).images[0]
    one, other = (np.asarray(image, dtype=int) for image in (alone, together[1]))
    assert abs(one - other).max() <= 1


def test_edits_change_every_image(gallery: Gallery) -> None:
    nothing = gallery.edit([SlotEdit.of(scene, size=32) for scene in gallery.scenes])
    for image, kept in zip(gallery.images(), nothing, strict=True):
        assert abs(np.asarray(image, dtype=int) - np.asarray(kept, dtype=int)).max() <= 1
    for edit in (gallery.without_object, gallery.with_next_object, gallery.on_next_background):
        edited = edit()
        assert len(edited) == NUM_SHOWN
        assert all(a.tobytes() != b.tobytes() for a, b in zip(nothing, edited, strict=True))


def test_scenes_may_differ_in_their_number_of_slots(gallery: Gallery, scenes_store: Path) -> None:
    masks = torch.cat([scene.masks for scene in gallery.scenes])
    overlaps = torch.nn.functional.normalize(masks.flatten(2), dim=2)
    overlap = float((overlaps @ overlaps.transpose(1, 2)).median())
    gallery.pipe.set_inference(merge_overlap=overlap)
    dataset = load_dataset(scenes_store, split="validation")
    merged = Gallery.of(gallery.pipe, dataset, seed=0)
    assert len({scene.slots.shape[1] for scene in merged.scenes}) > 1
    page = Page("title", "lead")
    merged.show(page)
    assert page.to_html().count("data:image/png;base64,") == 2
