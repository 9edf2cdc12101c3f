"""Downloads from a loopback server that drops connections, lies, and refuses."""

from pathlib import Path

import pytest
from crc32c import crc32c

from latentslots.data import DataError
from latentslots.data.importers.download import download
from tests.data.server import CONTENT, Server


def test_a_file_arrives_whole(server: Server, tmp_path: Path) -> None:
    server.checksum = crc32c(CONTENT)
    path = download(f"{server.url}/file", tmp_path / "new" / "file")
    assert path.read_bytes() == CONTENT
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["file"]
    download(f"{server.url}/file", path)
    assert server.ranges == [None]  # it is there


def test_a_connection_that_breaks_off_goes_on_where_it_stopped(
    server: Server, tmp_path: Path
) -> None:
    server.drops, server.checksum = [1000, 5000, 0, 0, 200_000], crc32c(CONTENT)
    waits: list[float] = []
    path = download(f"{server.url}/file", tmp_path / "file", wait=waits.append)
    assert path.read_bytes() == CONTENT
    starts = [0 if asked is None else int(asked[6:-1]) for asked in server.ranges]
    assert starts == [0, 1000, 6000, 6000, 6000, 206_000]
    assert waits == [0.5, 0.5, 1.0, 2.0, 0.5]  # it waits longer where nothing comes


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT[:70_000])
    download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=70000-"]


def test_a_download_that_was_killed_at_its_end(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT)
    assert download(f"{server.url}/file", tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.knows_ranges, server.drops = False, [5000]
    path = download(f"{server.url}/file", tmp_path / "file", wait=lambda _: None)
    assert path.read_bytes() == CONTENT


def test_a_busy_server_is_asked_again_and_a_refusal_is_final(
    server: Server, tmp_path: Path
) -> None:
    server.errors = [503, 500, 429]
    path = download(f"{server.url}/file", tmp_path / "file", wait=lambda _: None)
    assert path.read_bytes() == CONTENT
    for code in (403, 404):
        server.errors = [code]
        with pytest.raises(DataError, match=f"/file cannot be fetched: {code}"):
            download(f"{server.url}/file", tmp_path / "other")
    with pytest.raises(DataError, match="/nothing cannot be fetched: 404"):
        download(f"{server.url}/nothing", tmp_path / "nothing")


def test_it_gives_up_where_nothing_comes(server: Server, tmp_path: Path) -> None:
    server.drops = [1000, *[0] * 9]
    waits: list[float] = []
    with pytest.raises(DataError, match="cannot be fetched: the connection broke off after 0 of"):
        download(f"{server.url}/file", tmp_path / "file", retries=3, wait=waits.append)
    assert waits == [0.5, 1.0, 2.0]
    assert (tmp_path / ".file.part").stat().st_size == 1000  # not lost
    assert not (tmp_path / "file").exists()


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/file cannot be fetched"):
        download("http://127.0.0.1:9/file", tmp_path / "file", retries=1, wait=lambda _: None)


def test_what_arrives_damaged_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.checksum = crc32c(CONTENT) ^ 1
    with pytest.raises(DataError, match="arrived damaged"):
        download(f"{server.url}/file", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_became_another_one_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT + b"more than there is now")
    download(f"{server.url}/file", tmp_path / "file", wait=lambda _: None)
    assert (tmp_path / "file").read_bytes() == CONTENT
