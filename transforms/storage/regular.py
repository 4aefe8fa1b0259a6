"""Opens regular local files, and refuses links, pipes, sockets, devices and folders."""

import contextlib
import errno
import os
import stat

from transforms.errors import RunError

# The errors of open(2) for a link, for a pipe or socket without a reader, and for a folder.
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
    """Opens a regular file without following a link and without waiting. It is an opener for `open`.

    Returns:
        The file descriptor.

    Raises:
        RunError: The path is not a regular file.
        OSError: The file cannot be opened.
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
    """Makes the message for a path that should be keyjoin's own file or folder and is something else."""
    return f"{path} is {kind_of(path)}, which keyjoin did not make; move it away, and run again"


def kind_of(path: str) -> str:
    """Describes in words what a path is. It does not follow a link."""
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        return next((words for is_kind, words in KINDS if is_kind(mode)), "a file")
    return "gone"
