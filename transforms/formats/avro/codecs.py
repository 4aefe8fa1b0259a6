"""Compresses and decompresses the blocks of an Avro file by the codec that its header names.

https://avro.apache.org/docs/1.12.0/specification/#required-codecs lists the codecs.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
from backports import zstd
from isal import isal_zlib
from isal.igzip_lib import IsalError

from transforms.errors import RunError

_ISAL: Any = IsalError  # its stub calls the class an instance
ERRORS: tuple[type[Exception], ...] = (
    _ISAL,
    OSError,
    lzma.LZMAError,
    EOFError,
    ValueError,
    zstd.ZstdError,
    pa.ArrowException,
)
RAW_DEFLATE = -15  # the window of a deflate stream without header (RFC 1951)
DEFLATE_LEVEL = 1  # six times as fast as zlib's default, see `transforms.storage.compression`
CRC = 4  # the bytes of the checksum after a block of snappy


class Codec(NamedTuple):
    """A codec: its functions take and return the bytes of a block."""

    compress: Callable[[Any], bytes]
    decompress: Callable[[bytes], bytes]


def _same(data: Any) -> bytes:
    return bytes(memoryview(data))


def _deflate(data: Any) -> bytes:
    stream = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, RAW_DEFLATE)
    return stream.compress(data) + stream.flush()


def _inflate(data: bytes) -> bytes:
    stream = isal_zlib.decompressobj(RAW_DEFLATE)
    found = stream.decompress(data)
    if not stream.eof:
        raise ValueError("the stream ends early")
    return found  # some writers leave bytes of zlib's checksum after the stream, and readers ignore them


def _snappy(data: Any) -> bytes:
    packed = pa.Codec("snappy").compress(data, asbytes=True)
    return packed + zlib.crc32(data).to_bytes(CRC, "big")


def _unsnappy(data: bytes) -> bytes:
    # The stream begins with its size: https://github.com/google/snappy/blob/1.2.2/format_description.txt
    size = shift = 0
    for byte in data[:5]:
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    found: bytes = pa.Codec("snappy").decompress(data[:-CRC], size, asbytes=True)
    if zlib.crc32(found).to_bytes(CRC, "big") != data[-CRC:]:
        raise ValueError("its checksum differs")
    return found


CODECS = {
    "null": Codec(_same, _same),
    "deflate": Codec(_deflate, _inflate),
    "snappy": Codec(_snappy, _unsnappy),
    "zstandard": Codec(zstd.compress, zstd.decompress),
    "bzip2": Codec(bz2.compress, bz2.decompress),
    "xz": Codec(lzma.compress, lzma.decompress),
}


def check(name: str) -> None:
    """Checks that a codec is known.

    Raises:
        RunError: It is not.
    """
    if name not in CODECS:
        raise RunError(f"the file has the Avro codec {name}; write it with one of {', '.join(CODECS)}")


def compress(name: str, data: Any) -> bytes:
    """Compresses the records of a block. Equal records give equal bytes."""
    return CODECS[name].compress(data)


def decompress(name: str, data: bytes) -> bytes:
    """Decompresses the records of a block.

    Raises:
        Exception: One of `ERRORS`, if the data is damaged.
    """
    return CODECS[name].decompress(data)
