from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from latentslots.concepts import TENSORS_NAME, ConceptLibrary, clustering
from latentslots.data import load_dataset
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests import tiny


@pytest.fixture(scope="module")
def dataset(scenes_store: Path) -> Dataset:
    return load_dataset(scenes_store, split="train")


@pytest.fixture(scope="module")
def library(tiny_pipeline: LatentSlotDiffusionPipeline, dataset: Dataset) -> ConceptLibrary:
    return ConceptLibrary.fit(tiny_pipeline, dataset, 6, progress=False)


@pytest.fixture(scope="module")
def made(library: ConceptLibrary) -> ConceptLibrary:
    """40 images by hand: one of two backgrounds, and at three places one of three objects."""
    size = clustering.MASK_SIZE
    objects = torch.zeros(3, size, size)
    objects[0, 2:6, 2:6] = objects[1, 2:6, 9:13] = objects[2, 9:13, 5:9] = 1
    background = 1 - objects.sum(dim=0)
    slots, masks, concept, image = [], [], [], []
    for row in range(40):
        kinds = [row % 2, *(2 + (row + place) % 3 for place in range(3))]
        for kind, mask in zip(kinds, [background, *objects], strict=True):
            slots.append(torch.tensor([kind, row, float(len(masks) % 4)]))
            masks.append(mask)
            concept.append(kind)
            image.append(row)
    return replace(
        library,
        slots=torch.stack(slots),
        masks=torch.stack(masks),
        concept=torch.tensor(concept),
        image=torch.tensor(image),
    )


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


