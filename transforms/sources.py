"""MatchSources: from globs and folders to the input files, each once, each with its place in the output."""

import dataclasses
import posixpath
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io.filesystem import FileMetadata

from transforms import files, formats
from transforms.errors import UsageError
from transforms.records import Source

WILDCARDS = "*?["
HIDDEN = ("_", ".")


class Matched(NamedTuple):
    """What patterns match.

    Attributes:
        sources: The input files, sorted by path, each once.
        skipped: Files of folders that are not data by their name: `_SUCCESS`, `.part.crc`.
    """

    sources: list[Source]
    skipped: list[str]


def match_sources(patterns: Sequence[str], suffix: str) -> Matched:
    """Matches files, globs and folders.

    Folders are searched through; names in them that begin with `_` or `.` are not data, as Spark,
    Hive and Beam hold it. Sub-folders below what all patterns have in common are kept in the stem.

    Args:
        patterns: Paths, globs or folders.
        suffix: What the parts of a source without a known suffix are called.

    Raises:
        UsageError: A pattern matches no file, a name is not UTF-8, or two sources would get parts of one name.
    """
    found: dict[str, int] = {}
    roots: list[str] = []
    skipped: set[str] = set()
    for pattern in patterns:
        matched, root, hidden = _match_one(pattern)
        found |= {f.path: f.size_in_bytes for f in matched}
        roots.append(root)
        skipped |= hidden
    try:
        root = posixpath.commonpath([files.absolute(root) for root in roots])
    except ValueError as error:
        raise UsageError(f"inputs on several file systems: {', '.join(patterns)}; run them one by one") from error
    sources = [_source(path, found[path], root, suffix) for path in sorted(found)]
    _check_names(sources)
    return Matched(sources, sorted(skipped - set(found)))


def fixed_folder(glob: str) -> str:
    """The folder of a glob, before its first wildcard.

    >>> fixed_folder("data/2024-*/x.jsonl"), fixed_folder("gs://bucket/a/*.jsonl"), fixed_folder("*.jsonl")
    ('data', 'gs://bucket/a', '')
    """
    return posixpath.dirname(glob[: min(glob.find(c) for c in WILDCARDS if c in glob)])


def is_glob(pattern: str) -> bool:
    """Whether a pattern has wildcards."""
    return any(c in pattern for c in WILDCARDS)


def _match_one(pattern: str) -> tuple[list[FileMetadata], str, set[str]]:
    """The files of one pattern, the folder that their names in the output start from, what was skipped."""
    matched, hidden = files.match(pattern), set()
    if [f.path for f in matched] == [pattern]:
        root = posixpath.dirname(pattern)
    elif is_glob(pattern):
        root = fixed_folder(pattern)
    else:
        root = pattern.rstrip("/") or "/"
        below = files.match(posixpath.join(pattern, "**"))
        hidden = {f.path for f in below if _is_hidden(f.path, root)}
        matched = [f for f in below if f.path not in hidden]
    if not matched:
        raise UsageError(f"no file matches {pattern}; check the path, and quote globs in the shell")
    return matched, root, hidden


def _is_hidden(path: str, folder: str) -> bool:
    return any(name.startswith(HIDDEN) for name in posixpath.relpath(path, folder).split("/"))


def _source(path: str, size: int, root: str, suffix: str) -> Source:
    # Absolute on both sides: a relative path that leaves the current folder would lead out of the output, too.
    stem, own = formats.split_suffix(posixpath.relpath(files.absolute(path), root))
    return Source(path, size, stem, own or suffix)


def _check_names(sources: Sequence[Source]) -> None:
    taken: dict[str, str] = {}
    for source in sources:
        try:
            source.path.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{source.path!r}: the name is not UTF-8, so no key can hold it; rename it") from error
        name = source.stem + source.suffix
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
