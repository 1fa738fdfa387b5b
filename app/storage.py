"""Image stores: where the bytes of pictures lie."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path


class FolderStore:
    """Pictures as files below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`; a reader sees all of it or nothing, also after a power cut."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def get(self, key: str) -> bytes:
        """Read what was kept; raises KeyError when it is gone."""
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as exc:
            raise KeyError(key) from exc

    def delete(self, key: str) -> None:
        """Drop what was kept; nothing happens when it is gone already."""
        self._path(key).unlink(missing_ok=True)

    def within(self, folder: str, before: datetime) -> Iterator[str]:
        """Name what lies in a folder and was written before a moment, unfinished files too."""
        try:
            with os.scandir(self._path(folder)) as entries:
                for entry in entries:
                    if entry.is_file() and entry.stat().st_mtime < before.timestamp():
                        yield f"{folder}/{entry.name}"
        except FileNotFoundError:  # nothing was ever kept there, or it goes at this moment
            return

    def _path(self, key: str) -> Path:
        path = (self._folder / key).resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise KeyError(key)
        return path
