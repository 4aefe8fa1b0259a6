"""Hooks: functions that an attempt calls by name before it runs, in its own process, to cause a fault."""

import errno
import io
import os
import random
import resource
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.job import progress, stop_early
from tests.faults import disk
from transforms import join_predictions, read_chunk, write_part

SEEN: dict[str, int] = {}
LATE: list[Callable[[], Any]] = []  # called once the command has ended


def _count(name: str) -> int:
    SEEN[name] = SEEN.get(name, 0) + 1
    return SEEN[name]


def twice() -> None:
    """Writes every chunk twice, from two threads at the same time, as a worker and its replacement would."""
    original = write_part.write_part

    def both(*arguments: Any) -> Any:
        _count("written twice")
        made: list[Any] = []
        other = threading.Thread(target=lambda: made.append(original(*arguments)))
        other.start()
        own = original(*arguments)
        other.join()
        assert made == [own]
        return own

    write_part.write_part = both


def zombie() -> None:
    """Writes every part again after the commit, as a worker does that the runner has already replaced."""
    original = write_part.write_part

    def keeping(*arguments: Any) -> Any:
        _count("written after the commit")
        LATE.append(lambda: original(*arguments))
        return original(*arguments)

    write_part.write_part = keeping


def flaky(seed: int) -> None:
    """Makes one step fail once, either before or after it has done its work."""
    chosen = random.Random(seed)
    module, name = chosen.choice([(write_part, "write_part"), (join_predictions, "join_chunk")])
    at, late = chosen.randrange(1, 4), chosen.random() < 0.5
    original = getattr(module, name)

    def failing(*arguments: Any) -> Any:
        call = _count("calls")
        made = original(*arguments) if late or call != at else None
        if call == at:
            raise ConnectionResetError("a worker is gone")
        return made

    setattr(module, name, failing)


def between(command: str) -> None:
    """Changes a source, as another process would, after it was read and before its rows are written."""
    original = join_predictions.join_chunk

    def after(*arguments: Any) -> Any:
        if _count("calls") == 1:
            subprocess.run(["sh", "-c", command], check=True)
        return original(*arguments)

    join_predictions.join_chunk = after


def limited(name: str, value: int) -> None:
    """Sets a system limit, `RLIMIT_…`. The limit of open files counts from the first free descriptor."""
    number = getattr(resource, name)
    if name == "RLIMIT_NOFILE":
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        value += free
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def nobody() -> None:
    """Gives up root's rights: the process becomes the user nobody."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def jumping() -> None:
    """From the first chunk on, the wall clock jumps by up to a year, either way, at each call of `time.time`."""
    jumps, now, original = random.Random(0), time.time, read_chunk.read_chunk

    def then(*arguments: Any) -> Any:
        time.time = lambda: now() + jumps.uniform(-1, 1) * 31_536_000
        return original(*arguments)

    read_chunk.read_chunk = then


def busy(seed: int) -> None:
    """A busy machine: now and then, up to a minute passes between two readings of a clock that measures durations."""
    waits, passed = random.Random(seed), 0.0

    def slow(clock: Callable[[], float]) -> Callable[[], float]:
        def now() -> float:
            nonlocal passed
            if waits.random() < 0.3:
                _count("waits")
                passed += waits.choice((0.2, 1, 5, 60))
            return clock() + passed

        return now

    original = time.monotonic
    time.monotonic, time.perf_counter = slow(time.monotonic), slow(time.perf_counter)
    for made in (progress.Progress, stop_early.Watch):
        defaults = made.__init__.__defaults__ or ()
        made.__init__.__defaults__ = tuple(time.monotonic if value is original else value for value in defaults)


def umask(mask: int) -> None:
    os.umask(mask)


def held(call: int, said: str) -> None:
    """Blocks forever before a part is written, and creates a file to signal that."""
    original = write_part.write_part

    def wait(*arguments: Any) -> Any:
        if _count("calls") == call:
            open(said, "wb").close()
            threading.Event().wait()
        return original(*arguments)

    write_part.write_part = wait


def full(size: int) -> None:
    """A disk with no space left after `size` bytes."""
    left = size
    original = io.FileIO.write
    lock = threading.Lock()

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal left
            with lock:
                left -= len(data)
                if left < 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(self, data)

    disk._File.__bases__ = (Full,)
