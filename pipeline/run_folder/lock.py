"""Locks an output folder, so that only one run at a time writes to it.

On this machine's file systems, the operating system holds the lock. It releases the lock when the holder dies,
whatever the cause. In Google Cloud Storage the lock is an object, which its holder updates every minute.
"""

import _thread
import contextlib
import datetime
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

import fasteners

from pipeline.run_folder.names import LOCK
from pipeline.terminal.warning import errors_as_warnings, warn
from transforms.errors import RunError, UsageError
from transforms.storage import files, objects

BEAT_SECONDS = 60.0
HOLDER = b'{"host": '  # the first bytes of a lock file that has a holder
DEAD = datetime.timedelta(minutes=10)  # since the last update; compares the store's clock with this machine's


@contextlib.contextmanager
def locked(output: str) -> Iterator[Callable[[], None]]:
    """Locks a folder while the context is open.

    Creates the folder if it is missing, and removes it at the end if it is still empty.

    Args:
        output: A folder on this machine or in Google Cloud Storage. On other storage there is no lock.

    Yields:
        A function to call before the run marks the folder's content as a result. It raises a RunError if another run
        has taken the lock over, or if keyjoin cannot check this.

    Raises:
        UsageError: Another run holds the lock; the message names its process.
    """
    if files.is_local(output):
        path = files.below(output, LOCK)
        with _made(os.path.dirname(path)):
            lock = _take(path, output)
            try:
                yield lambda: None
            finally:
                with errors_as_warnings(f"{path} stays, and is in nobody's way"):
                    _remove_lock(lock, path)
    elif output.startswith("gs://"):
        with _object(output) as prove:
            yield prove
    else:
        yield lambda: None


