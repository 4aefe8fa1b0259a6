"""Finds out whether there is room in memory, for libraries that crash where an allocation fails."""

import mmap


def require(size: int) -> None:
    """Refuses to go on where the system would not give so many bytes now; none of them is touched.

    Raises:
        MemoryError: It would not.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"{size:,} bytes") from error
