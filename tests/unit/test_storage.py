"""Image stores: the same questions to the real one and to the tests' own."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.fleet import ImageStore
from app.storage import FolderStore
from tests.support.fakes import MemoryImages


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    makers: dict[str, Callable[[], ImageStore]] = {
        "folder": lambda: FolderStore(tmp_path / "images"),
        "memory": MemoryImages,
    }
    return makers[request.param]()


def test_what_is_kept_is_read_back(store: ImageStore) -> None:
    store.put("ab/cd.png", b"first")
    store.put("ab/cd.png", b"second")

    assert store.get("ab/cd.png") == b"second"


def test_what_is_gone_raises_key_error(store: ImageStore) -> None:
    store.put("a.png", b"x")
    store.delete("a.png")
    store.delete("a.png")

    with pytest.raises(KeyError):
        store.get("a.png")


@pytest.mark.parametrize("key", ["../outside.png", "/etc/passwd", "a/../../outside.png"])
def test_a_key_cannot_leave_the_folder(key: str, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "images")
    (tmp_path / "outside.png").write_bytes(b"secret")

    with pytest.raises(KeyError):
        store.get(key)
    with pytest.raises(KeyError):
        store.put(key, b"x")
    with pytest.raises(KeyError):
        store.delete(key)
    assert (tmp_path / "outside.png").read_bytes() == b"secret"


def test_a_symbolic_link_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(tmp_path)
    (tmp_path / "outside.png").write_bytes(b"secret")

    with pytest.raises(KeyError):
        FolderStore(tmp_path / "images").get("link/outside.png")


def test_a_reader_sees_a_whole_picture_or_none(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    pictures = {bytes([value]) * 300_000 for value in (1, 2)}
    store.put("a.png", min(pictures))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for picture in pictures:
                store.put("a.png", picture)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {store.get("a.png") for _ in range(200)}
    finally:
        stop.set()
        writer.join()

    assert seen <= pictures


def test_nothing_half_written_stays_behind(tmp_path: Path) -> None:
    FolderStore(tmp_path).put("ab/a.png", b"x")

    assert [path.name for path in (tmp_path / "ab").iterdir()] == ["a.png"]
