"""A local disk with injected faults: counts every operation on files below one folder, and fails the chosen one.

Replaces the functions of `os` and the built-in `open` in this process, which was started only for this attempt.
Python's own buffers stay, so only operations that would be system calls can fail.
"""

import builtins
import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ONCE, ALWAYS, APPLIED, KILL = (
    "fails once",
    "fails from there on",
    "is done but reported as failed",
    "is where the power goes",
)
# Operations that change something. For the others, "done but reported as failed" is the same as a plain error. A kill
# before one of them is the same as a kill before the next operation that changes something.
CHANGES = frozenset({"create", "write", "close", "fsync", "replace", "unlink", "mkdir", "rmdir", "truncate", "delete"})
REAL = {name: getattr(os, name) for name in dir(os) if callable(getattr(os, name))}
REAL_OPEN = io.open


def there(path: str) -> bool:
    """Whether the path exists; not counted as an operation."""
    try:
        REAL["lstat"](path)
    except FileNotFoundError:
        return False
    return True


class Fault(NamedTuple):
    """Which operation fails (its number, counted from 1), and how."""

    number: int
    how: str


class Operations:
    """Counts operations, and makes the chosen one fail."""

    def __init__(self, fault: Fault | None) -> None:
        self.fault = fault
        self.trace: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def do(self, name: str, path: str, call: Callable[[], Any], half: Callable[[], Any] = lambda: None) -> Any:
        """Does one operation. `half` does half of the work: it runs where the operation fails midway."""
        with self._lock:
            self.trace.append((name, path))
            number = len(self.trace)
        fault = self.fault
        if fault is None or not (number == fault.number or (fault.how == ALWAYS and number > fault.number)):
            return call()
        if fault.how == KILL:
            half()
            self.drop_unsynced()
            REAL["kill"](os.getpid(), signal.SIGKILL)
        if fault.how == APPLIED:
            made = call()
            if name in ("create", "open") and isinstance(made, int):
                REAL["close"](made)
        else:
            half()
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    def drop_unsynced(self) -> None:
        """Discards what a loss of power would lose. An object store loses nothing."""


