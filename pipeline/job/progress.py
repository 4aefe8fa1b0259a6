"""Reports how many parts are written when a run ends before its end."""

import contextlib
from collections.abc import Callable, Iterator

from transforms.errors import RunError, add_note, notes_of
from transforms.storage import files
from transforms.write_receipts import RECEIPTS


@contextlib.contextmanager
def reported(temp: str, total: Callable[[], int | None] = lambda: None) -> Iterator[None]:
    """Adds to an error or a signal that ends a run how many parts are written.

    Args:
        temp: The run's temporary folder, which has a receipt for each part.
        total: How many parts there will be; None if that is not known yet.
    """
    try:
        yield
    except (KeyboardInterrupt, RunError) as error:
        if not notes_of(error):
            with contextlib.suppress(RunError):  # where receipts cannot be listed, the number is not known
                add_note(error, sentence(len(files.list_below(files.join(temp, RECEIPTS))), total()))
        raise


def sentence(done: int, total: int | None) -> str:
    """How many parts are written.

    >>> sentence(0, 9), sentence(1, None), sentence(4, 9)
    ('no part was finished yet', '1 part is written and stays', '4 of 9 parts are written and stay')
    """
    if not done:
        return "no part was finished yet"
    of = f"{done:,} of {total:,} parts" if total else f"{done:,} part{'s' * (done != 1)}"
    return f"{of} {'is written and stays' if done == 1 else 'are written and stay'}"
