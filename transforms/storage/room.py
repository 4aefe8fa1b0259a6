"""Checks that enough memory is free before calling libraries that crash when an allocation fails."""

import mmap


def require(size: int) -> None:
    """Checks that the system would allocate `size` bytes now. It maps the memory but does not touch it.

    Raises:
        MemoryError: The system refuses the allocation.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError as error:
        raise MemoryError(f"{size:,} bytes") from error
