"""MatchSources: from globs and folders to the input files, each once, each with its place in the output."""

import dataclasses
import os
import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io.filesystem import FileMetadata

from transforms import files, formats, globs, lookup
from transforms.errors import UsageError
from transforms.records import Source

HIDDEN = ("_", ".")


class Matched(NamedTuple):
    """What patterns match.

    Attributes:
        sources: The input files, sorted by path, each once.
        skipped: Files of folders that are not data by their name: `_SUCCESS`, `.part.crc`.
    """

    sources: list[Source]
    skipped: list[str]


class Found(NamedTuple):
    """What the file systems say of patterns.

    Attributes:
        files: The files, each once.
        root: What all patterns have in common.
        skipped: As in `Matched`.
    """

    files: list[FileMetadata]
    root: str
    skipped: list[str]


def match_sources(patterns: Sequence[str], suffix: str) -> Matched:
    """Looks up what patterns match, and names it; see `find` and `name_sources`."""
    return name_sources(find(patterns), suffix)


def find(patterns: Sequence[str]) -> Found:
    """Looks up files, globs and folders.

    Folders are searched through. Names in folders and under wildcards that begin with `_` or `.` are not
    data, as Spark, Hive and Beam hold it.

    Args:
        patterns: Paths, globs or folders.

    Raises:
        UsageError: A pattern matches no file.
    """
    found: dict[str, FileMetadata] = {}
    roots: list[str] = []
    skipped: set[str] = set()
    for pattern in patterns:
        matched, root, hidden = _match_one(pattern)
        for file in matched:
            found.setdefault(files.absolute(file.path), file)
        roots.append(root)
        skipped |= hidden
    try:
        root = posixpath.commonpath([files.absolute(root) for root in roots])
    except ValueError as error:
        raise UsageError(f"inputs on several file systems: {', '.join(patterns)}; run them one by one") from error
    return Found(list(found.values()), root, sorted(path for path in skipped if files.absolute(path) not in found))


def name_sources(found: Found, suffix: str) -> Matched:
    """Gives each file its place in the output. Sub-folders below what all patterns have in common are kept in the stem.

    Args:
        found: The files.
        suffix: What the parts of a source without a known suffix are called.

    Raises:
        UsageError: A name is not UTF-8, it leads out of the output, or two sources would get parts of one name.
    """
    sources = sorted(_source(file, found.root, suffix) for file in found.files)
    _check_names(sources)
    return Matched(sources, found.skipped)


def is_glob(pattern: str) -> bool:
    """Whether a pattern has wildcards, and is no path that exists as it is spelled."""
    return globs.is_glob(pattern) and not (files.is_local(pattern) and os.path.exists(pattern))


def _match_one(pattern: str) -> tuple[list[FileMetadata], str, set[str]]:
    """The files of one pattern, the folder that their names in the output start from, what was skipped."""
    folder = files.is_local(pattern) and os.path.isdir(pattern)
    matched = [] if folder else lookup.match(pattern)
    hidden: list[str] = []
    if not folder and [f.path for f in matched] == [pattern]:
        root = posixpath.dirname(pattern)
    elif is_glob(pattern):
        root = globs.fixed_folder(pattern)
        if not _is_hidden(pattern, root):
            matched, hidden = _apart(matched, root)
    else:
        root = pattern.rstrip("/") or "/"
        matched, hidden = _apart(lookup.match_below(root), root)
    if not matched:
        raise UsageError(f"no file matches {pattern}; check the path, and quote globs in the shell")
    return matched, root, set(hidden)


def _apart(matched: Sequence[FileMetadata], root: str) -> tuple[list[FileMetadata], list[str]]:
    """What is data by its name, and what is not."""
    hidden = [f.path for f in matched if _is_hidden(f.path, root)]
    return [f for f in matched if not _is_hidden(f.path, root)], hidden


def _is_hidden(path: str, folder: str) -> bool:
    return any(name.startswith(HIDDEN) for name in path[len(folder) :].strip("/").split("/"))


def _source(file: FileMetadata, root: str, suffix: str) -> Source:
    # Absolute on both sides: a relative path that leaves the current folder would lead out of the output, too.
    stem, own = formats.split_suffix(posixpath.relpath(files.absolute(file.path), root))
    return Source(file.path, file.size_in_bytes, stem, formats.full_suffix(own, suffix), file.last_updated_in_seconds)


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
        if name.startswith("_"):
            raise UsageError(f"{source.path}: its parts would be called {name}, which readers skip; rename it")
        if name in taken:
            raise UsageError(f"{taken[name]} and {source.path} would both be written to {name}; run them one by one")
        taken[name] = source.path


@dataclasses.dataclass(eq=False)
class MatchSources(beam.PTransform[beam.Pipeline, beam.PCollection[Source]]):
    """Matches the input patterns.

    Input:  the pipeline's root
    Output: PCollection[Source], each file once
    """

    patterns: tuple[str, ...]
    suffix: str

    def expand(self, root: beam.Pipeline) -> beam.PCollection[Source]:
        """Wires the step."""
        return (
            root
            | "CreatePatterns" >> beam.Create([self.patterns])
            | "MatchPatterns" >> beam.FlatMap(self._match).with_output_types(Source)
        )

    def _match(self, patterns: tuple[str, ...]) -> Iterator[Source]:
        yield from match_sources(patterns, self.suffix).sources
