"""Reads and writes compressed files: gzip, Zstandard and bzip2.

The suffix of a file's name gives its codec, in upper or lower case, whatever comes before. A compressed file has one
or more members, one after the other: members of gzip, frames of Zstandard, streams of bzip2. All codecs are read by the
same loop, so a file that ends early, is damaged, or has other bytes at its end is the same error for each of them.

The libraries are imported when they are first used: isal reads gzip, three times as fast as zlib; backports.zstd is
`compression.zstd` of Python 3.14. zlib writes gzip, because isal once wrote other bytes for the same rows of one
process, and two runs have to write the same parts.
"""

import gzip
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple, Protocol, cast

from transforms.threads import in_threads

READ_BYTES = 1 << 16  # compressed bytes to decompress at once
BLOCK_BYTES = 1 << 22  # most bytes of a decompressed block
MEMBER_BYTES = 1 << 20  # least decompressed bytes of a member that keyjoin writes; the last one may be shorter
GZIP_LEVEL, ZSTD_LEVEL = 1, 3  # level 1 is six times as fast as zlib's default, for files a sixth larger


class DamagedError(OSError):
    """A compressed file that ends early, whose bytes are damaged, or that has other bytes after its last member."""


class Decompressor(Protocol):
    """Decompresses one member, see `bz2.BZ2Decompressor`. Each library has such a class."""

    @property
    def eof(self) -> bool: ...  # noqa: D102  see the class

    @property
    def needs_input(self) -> bool: ...  # noqa: D102

    @property
    def unused_data(self) -> bytes: ...  # noqa: D102

    def decompress(self, data: bytes, max_length: int) -> bytes: ...  # noqa: D102


class Codec(NamedTuple):
    """A way to compress files.

    Attributes:
        name: Its name, for messages.
        suffixes: The suffixes of compressed files. The first one is usual.
        first: The bytes with which a compressed file may begin.
        program: The shell command that decompresses a file to its standard output.
        padding: The bytes that may follow a member and mean nothing.
        ratio: The highest ratio of decompressed to compressed bytes.
        decompressor: Makes the decompressor of a member.
        compress: Compresses bytes to one member. The same bytes give the same member.
    """

    name: str
    suffixes: tuple[str, ...]
    first: tuple[bytes, ...]
    program: str
    padding: bytes
    ratio: int
    decompressor: Callable[[], Decompressor]
    compress: Callable[[Any], bytes]

    @property
    def suffix(self) -> str:
        """The usual suffix."""
        return self.suffixes[0]

    def begins(self, first: bytes) -> bool:
        """Returns whether a file begins as this codec writes it. A file with fewer bytes does if all of them match."""
        return any(first.startswith(magic) or magic.startswith(first) for magic in self.first)


def _gzip_decompressor() -> Decompressor:
    from isal import igzip_lib

    return cast(Decompressor, igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP))


def _gzip(data: Any) -> bytes:
    return gzip.compress(data, GZIP_LEVEL, mtime=0)  # without the time, which would make two runs differ


def _zstd_module() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _zstd_decompressor() -> Decompressor:
    return cast(Decompressor, _zstd_module().ZstdDecompressor())


def _zstd(data: Any) -> bytes:
    zstd = _zstd_module()
    level, checksum = zstd.CompressionParameter.compression_level, zstd.CompressionParameter.checksum_flag
    return cast(bytes, zstd.compress(data, options={level: ZSTD_LEVEL, checksum: 1}))


def _bzip2_decompressor() -> Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _bzip2(data: Any) -> bytes:
    import bz2

    return bz2.compress(data)


# RFC 1952, 2.3: ID1, ID2 and the only compression method. The ratio is that of deflate: https://zlib.net/zlib_tech.html
GZIP = Codec("gzip", (".gz",), (b"\x1f\x8b\x08",), "gzip -dc", b"\0", 1032, _gzip_decompressor, _gzip)
# RFC 8878, 3.1.1 and 3.1.2: a frame, or a skippable frame. A block of 4 bytes can repeat a byte 128 KiB times.
ZSTD = Codec(
    "Zstandard",
    (".zst", ".zstd"),
    (b"\x28\xb5\x2f\xfd", *(bytes([nibble]) + b"\x2a\x4d\x18" for nibble in range(0x50, 0x60))),
    "zstd -dc",
    b"",
    1 << 15,
    _zstd_decompressor,
    _zstd,
)
# The level, and the mark of a block or of the end. A block of 24 bytes can repeat a byte 46,620,000 times.
BZIP2 = Codec(
    "bzip2",
    (".bz2",),
    tuple(b"BZh%d%b" % (level, mark) for level in range(1, 10) for mark in (b"1AY&SY", b"\x17rE8P\x90")),
    "bzip2 -dc",
    b"",
    1 << 21,
    _bzip2_decompressor,
    _bzip2,
)
CODECS = (GZIP, ZSTD, BZIP2)
SUFFIXES = {suffix: codec for codec in CODECS for suffix in codec.suffixes}