class TestFit:
    def test_members_are_the_slots_that_own_enough(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        dataset: Dataset,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(clustering, "BATCH_SIZE", 1)  # so that areas are the same to the pixel
        library = ConceptLibrary.fit(tiny_pipeline, dataset.select(range(12)), 2, progress=False)
        member, close = 0, {"atol": 1e-4, "rtol": 1e-3}
        for row in range(12):
            scene = tiny_pipeline.encode(dataset[row]["image"], generator=seed(row))
            ids = scene.segmentation()
            for k in range(tiny.NUM_SLOTS):
                if (ids == k).float().mean() < 0.005:
                    continue
                torch.testing.assert_close(library.slots[member], scene.slots[0, k], **close)
                small = torch.nn.functional.adaptive_avg_pool2d(scene.masks[0, k][None], 16)[0]
                torch.testing.assert_close(library.masks[member], small, **close)
                assert library.image[member] == row
                member += 1
        assert member == len(library.slots)

    def test_concepts_are_numbered_by_size_and_closer_than_chance(
        self, library: ConceptLibrary
    ) -> None:
        shares = library.shares
        assert library.num_concepts == 6
        assert torch.equal(shares, shares.sort(descending=True).values)
        assert shares.sum() == pytest.approx(1)

        def spread(labels: Tensor) -> float:
            points = torch.nn.functional.normalize(library.slots, dim=1)
            parts = [points[labels == c] for c in range(6)]
            return sum(float(((part - part.mean(dim=0)) ** 2).sum()) for part in parts)

        shuffled = library.concept[torch.randperm(len(library.concept))]
        assert spread(library.concept) < 0.8 * spread(shuffled)

    def test_batches_change_no_slot(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        dataset: Dataset,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        images, collected = dataset.select(range(12)), []
        for size in (5, 12):
            monkeypatch.setattr(clustering, "BATCH_SIZE", size)
            members = clustering.collect_slots(
                tiny_pipeline, images, min_area=0.0, seed=0, progress=False
            )
            assert len(members.slots) == 12 * tiny.NUM_SLOTS
            collected.append(members)
        one, other = collected
        torch.testing.assert_close(one.slots, other.slots, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.masks, other.masks, atol=1e-4, rtol=0)

    def test_another_seed_gives_other_slots(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, dataset: Dataset, library: ConceptLibrary
    ) -> None:
        other = ConceptLibrary.fit(tiny_pipeline, dataset, 6, seed=100, progress=False)
        assert not torch.equal(other.slots[:4], library.slots[:4])

    def test_the_number_of_concepts_is_chosen_by_silhouette(
        self, tiny_pipeline: LatentSlotDiffusionPipeline, dataset: Dataset
    ) -> None:
        fitted = ConceptLibrary.fit(
            tiny_pipeline, dataset.select(range(12)), metric="euclidean", progress=False
        )
        scores = fitted.info.silhouettes
        assert set(scores) == {str(n) for n in clustering.AUTO_RANGE if n < len(fitted.slots)}
        assert str(fitted.num_concepts) == max(scores, key=scores.__getitem__)

    def test_crops_show_the_members_nearest_to_the_center(self, library: ConceptLibrary) -> None:
        counts = library.concept.bincount().tolist()
        assert [len(crops) for crops in library.crops] == [min(8, n) for n in counts]
        assert {crop.size for crops in library.crops for crop in crops} == {(48, 48)}
        extremes = [crop.convert("L").getextrema() for crops in library.crops for crop in crops]
        assert min(low for low, _ in extremes) < 200, "they are not all white"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_concepts": 5000}, r"5000 concepts need .* the 48 images have only \d+ that own"),
            ({"num_concepts": 0}, "at least 1 or 'auto', got 0"),
            ({"metric": "l1"}, "cosine or euclidean, got 'l1'"),
            ({"min_area": 1.0}, "at least 0 and below 1, got 1"),
        ],
    )
    @pytest.mark.usefixtures("unchecked")
    def test_mistakes_are_named(
        self,
        tiny_pipeline: LatentSlotDiffusionPipeline,
        dataset: Dataset,
        options: dict[str, Any],
        message: str,
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ConceptLibrary.fit(tiny_pipeline, dataset, progress=False, **options)


class TestSample:
    @pytest.mark.parametrize("layout", ["layout", "independent", "per-image"])
    def test_a_seed_gives_the_same_scenes(self, library: ConceptLibrary, layout: Any) -> None:
        one, same, other = (
            library.sample(5, layout=layout, num_slots=3, generator=seed(n)) for n in (0, 0, 1)
        )
        assert one.shape == (5, 3, tiny.SLOT_DIM)
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        members = {tuple(slot.tolist()) for slot in library.slots}
        assert {tuple(slot.tolist()) for slot in one.flatten(0, 1)} <= members

    def test_independent_takes_different_concepts(self, made: ConceptLibrary) -> None:
        scenes = made.sample(50, layout="independent", num_slots=4, generator=seed(0))
        assert all(len(set(scene[:, 0].tolist())) == 4 for scene in scenes)
        images = scenes[..., 1]
        assert (images.std(dim=1) > 0).float().mean() > 0.9

    def test_per_image_goes_from_image_to_image(self, made: ConceptLibrary) -> None:
        scenes = made.sample(50, layout="per-image", generator=seed(0))
        assert scenes.shape == (50, 4, 3), "as many slots as most images gave"
        steps = (scenes[:, 1:, 1] - scenes[:, :-1, 1]) % 40
        assert (steps == 1).all()
        assert torch.equal(scenes[..., 2], torch.arange(4.0).expand(50, 4))

    def test_layout_fills_every_mask_once(self, made: ConceptLibrary) -> None:
        """A background first, then an object at each of the three places, from other images."""
        scenes = made.sample(50, layout="layout", generator=seed(0))
        assert torch.equal(scenes[..., 2].sort(dim=1).values, torch.arange(4.0).expand(50, 4))
        assert (scenes[:, 0, 0] < 2).all()
        assert set(scenes[:, 0, 0].tolist()) == {0, 1}, "concepts are drawn"
        assert set(scenes[:, 1:, 0].flatten().tolist()) == {2, 3, 4}
        assert (scenes[..., 1].std(dim=1) > 0).float().mean() > 0.8

    def test_a_mask_that_nothing_else_fits_keeps_its_slot(self, made: ConceptLibrary) -> None:
        masks = made.masks.clone()
        own = (made.image == 7).nonzero()[:, 0]
        masks[own[3]] = 0
        masks[own[3], 13:, 13:] = 1  # where no other image has an object
        odd = replace(made, masks=masks, image=torch.where(made.image == 7, 7, made.image))
        for number in range(200):
            scene = odd.sample(1, num_slots=4, generator=seed(number))[0]
            if 7 in scene[1:, 1]:
                assert scene[scene[:, 1] == 7, 2].tolist() == [3.0]
                return
        raise AssertionError("image 7 was never drawn")

    def test_objects_are_of_the_chosen_concepts(self, made: ConceptLibrary) -> None:
        for number in range(30):
            (scene,) = made.sample(1, concepts=[3], generator=seed(number))
            assert scene[0, 0] < 2, "the background may be of any"
            assert (scene[1:, 0] == 3).all()
            (scene,) = made.sample(1, layout="independent", concepts=[2, 4], generator=seed(number))
            assert set(scene[:, 0].tolist()) == {2, 4}

    def test_an_object_that_no_chosen_concept_fits_is_left_out(self, made: ConceptLibrary) -> None:
        masks = made.masks.clone()
        masks[(made.concept == 4).nonzero()[:, 0]] = 0
        masks[(made.concept == 4).nonzero()[:, 0], 13:, 13:] = 1  # a corner that is never free
        scenes = [
            replace(made, masks=masks).sample(1, concepts=[4], generator=seed(number))[0]
            for number in range(20)
        ]
        assert {len(scene) for scene in scenes} == {2}  # the background, and the one in the corner
        assert all(scene[1, 0] == 4 for scene in scenes)

    def test_members_are_the_nearest_to_the_center_first(self, library: ConceptLibrary) -> None:
        for concept in range(library.num_concepts):
            members = library.members(concept)
            assert sorted(members.tolist()) == (library.concept == concept).nonzero()[:, 0].tolist()
            points = torch.nn.functional.normalize(library.slots[members], dim=1)
            distance = (points - points.mean(dim=0)).norm(dim=1)
            assert (distance.diff() >= 0).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"concepts": [5]}, "no concept 5: the library has concepts 0 to 4"),
            ({"concepts": []}, "no concept is given"),
            ({"concepts": [2], "layout": "per-image"}, "per-image takes slots of all concepts"),
            (
                {"concepts": [2, 3], "layout": "independent", "num_slots": 3},
                "1 to 2, the number of concepts, got 3",
            ),
            ({"layout": "grid"}, "one of layout, independent, per-image, got 'grid'"),
            ({"num_scenes": 0}, "num_scenes must be at least 1, got 0"),
            ({"layout": "independent", "num_slots": 6}, "1 to 5, the number of concepts, got 6"),
            ({"num_slots": 5}, "1 to 4, the number of slots of one image, got 5"),
            ({"num_slots": 0}, "1 to 4"),
        ],
    )
    @pytest.mark.usefixtures("unchecked")
    def test_mistakes_are_named(
        self, made: ConceptLibrary, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            made.sample(**{"num_scenes": 1, **options})


class TestFolder:
    def test_a_saved_library_is_loaded_unchanged(
        self, library: ConceptLibrary, tmp_path: Path
    ) -> None:
        library.save(tmp_path / "concepts")
        loaded = ConceptLibrary.load(tmp_path / "concepts")
        for name in ("slots", "masks", "concept", "image"):
            assert torch.equal(getattr(loaded, name), getattr(library, name))
        assert loaded.info == library.info
        pairs = zip(loaded.crops, library.crops, strict=True)
        assert all(a.tobytes() == b.tobytes() for x, y in pairs for a, b in zip(x, y, strict=True))
        assert loaded.show().tobytes() == library.show().tobytes()

    def test_saving_again_leaves_no_earlier_crops(
        self, library: ConceptLibrary, made: ConceptLibrary, tmp_path: Path
    ) -> None:
        library.save(tmp_path)
        replace(made, crops=library.crops[:1] + ((),) * 4).save(tmp_path)
        names = {path.name for path in (tmp_path / "crops").iterdir()}
        assert {name[:11] for name in names} == {"concept_000"}

    def test_another_pipeline_is_refused(
        self, library: ConceptLibrary, tiny_pipeline: LatentSlotDiffusionPipeline
    ) -> None:
        library.check(tiny_pipeline)
        other = tiny.tiny_lsd(seed=1).to_pipeline()
        with pytest.raises(ValueError, match="made by another pipeline"):
            library.check(other)

    def test_folders_that_are_no_library_are_named(
        self, library: ConceptLibrary, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=r"holds no concept library: library\.json is missing"):
            ConceptLibrary.load(tmp_path)
        library.save(tmp_path)
        tensors = tmp_path / TENSORS_NAME
        tensors.write_bytes(tensors.read_bytes()[:1000])
        with pytest.raises(ValueError, match=f"the concept library {tmp_path} is damaged"):
            ConceptLibrary.load(tmp_path)
        tensors.unlink()
        with pytest.raises(ValueError, match="is damaged"):
            ConceptLibrary.load(tmp_path)

    def test_the_figure_has_a_row_for_each_concept(self, library: ConceptLibrary) -> None:
        figure = library.show()
        assert figure.width == 9 * 48 + 8 * 4
        assert figure.height == 6 * (48 + 20) + 5 * 4


def test_slots_that_do_not_exist_are_no_members(tiny_pipeline_dir: Path, dataset: Dataset) -> None:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    images = dataset.select(range(8))
    _, scenes = clustering.encode_rows(pipe, images, range(8), 0)
    flat = torch.nn.functional.normalize(scenes.masks.flatten(2), dim=2)
    overlaps = (flat @ flat.transpose(1, 2)).flatten().sort().values
    # In the middle of a wide gap, so that rounding merges no other slots.
    widest = overlaps.diff().argsort(descending=True)[:10].tolist()
    for gap in widest:
        pipe.set_inference(merge_overlap=float(overlaps[gap : gap + 2].mean()))
        _, scenes = clustering.encode_rows(pipe, images, range(8), 0)
        counts = [] if scenes.slots_mask is None else scenes.slots_mask.sum(dim=1).tolist()
        if len(set(counts)) > 1:
            break
    else:
        raise AssertionError("no threshold leaves scenes with different numbers of slots")
    library = ConceptLibrary.fit(pipe, images, 2, min_area=0.0, progress=False)
    assert library.image.bincount().tolist() == counts
