"""Opens regular files of this machine, and nothing that only looks like one."""

import contextlib
import errno
import os
import stat

from transforms.errors import RunError

# What open(2) says of a link, of a pipe or socket that nobody listens to, and of a folder.
NOT_REGULAR = (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EOPNOTSUPP, errno.EISDIR)
KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def open_regular(path: str, flags: int) -> int:
    """Opens a regular file: no link is followed, and nothing is waited for. An opener for `open`.

    Raises:
        RunError: Something else stands there.
        OSError: It cannot be opened.
    """
    try:
        number = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in NOT_REGULAR:
            raise RunError(not_regular(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise RunError(not_regular(path))
    return number


def not_regular(path: str) -> str:
    """The message for something that stands in the place of a file or folder of keyjoin's own."""
    return f"{path} is {kind_of(path)}, which keyjoin did not make; move it away, and run again"


def kind_of(path: str) -> str:
    """What stands at a path, in words; a link is not followed."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        return next((words for is_kind, words in KINDS if is_kind(mode)), "a file")
    return "gone"
