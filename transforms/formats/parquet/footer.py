"""Reads and writes the footers of Parquet files, and puts files together from encoded columns.

A file is the encoded columns of its row groups, then a footer that says where each is. So a file of some of these
columns and row groups, with other columns beside them, is their bytes and a new footer. No value is decoded.

Source: https://github.com/apache/parquet-format, `parquet.thrift` and `README.md`. The constants below are the ids of
fields there.
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import IO, Any, NamedTuple

from transforms.errors import RunError
from transforms.formats.parquet import thrift
from transforms.formats.parquet.thrift import Items, Struct, Value

MAGIC, ENCRYPTED = b"PAR1", b"PARE"
END = 8  # the length of the footer, and the magic
# FileMetaData
SCHEMA, ROWS, ROW_GROUPS, KEY_VALUES, CREATED_BY, COLUMN_ORDERS, ENCRYPTION = 2, 3, 4, 5, 6, 7, 8
# SchemaElement
NAME, CHILDREN = 4, 5
# RowGroup
COLUMNS, BYTES, GROUP_ROWS, SORTING, GROUP_OFFSET, COMPRESSED, ORDINAL = 1, 2, 3, 4, 5, 6, 7
# ColumnChunk
FILE_PATH, FILE_OFFSET, META = 1, 2, 3
INDEXES = (4, 5, 6, 7)  # places and sizes of the offset index and the column index, which are not copied
ENCRYPTED_COLUMN = (8, 9)
# ColumnMetaData
PATH, CODEC, CHUNK_BYTES, CHUNK_COMPRESSED, DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE = 3, 4, 6, 7, 9, 10, 11
BLOOM_FILTER = (14, 15)  # its place and its size; not copied
# KeyValue
KEY, VALUE = 1, 2
CODECS = ("none", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4")  # pyarrow's names, by the ids of codecs


class Group(NamedTuple):
    """A row group of a file.

    Attributes:
        meta: Its RowGroup.
        start: The number of its first row in the file.
        rows: How many rows it has.
        bytes: The size of its columns, encoded and not compressed.
    """

    meta: Struct
    start: int
    rows: int
    bytes: int

    @property
    def ends(self) -> int:
        """The number after its last row in the file."""
        return self.start + self.rows


class Footer(NamedTuple):
    """The footer of a file.

    Attributes:
        meta: The FileMetaData.
        groups: The row groups.
        encoded: The bytes of the FileMetaData.
        data_end: The position after the columns and their indexes.
        path: Path of the file.
    """

    meta: Struct
    groups: list[Group]
    encoded: bytes
    data_end: int
    path: str

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return sum(group.rows for group in self.groups)


class Column(NamedTuple):
    """An encoded column of a row group.

    Attributes:
        chunk: Its ColumnChunk.
        start: The position of its first byte in its file.
        data: Its bytes; empty if they were not read.
    """

    chunk: Struct
    start: int
    data: Any = b""

    @property
    def size(self) -> int:
        """Its size in bytes."""
        found: int = self.chunk.of(META).of(CHUNK_COMPRESSED)
        return found

    @property
    def field(self) -> str:
        """The name of the field of the row that it belongs to."""
        found: str = self.chunk.of(META).items_of(PATH)[0].decode(errors="surrogateescape")
        return found


class Encoded(NamedTuple):
    """A row group with the bytes of its columns.

    Attributes:
        meta: Its RowGroup.
        columns: The columns, in the order of the schema.
    """

    meta: Struct
    columns: list[Column]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        found: int = self.meta.of(GROUP_ROWS)
        return found


def read_footer(file: IO[bytes], size: int, path: str) -> Footer:
    """Reads the footer of a file.

    Args:
        file: The file.
        size: Its size in bytes.
        path: Its path, for messages.

    Raises:
        RunError: The file has no footer that can be read, or is encrypted.
    """
    file.seek(0)
    first = file.read(len(MAGIC))
    file.seek(max(0, size - END))
    end = file.read(END)
    if ENCRYPTED in (first, end[-4:]):
        raise RunError(f"{path or 'the file'} is encrypted Parquet, which keyjoin does not read; decrypt it")
    length = int.from_bytes(end[:4], "little")
    if size < len(MAGIC) + END or first != MAGIC or end[4:] != MAGIC or length > size - END - len(MAGIC):
        raise RunError(
            f"{path or 'the file'} is not a whole Parquet file, which begins and ends with PAR1; copy it again from "
            "where it was written"
        )
    file.seek(size - END - length)
    found = parse(file.read(length), path)
    begins = size - END - length - found.data_end
    if begins >= len(MAGIC) + END:
        file.seek(begins - len(MAGIC))
        if file.read(2 * len(MAGIC)) == 2 * MAGIC:
            raise RunError(
                f"{path or 'the file'} is several Parquet files, one after the other: its footer has the rows from "
                f"byte {begins} only; give each of the files by itself"
            )
    return found


def _first_page(column: Struct) -> int:
    """Returns the position of the first page of a column, by its ColumnMetaData."""
    return min((column.of(field) for field in (DATA_PAGE, DICTIONARY_PAGE) if column.of(field)), default=0)


def _data_end(meta: Struct) -> int:
    ends: list[int] = [len(MAGIC)]
    for group in meta.items_of(ROW_GROUPS):
        for chunk in group.items_of(COLUMNS):
            column = chunk.of(META, Struct())
            ends.append(_first_page(column) + column.of(CHUNK_COMPRESSED, 0))
            places = [chunk.of(field, 0) for field in INDEXES] + [column.of(field, 0) for field in BLOOM_FILTER]
            ends += [start + size for start, size in zip(places[::2], places[1::2], strict=True)]
    return max(ends)


@functools.lru_cache(maxsize=8)  # the chunks of a source follow each other
def parse(encoded: bytes, path: str) -> Footer:
    """Decodes the FileMetaData of a file.

    Raises:
        RunError: It is damaged, or names what keyjoin does not read.
    """
    try:
        meta = thrift.decode(encoded)
        groups, start = [], 0
        for group in meta.items_of(ROW_GROUPS):
            groups.append(Group(group, start, group.of(GROUP_ROWS), max(1, group.of(BYTES, 0))))
            start += group.of(GROUP_ROWS)
        if len(elements(meta)) != meta.items_of(SCHEMA)[0].of(CHILDREN, 0):
            raise ValueError("its schema ends early")
        if meta.of(ROWS) != start:
            raise ValueError(f"it says {meta.of(ROWS)} rows, and its row groups have {start}")
        data_end = _data_end(meta)
    except RunError as error:
        raise RunError(f"{path or 'the file'}: {error}") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise RunError(
            f"{path or 'the file'}: the Parquet footer is damaged ({error}); copy the file again from where it was "
            "written"
        ) from error
    return Footer(meta, groups, encoded, data_end, path)


def can_copy(footer: Footer, groups: Sequence[Group]) -> bool:
    """Returns whether the encoded columns of row groups can be copied: they are in this file, and not encrypted."""
    return ENCRYPTION not in footer.meta and not any(
        FILE_PATH in chunk or META not in chunk or any(field in chunk for field in ENCRYPTED_COLUMN)
        for group in groups
        for chunk in group.meta.items_of(COLUMNS)
    )


def read_group(file: IO[bytes], footer: Footer, group: Group, fields: Collection[str] | None) -> Encoded:
    """Reads the encoded columns of a row group.

    Args:
        file: The file.
        footer: Its footer.
        group: The row group.
        fields: The fields of which columns are read; None for all.

    Raises:
        OSError: The file cannot be read.
        RunError: A column goes beyond the end of the file.
    """
    try:
        placed = [_place(chunk) for chunk in group.meta.items_of(COLUMNS)]
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise RunError(f"{footer.path}: the Parquet footer is damaged ({error}); copy the file again") from error
    found = []
    for column in placed:
        if fields is None or column.field in fields:
            file.seek(column.start)
            data = file.read(column.size)
            if len(data) != column.size:
                raise RunError(
                    f"{footer.path}: the column {column.field} of rows {group.start} to {group.start + group.rows} "
                    f"goes beyond the end of the file; copy it again from where it was written"
                )
            found.append(column._replace(data=data))
    return Encoded(group.meta, found)


def _place(chunk: Struct) -> Column:
    """Finds the place of an encoded column.

    Raises:
        ValueError: The footer gives none.
    """
    meta = chunk.of(META)
    column = Column(chunk, _first_page(meta))
    if column.start < 0 or column.size < 0:
        raise ValueError(f"a column of {column.size} bytes at {column.start}")
    return column


def elements(meta: Struct) -> dict[str, list[Struct]]:
    """Returns the elements of the schema of each field of a row, by the name of the field, in order.

    Args:
        meta: The FileMetaData.

    Raises:
        RunError: Two fields have one name.
    """
    flat = meta.items_of(SCHEMA)
    found: dict[str, list[Struct]] = {}
    at = 1
    while at < len(flat):
        end, left = at, 1
        while left:
            left += flat[end].of(CHILDREN, 0) - 1
            end += 1
        name = flat[at].of(NAME).decode()
        if name in found:
            raise RunError(f"two of its columns are called {name!r}; write the file again with a name for each column")
        found[name] = flat[at:end]
        at = end
    return found


def file_of(
    footer: Footer, schema: Sequence[Struct], groups: Sequence[Encoded], key_values: Sequence[tuple[bytes, bytes]]
) -> Iterator[Any]:
    """Puts a file together from encoded columns.

    Args:
        footer: The footer of a file, whose other properties the new file has.
        schema: The elements of the schema of all columns, in order.
        groups: The row groups.
        key_values: The metadata of the file.

    Yields:
        The bytes of the file, as buffers in order.
    """
    yield MAGIC
    at, written = len(MAGIC), []
    for ordinal, group in enumerate(groups):
        start, chunks = at, []
        for column in group.columns:
            chunks.append(_moved(column.chunk, at - column.start))
            at += column.size
            yield column.data
        written.append(_group(group, chunks, start, at - start, ordinal))
    meta = Struct(footer.meta)
    root = Struct(meta.items_of(SCHEMA)[0])
    fields = sum(_is_top(schema))
    root[CHILDREN] = Value(thrift.I32, fields)
    meta.put(SCHEMA, Items(thrift.STRUCT, [root, *schema]))
    meta.put(ROWS, sum(group.rows for group in groups))
    meta[ROW_GROUPS] = Value(thrift.LIST, Items(thrift.STRUCT, written))
    meta[KEY_VALUES] = Value(thrift.LIST, Items(thrift.STRUCT, [_key_value(*pair) for pair in key_values]))
    if orders := meta.items_of(
        COLUMN_ORDERS
    ):  # one for each column without children; all of one kind: TypeDefinedOrder
        leaves = sum(not element.of(CHILDREN, 0) for element in schema)
        meta.put(COLUMN_ORDERS, Items(thrift.STRUCT, [orders[0]] * leaves))
    encoded = thrift.encode(meta)
    yield encoded + len(encoded).to_bytes(4, "little") + MAGIC


def _is_top(schema: Sequence[Struct]) -> Iterator[bool]:
    """Yields for each element whether it is a field of the row, and not inside one."""
    left: list[int] = []
    for element in schema:
        yield not left
        if left:
            left[-1] -= 1
        left.append(element.of(CHILDREN, 0))
        while left and not left[-1]:
            left.pop()


def _moved(chunk: Struct, by: int) -> Struct:
    """Returns a ColumnChunk whose column is so many bytes later in its file."""
    meta = Struct(chunk.of(META))
    for field in (DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE):
        if meta.of(field) is not None:
            meta.put(field, meta.of(field) + by)
    for field in BLOOM_FILTER:
        meta.pop(field, None)
    moved = Struct({field: value for field, value in chunk.items() if field not in INDEXES})
    moved.put(META, meta)
    moved.put(FILE_OFFSET, 0)  # deprecated: readers take the offsets of the pages
    return moved


def _group(group: Encoded, chunks: list[Struct], start: int, size: int, ordinal: int) -> Struct:
    meta = Struct({field: value for field, value in group.meta.items() if field != SORTING or _keeps_order(group)})
    meta.put(COLUMNS, Items(thrift.STRUCT, chunks))
    meta[BYTES] = Value(thrift.I64, sum(chunk.of(META).of(CHUNK_BYTES, 0) for chunk in chunks))
    for field, value in ((GROUP_OFFSET, start), (COMPRESSED, size), (ORDINAL, ordinal)):
        if field in meta:
            meta.put(field, value)
    return meta


def _keeps_order(group: Encoded) -> bool:
    """Returns whether the columns of the source come first and are all there: sorting names them by their numbers."""
    own = group.meta.items_of(COLUMNS)
    return len(group.columns) >= len(own) and all(
        column.chunk is chunk for column, chunk in zip(group.columns, own, strict=False)
    )


def _key_value(key: bytes, value: bytes) -> Struct:
    return Struct({KEY: Value(thrift.BINARY, key), VALUE: Value(thrift.BINARY, value)})


def key_values(footer: Footer) -> list[tuple[bytes, bytes]]:
    """Returns the metadata of a file: pairs of key and value."""
    return [(pair.of(KEY), pair.of(VALUE, b"")) for pair in footer.meta.items_of(KEY_VALUES)]
