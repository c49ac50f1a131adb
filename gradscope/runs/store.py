"""A folder that holds runs, on this disk or on any file system that fsspec knows."""

from __future__ import annotations

import os
import secrets
from typing import Any

import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from gradscope.errors import InvalidTypeError, InvalidValueError


class Store:
    """Reads and writes whole files under one folder; a write is seen complete or not at all."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
            raise InvalidTypeError(f"path is a string or a path, not {type(path).__name__}")
        self.path = os.fspath(path)
        filesystem, root = url_to_fs(self.path)
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/") or "/"
        self._local = isinstance(filesystem, LocalFileSystem)

    def shown(self, name: str = "") -> str:
        """Return a path as messages should show it: the folder as it was given, then the name."""
        base = self.path.rstrip("/") or "/"
        return f"{base}/{name}" if name else base

    def child(self, name: str) -> Store:
        """Return the store of a folder inside this one."""
        return Store(self.shown(name))

    def is_folder(self) -> bool:
        """Tell whether the folder exists."""
        return bool(self._fs.isdir(self._root))

    def is_file(self, name: str = "") -> bool:
        """Tell whether a file exists in the folder (without a name: whether the folder is a file)."""
        return bool(self._fs.isfile(self._where(name)))

    def check_folder(self) -> None:
        """Make sure that no file stands in the way of the folder.

        Raises:
            InvalidValueError: The folder, or one above it, is a file; it is named.
        """
        place = (self._root if "://" in self.path else self.path) if self._local else ""
        while place and not os.path.isdir(place):
            if os.path.exists(place) and not os.path.isdir(place):  # another rank may make it meanwhile
                raise InvalidValueError(f"{place!r} is a file; out is a folder")
            place = os.path.dirname(place)

    def names(self, folder: str = "", *, folders: bool = False) -> list[str]:
        """List the files of a sub-folder, or its folders; an absent one has none."""
        where = self._where(folder)
        kind = "directory" if folders else "file"
        if self._local:
            return sorted(_local_names(where, folders))
        self._fs.invalidate_cache(where)  # object stores remember listings
        try:
            found = self._fs.ls(where, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == kind)

    def read(self, name: str) -> bytes:
        """Return the content of a file; FileNotFoundError when there is none."""
        if self._local:
            with open(self._where(name), "rb") as file:
                return file.read()
        return bytes(self._fs.cat_file(self._where(name)))

    def parquet(self, name: str) -> Any:
        """Open a Parquet file, so that single columns can be read."""
        where = self._where(name)
        return pq.ParquetFile(where if self._local else self._fs.open(where, "rb"))

    def write(self, name: str, data: Any) -> None:
        """Write a file at once: under a temporary name, then renamed (on an object store one put)."""
        if not self._local:
            self._fs.pipe_file(self._where(name), bytes(data))
            return
        temporary = self._temporary(name, data)
        os.replace(temporary, self._where(name))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; False when there is. Exclusive on a disk that has hard links."""
        if not self._local:
            return self._create_unlinked(name, data)
        temporary = self._temporary(name, data)
        try:
            os.link(temporary, self._where(name))
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return self._create_unlinked(name, data)
        finally:
            os.unlink(temporary)
        return True

    def remove(self, name: str) -> None:
        """Delete a file; one that is gone already is no error."""
        try:
            self._fs.rm_file(self._where(name))
        except FileNotFoundError:
            return

    def _where(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _create_unlinked(self, name: str, data: bytes) -> bool:
        if self.is_file(name):
            return False
        self.write(name, data)
        return True

    def _temporary(self, name: str, data: Any) -> str:
        # The leading dot hides it from readers that take every file of a folder.
        folder, base = os.path.split(self._where(name))
        temporary = f"{folder}/.{base}.{secrets.token_hex(3)}.tmp"
        try:
            file = open(temporary, "wb")  # noqa: SIM115
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            file = open(temporary, "wb")  # noqa: SIM115
        with file:
            file.write(data)
        return temporary


def _local_names(where: str, folders: bool) -> list[str]:
    try:
        with os.scandir(where) as entries:
            return [entry.name for entry in entries if (entry.is_dir() if folders else entry.is_file())]
    except (FileNotFoundError, NotADirectoryError):
        return []