def split_codec(name: str) -> tuple[str, str]:
    """Splits a name into the name of the decompressed file and the suffix of a codec, which may be empty.

    >>> split_codec("A.JSONL.GZ"), split_codec("a.jsonl")
    (('A.JSONL', '.GZ'), ('a.jsonl', ''))
    """
    lower = name.lower()
    suffix = next((suffix for suffix in SUFFIXES if lower.endswith(suffix)), "")
    return name[: len(name) - len(suffix)], name[len(name) - len(suffix) :]


def codec_of(name: str) -> Codec | None:
    """Returns the codec that a name gives; None if the file is not compressed.

    >>> codec_of("data_tfrecord-00000-of-00001.gz").name, codec_of("A.JSONL.ZST").name, codec_of("a.jsonl")
    ('gzip', 'Zstandard', None)
    """
    return SUFFIXES.get(split_codec(name)[1].lower())


def plain_name(name: str) -> str:
    """Removes the suffix of a codec from a name.

    >>> plain_name("A.JSONL.GZ"), plain_name("a.jsonl")
    ('A.JSONL', 'a.jsonl')
    """
    return split_codec(name)[0]


def detect(first: bytes) -> Codec | None:
    r"""Returns the codec that a file has by its first bytes; None if it is not compressed.

    >>> detect(b"BZh91AY&SY\x00").name, detect(b"BZh9, a word")
    ('bzip2', None)
    """
    return next((codec for codec in CODECS if first.startswith(codec.first)), None)


def blocks(stored: IO[bytes], codec: Codec) -> Iterator[bytes]:
    """Decompresses all members of a file.

    Args:
        stored: The file as stored, at its start.
        codec: Its codec.

    Yields:
        The decompressed bytes, at most `BLOCK_BYTES` at once.

    Raises:
        DamagedError: The file has no member, ends inside of one, does not match a checksum, or has other bytes at its
            end. gzip allows zeros there. The `gzip` program warns of other bytes and ignores them.
    """
    decoder: Decompressor | None = codec.decompressor()
    data, at = b"", 0
    while data or (data := stored.read(READ_BYTES)):
        if decoder is None:
            data = data.lstrip(codec.padding)
            if not data:
                continue
            decoder = codec.decompressor()
        yield from _decompressed(decoder, data, codec, at)
        data = decoder.unused_data if decoder.eof else b""
        if decoder.eof:
            decoder, at = None, at + 1
    if decoder is not None:
        raise DamagedError(f"not a whole {codec.name} file (it ends inside of member {at + 1})")


def _decompressed(decoder: Decompressor, data: bytes, codec: Codec, at: int) -> Iterator[bytes]:
    """Decompresses bytes up to the end of the member, or up to their own end."""
    while data or not (decoder.eof or decoder.needs_input):
        try:
            block = decoder.decompress(data, BLOCK_BYTES)
        except Exception as error:  # each library has its own
            where = f"what follows member {at} is not another one" if at else "its first member is damaged"
            raise DamagedError(f"not a whole {codec.name} file ({where}: {error})") from error
        data = b""
        if block:
            yield block


class _Plain(io.RawIOBase):
    """The decompressed bytes of a file. To go forward, it decompresses them; to go back, it starts from the front."""

    def __init__(self, stored: IO[bytes], codec: Codec) -> None:
        self._stored, self._codec = stored, codec
        self._error: DamagedError | None = None
        self._start()

    def _start(self) -> None:
        self._blocks = blocks(self._stored, self._codec)
        self._left, self._at = memoryview(b""), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stored.seekable()

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> memoryview:
        if self._error is not None:
            raise self._error  # else a second call would look like the end of the file
        if not self._left:
            try:
                self._left = memoryview(next(self._blocks, b""))
            except DamagedError as error:
                self._error = error
                raise
        data, self._left = self._left[:size], self._left[size:]
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            while self._next(BLOCK_BYTES):
                pass
        target = offset + (0 if whence == io.SEEK_SET else self._at)
        if target < self._at:
            self._stored.seek(0)
            self._start()
        while self._at < target and self._next(target - self._at):
            pass
        return self._at


def open_plain(stored: IO[bytes], codec: Codec) -> IO[bytes]:
    """Opens a compressed file for reading. The reader raises the errors of `blocks`.

    Args:
        stored: The file as stored, at its start.
        codec: Its codec.
    """
    return io.BufferedReader(_Plain(stored, codec))


def compressed(codec: Codec, parts: Iterable[Any]) -> Iterator[bytes]:
    """Compresses bytes to members, in threads.

    Args:
        codec: The codec.
        parts: Bytes-like objects, in order.

    Yields:
        One member for `MEMBER_BYTES` or more of them; one empty member if there are none.
    """
    return in_threads(codec.compress, _gathered(parts))


def _gathered(parts: Iterable[Any]) -> Iterator[bytes]:
    held, size, is_first = list[Any](), 0, True
    for part in parts:
        held.append(part)
        size += memoryview(part).nbytes
        if size >= MEMBER_BYTES:
            yield b"".join(held)
            held, size, is_first = [], 0, False
    if held or is_first:
        yield b"".join(held)


def decompressed(name: str, stored: bytes) -> bytes:
    """Decompresses the whole content of a file if its name gives a codec.

    Raises:
        DamagedError: See `blocks`.
    """
    codec = codec_of(name)
    return stored if codec is None else b"".join(blocks(io.BytesIO(stored), codec))
