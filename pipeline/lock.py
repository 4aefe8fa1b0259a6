"""One run at a time in an output folder.

On this machine's file systems the system itself holds the lock, and lets go when its holder dies, however that
happens. In Google Cloud Storage an object stands for it.
"""

import contextlib
import datetime
import json
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import fasteners

from pipeline.names import LOCK
from transforms import files, objects
from transforms.errors import UsageError

STALE_DAYS = 7  # how old the object of a dead holder gets before it is taken over


@contextlib.contextmanager
def locked(output: str) -> Iterator[None]:
    """Holds a folder as long as the context; makes the folder, and takes it away again where it stayed empty.

    Args:
        output: A folder, here or in Google Cloud Storage. Elsewhere nothing is held.

    Raises:
        UsageError: Another run holds it; says which.
    """
    if files.is_local(output):
        with _made(output):
            lock = _take(os.path.join(output, LOCK), output)
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(lock.path)  # while it is held, see `_take`
                lock.release()
    elif output.startswith("gs://"):
        with _object(output):
            yield
    else:
        yield


@contextlib.contextmanager
def _made(folder: str) -> Iterator[None]:
    made = []
    at = os.path.abspath(folder)
    while at and not os.path.lexists(at):
        made.append(at)
        at = os.path.dirname(at)
    os.makedirs(folder, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # something was written there
            for empty in made:
                os.rmdir(empty)


def _take(path: str, output: str) -> Any:
    while True:
        lock = fasteners.InterProcessLock(path)
        try:
            if not lock.acquire(blocking=False):
                lock.lockfile.close()
                holder = files.read_small(path)
                if holder is None:
                    continue  # it has just ended
                raise _refused(output, holder.decode(errors="replace"))
        except threading.ThreadError as error:
            raise UsageError(f"--output {output} cannot be locked: {error}; choose another file system") from error
        # Who held it before may have taken the file away in between: then this is a lock on nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.lockfile.fileno()), os.stat(path)):
                break
        lock.release()
    lock.lockfile.truncate(0)
    lock.lockfile.write(_holder())
    lock.lockfile.flush()
    return lock


@contextlib.contextmanager
def _object(output: str) -> Iterator[None]:
    """An object that is made only if there is none: https://cloud.google.com/storage/docs/request-preconditions."""
    from apache_beam.io.gcp import gcsio
    from google.api_core.exceptions import GoogleAPIError

    path = files.join(output, LOCK)
    try:
        with objects.as_os_errors(path):
            bucket, name = gcsio.parse_gcs_path(path)
            blob = gcsio.GcsIO().client.bucket(bucket).blob(name)
            _take_object(blob, output)
    except OSError as error:
        raise UsageError(f"--output {output} cannot be locked: {error}; check the path and your permissions") from error
    try:
        yield
    finally:
        # What stays of it names a process that has ended.
        with contextlib.suppress(GoogleAPIError, OSError):
            blob.delete(if_generation_match=blob.generation)


def _take_object(blob: Any, output: str) -> None:
    from google.api_core.exceptions import PreconditionFailed

    mine = _holder()
    try:
        blob.upload_from_string(mine, if_generation_match=0)
    except PreconditionFailed:
        blob.reload()
        holder = blob.download_as_text()
        if holder == mine:
            return  # It was made, but the answer was lost, and the client asked again.
        if not _is_stale(holder):
            raise _refused(
                output, holder, f", or delete {output}/{LOCK} if it is dead (after {STALE_DAYS} days it counts as dead)"
            ) from None
        # Of several who find it stale one succeeds: the generation is what it was for that one only.
        blob.upload_from_string(mine, if_generation_match=blob.generation)


def _holder() -> str:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    run = uuid.uuid4().hex  # tells two runs of one process apart
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now, "run": run})


def _is_stale(holder: str) -> bool:
    found = json.loads(holder)
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(found["since"])
    gone = found["host"] == socket.gethostname() and not _is_alive(found["pid"])
    return gone or age > datetime.timedelta(days=STALE_DAYS)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _refused(output: str, holder: str, remedy: str = "") -> UsageError:
    try:
        found = json.loads(holder)
        who = f"process {found['pid']} on {found['host']}, since {found['since']}"
    except (ValueError, KeyError, TypeError):
        who = "a process that is just starting"
    return UsageError(
        f"--output {output} is in use by another run: {who}; wait for it, or choose another folder{remedy}"
    )
