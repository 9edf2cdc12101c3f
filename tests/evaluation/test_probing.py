"""Which slot is probed for which object, and the report of it."""

import json
from functools import partial

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import Tensor

from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.evaluation import probing
from latentslots.evaluation.predictions import Predictions, predict
from latentslots.evaluation.probing import (
    check_classes,
    match_objects,
    object_classes,
    probe_slots,
)
from latentslots.metrics import CONVENTIONS, PixelTable, overlap
from latentslots.metrics.probes.probe import probe_lsd
from tests.evaluation.squares import ColorPipeline, squares

NUM_IMAGES, NUM_SLOTS = 60, 4


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training of heads is tested in `tests/metrics/probes/test_probe.py`."""
    monkeypatch.setattr(probing, "probe_lsd", partial(probe_lsd, num_steps=20))


def predictions(owner: Tensor, slots: Tensor, *, videos: int) -> Predictions:
    """Object n + 1 of image i is slot owner[i, n], pixel by pixel; the rest is the last slot."""
    images, objects = owner.shape
    counts = torch.zeros(images, objects + 1, slots.shape[1], dtype=torch.int32)
    counts[:, 0, -1] = 50
    for n in range(objects):
        counts[torch.arange(images), n + 1, owner[:, n]] = 10
    table = PixelTable(
        counts,
        torch.arange(objects + 1).expand(images, -1),
        torch.arange(slots.shape[1]).expand(images, -1),
    )
    return Predictions(table=table, slots=slots, videos=torch.arange(images) % videos)


def scene_set(*, videos: int = NUM_IMAGES) -> tuple[Predictions, Dataset]:
    """Slots are the class and the position of their objects, in another order in each image."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(NUM_IMAGES)])
    classes = torch.randint(0, 3, (NUM_IMAGES, 2), generator=generator)
    places = torch.rand(NUM_IMAGES, 2, 2, generator=generator)
    slots = torch.randn(NUM_IMAGES, NUM_SLOTS, 5, generator=generator)
    for n in range(2):
        encoded = torch.cat([torch.nn.functional.one_hot(classes[:, n], 3), places[:, n]], dim=1)
        slots[torch.arange(NUM_IMAGES), owner[:, n]] = encoded.float()
    rows = [
        {"attributes": {"shape": classes[i].tolist(), "place": places[i].tolist()}}
        for i in range(NUM_IMAGES)
    ]
    attributes = {
        "shape": List(ClassLabel(names=["a", "b", "c"])),
        "place": List(List(Value("float32"))),
    }
    features = Features(attributes=attributes)
    return predictions(owner, slots, videos=videos), Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_slot_of_an_object_is_the_one_that_encodes_it(convention: str) -> None:
    found, dataset = scene_set()
    report = probe_slots(found, dataset, convention=convention, heads=["linear"], seeds=[0])
    by_name = {score.attribute: score for score in report.scores}
    assert (report.num_objects, report.num_matched, report.num_videos) == (120, 120, NUM_IMAGES)
    if convention == "lsd":  # its heads under-train, so that only the order is sure
        assert report.protocol == "lsd"
        assert by_name["shape"].head == "linear"
        assert by_name["place"].head == "mlp"
    else:
        assert by_name["shape"].scores["accuracy"].mean == 1
        assert by_name["place"].scores["r2"].mean > 0.98


def test_frames_of_a_video_stay_together() -> None:
    found, dataset = scene_set(videos=2)
    with pytest.raises(ValueError, match="at least 3 videos or images, got 2"):
        probe_slots(found, dataset)
    assert probe_slots(*scene_set(videos=7), heads=["linear"], seeds=[0]).num_videos == 7


def test_matching_is_that_of_the_overlap() -> None:
    dataset = squares(6)
    pipe = ColorPipeline(noise=0.4)
    found = predict(pipe, dataset, progress=False)
    assert found.slots is not None
    images, objects, slots, num_objects = match_objects(found)
    expected = []
    for i in range(6):
        generator = [torch.Generator().manual_seed(i)]
        pixels = to_pixel_values(ResizeCenterCrop(32)(dataset[i]["image"])[0])
        pred = pipe.encode_pixel_values(pixels[None], generator=generator).segmentation((32, 32))
        _, truth = ResizeCenterCrop(32)(dataset[i]["image"], dataset[i]["segmentation"])
        one = overlap(pred, to_ids(truth)[None], num_slots=6)
        pairs = zip(one.object_ids[0].tolist(), one.slot_ids[0].tolist(), strict=True)
        expected += [(i, name, slot) for name, slot in pairs if name > 0 and slot >= 0]
    assert list(zip(images.tolist(), objects.tolist(), strict=True)) == [e[:2] for e in expected]
    for slot, (image, _, index) in zip(slots, expected, strict=True):
        assert torch.equal(slot, found.slots[image, index])
    assert num_objects >= len(expected) == 15


def test_objects_without_a_slot_are_counted_and_not_probed() -> None:
    found, dataset = scene_set()
    counts = found.table.counts.clone()
    counts[:30, 1] = 0
    counts[:30, 1, 3] = 5  # the object is hidden in the background's slot
    counts[:30, 2] = 0
    counts[:30, 2, 3] = 9
    report = probe_slots(
        Predictions(table=found.table._replace(counts=counts), slots=found.slots),
        dataset,
        heads=["linear"],
        seeds=[0],
    )
    assert (report.num_objects, report.num_matched) == (120, 90)


def test_the_report_has_the_conditions_of_its_numbers() -> None:
    found, dataset = scene_set()
    report = probe_slots(found, dataset, attributes=["shape"], heads=["linear"], seeds=(0, 1))
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["scores"][0]["scores"]["accuracy"]["values"] == [1, 1]
    assert content["faults"] == []
    text = report.to_markdown()
    assert "| shape | linear | accuracy 1.000 ± 0.000" in text
    assert "protocol `by-video`, slots matched by `iou`; 120 of 120 objects had a slot" in text
    official = probe_slots(found, dataset, attributes=["shape"], convention="lsd")
    assert len(official.to_dict()["faults"]) == 5
    assert "objects are split, not videos" in official.to_markdown()


def test_a_method_without_slots_cannot_be_probed() -> None:
    found, dataset = scene_set()
    bare = Predictions(table=found.table)
    with pytest.raises(ValueError, match="probes need slots, and this method has none"):
        probe_slots(bare, dataset)


def test_integers_are_classes_on_request() -> None:
    """Also where the first image has no object, and where no object has a value."""
    features = Features(
        attributes={
            "code": List(Value("int32")),
            "word": List(Value("string")),
            "mass": List(Value("float32")),
        }
    )
    empty: dict[str, list[object]] = {"code": [], "word": [], "mass": []}
    full = {"code": [7, 900], "word": ["oak", None], "mass": [1.0, 2.0]}
    dataset = Dataset.from_list([{"attributes": empty}, {"attributes": full}], features=features)
    table = PixelTable(
        torch.ones(2, 3, 1, dtype=torch.int32),
        torch.arange(3).expand(2, -1),
        torch.zeros(2, 1, dtype=torch.int64),
    )
    found = Predictions(table=table)
    assert object_classes(found, dataset, "code").tolist() == [[-1, -1, -1], [-1, 0, 1]]
    assert object_classes(found, dataset, "word").tolist() == [[-1, -1, -1], [-1, 0, -1]]
    first = Predictions(table=PixelTable(*(part[:1] for part in table)))
    assert object_classes(first, dataset, "word").tolist() == [[-1, -1, -1]]
    with pytest.raises(ValueError, match="the attribute 'mass' has numbers, not classes"):
        check_classes(dataset, "mass")
