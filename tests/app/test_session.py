"""The editor without an interface."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.config.sampling import Sampling
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows import edit_state
from latentslots.workflows.edit_state import EditState
from latentslots.workflows.image_files import open_image_file
from latentslots.workflows.jobs import Canceled
from latentslots.workflows.session import Session
from latentslots.workflows.session_views import command, cutout, slot_map, things

Change = Callable[[EditState], EditState]


def ignore(done: int, total: int) -> None:
    """Progress that nobody sees."""


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def untouched(session: Session, picture: str) -> Image.Image:
    return open_image_file(session.path_of(picture)).image


def steps(state: EditState) -> EditState:
    """Paint in two steps."""
    return replace(state, sampling=replace(state.sampling, num_inference_steps=2))


EDITS: dict[str, Change] = {
    "remove": partial(edit_state.remove, things=[1]),
    "move": partial(edit_state.move, things=[0, 2], x=5.5, y=-3.0),
    "scale": partial(edit_state.scale, things=[2], factor=1.4),
    "copy": partial(edit_state.add, source=":1", x=9, y=12),
    "concept": partial(edit_state.exchange, thing=3, source="library:2.1"),
}


class TestHistory:
    def test_undo_of_anything_is_bit_equal_and_so_is_redo(
        self, session: Session, pictures: list[bytes]
    ) -> None:
        one = session.add(pictures[0], "a.png").id
        other = session.add(pictures[1], "b.png").id
        edits = {
            **EDITS,
            "place": partial(edit_state.add, source=f"{other}:0", x=20, y=20, factor=0.7),
            "mix": partial(edit_state.mix, thing=0, source=f"{other}:1", weight=0.4),
            "background": lambda s: replace(s, background=other),
            "invert": lambda s: replace(s, invert=True),
            "resample": lambda s: replace(s, resample=7),
        }
        original = pixels(session.image(one))
        session.change(one, "steps", steps)
        images = []
        for label, function in edits.items():
            session.change(one, label, function)
            session.run(one, ignore)
            images.append(pixels(session.image(one)))
        count = len(session.picture(one).steps)
        assert count == len(edits) + 2
        for back, image in zip(range(count - 1, 1, -1), reversed(images), strict=True):
            session.go(one, back)
            np.testing.assert_array_equal(pixels(session.image(one)), image)
        session.go(one, 0)
        np.testing.assert_array_equal(pixels(session.image(one)), original)
        session.go(one, count - 1)
        np.testing.assert_array_equal(pixels(session.image(one)), images[-1])
        assert not (images[-1] == original).all()

    def test_a_change_after_undo_drops_what_could_be_redone(
        self, session: Session, pictures: list[bytes]
    ) -> None:
        one = session.add(pictures[0], "a.png").id
        session.change(one, "remove", EDITS["remove"])
        session.change(one, "move", EDITS["move"])
        session.go(one, 1)
        session.change(one, "scale", EDITS["scale"])
        assert [step.label for step in session.picture(one).steps] == ["open", "remove", "scale"]
        with pytest.raises(ValueError, match="history has states 0 to 2, got 3"):
            session.go(one, 3)

    def test_a_slider_leaves_one_state(self, session: Session, pictures: list[bytes]) -> None:
        one = session.add(pictures[0], "a.png").id
        for scale in (1.5, 2.0, 2.5):
            change = lambda s, scale=scale: replace(  # noqa: E731
                s, sampling=replace(s.sampling, guidance_scale=scale)
            )
            session.change(one, "guidance", change, merge=True)
        history = session.picture(one)
        assert len(history.steps) == 2
        assert history.state.sampling.guidance_scale == 2.5

    def test_what_is_not_possible_changes_nothing(
        self, session: Session, pictures: list[bytes]
    ) -> None:
        one = session.add(pictures[0], "a.png").id
        session.open(one)
        for change, message in (
            (partial(edit_state.remove, things=[0, 1, 2, 3]), "at least one thing must be left"),
            (partial(edit_state.remove, things=[9]), "no thing 9"),
            (partial(edit_state.scale, things=[1], factor=0.001), "0.05 to 20 times"),
            (partial(edit_state.mix, thing=1, source=":0", weight=2.0), "from 0 to 1, got 2"),
            (partial(edit_state.exchange, thing=1, source="library:9"), "no concept '9'"),
            (partial(edit_state.exchange, thing=1, source="none:9"), "no picture 'none'"),
            (partial(edit_state.add, source=":1", x=99, y=3), "pixel 99,3 lies outside"),
        ):
            with pytest.raises(ValueError, match=message):
                session.change(one, "no", change)
        assert len(session.picture(one).steps) == 1


class TestFolder:
    def test_a_session_survives_its_process(
        self,
        framed: LatentSlotDiffusionPipeline,
        session: Session,
        pictures: list[bytes],
        library_dir: Path,
    ) -> None:
        one = session.add(pictures[2], "wide.png").id
        session.add(pictures[0], "never opened.png")
        session.change(one, "steps", steps)
        session.change(one, "concept", EDITS["concept"])
        session.run(one, ignore)
        session.change(one, "remove", partial(edit_state.remove, things=[0]))
        session.go(one, 2)
        before = pixels(session.image(one))
        session.close()
        again = Session(framed, session.store.folder, library=library_dir)
        names = [history.name for history in again.pictures]
        assert names == ["wide.png", "never opened.png"]
        assert again.picture(one).state == session.picture(one).state
        assert len(again.picture(one).steps) == 4
        assert again.is_painted(again.picture(one))
        np.testing.assert_array_equal(pixels(again.image(one)), before)
        again.close()

    def test_one_editor_at_a_time(
        self, framed: LatentSlotDiffusionPipeline, session: Session, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match="is open in another editor"):
            Session(framed, session.store.folder)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("all of it")
        with pytest.raises(ValueError, match="something other than a session"):
            Session(framed, tmp_path / "other")
        assert (tmp_path / "other" / "thesis.txt").is_file()

    def test_the_numbers_of_another_model_are_forgotten(
        self,
        session: Session,
        pictures: list[bytes],
        tiny_pipeline_dir: Path,
    ) -> None:
        one = session.add(pictures[0], "a.png").id
        session.change(one, "remove", EDITS["remove"])
        session.close()
        pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
        other = Session(pipe, session.store.folder)
        assert other.picture(one).steps == []
        assert other.forgotten == 1
        assert not other.open(one).state.changes
        with pytest.raises(ValueError, match="have no frames"):
            other.change(one, "move", EDITS["move"])
        other.close()

    def test_another_way_to_infer_slots_forgets_their_numbers(
        self,
        framed: LatentSlotDiffusionPipeline,
        session: Session,
        pictures: list[bytes],
    ) -> None:
        one = session.add(pictures[0], "a.png").id
        session.change(one, "concept", EDITS["concept"])
        session.run(one, ignore)
        folder, library = session.store.folder, session.library_folder
        session.close()
        for options in ({"sampling": Sampling(seed=3), "library": library}, {"library": ""}):
            other = Session(framed, folder, **options)
            assert other.forgotten == 1
            assert not other.open(one).state.changes
            assert not list((folder / "results").iterdir())
            other.change(one, "concept" if options["library"] else "remove", EDITS["remove"])
            other.close()
            if options["library"]:
                again = Session(framed, folder, library=library)
                again.change(one, "concept", EDITS["concept"])
                again.close()

    def test_no_picture_is_refused_and_leaves_nothing(self, session: Session) -> None:
        with pytest.raises(
            ValueError, match=r"^page\.png cannot be decoded: it is not an image of a known format"
        ):
            session.add(b"<svg onload='alert(1)'/>", "page.png")
        assert session.pictures == []
        assert not list((session.store.folder / "pictures").iterdir())


class TestPainting:
    def test_the_printed_command_makes_the_same_picture(
        self,
        session: Session,
        pictures: list[bytes],
        framed_dir: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        one = session.add(pictures[3], "tall.png").id
        other = session.add(pictures[1], "b.png").id
        session.change(one, "steps", steps)
        session.change(one, "remove", EDITS["remove"])
        for change in (
            partial(edit_state.move, things=[0], x=4.25, y=-2.0),
            partial(edit_state.scale, things=[0], factor=0.8),
            partial(edit_state.exchange, thing=2, source="library:1"),
            partial(edit_state.mix, thing=3, source=f"{other}:2", weight=0.35),
            partial(edit_state.add, source=f"{other}:0", x=30, y=40, factor=1.2),
            partial(edit_state.add, source=":3", x=9, y=30),
            lambda s: replace(s, background=other, resample=3, invert=True),
        ):
            session.change(one, "edit", change)
        session.run(one, ignore)
        words = shlex.split(command(session, one, str(framed_dir)))
        assert words[:2] == ["latentslots", "edit"]
        monkeypatch.chdir(tmp_path)
        assert main(words[1:]) == 0
        with Image.open(tmp_path / "edited" / one / "edited.png") as image:
            np.testing.assert_array_equal(pixels(image), pixels(session.image(one)))

    def test_pixels_away_from_the_edit_are_those_of_the_picture(
        self, session: Session, pictures: list[bytes]
    ) -> None:
        one = session.add(pictures[2], "wide.png").id
        session.change(one, "steps", steps)
        session.change(one, "remove", EDITS["remove"])
        session.run(one, ignore)
        before = pixels(untouched(session, one))
        after = pixels(session.image(one))
        assert after.shape == before.shape == (64, 97, 3)
        np.testing.assert_array_equal(after[:, :16], before[:, :16])
        np.testing.assert_array_equal(after[:, 81:], before[:, 81:])

    def test_painting_can_be_canceled_and_done_again(
        self, session: Session, pictures: list[bytes]
    ) -> None:
        one = session.add(pictures[0], "a.png").id
        session.change(one, "remove", EDITS["remove"])

        def stop(done: int, total: int) -> None:
            if done == 3:
                raise Canceled

        with pytest.raises(Canceled):
            session.run(one, stop)
        assert not session.is_painted(session.picture(one))
        seen = []
        session.run(one, lambda done, total: seen.append((done, total)))
        assert seen == [(i + 1, 25) for i in range(25)]
        assert session.is_painted(session.picture(one))

    def test_another_square_is_edited(self, session: Session, pictures: list[bytes]) -> None:
        one = session.add(pictures[2], "wide.png").id
        session.set_area(one, (10, 20, 42, 52))
        session.change(one, "steps", steps)
        session.change(one, "remove", EDITS["remove"])
        session.run(one, ignore)
        before, after = pixels(untouched(session, one)), pixels(session.image(one))
        changed = (before != after).any(axis=2)
        assert changed.any()
        changed[20:52, 10:42] = False
        assert not changed.any()
        with pytest.raises(ValueError, match="must lie in the image of 97 x 64"):
            session.set_area(one, (80, 0, 112, 32))


class TestViews:
    def test_every_pixel_belongs_to_a_thing(self, session: Session, pictures: list[bytes]) -> None:
        one = session.add(pictures[2], "wide.png").id
        session.change(one, "remove", EDITS["remove"])
        session.change(one, "copy", partial(edit_state.add, source=":1", x=48, y=30))
        ids, views = slot_map(session, one), things(session, one)
        assert ids.shape == (64, 64)
        assert [view.number for view in views] == [0, 2, 3, 4]
        assert {int(i) for i in np.unique(ids)} <= {0, 2, 3, 4}
        assert sum(view.share for view in views) == pytest.approx(1, abs=1e-3)
        assert [view.is_added for view in views] == [False, False, False, True]
        for view in views:
            if view.box is None:
                continue
            left, top, right, bottom = view.box
            rows, columns = (ids == view.number).nonzero()
            assert (left, right) == (columns.min() + 16, columns.max() + 17)
            assert (top, bottom) == (rows.min(), rows.max() + 1)

    def test_cutouts_show_the_thing_alone(self, session: Session, pictures: list[bytes]) -> None:
        one = session.add(pictures[0], "a.png").id
        ids, picture = slot_map(session, one), pixels(session.image(one))
        for view in things(session, one):
            if view.box is None:
                continue
            left, top, right, bottom = view.box
            cut = np.asarray(cutout(session, one, view.number))
            own = ids[top:bottom, left:right] == view.number
            np.testing.assert_array_equal(cut[..., 3] > 0, own)
            np.testing.assert_array_equal(cut[own][:, :3], picture[top:bottom, left:right][own])
        with pytest.raises(ValueError, match="no thing 11"):
            cutout(session, one, 11)
