"""Converts the cells of records to the model's inputs.

`pyarrow.csv` reads only the columns that the model needs. It takes more spellings of numbers than keyjoin, such as `01`
and ` 1`, and refuses some that keyjoin takes, such as `31.0` for an integer. So it gets only those records whose needed
cells it reads as keyjoin does. The cells of the others are converted one column at a time by the rules of
`transforms.mapping.numbers`. Both ways give the same result, and it depends on the record alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from transforms import columns
from transforms.columns import READ_AS
from transforms.errors import PlaceError
from transforms.formats.csv import cells, diagnose
from transforms.formats.csv.cells import Cells
from transforms.formats.csv.dialect import NEWLINE, RETURN, Dialect
from transforms.formats.csv.scan import STEP
from transforms.formats.jsonl.convert import to_inputs
from transforms.formats.slices import Found, Why
from transforms.records import BadRow, Feature, Mask, Positions, Rows

TRUE, FALSE = ("true", "1"), ("false", "0")
ZERO, MINUS, POINT, HEX, EXPONENT = np.frombuffer(b"0-.xe", np.uint8)
DIGITS, LOWER = np.uint8(10), 0x20
OF_FLOATS = np.isin(np.arange(256), list(b"0123456789+-.eE"))
OF_INTEGERS = np.isin(np.arange(256), list(b"0123456789-"))
Kinds = dict[str, pa.DataType]


def read_slice(
    data: bytes,
    rows: Rows,
    positions: Positions,
    names: Sequence[str],
    features: Sequence[Feature],
    dialect: Dialect,
) -> Found:
    """Reads the rows of a slice.

    Args:
        data: The chunk's bytes.
        rows: The places of the slice's rows.
        positions: Their positions in the source.
        names: The names of the columns.
        features: The model's inputs, and the fields that feed them.
        dialect: The dialect of the text.

    Returns:
        The inputs of the good rows, and the number and reason of each bad row.

    Raises:
        PlaceError: A record over several lines does not have as many cells as there are columns. Or a record is the
            header with its columns in another order.
    """
    found = cells.find(data, rows, len(names), dialect)
    _check_lines(data, rows, positions, found, len(names))
    kinds = {field: READ_AS[feature.dtype] for feature in features for field in feature.fields}
    numbers = {name: at for at, name in enumerate(names) if name in kinds}
    readable = _utf8(found) if all(_is_scalar(f) for f in features) else np.zeros(len(found.starts), np.bool_)
    plain = readable & _plain(found, kinds, numbers, dialect)
    plain, tables = _read_plain(found, plain, kinds, numbers, dialect)
    other = _bools(found, readable & ~plain, kinds, numbers, dialect)
    if other.any():
        tables.append(_convert(found, other, kinds, numbers, dialect))
    inputs, unfit = to_inputs(tables, features)
    tried = np.flatnonzero(found.whole)
    fitting = np.delete(np.concatenate([tried[plain], tried[other]]), unfit)
    if (np.diff(fitting) < 0).any():
        inputs = inputs.take(pa.array(np.argsort(fitting)))
    bad = np.delete(np.arange(len(rows.starts)), fitting).tolist()
    _check_headers(positions, bad, found, names, dialect)
    return inputs, [(row, _explain(data, rows, row, found, names, features, dialect)) for row in bad]


def _is_scalar(feature: Feature) -> bool:
    """Whether cells can feed an input: a cell holds one value."""
    return len(feature.fields) > 1 or feature.shape in ((), (1,))


def _check_lines(data: bytes, rows: Rows, positions: Positions, found: Cells, width: int) -> None:
    """Refuses records over several lines that have another number of cells: a stray quote may have joined records."""
    for row in np.flatnonzero(~found.whole).tolist():
        start, end = int(rows.starts[row]), int(rows.ends[row])
        if data.find(NEWLINE, start, end) >= 0:
            shown = data[start : start + diagnose.SHOWN].decode("utf-8", "replace")
            raise PlaceError(
                int(positions[row]),
                f"the record that begins with {shown!r} goes over several lines and has {found.counts[row]} cells, but "
                f"there are {width} columns; a quote may be missing or stray in it: repair the file",
            )


def _check_headers(
    positions: Positions, bad: Sequence[int], found: Cells, names: Sequence[str], dialect: Dialect
) -> None:
    """Refuses a header with other places of the columns: the records after it would be read by the first header."""
    quote = b"" if dialect.quote is None else bytes([dialect.quote])
    header = [name.encode() for name in names]
    in_any_order = sorted(header)
    for row in bad:
        if not found.whole[row]:
            continue
        spelled = [cell.removeprefix(quote).removesuffix(quote) for cell in _spelled(found, row)]
        if spelled != header and sorted(spelled) == in_any_order:
            shown = b",".join(spelled)[: diagnose.SHOWN].decode("utf-8", "replace")
            raise PlaceError(
                int(positions[row]),
                f"the record {shown!r} is the header of the file with its columns in another order: files with "
                "different columns were put one after the other; give them as files of their own",
            )


def _spelled(found: Cells, row: int) -> list[bytes]:
    """Returns the cells, as they are spelled, of a record that has all of them."""
    number = int(found.whole[:row].sum())
    places = zip(found.starts[number].tolist(), found.ends[number].tolist(), strict=True)
    return [found.text[start:end] for start, end in places]


def _utf8(found: Cells) -> Mask:
    """Marks the records with all cells that are UTF-8."""
    mask = np.ones(len(found.starts), np.bool_)
    try:
        _as_string(found.text).validate(full=True)
    except pa.ArrowInvalid:
        for row, (start, end) in enumerate(zip(found.starts[:, 0], found.ends[:, -1], strict=True)):
            try:
                found.text[start:end].decode()
            except UnicodeDecodeError:
                mask[row] = False
    return mask


def _as_string(text: bytes) -> pa.LargeStringArray:
    offsets = np.array([0, len(text)], np.int64)
    return pa.LargeStringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(text))


def _plain(found: Cells, kinds: Kinds, numbers: Mapping[str, int], dialect: Dialect) -> Mask:
    """Marks the records that `pyarrow.csv` reads as keyjoin does, or refuses.

    It reads a carriage return as a line end. Its numbers may have spaces around them, leading zeros, a plus sign, no
    digit before or after the point, and words such as `inf`; its integers may be hexadecimal.
    """
    plain = np.ones(len(found.starts), np.bool_)
    octets = np.frombuffer(found.text, np.uint8)
    if found.text.find(RETURN) >= 0:
        strange = np.setdiff1d(np.flatnonzero(octets == RETURN), found.ends[:, -1:])
        plain[_records(found, strange)] = False
    plain[_records(found, _bare_exponents(octets))] = False
    wanted = [
        at for name, at in numbers.items() if not (pa.types.is_boolean(kinds[name]) or kinds[name] == pa.string())
    ]
    if wanted:
        plain &= _plain_numbers(found, wanted, dialect).all(axis=1)
    if dialect.quote is not None and {*TRUE, *FALSE} & {value.decode() for value in dialect.nulls}:
        # `pyarrow.csv` takes the quotes of a bool for a sign that it is no null.
        bools = [at for name, at in numbers.items() if pa.types.is_boolean(kinds[name])]
        first = np.frombuffer(found.text + b"\n", np.uint8)[found.starts[:, bools]]
        plain &= ((first != dialect.quote) | (found.starts[:, bools] == found.ends[:, bools])).all(axis=1)
    return plain


def _bare_exponents(octets: cells.Octets) -> Positions:
    """Finds the points that an exponent follows, as in `1.e5`."""
    found = [np.zeros(0, np.int64)]
    for at in range(0, len(octets) - 1, STEP):
        piece = octets[at : at + STEP + 1]
        found.append(np.flatnonzero((piece[:-1] == POINT) & (piece[1:] | LOWER == EXPONENT)) + at)
    return np.concatenate(found)


def _records(found: Cells, places: Positions) -> Positions:
    """Returns the numbers of records near some places: those that hold them, if these have all cells."""
    if not len(found.starts):
        return np.zeros(0, np.int64)
    numbers: Positions = np.maximum(np.searchsorted(found.starts[:, 0], places, "right") - 1, 0)
    return numbers


def _plain_numbers(found: Cells, wanted: Sequence[int], dialect: Dialect) -> Mask:
    """Marks the cells of some columns that are empty, or begin and end like a number of RFC 8259.

    It looks at all of these cells at once, since they lie side by side in memory.

    Returns:
        bool, (records with all cells, columns).
    """
    # A cell at the end of the text may be followed by nothing, so its next bytes are padded.
    octets = np.frombuffer(found.text + b"\n\n", np.uint8)
    quote = dialect.quote if dialect.quote is not None and dialect.quote in found.text else None
    which = slice(wanted[0], wanted[-1] + 1) if len(wanted) == wanted[-1] - wanted[0] + 1 else wanted
    made = np.zeros((len(found.starts), len(wanted)), np.bool_)
    step = max(1, STEP // (8 * len(wanted)))  # so many rows that their places stay in the cache
    for at in range(0, len(made), step):
        part = slice(at, at + step)
        starts, ends = found.starts[part, which], found.ends[part, which]
        made[part] = _are_plain(octets, starts, ends, quote)
        if dialect.nulls:
            _mark_nulls(made[part], found.text, starts, ends, octets[starts] == quote, dialect)
    return made


def _mark_nulls(
    plain: Mask, text: bytes, starts: cells.Matrix, ends: cells.Matrix, quoted: Mask, dialect: Dialect
) -> None:
    """Marks null cells without quotes as plain, and those in quotes as not plain.

    `pyarrow.csv` may take the quotes for a sign that a cell has a value.
    """
    maybe = (quoted & (ends - starts > 1)) | ~plain
    inner = quoted[maybe]
    values = columns.gather(text, starts[maybe] + inner, ends[maybe] - inner)
    null = _mask(_is_null(values, dialect))
    plain[maybe] = np.where(null, ~inner, plain[maybe])


def _is_null(values: pa.Array, dialect: Dialect) -> pa.BooleanArray:
    return pc.is_in(values, pa.array(dialect.nulls, values.type))


def _are_plain(octets: cells.Octets, starts: cells.Matrix, ends: cells.Matrix, quote: int | None) -> Mask:
    """Marks the cells at these places that are empty, or begin and end like a number. All have two bytes after them."""
    empty = starts == ends
    if quote is not None:
        quoted = ~empty & (octets[starts] == quote)
        starts, ends = starts + quoted, ends - quoted
    first = octets[starts]
    negative = first == MINUS
    if negative.any():
        starts = starts + negative
        first = octets[starts]
    second = octets[starts + 1]
    padded = (first == ZERO) & (starts + 1 < ends) & (_is_digit(second) | (second | LOWER == HEX))
    plain: Mask = (starts < ends) & _is_digit(first) & _is_digit(octets[ends - 1]) & ~padded
    return plain | empty


def _is_digit(octets: cells.Octets) -> Mask:
    mask: Mask = octets - ZERO < DIGITS  # unsigned, so a byte before 0 is large
    return mask


def _read_plain(
    found: Cells, plain: Mask, kinds: Kinds, numbers: Mapping[str, int], dialect: Dialect
) -> tuple[Mask, list[pa.Table]]:
    """Reads records with `pyarrow.csv`: all that are plain, or else those whose numbers have no other characters.

    Returns:
        The marks of the records that were read, and their table if there are any.
    """
    if plain.any() and (table := _read_csv(found.records(plain), found, kinds, numbers, dialect)) is not None:
        return plain, [table]
    likely = _likely(found, plain, kinds, numbers, dialect)
    if likely.any() and (table := _read_csv(found.records(likely), found, kinds, numbers, dialect)) is not None:
        return likely, [table]
    return np.zeros(len(plain), np.bool_), []


def _likely(found: Cells, plain: Mask, kinds: Kinds, numbers: Mapping[str, int], dialect: Dialect) -> Mask:
    """Marks the records whose numbers have only characters of numbers, and whose bools are spelled right."""
    likely = _bools(found, plain, kinds, numbers, dialect)
    octets = np.frombuffer(found.text, np.uint8)
    for allowed, is_kind in ((OF_FLOATS, pa.types.is_floating), (OF_INTEGERS, pa.types.is_integer)):
        wanted = [number for name, number in numbers.items() if is_kind(kinds[name])]
        if wanted:
            accepted = allowed.copy()
            if dialect.quote is not None:
                accepted[dialect.quote] = True
            strange = np.concatenate([[0], np.cumsum(~accepted.take(octets))])
            counts = strange[found.ends[:, wanted]] - strange[found.starts[:, wanted]]
            likely &= (counts == 0).all(axis=1)
    return likely


def _read_csv(
    records: pa.LargeBinaryArray, found: Cells, kinds: Kinds, numbers: Mapping[str, int], dialect: Dialect
) -> pa.Table | None:
    """Reads the needed columns of records; None if a cell cannot be read."""
    text, width = columns.contents(records), found.starts.shape[1]
    quote = False if dialect.quote is None else chr(dialect.quote)
    needed = {str(number): kinds[name] for name, number in numbers.items()}
    if not needed:
        return _with_missing(pa.table({}), len(records), kinds)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(text),
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=text.size + 1, column_names=[str(number) for number in range(width)]
            ),
            pyarrow.csv.ParseOptions(
                delimiter=chr(dialect.delimiter), quote_char=quote, newlines_in_values=True, ignore_empty_lines=False
            ),
            pyarrow.csv.ConvertOptions(
                column_types=needed,
                include_columns=list(needed),
                null_values=["", *(value.decode() for value in dialect.nulls)],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=TRUE,
                false_values=FALSE,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != len(records):
        return None
    return _with_missing(table.rename_columns(list(numbers)), len(records), kinds)


def _with_missing(table: pa.Table, rows: int, kinds: Kinds) -> pa.Table:
    """Adds columns of nulls for the fields that the records do not have."""
    found = {name: table[name] if name in table.column_names else pa.nulls(rows, kind) for name, kind in kinds.items()}
    return pa.table(found) if found else pa.table({"": pa.nulls(rows)})


def _convert(found: Cells, which: Mask, kinds: Kinds, numbers: Mapping[str, int], dialect: Dialect) -> pa.Table:
    """Makes the needed columns of records from their cells. Numbers stay text. All bools have to be spelled right."""
    made = {}
    for name, number in numbers.items():
        texts = text(found, number, which, dialect, keep_empty=kinds[name] == pa.string())
        if pa.types.is_boolean(kinds[name]):
            texts = pc.if_else(texts.is_null(), pa.scalar(None, pa.bool_()), pc.is_in(texts, pa.array(TRUE)))
        made[name] = texts
    return _with_missing(pa.table(made), int(which.sum()), kinds)


def _bools(found: Cells, which: Mask, kinds: Kinds, numbers: Mapping[str, int], dialect: Dialect) -> Mask:
    """Marks those of the marked records whose bools are spelled right, or are empty."""
    right = which.copy()
    for name, number in numbers.items():
        if pa.types.is_boolean(kinds[name]):
            texts = text(found, number, which, dialect, keep_empty=False)
            right[which] &= _mask(pc.or_(texts.is_null(), pc.is_in(texts, pa.array([*TRUE, *FALSE]))))
    return right


def text(found: Cells, number: int, which: Mask, dialect: Dialect, *, keep_empty: bool) -> pa.StringArray:
    """Returns the values of a column as text.

    Args:
        found: The cells. They are UTF-8.
        number: The number of the column.
        which: Marks the records to take.
        dialect: The dialect.
        keep_empty: Whether a cell in quotes has a value in any case. Otherwise it is null, like one without quotes, if
            it is empty or a null.
    """
    starts, ends = found.starts[which, number], found.ends[which, number]
    octets, empty = np.frombuffer(found.text, np.uint8), starts == ends
    if dialect.quote is None or not len(starts):
        quoted = np.zeros(len(starts), np.bool_)
    else:
        quoted = ~empty & (octets[np.minimum(starts, len(octets) - 1)] == dialect.quote)
    texts = columns.gather(found.text, starts + quoted, ends - quoted).cast(pa.string())
    if quoted.any():
        quote = chr(dialect.quote or 0)
        texts = pc.if_else(pa.array(quoted), pc.replace_substring(texts, quote + quote, quote), texts)
    null = empty if keep_empty else starts + quoted == ends - quoted
    if dialect.nulls:
        null |= _mask(_is_null(texts, dialect)) & ~(quoted & keep_empty)
    return pc.if_else(pa.array(null), pa.scalar(None, pa.string()), texts)


def table(
    data: bytes, rows: Rows, numbers: Positions, names: Sequence[str], schema: pa.Schema, dialect: Dialect
) -> tuple[pa.Table, list[BadRow]]:
    """Converts rows to columns of text. A column that the source does not have is null.

    Args:
        data: The chunk's bytes.
        rows: The places of the rows.
        numbers: Their numbers in the chunk.
        names: The names of the source's columns.
        schema: The columns to make.
        dialect: The dialect of the text.

    Returns:
        One record for each row that is UTF-8 and has all cells; and the other rows.
    """
    found = cells.find(data, rows, len(names), dialect)
    readable = _utf8(found)
    fitting = np.zeros(len(numbers), np.bool_)
    fitting[np.flatnonzero(found.whole)[readable]] = True
    made = [
        text(found, names.index(name), readable, dialect, keep_empty=True)
        if name in names
        else pa.nulls(int(readable.sum()), pa.string())
        for name in schema.names
    ]
    bad = [
        BadRow(int(numbers[row]), "write", *_explain(data, rows, row, found, names, (), dialect))
        for row in np.flatnonzero(~fitting).tolist()
    ]
    return pa.table(made, pa.schema([(name, pa.string()) for name in schema.names])), bad


def _mask(found: pa.Array) -> Mask:
    mask: Mask = found.to_numpy(zero_copy_only=False)
    return mask


def _explain(
    data: bytes,
    rows: Rows,
    row: int,
    found: Cells,
    names: Sequence[str],
    features: Sequence[Feature],
    dialect: Dialect,
) -> Why:
    record = data[rows.starts[row] : rows.ends[row]]
    if not found.whole[row]:
        return diagnose.count(record, int(found.counts[row]), len(names), dialect)
    return diagnose.explain(record, dict(zip(names, _spelled(found, row), strict=True)), features, dialect)
