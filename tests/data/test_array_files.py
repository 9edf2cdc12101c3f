"""Array files that are cut off, empty, or hold what cannot be read."""

from pathlib import Path

import numpy as np
import pytest

from latentslots.cli.main import main
from latentslots.data import DataError
from latentslots.data.store.array_files import read_arrays

IDS = np.arange(48).reshape(3, 4, 4)


def test_arrays_are_read_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mask=IDS, other=IDS + 1)
    assert {name: array.sum() for name, array in read_arrays(tmp_path / "a.npz").items()} == {
        "mask": IDS.sum(),
        "other": IDS.sum() + 48,
    }
    np.save(tmp_path / "b.npy", IDS)
    assert (read_arrays(tmp_path / "b.npy")[""] == IDS).all()


def test_objects_are_left_out_with_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", mask=IDS, names=np.array([{}, []], object))
    assert [*read_arrays(tmp_path / "a.npz")] == ["mask"]
    assert "array 'names' of" in caplog.text
    np.save(tmp_path / "b.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"b\.npy cannot be read .*holds Python objects"):
        read_arrays(tmp_path / "b.npy")


@pytest.mark.parametrize("name", ["a.npz", "packed.npz", "b.npy"])
def test_every_cut_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    np.savez(tmp_path / "a.npz", mask=IDS)
    np.savez_compressed(tmp_path / "packed.npz", mask=IDS)
    np.save(tmp_path / "b.npy", IDS)
    np.save(tmp_path / "truth.npy", IDS)
    whole = (tmp_path / name).read_bytes()
    cut = tmp_path / f"cut{Path(name).suffix}"
    for length in (0, 1, 5, 40, 100, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{cut.name} cannot be read as arrays: "):
            read_arrays(cut)
    assert main(["evaluate-masks", str(cut), str(tmp_path / "truth.npy")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_member_that_is_damaged(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", mask=np.random.default_rng(0).random((50, 50)))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200:220] = bytes(20)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz cannot be read as arrays"):
        read_arrays(tmp_path / "a.npz")
