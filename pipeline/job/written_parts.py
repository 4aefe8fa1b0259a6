"""Finds the parts that are written while a job runs on a remote runner, and when a run fails or is interrupted."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pipeline.job.progress import Progress
from pipeline.run_folder.names import NEXT, TEMP
from pipeline.run_folder.place import Place
from pipeline.terminal.amounts import with_noun
from transforms.errors import RunError, add_note, notes_of
from transforms.records import PartReceipt
from transforms.storage import files
from transforms.threads import in_threads
from transforms.write_part import written_of
from transforms.write_receipts import RECEIPTS, decode

PAUSE_SECONDS, PAUSE_SHARE = 1.0, 10.0  # between two looks at a folder: at least, and for each second of a look


@contextlib.contextmanager
def followed(place: Place, progress: Progress) -> Iterator[None]:
    """Counts the parts that a job writes while the block waits for it.

    A receipt and the files that it proves count on every runner. Beam's metrics do not: a runner may have none, and
    Beam's portable client asks for them once only.

    Args:
        place: The folders that the job writes to. If they cannot be read from here, nothing is counted.
        progress: Counts the parts.
    """
    known, ended = set[str](), threading.Event()

    def look(count: Callable[[PartReceipt], None]) -> float:
        started = time.monotonic()
        with contextlib.suppress(RunError, OSError):  # the commit removes the receipts
            for part in _new_parts(place, known):
                count(part)
        return max(PAUSE_SECONDS, PAUSE_SHARE * (time.monotonic() - started))

    def follow() -> None:
        pause = look(progress.found)  # of an earlier attempt; the job does not wait until all are read
        while not ended.wait(pause):
            pause = look(progress.followed)

    threading.Thread(target=follow, name="keyjoin-follow", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _new_parts(place: Place, known: set[str]) -> Iterator[PartReceipt]:
    """Yields the receipts of parts whose files have the size that was written. Adds the receipts' names to `known`."""
    there = files.list_below(place.output)
    # A new result may have parts of the complete output that it replaces.
    inside = (f"{TEMP}/{NEXT}/", "") if place.is_staged else ("",)
    receipts = f"{inside[0]}{TEMP}/{RECEIPTS}/"
    new = [name for name in there.keys() - known if name.startswith(receipts)]
    for name, content in in_threads(lambda name: (name, files.read_small(files.join(place.output, name))), new):
        with contextlib.suppress(ValueError):  # a damaged receipt proves nothing
            part = decode(content or b"")
            if name != f"{receipts}{part.chunk.part}.json":
                continue  # the temporary name of a receipt that is being written
            if all(size.bytes in [there.get(f"{at}{each}") for at in inside] for each, size in written_of(part)):
                known.add(name)
                yield part


@contextlib.contextmanager
def reported(temp: str, total: Callable[[], int | None] = lambda: None) -> Iterator[None]:
    """Adds a note with the number of written parts to an error or a signal that ends the run.

    An error that already has a note gets no second one.

    Args:
        temp: The run's temporary folder, which has a receipt for each part.
        total: Returns how many parts the run will write; None if that is not known yet.
    """
    try:
        yield
    except (KeyboardInterrupt, RunError) as error:
        if not notes_of(error):
            with contextlib.suppress(RunError):  # if the receipts cannot be listed, there is no note
                add_note(error, sentence(len(files.list_below(files.join(temp, RECEIPTS))), total()))
        raise


def sentence(done: int, total: int | None) -> str:
    """Returns a sentence with the number of written parts.

    Args:
        done: How many parts are written.
        total: How many parts the run will write; None if that is not known yet.

    >>> sentence(0, 9), sentence(1, None), sentence(4, 9)
    ('no part was finished yet', '1 part is written and stays', '4 of 9 parts are written and stay')
    """
    if not done:
        return "no part was finished yet"
    of = f"{done:,} of {total:,} parts" if total else with_noun(done, "part")
    return f"{of} {'is written and stays' if done == 1 else 'are written and stay'}"
