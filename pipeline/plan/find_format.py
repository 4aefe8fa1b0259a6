"""Finds the format and the compression of the input files: by their names, else by their first bytes."""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pipeline.plan.read_sample import CHECKED, SIZES, SOURCES, first_bytes
from transforms import formats
from transforms.errors import UsageError
from transforms.formats import foreign
from transforms.records import Source
from transforms.storage.compression import codec_of, detect, plain_name, split_codec
from transforms.storage.files import is_local
from transforms.storage.objects import Stored

SHOWN = 3  # most files of a format that a message names
AT_ONCE = 16  # files that are read at once: an answer of an object store takes about 50 ms


class FoundFormat(NamedTuple):
    """The format of the input files.

    Attributes:
        name: Name of the format.
        by_content: Whether the first bytes of a file told it, and not its name or `--format`.
        codecs: The suffix of the codec of each compressed file whose name has no suffix of a format or codec.
    """

    name: str
    by_content: bool
    codecs: Mapping[str, str]


def find_format(files: Sequence[Stored], given: str | None) -> FoundFormat:
    """Finds the format of the input files.

    The first bytes tell the format of a file whose name does not, and the codec of a file whose name tells neither. If
    there are more than `CHECKED` such files, or `SOURCES` in an object store, it looks at the first ones. These have to
    be alike, and the others are taken to be like them. A worker refuses a file that is not.

    Args:
        files: The files.
        given: The format that the command names; None if it names none.

    Raises:
        UsageError: The format of a file is not known, keyjoin does not read it, or files have different formats.
    """
    names = {file.path: formats.by_name(file.path) for file in files}
    unnamed = [file for file in files if names[file.path] is None]
    if given:
        names = dict.fromkeys(names, given)
    # Beam's reader gets 16 MiB of an object even for a few bytes.
    most = CHECKED if all(is_local(file.path) for file in unnamed) else SOURCES
    looked = _look(unnamed[:most], given)
    names |= {path: look.name for path, look in looked.items() if look.name}
    codecs = {path: look.codec for path, look in looked.items()}
    if rest := unnamed[most:]:
        like = _alike(looked)
        names |= {file.path: given or like.name for file in rest}
        codecs |= {file.path: like.codec for file in rest if not formats.split_suffix(file.path)[1]}
    found = {name for name in names.values() if name}
    if len(found) > 1:
        raise UsageError(f"inputs of several formats, so run them one by one: {_listed(names, sorted(found))}")
    if not found:
        raise UsageError(f"{next(iter(names))}: the name does not tell the format, and the file is empty; {_remedy()}")
    return FoundFormat(
        found.pop(), not given and bool(looked), {path: codec for path, codec in codecs.items() if codec}
    )


class _Look(NamedTuple):
    """What the first bytes of a file tell: its format (None if it has no bytes), and the suffix of its codec."""

    name: str | None
    codec: str


def _look(files: Sequence[Stored], given: str | None) -> dict[str, _Look]:
    """Looks at the first bytes of files, several at once."""
    with ThreadPoolExecutor(AT_ONCE, "keyjoin-look") as threads:
        looks = threads.map(lambda file: _look_at(file, given), files)
        return {file.path: look for file, look in zip(files, looks, strict=True)}


def _look_at(file: Stored, given: str | None) -> _Look:
    """Looks at the first bytes of a file.

    Raises:
        UsageError: The file cannot be read, is not a whole file of its codec, or is of no format that keyjoin reads.
    """
    own = formats.split_suffix(file.path)[1]
    kind = foreign.by_name(file.path)
    if kind and not given:
        raise UsageError(f"{file.path}: {foreign.refusal(kind, file.path, codec_of(file.path))}")
    if not file.size_in_bytes:
        return _Look(None, "")
    source = Source(file.path, file.size_in_bytes, "", own)
    codec = "" if own else _codec(source)
    return _Look(given or _format(source._replace(suffix=own or codec)), codec)


def _codec(source: Source) -> str:
    """Returns the suffix of a file's codec, by its first bytes; empty if it is not compressed."""
    codec = detect(first_bytes(source, foreign.FIRST_BYTES))
    # By chance, a TFRecord file may begin as gzip. The checksum of its first record proves what it is.
    if codec is None or formats.binary_kind(first_bytes(source, SIZES[0])) is foreign.EXAMPLES:
        return ""
    return codec.suffix


def _format(source: Source) -> str:
    """Returns the format of a file, by its first bytes.

    Raises:
        UsageError: They do not tell it, or keyjoin does not read it.
    """
    kind = head = None
    for size in (1 << 16, *SIZES):
        head = first_bytes(source, size)
        kind = formats.by_content(head, whole=len(head) < size)
        if kind is not None or len(head) < size:
            break
    if kind is None:
        like = foreign.by_text(head or b"")
        advice = f"if it is {like.title}, name that with --format {like.format}" if like and like.format else _remedy()
        raise UsageError(f"{source.path}: the name does not tell the format, nor do the first bytes; {advice}")
    if not kind.format:
        raise UsageError(f"{source.path}: {foreign.refusal(kind, source.path, source.codec)}")
    return kind.format


def _remedy() -> str:
    return f"name it with --format ({', '.join(formats.FORMATS)})"


def _alike(looked: Mapping[str, _Look]) -> _Look:
    """Returns what all of the files that were looked at have in common.

    Raises:
        UsageError: They are not alike.
    """
    filled = [(path, look) for path, look in looked.items() if look.name]
    if not filled:
        return _Look(None, "")
    first, like = filled[0]
    other = next(((path, look) for path, look in filled if look != like), None)
    if other is not None:
        raise UsageError(
            f"more than {len(looked):,} files whose names do not tell the format or codec, and they are not alike: "
            f"{first} is {_spelled(like)}, {other[0]} is {_spelled(other[1])}; give the names suffixes such as "
            f"{formats.default_suffix(str(other[1].name))}{other[1].codec}"
        )
    return like


def _spelled(look: _Look) -> str:
    return f"{look.name}{f', {look.codec}' if look.codec else ''}"


def _listed(names: Mapping[str, str | None], found: Sequence[str]) -> str:
    """Lists the files of each format, with the flags that name them."""
    return ", or ".join(_flag(name, [path for path in names if names[path] == name], names) for name in found)


def _flag(name: str, paths: Sequence[str], every: Collection[str]) -> str:
    suffix = os.path.splitext(plain_name(paths[0]))[1] + split_codec(paths[0])[1]
    if len(paths) <= SHOWN:
        spelled = " ".join(f"--input={shlex.quote(path)}" for path in paths)
    elif suffix and [path for path in every if path.endswith(suffix)] == list(paths):
        spelled = f"--input={shlex.quote(f'{os.path.commonpath(paths)}/**{suffix}')}"
    else:
        spelled = f"{', '.join(paths[:SHOWN])} and {len(paths) - SHOWN} more"
    return f"{name} ({spelled})"
