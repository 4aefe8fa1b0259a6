"""Compares the headers of sources: which columns they have, of which types, in which order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from transforms.formats.base import Reader


class Column(NamedTuple):
    """A column of a source.

    Attributes:
        name: Its name.
        type: The type of its values, as text.
    """

    name: str
    type: str


class Columns(NamedTuple):
    """The columns of a source, in order.

    Attributes:
        source: The source, for messages.
        columns: Its columns.
    """

    source: str
    columns: Sequence[Column]


def columns_of(source: str, header: str, reader: Reader) -> Columns:
    """Returns the columns that a header describes.

    Args:
        source: The source, for messages.
        header: Its header, see `Reader.header`.
        reader: The reader of its format.

    Raises:
        RunError: The header is damaged.
    """
    schema = reader.parse([], [], source, header).schema()
    return Columns(source, [Column(field.name, spelled(field.type)) for field in schema])


def spelled(kind: pa.DataType) -> str:
    """Spells a type as far as it says which values there are.

    Whether values may be null, how Arrow holds them in memory, and the names of list items do not count.

    >>> spelled(pa.large_list(pa.field("item", pa.dictionary(pa.int8(), pa.large_string()), nullable=False)))
    'list<string>'
    >>> spelled(pa.struct([pa.field("a", pa.int64(), nullable=False)]))
    'struct<a: int64>'
    """
    if pa.types.is_dictionary(kind):
        return spelled(kind.value_type)
    if isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        size = f", {kind.list_size}" if isinstance(kind, pa.FixedSizeListType) else ""
        return f"list<{spelled(kind.value_type)}{size}>"
    if pa.types.is_map(kind):
        return f"map<{spelled(kind.key_type)}, {spelled(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{field.name}: {spelled(field.type)}' for field in kind)}>"
    text = str(kind)
    for name in ("string", "binary"):
        if text in (f"large_{name}", f"{name}_view"):
            return name
    return text


def differences(first: Columns, other: Columns) -> Iterator[str]:
    """Yields the differences between the columns of two sources; none if they are the same.

    >>> a = Columns("a.csv", [Column("age", "int64"), Column("name", "string")])
    >>> list(differences(a, Columns("b.csv", [Column("name", "string")])))
    ['b.csv has no column age, which a.csv has']
    """
    types, others = dict(first.columns), dict(other.columns)
    for name, kind in first.columns:
        if name not in others:
            yield f"{other.source} has no column {name}, which {first.source} has"
        elif others[name] != kind:
            yield f"{other.source} has {others[name]} in the column {name}, and {first.source} has {kind}"
    for name in others:
        if name not in types:
            yield f"{other.source} has a column {name}, which {first.source} does not have"
    shared = [name for name in types if name in others]
    order = [name for name in others if name in types]
    at = next((at for at in range(len(shared)) if shared[at] != order[at]), None)
    if at is not None:
        yield (
            f"{other.source} has the columns in another order than {first.source}: {order[at]} comes before "
            f"{shared[at]}"
        )


def between(reader: Reader, first: tuple[str, str], other: tuple[str, str]) -> list[str]:
    """Returns the differences between the headers of two sources; none if one of them is empty.

    Args:
        reader: The reader of their format.
        first: A source, for messages, and its header.
        other: The other source, and its header.

    Raises:
        RunError: A header is damaged.
    """
    if not (first[1] and other[1]) or first[1] == other[1]:
        return []
    return list(differences(columns_of(*first, reader), columns_of(*other, reader)))
