"""Reports how many parts are written when a run fails or is interrupted."""

import contextlib
from collections.abc import Callable, Iterator

from pipeline.terminal.amounts import with_noun
from transforms.errors import RunError, add_note, notes_of
from transforms.storage import files
from transforms.write_receipts import RECEIPTS


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
