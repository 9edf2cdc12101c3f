"""Downloads from a loopback server that drops connections, sends wrong checksums, and refuses."""

from pathlib import Path

import pytest
from crc32c import crc32c

from latentslots import files
from latentslots.data import DataError
from latentslots.data.importers.download import download
from tests.data.server import CONTENT, Server


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between attempts, recorded instead of waited for."""
    waits: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    return waits


def test_a_complete_file_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.checksum = crc32c(CONTENT)
    path = download(f"{server.url}/file", tmp_path / "new" / "file")
    assert path.read_bytes() == CONTENT
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["file"]
    download(f"{server.url}/file", path)
    assert server.ranges == [None]


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path, waits: list[float]) -> None:
    server.drops, server.checksum = [1000, 5000, 0, 0, 200_000], crc32c(CONTENT)
    path = download(f"{server.url}/file", tmp_path / "file")
    assert path.read_bytes() == CONTENT
    starts = [0 if requested is None else int(requested[6:-1]) for requested in server.ranges]
    assert starts == [0, 1000, 6000, 6000, 6000, 206_000]
    assert waits == [0.5, 0.5, 1.0, 2.0, 0.5], "it waits longer after attempts that receive nothing"


def test_a_killed_download_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT[:70_000])
    download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.ranges == ["bytes=70000-"]


def test_a_download_killed_before_its_last_step_is_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT)
    assert download(f"{server.url}/file", tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    server.supports_ranges, server.drops = False, [5000]
    path = download(f"{server.url}/file", tmp_path / "file")
    assert path.read_bytes() == CONTENT


def test_a_busy_server_is_retried_and_a_refusal_is_final(server: Server, tmp_path: Path) -> None:
    server.errors = [503, 500, 429]
    path = download(f"{server.url}/file", tmp_path / "file")
    assert path.read_bytes() == CONTENT
    for code in (403, 404):
        server.errors = [code]
        with pytest.raises(DataError, match=f"/file cannot be fetched: {code}"):
            download(f"{server.url}/file", tmp_path / "other")
    with pytest.raises(DataError, match="/nothing cannot be fetched: 404"):
        download(f"{server.url}/nothing", tmp_path / "nothing")


def test_it_gives_up_when_nothing_is_received(
    server: Server, tmp_path: Path, waits: list[float]
) -> None:
    server.drops = [1000, *[0] * 9]
    with pytest.raises(DataError, match="cannot be fetched: the connection broke off after 0 of"):
        download(f"{server.url}/file", tmp_path / "file", retries=3)
    assert waits == [0.5, 1.0, 2.0]
    assert (tmp_path / ".file.part").stat().st_size == 1000, "the first bytes are kept"
    assert not (tmp_path / "file").exists()


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9/file cannot be fetched"):
        download("http://127.0.0.1:9/file", tmp_path / "file", retries=1)


def test_a_file_with_a_wrong_checksum_is_deleted(server: Server, tmp_path: Path) -> None:
    server.checksum = crc32c(CONTENT) ^ 1
    with pytest.raises(DataError, match="damaged in transfer"):
        download(f"{server.url}/file", tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changed_on_the_server_is_downloaded_from_the_start(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT + b"longer than the file is now")
    download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
