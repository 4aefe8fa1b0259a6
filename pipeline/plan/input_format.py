"""Decides how the rows of the input are read: the dialect of delimited text, and the columns of the sources."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.options.groups import UNION, InputOptions
from pipeline.options.kinds import NO_QUOTE
from pipeline.plan.read_sample import read_header
from transforms import formats
from transforms.errors import UsageError
from transforms.formats import drift
from transforms.formats.base import Reader
from transforms.formats.spec import FormatSpec
from transforms.mapping.name_lists import repeated
from transforms.records import Source
from transforms.threads import in_threads

HEADERS = 10_000  # most files whose headers are read before the run, unless they may differ
SHOWN = 3  # most differences in a message


class Headers(NamedTuple):
    """The columns of the sources.

    Attributes:
        columns: How many columns the planned header has; None if files of the format have no header.
        drift: How sources differ from the first one, with `--schema_drift=union`.
        widest: The sources in the order in which the plan samples them, with `--schema_drift=union`: the first source
            of each header, those with most columns first, then the others. So the plan sees columns that the first
            source lacks. Otherwise empty.
        distinct: With `--schema_drift=union`: each header, and the path of the first source that has it. Otherwise
            empty.
    """

    columns: int | None = None
    drift: Sequence[str] = ()
    widest: Sequence[Source] = ()
    distinct: Sequence[tuple[str, str]] = ()


NO_HEADERS = Headers()


def format_of(options: InputOptions, name: str) -> FormatSpec:
    """Returns the format of the input without its header, which `with_headers` adds.

    Args:
        options: The input options.
        name: Name of the format.

    Raises:
        UsageError: A flag is for delimited text, and the format is another one; or two flags contradict each other.
    """
    if options.record_field and name != "tfrecord":
        raise UsageError(
            f"--record_field={options.record_field} is for TFRecord files, and the input is {name}; leave it out"
        )
    given = {
        "--columns": options.columns,
        "--delimiter": options.delimiter,
        "--quote": options.quote,
        "--null_values": options.null_values,
        "--max_row_bytes": options.max_row_bytes,
    }
    flag = next((flag for flag, value in given.items() if value), None)
    if flag is None:
        return FormatSpec(name, record_field=options.record_field or "")
    if name not in formats.DELIMITERS:
        raise UsageError(f"{flag} is for {' and '.join(formats.DELIMITERS)}, and the input is {name}; leave it out")
    delimiter, quote = options.delimiter or formats.DELIMITERS[name], options.quote or '"'
    if delimiter == quote:
        raise UsageError(f"--delimiter and --quote are both {delimiter}; name the other character that quotes cells")
    return FormatSpec(
        name,
        delimiter=options.delimiter or "",
        quote=options.quote or "",
        has_header=not options.columns,
        header=_record(options.columns, delimiter, quote),
        null_values=options.null_values,
        max_row_bytes=options.max_row_bytes or 0,
    )


def _record(names: Sequence[str], delimiter: str, quote: str) -> str:
    """Writes the names of `--columns` as the header that the files lack.

    Raises:
        UsageError: A name comes twice, has a line end, or needs a quote where there is none.
    """
    twice = repeated(names)
    if twice is not None:
        raise UsageError(f"--columns names {twice} twice; give each column a name of its own")
    broken = next((name for name in names if {"\n", "\r"} & set(name)), None)
    if broken is not None:
        raise UsageError(f"--columns has a line end in the name {broken!r}; give the column another name")
    text = io.StringIO()
    quoted: Any = {"quoting": csv.QUOTE_NONE} if quote == NO_QUOTE else {"quotechar": quote}
    try:
        csv.writer(text, delimiter=delimiter, lineterminator="", **quoted).writerow(names)
    except csv.Error as error:
        raise UsageError(
            f"--columns has a name with the delimiter in it, and --quote=none leaves no way to write it: {error}"
        ) from error
    return text.getvalue()


def with_headers(spec: FormatSpec, sources: Sequence[Source], schema_drift: str) -> tuple[FormatSpec, Headers]:
    """Reads the headers of the sources, and compares them. It reads no file if files of the format have no header.

    If sources must have the same columns, it reads the headers of the first `HEADERS` sources. Later, the workers
    compare each header with the planned one, see `transforms.split_into_chunks`.

    Args:
        spec: The format of the input.
        sources: The input files.
        schema_drift: What to do with files that have other columns, see `InputOptions`.

    Returns:
        The format with the header of the first source that has one, and the columns of the sources.

    Raises:
        UsageError: A header cannot be read, or a source has other columns than the first one.
    """
    reader, union = formats.load(spec).reader, schema_drift == UNION
    if not (reader.traits.has_header and spec.has_header):
        if union:
            raise UsageError(f"--schema_drift={UNION} is for files with a header or schema; leave it out")
        return spec, _of_columns(spec, reader) if spec.header else NO_HEADERS
    read = [source for source in sources if source.size or reader.traits.typed][: None if union else HEADERS]
    firsts: dict[str, Source] = {}  # header -> its first source
    for source, header in in_threads(lambda source: (source, read_header(source, reader)), read):
        if header:
            firsts.setdefault(header, source)
    if not firsts:
        return spec, Headers(0)
    found = [drift.columns_of(source.path, header, reader) for header, source in firsts.items()]
    spec = msgspec.structs.replace(spec, header=next(iter(firsts)), any_header=union)
    differences = [text for other in found[1:] for text in drift.differences(found[0], other)]
    if not union:
        _refuse(differences)
        return spec, Headers(len(found[0].columns))
    sizes = {columns.source: len(columns.columns) for columns in found}
    widest = sorted(sources, key=lambda source: -sizes.get(source.path, 0))
    distinct = [(header, source.path) for header, source in firsts.items()]
    return spec, Headers(len(found[0].columns), differences, widest, distinct)


def _of_columns(spec: FormatSpec, reader: Reader) -> Headers:
    return Headers(len(drift.columns_of("--columns", spec.header, reader).columns))


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        more = f"; and {len(differences) - SHOWN} more differences" * (len(differences) > SHOWN)
        raise UsageError(
            f"{'; '.join(differences[:SHOWN])}{more}: score the files one by one, or let each part have the columns of "
            "its file with --schema_drift=union"
        )


def check_delimiter(
    options: InputOptions, reader: Reader, sample: Sequence[Mapping[str, Any]], columns: int | None = None
) -> None:
    """Refuses delimited text whose only column seems to hold several.

    A value in quotes may hold further delimiters, so each row needs at least as many as the name of the column has. If
    no row has one cell only, the name alone decides.

    Args:
        options: The input options.
        reader: The reader of the input.
        sample: Some rows.
        columns: How many columns the header has, see `Headers`.

    Raises:
        UsageError: Another delimiter occurs in the name of the column, and as often or more often in each row, and no
            flag names the delimiter.
    """
    names = {name for row in sample for name in row}
    if not sample and columns == 1:
        names = {reader.header}
    if options.delimiter or not reader.traits.text_cells or len(names) != 1:
        return
    (name,) = names
    for mark, spelled in formats.OTHER_DELIMITERS.items():
        marks = name.count(mark)
        if marks and all((row[name] or "").count(mark) >= marks for row in sample):
            own = "tab" if reader.name == "tsv" else "','"
            rows = f"each row has {mark!r}, too" if sample else "no row has one cell"
            raise UsageError(
                f"the only column is called {name!r}, and {rows}; give --delimiter {spelled}, "
                f"or --delimiter {own} if it is one column"
            )
