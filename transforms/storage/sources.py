"""Resolves globs and folders to the input files, each once, and gives each file its name in the output."""

import functools
import os
import posixpath
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transforms import formats
from transforms.errors import UsageError
from transforms.records import Source
from transforms.storage import files, globs, lookup, paths, stdin
from transforms.storage.compression import split_codec
from transforms.storage.objects import Stored

HIDDEN = ("_", ".")
NO_CODECS: Mapping[str, str] = types.MappingProxyType({})


class Matched(NamedTuple):
    """The input files that patterns match.

    Attributes:
        sources: The input files, sorted by path, each once.
        skipped: Files in folders whose names say that they are not data, such as `_SUCCESS` and `.part.crc`.
        twins: Other names of the input files, each with the path of its source.
    """

    sources: list[Source]
    skipped: list[str]
    twins: Sequence[tuple[str, str]] = ()


class Found(NamedTuple):
    """The files that a look-up found for patterns.

    Attributes:
        files: The files, each once, under the first of its names that a pattern matches.
        root: The folder that all patterns have in common.
        skipped: As in `Matched`.
        twins: As in `Matched`.
    """

    files: list[Stored]
    root: str
    skipped: list[str]
    twins: Sequence[tuple[str, str]] = ()


def find(patterns: Sequence[str]) -> Found:
    """Looks up files, globs and folders.

    One file is one source, whether a path reaches it through a link, by `..`, or by another of its names. The file
    system decides which file a path leads to. Local paths are in their normal form, see `paths.normal`. So a file has
    the same name, and its rows have the same keys, whether the pattern is `a.jsonl` or `./a.jsonl`.

    Folders are searched with their sub-folders. In folders and under wildcards, names that begin with `_` or `.` are
    not data, as in Spark, Hive and Beam.

    Args:
        patterns: Paths, globs or folders.

    Raises:
        UsageError: A pattern matches no file, or the patterns are on several file systems.
    """
    found: dict[Any, Stored] = {}
    twins: dict[str, str] = {}
    roots: list[str] = []
    skipped: dict[str, Stored] = {}
    for pattern in patterns:
        matched, root, hidden = _match_one(pattern)
        for file in matched:
            first = found.setdefault(file.identity, file)
            if first.path != file.path:
                twins[file.path] = first.path
        roots.append(root)
        skipped |= {file.path: file for file in hidden}
    try:
        root = posixpath.commonpath([files.absolute(root) for root in roots])
    except ValueError as error:
        raise UsageError(f"inputs on several file systems: {', '.join(patterns)}; run them one by one") from error
    left_out = sorted(path for path, file in skipped.items() if file.identity not in found)
    return Found(list(found.values()), root, left_out, sorted(twins.items()))


def refresh(patterns: Sequence[str], planned: Sequence[Source]) -> Matched:
    """Looks up the planned sources again and returns those that still exist, with their current size and version.

    Files that match the patterns now but were not planned are not part of the run.

    Raises:
        UsageError: A pattern matches no file.
    """
    there: dict[str, Stored] = {}
    skipped: set[str] = set()
    for pattern in patterns:
        matched, _, hidden = _match_one(pattern)
        there |= {file.path: file for file in matched}
        skipped |= {file.path for file in hidden}
    now = [_as_now(source, there[source.path]) for source in planned if source.path in there]
    return Matched(now, sorted(skipped - {source.path for source in planned}))


def _as_now(source: Source, file: Stored) -> Source:
    return source._replace(size=file.size_in_bytes, updated=file.last_updated_in_seconds, version=file.version)


def name_sources(found: Found, suffix: str, codecs: Mapping[str, str] = NO_CODECS, output: str = "") -> Matched:
    """Gives each file its name in the output. The name keeps the sub-folders below the patterns' common folder.

    Args:
        found: The files.
        suffix: The suffix of the parts of a source without a known suffix.
        codecs: The suffix of the codec of each compressed file without a known suffix.
        output: Name of the parts' format, if the sources have another one.

    Raises:
        UsageError: A name is not UTF-8, leads out of the output, or begins with `_` so that readers would skip it; or
            two sources would get parts of the same name.
    """
    sources = sorted(_source(file, found.root, suffix, codecs.get(file.path, "")) for file in found.files)
    if output:
        parts = functools.partial(formats.part_suffix, output=output)
        sources = [s._replace(suffix=parts(s.suffix), codec_suffix=split_codec(s.suffix)[1]) for s in sources]
    _check_names(sources)
    return Matched(sources, found.skipped, found.twins)


def is_glob(pattern: str) -> bool:
    """Returns whether a pattern has wildcards and is not itself the path of an existing local file or folder."""
    return globs.is_glob(pattern) and not (files.is_local(pattern) and os.path.exists(pattern))


def _match_one(pattern: str) -> tuple[list[Stored], str, list[Stored]]:
    """Returns the files of one pattern, the folder from which their output names start, and the skipped files."""
    folder = files.is_local(pattern) and os.path.isdir(pattern)
    matched = [] if folder else lookup.match(pattern)
    hidden: list[Stored] = []
    if not folder and [f.path for f in matched] == [pattern]:
        root = posixpath.dirname(pattern)
    elif is_glob(pattern):
        root = globs.fixed_folder(pattern)
        if not _is_hidden(pattern, root):
            matched, hidden = _split_hidden(matched, root)
    else:
        root = pattern.rstrip("/") or "/"
        matched, hidden = _split_hidden(lookup.match_below(root), root)
    if not matched:
        raise UsageError(f"no file matches {pattern}; check the path, and quote globs in the shell")
    if files.is_local(pattern):
        for file in (*matched, *hidden):
            file.path = paths.normal(file.path)
    return matched, root, hidden


def _split_hidden(matched: Sequence[Stored], root: str) -> tuple[list[Stored], list[Stored]]:
    """Separates the files whose names say that they are data from the others."""
    hidden = [f for f in matched if _is_hidden(f.path, root)]
    return [f for f in matched if not _is_hidden(f.path, root)], hidden


def _is_hidden(path: str, folder: str) -> bool:
    return any(name.startswith(HIDDEN) for name in path[len(folder) :].strip("/").split("/"))


def _source(file: Stored, root: str, suffix: str, codec: str) -> Source:
    # Both paths are absolute. A relative path that leaves the current folder would also lead out of the output.
    name = stdin.NAME if stdin.is_source(file.path) else posixpath.relpath(files.absolute(file.path), root)
    stem, own = formats.split_suffix(name)
    suffix = formats.full_suffix(own or codec, suffix)
    return Source(file.path, file.size_in_bytes, stem, suffix, file.last_updated_in_seconds, file.version)


def _check_names(sources: Sequence[Source]) -> None:
    taken: dict[str, str] = {}
    for source in sources:
        try:
            source.path.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{source.path!r}: the name is not UTF-8, so no key can hold it; rename it") from error
        name = source.stem + source.suffix
        if name.startswith("../"):
            raise UsageError(
                f"{source.path} lies outside of the folders that the inputs name, so its parts would lie outside of "
                "the output; give its own path"
            )
        if any(step.startswith("_") for step in name.split("/")):
            raise UsageError(f"{source.path}: its parts would be called {name}, which readers skip; rename it")
        if name in taken:
            raise UsageError(f"{taken[name]} and {source.path} would both be written to {name}; run them one by one")
        taken[name] = source.path