class Disk(Operations):
    """Operations below a folder of the local disk.

    A loss of power loses the bytes written to a file since its last fsync. It also loses all changes of names since the
    last fsync of any folder; a journal keeps the order of these changes.
    """

    def __init__(self, root: str, fault: Fault | None) -> None:
        super().__init__(fault)
        self.root = root
        self.folders: dict[int, str] = {}  # file descriptor -> path
        self.unsynced: dict[int, tuple[str, int]] = {}  # inode -> path, bytes that survive a loss of power
        self.journal: list[Callable[[], Any]] = []  # undo functions, oldest first; run from the last to the first
        self.kept = Path(f"{root}.kept")
        self.opening = threading.local()

    def name(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The absolute path; None if it is not below the folder."""
        if isinstance(path, int):
            return self.folders.get(path)
        path = os.fsdecode(path)
        if dir_fd is not None:
            return os.path.join(self.folders[dir_fd], path) if dir_fd in self.folders else None
        path = os.path.abspath(path)
        return path if path == self.root or path.startswith(self.root + "/") else None

    def install(self) -> None:
        """Replaces the functions."""
        for name in ("scandir", "listdir", "stat", "lstat", "access"):
            setattr(os, name, self._looking(name))
        for name, undone in (
            ("unlink", self._unlinked),
            ("remove", self._unlinked),
            ("rmdir", self._removed),
            ("mkdir", self._made),
        ):
            setattr(os, name, self._changing(name, undone))
        for name in ("replace", "rename"):
            setattr(os, name, self._moving(name))
        os.open, os.fsync, os.close = self._open, self._fsync, self._close  # type: ignore[assignment]
        io.open = builtins.open = self._open_file  # type: ignore[assignment]

    def _looking(self, name: str) -> Callable[..., Any]:
        def look(path: Any = ".", *arguments: Any, **named: Any) -> Any:
            where = self.name(path, named.get("dir_fd"))
            if where is None:
                return REAL[name](path, *arguments, **named)
            return self.do(name, where, lambda: REAL[name](path, *arguments, **named))

        return look

    def _changing(self, name: str, undone: Callable[[str], Any]) -> Callable[..., Any]:
        def change(path: Any, *arguments: Any, **named: Any) -> Any:
            where = self.name(path, named.get("dir_fd"))
            if where is None:
                return REAL[name](path, *arguments, **named)

            def call() -> None:
                undo = undone(where)
                REAL[name](path, *arguments, **named)
                self.journal.append(undo)

            return self.do("unlink" if name == "remove" else name, where, call)

        return change

    def _moving(self, name: str) -> Callable[..., Any]:
        def move(old: str, new: str, **named: Any) -> Any:
            if self.name(new) is None:
                return REAL[name](old, new, **named)

            def call() -> None:
                kept = self._keep(new)
                REAL["replace"](old, new)
                inode = REAL["stat"](new).st_ino
                if inode in self.unsynced:
                    self.unsynced[inode] = (new, self.unsynced[inode][1])

                def undo() -> None:
                    REAL["replace"](new, old)
                    if kept is not None:
                        REAL["replace"](kept, new)

                self.journal.append(undo)

            return self.do("replace", new, call)

        return move

    def _keep(self, path: str) -> str | None:
        """Keeps a second name of a file, to restore it if the file that replaces it is lost."""
        if self.fault is None or self.fault.how != KILL or not there(path):
            return None
        self.kept.mkdir(exist_ok=True)
        kept = str(self.kept / str(len(self.journal)))
        if there(kept):
            REAL["unlink"](kept)
        REAL["link"](path, kept, follow_symlinks=False)
        return kept

    def _unlinked(self, path: str) -> Callable[[], Any]:
        kept = self._keep(path)
        return lambda: kept and REAL["replace"](kept, path)

    def _removed(self, path: str) -> Callable[[], Any]:
        return lambda: REAL["mkdir"](path)

    def _made(self, path: str) -> Callable[[], Any]:
        return lambda: REAL["rmdir"](path)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        where = None if getattr(self.opening, "on", False) else self.name(path, dir_fd)
        if where is None:
            return int(REAL["open"](path, flags, mode, dir_fd=dir_fd))
        number: int = self.do("open", where, lambda: REAL["open"](path, flags, mode, dir_fd=dir_fd))
        self.folders[number] = where
        return number

    def _close(self, number: int) -> None:
        self.folders.pop(number, None)
        REAL["close"](number)

    def _fsync(self, number: int) -> None:
        """Only records the fsync. A real fsync would make the tests ten times as slow, and prove no more."""
        folder = self.folders.get(number)
        inode = REAL["fstat"](number).st_ino
        if folder is not None:
            self.do("fsync", folder, self.journal.clear)
        elif inode in self.unsynced:
            self.do("fsync", self.unsynced[inode][0], lambda: self.unsynced.pop(inode))

    def _open_file(
        self, path: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        where = None if isinstance(path, int) else self.name(path)
        if where is None:
            return REAL_OPEN(path, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _File(self, where, mode.replace("b", "").replace("t", ""), opener)
        if buffering == 0:
            return raw
        buffered = (
            io.BufferedRandom(raw) if "+" in mode else io.BufferedReader(raw) if "r" in mode else io.BufferedWriter(raw)
        )
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def drop_unsynced(self) -> None:
        """Restores the state after a loss of power: discards all that no fsync has made safe."""
        for path, safe in self.unsynced.values():
            if there(path):
                REAL["truncate"](path, safe)
        for undo in reversed(self.journal):
            try:
                undo()
            except OSError as error:  # for example, a folder that still holds files that are not ours
                if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EEXIST):
                    raise


class _File(io.FileIO):
    """A file on which each system call counts as one operation."""

    def __init__(self, disk: Disk, path: str, mode: str, opener: Any) -> None:
        self.disk, self.path = disk, path
        self.changed = False
        new = "r" not in mode and not there(path)

        def opened() -> None:
            disk.opening.on = True  # system calls of the opener belong to this operation
            try:
                super(_File, self).__init__(path, mode, opener=opener)
            finally:
                disk.opening.on = False
            if new:
                disk.journal.append(lambda: REAL["unlink"](path))

        disk.do("open" if "r" in mode else "create", path, opened)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        inode = REAL["fstat"](self.fileno()).st_ino
        self.disk.unsynced.setdefault(inode, (self.path, REAL["fstat"](self.fileno()).st_size))
        self.changed = True
        super_write = super().write
        return int(
            self.disk.do("write", self.path, lambda: super_write(view), lambda: super_write(view[: len(view) // 2]))
        )

    def truncate(self, size: int | None = None) -> int:
        real = super().truncate
        return int(self.disk.do("truncate", self.path, lambda: real(size)))

    def readinto(self, buffer: Any) -> int | None:
        real = super().readinto
        return self.disk.do("read", self.path, lambda: real(buffer))

    def read(self, size: int = -1) -> bytes | None:
        real = super().read
        return self.disk.do("read", self.path, lambda: real(size))

    def readall(self) -> bytes:
        real = super().readall
        return bytes(self.disk.do("read", self.path, real))

    def close(self) -> None:
        if self.closed:
            return
        real = super().close
        if not self.changed:
            real()
            return
        self.disk.do("close", self.path, real, real)  # even if close(2) fails, the descriptor is closed
