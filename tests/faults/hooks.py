"""What an attempt does to itself: functions that it calls by name before it runs, in its own process."""

import os
import random
import resource
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from transforms import join, write

SEEN: dict[str, int] = {}
LATE: list[Callable[[], Any]] = []  # called once the command has ended


def _count(name: str) -> int:
    SEEN[name] = SEEN.get(name, 0) + 1
    return SEEN[name]


def twice() -> None:
    """Every chunk is written twice, by two threads at once, as by a worker and its replacement."""
    original = write.write_part

    def both(*arguments: Any) -> Any:
        _count("written twice")
        made: list[Any] = []
        other = threading.Thread(target=lambda: made.append(original(*arguments)))
        other.start()
        own = original(*arguments)
        other.join()
        assert made == [own]
        return own

    write.write_part = both


def zombie() -> None:
    """All that was written is written again after the commit, as by a worker that nobody heard of any more."""
    original = write.write_part

    def keeping(*arguments: Any) -> Any:
        _count("written after the commit")
        LATE.append(lambda: original(*arguments))
        return original(*arguments)

    write.write_part = keeping


def flaky(seed: int) -> None:
    """Some step fails once: before it, or after it was done."""
    chosen = random.Random(seed)
    module, name = chosen.choice([(write, "write_part"), (join, "join_chunk")])
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
    """Another process changes a source after it was read, and before its rows are written."""
    original = join.join_chunk

    def after(*arguments: Any) -> Any:
        if _count("calls") == 1:
            subprocess.run(["sh", "-c", command], check=True)
        return original(*arguments)

    join.join_chunk = after


def limited(name: str, value: int, after: bool) -> None:
    """A limit of the system: `RLIMIT_…`; after it is set, or as many more as are open already."""
    number = getattr(resource, name)
    value += len(os.listdir("/proc/self/fd")) if after else 0
    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))


def nobody() -> None:
    """The process gives up its rights."""
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)


def jumping(seed: int) -> None:
    """The wall clock jumps by up to a year, either way, whenever it is looked at."""
    chosen, original = random.Random(seed), time.time
    time.time = lambda: original() + chosen.uniform(-1, 1) * 31_536_000


def umask(mask: int) -> None:
    os.umask(mask)


def held(call: int, said: str) -> None:
    """Waits for ever before a part is written, and says so by making a file."""
    original = write.write_part

    def wait(*arguments: Any) -> Any:
        if _count("calls") == call:
            open(said, "wb").close()
            threading.Event().wait()
        return original(*arguments)

    write.write_part = wait
