"""Defines the dialect of delimited text, and spells and reads single cells."""

from collections.abc import Iterable
from typing import NamedTuple

from transforms.errors import UsageError
from transforms.formats.spec import FormatSpec

NO_QUOTE = "none"  # the quote of text in which no character quotes cells
NEWLINE, RETURN = b"\n\r"
FIRST_PRINTABLE = 0x20
ROW_BYTES = 64 << 20


class Dialect(NamedTuple):
    """How text is divided into cells.

    Attributes:
        delimiter: The byte between two cells.
        quote: The byte around a cell that may hold delimiters and line ends; None if no byte quotes.
        has_header: Whether the first record of a source has the names of the columns.
        row_bytes: The most bytes of a record.
        nulls: The values that are no value, besides an empty cell.
    """

    delimiter: int
    quote: int | None
    has_header: bool = True
    row_bytes: int = ROW_BYTES
    nulls: tuple[bytes, ...] = ()

    @property
    def delimiter_text(self) -> bytes:
        """The delimiter, as a byte string."""
        return bytes([self.delimiter])

    @property
    def special(self) -> bytes:
        """The bytes that a cell needs quotes for."""
        return bytes([self.delimiter, NEWLINE, RETURN, *([] if self.quote is None else [self.quote])])

    @property
    def spells_json(self) -> bool:
        """Whether any JSON text can be a cell: it has no control characters, and may have all other bytes."""
        return self.quote is not None or self.delimiter < FIRST_PRINTABLE

    def spell(self, value: bytes) -> bytes | None:
        """Spells a value as a cell, in quotes only if it needs them; None if the dialect has no way to spell it.

        An empty value gets quotes, since an empty cell without them holds no value. So do the values of `nulls`.

        >>> Dialect(ord(","), ord('"')).spell(b'5" pipe'), Dialect(ord(","), None).spell(b"a,b")
        (b'"5"" pipe"', None)
        """
        plain = len(value.translate(None, self.special)) == len(value) and value not in self.nulls
        if self.quote is None:
            return value if plain else None
        quote = bytes([self.quote])
        return value if plain and value else quote + value.replace(quote, quote + quote) + quote

    def value(self, cell: bytes) -> bytes | None:
        """Returns the value that a cell spells; None for an empty cell or one of `nulls` without quotes: no value.

        A quote inside a cell that does not begin with one stands for itself.

        >>> [Dialect(ord(","), ord('"')).value(cell) for cell in (b'"5"" pipe"', b'5" pipe', b'""', b"")]
        [b'5" pipe', b'5" pipe', b'', None]
        """
        if not cell or cell in self.nulls:
            return None
        if self.quote is None or cell[0] != self.quote:
            return cell
        quote = bytes([self.quote])
        return cell[1:-1].replace(quote + quote, quote)

    def record(self, values: Iterable[bytes]) -> bytes:
        """Spells a record, without its line end.

        Raises:
            UsageError: The dialect has no way to spell one of the values.
        """
        cells = [self.spell(value) for value in values]
        if None in cells:
            raise UsageError("a name has the delimiter or a line end in it, and --quote=none leaves no way to write it")
        return self.delimiter_text.join(cell for cell in cells if cell is not None)


def dialect_of(spec: FormatSpec, delimiter: str) -> Dialect:
    """Makes the dialect of a run.

    Args:
        spec: What the plan decided.
        delimiter: The delimiter of the format, if the plan named none.
    """
    quote = spec.quote or '"'
    return Dialect(
        ord(spec.delimiter or delimiter),
        None if quote == NO_QUOTE else ord(quote),
        spec.has_header,
        spec.max_row_bytes or ROW_BYTES,
        tuple(text.encode() for text in spec.null_values),
    )
