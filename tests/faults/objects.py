"""An object store as a Beam file system, `fault://bucket/name`, with injected faults.

An object is a file in a flat folder; it exists once its upload is closed.
"""

import io
import os
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any, BinaryIO

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from tests.faults.disk import REAL, REAL_OPEN, Fault, Operations

SCHEME = "fault://"


class ObjectStore(FileSystem):
    """The file system. Beam creates an instance for each use, so the served folder is an attribute of the class."""

    folder = ""
    operations = Operations(None)

    @classmethod
    def serve(cls, folder: str, fault: Fault | None) -> Operations:
        """Serves the objects of a folder, with a fault."""
        cls.folder, cls.operations = folder, Operations(fault)
        return cls.operations

    @classmethod
    def scheme(cls) -> str:
        return SCHEME.removesuffix("://")

    def _file(self, path: str) -> str:
        return os.path.join(self.folder, urllib.parse.quote(path.removeprefix(SCHEME), safe=""))

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self) -> bool:
        return False

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError(path)

    def _list(self, dir_or_prefix: str) -> Iterator[FileMetadata]:
        def names() -> list[str]:
            return [SCHEME + urllib.parse.unquote(name) for name in sorted(REAL["listdir"](self.folder))]

        for name in self.operations.do("list", dir_or_prefix, names):
            if name.startswith(dir_or_prefix):
                found = REAL["stat"](self._file(name))
                yield FileMetadata(name, found.st_size, found.st_mtime)

    def create(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        return self.operations.do("create", path, lambda: _Upload(self, path))

    def open(self, path: str, *_: Any, **__: Any) -> BinaryIO:
        return io.BufferedReader(self.operations.do("open", path, lambda: _Download(self, path)))

    def exists(self, path: str) -> bool:
        return bool(self.operations.do("exists", path, lambda: os.path.exists(self._file(path))))

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            if path.endswith("/"):
                found = [metadata.path for metadata in self._list(path)]
            else:  # a glob
                found = [metadata.path for metadata in self.match([path])[0].metadata_list]
            for name in found:
                try:
                    self.operations.do("delete", name, lambda name=name: REAL["unlink"](self._file(name)))
                except OSError as error:
                    raise BeamIOError("Delete operation failed", {name: error}) from error

    def metadata(self, path: str) -> FileMetadata:
        try:
            found = self.operations.do("stat", path, lambda: REAL["stat"](self._file(path)))
        except OSError as error:
            raise BeamIOError("Metadata operation failed", {path: error}) from error
        return FileMetadata(path, found.st_size, found.st_mtime)

    def size(self, path: str) -> int:
        return int(self.metadata(path).size_in_bytes)

    def last_updated(self, path: str) -> float:
        return float(self.metadata(path).last_updated_in_seconds)

    def checksum(self, path: str) -> str:
        raise NotImplementedError(path)

    def copy(self, source_file_names: list[str], destination_file_names: list[str]) -> None:
        raise NotImplementedError(source_file_names, destination_file_names)

    rename = copy


class _Upload(io.BytesIO):
    def __init__(self, store: ObjectStore, path: str) -> None:
        super().__init__()
        self.store, self.path = store, path

    def write(self, data: Any) -> int:
        real = super().write
        return int(self.store.operations.do("write", self.path, lambda: real(data)))

    def close(self) -> None:
        if self.closed:
            return
        value = self.getvalue()
        super().close()
        self.store.operations.do("close", self.path, lambda: self._keep(value))

    def _keep(self, value: bytes) -> None:
        path = self.store._file(self.path)
        upload = f"{self.store.folder}.upload-{threading.get_ident()}"
        with REAL_OPEN(upload, "wb") as file:
            file.write(value)
        REAL["replace"](upload, path)


class _Download(io.RawIOBase):
    def __init__(self, store: ObjectStore, path: str) -> None:
        self.store, self.path = store, path
        with REAL_OPEN(store._file(path), "rb") as file:
            self.value = io.BytesIO(file.read())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.value.seek(offset, whence)

    def tell(self) -> int:
        return self.value.tell()

    def readinto(self, buffer: Any) -> int:
        return int(self.store.operations.do("read", self.path, lambda: self.value.readinto(buffer)))