@contextlib.contextmanager
def _made(folder: str) -> Iterator[None]:
    made = []
    at = files.absolute(folder)
    while at and not os.path.lexists(at):
        made.append(at)
        at = os.path.dirname(at)
    os.makedirs(folder, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a folder is not empty
            for empty in made:
                os.rmdir(empty)


def _take(path: str, output: str) -> Any:
    while True:
        lock = fasteners.InterProcessLock(path)
        lock.lockfile = _open(path)  # the open of fasteners would follow links
        try:
            if not lock.acquire(blocking=False):
                lock.lockfile.close()
                holder = files.read_small(path)
                if holder is None:
                    continue  # the holder has just ended
                raise _refused(output, holder.decode(errors="replace"))
        except threading.ThreadError as error:
            raise UsageError(f"--output {output} cannot be locked: {error}; choose another file system") from error
        # The former holder may have deleted the file after it was opened here. Then this lock protects nothing: retry.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.lockfile.fileno()), os.stat(path)):
                break
        lock.lockfile.close()
    if not _is_ours(lock.lockfile):
        lock.lockfile.close()
        raise UsageError(f"{path} was not written by keyjoin, which keeps its lock there; move it away, and run again")
    lock.lockfile.truncate(0)
    lock.lockfile.write(_holder().encode())
    lock.lockfile.flush()
    return lock


def _open(path: str) -> IO[bytes]:
    try:
        return files.open_own(path, "a+b")
    except RunError as error:
        raise UsageError(f"{error}") from error


def _is_ours(file: IO[bytes]) -> bool:
    """Returns whether keyjoin may overwrite a lock file.

    It may if the file is empty or begins as a holder's text does, and if the file has no second name (hard link).
    """
    file.seek(0)
    found = file.read(len(HOLDER))
    return os.fstat(file.fileno()).st_nlink == 1 and found.strip(b"\0") == HOLDER[: len(found.strip(b"\0"))]


def _remove_lock(lock: Any, path: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # while the lock is held, see `_take`
    finally:
        lock.lockfile.close()  # this releases the lock


@contextlib.contextmanager
def _object(output: str) -> Iterator[Callable[[], None]]:
    """Locks by an object that is created only if it does not exist.

    Source: https://cloud.google.com/storage/docs/request-preconditions.
    """
    from apache_beam.io.gcp import gcsio

    path = files.join(output, LOCK)
    try:
        with objects.as_os_errors(path):
            bucket, name = gcsio.parse_gcs_path(path)
            blob = gcsio.GcsIO().client.bucket(bucket).blob(name)
            held = _Held(blob, path)
            held.take(output)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be locked: {error}; check the path and your permissions") from error
    try:
        with held.beating():
            yield held.prove
    finally:
        with errors_as_warnings(f"{path} was not removed; it counts as dead in {DEAD.seconds // 60} minutes"):
            held.release()


class _LostError(RunError):
    """This run has lost the lock: the object was deleted, or another run took it over."""


class _Held:
    """The object of a lock.

    Its holder updates the object's metadata every minute. This renews the object's time and keeps its generation.
    Every request names the generation that this holder wrote. If another run has taken the lock over, the request
    fails: the new holder's object stays as it is, and the former holder detects the loss.
    """

    def __init__(self, blob: Any, path: str) -> None:
        self._blob, self._path = blob, path
        self._beats = 0
        self._one_at_a_time = threading.Lock()

    def take(self, output: str) -> None:
        """Creates the object, or takes over the object of a dead holder.

        Raises:
            UsageError: The holder is alive.
        """
        mine = _holder()
        while (found := self._write(mine, 0)) is None:
            pass  # the former holder has just ended
        if found != mine and _is_dead(found, self._blob.updated):
            # If several runs find the holder dead, one of them succeeds. None succeeds if the holder has just updated
            # the object.
            found = self._write(mine, self._blob.generation, self._blob.metageneration)
        if found != mine:
            until = (self._blob.updated + DEAD).isoformat(timespec="seconds")
            raise _refused(
                output,
                found or "",
                f"; it counts as dead if it gives no sign of life until {until}; where you know that it is, delete "
                f"{self._path}",
            )

    def _write(self, mine: str, generation: int, metageneration: int | None = None) -> str | None:
        """Writes the object if it still has the given generation; generation 0 means that it does not exist.

        Returns:
            The text of the object after that, which is `mine` if the write succeeded. None if the object is gone.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            self._blob.upload_from_string(mine, if_generation_match=generation, if_metageneration_match=metageneration)
        except PreconditionFailed:
            try:
                self._blob.reload()
                return str(self._blob.download_as_text())  # `mine`, if a response was lost and the client retried
            except NotFound:
                return None
        return mine

    def prove(self) -> None:
        """Updates the object. This shows other runs that the holder is alive, and checks that it still has the lock.

        Raises:
            RunError: The lock is lost, or the store cannot be reached.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed
        from google.cloud.storage.retry import DEFAULT_RETRY

        try:
            with self._one_at_a_time, objects.as_os_errors(self._path):
                self._beats += 1
                self._blob.metadata = {"beats": str(self._beats)}
                self._blob.patch(if_generation_match=self._blob.generation, retry=DEFAULT_RETRY)
        except OSError as error:
            if isinstance(error.__cause__, (NotFound, PreconditionFailed)):
                raise _LostError(
                    f"{self._path} is not this run's any more: somebody deleted it, or another run took it for dead; "
                    "see that no other run is on, and run again"
                ) from error
            raise RunError(f"{self._path} cannot be renewed: {error}; {files.remedy(error)}, and run again") from error

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Calls `prove` every minute while the context is open. Warns of failures; a lost lock ends the run."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT_SECONDS):
                try:
                    self.prove()
                except RunError as error:
                    warn(f"{error}")
                    if isinstance(error, _LostError) and not ended.is_set():
                        _thread.interrupt_main()  # as Ctrl-C does

        thread = threading.Thread(target=beat, name="keyjoin-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def release(self) -> None:
        """Deletes the object if this run still holds the lock.

        Raises:
            OSError: The object cannot be deleted.
        """
        from google.api_core.exceptions import PreconditionFailed

        with contextlib.suppress(FileNotFoundError), objects.as_os_errors(self._path):
            try:
                self._blob.delete(if_generation_match=self._blob.generation)
            except PreconditionFailed:
                self._blob.reload()  # not found, so no error, if the delete succeeded and only its response was lost
                raise


def _holder() -> str:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    run = uuid.uuid4().hex  # distinguishes two runs of one process
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now, "run": run})


def _is_dead(holder: str, updated: datetime.datetime) -> bool:
    if datetime.datetime.now(datetime.timezone.utc) - updated > DEAD:
        return True
    try:
        found = json.loads(holder)
        return bool(found["host"] == socket.gethostname()) and not _is_alive(found["pid"])
    except (ValueError, KeyError, TypeError):
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _who(holder: str) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "a process that is just starting" if holder else "one that has just begun or ended"


def _refused(output: str, holder: str, remedy: str = "") -> UsageError:
    return UsageError(
        f"--output {output} is in use by another run: {_who(holder)}; wait for it, or choose another folder{remedy}"
    )
