"""The records that travel through the graph.

Keys are plain `str`, `source#position`: `"data/a.jsonl#1048576"`. Values are NamedTuples, never
changed after they are made.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.storage.compression import is_gzip

INSTANCE, PREDICTION = "instance", "prediction"  # fields of the output row of a row that is a JSON value
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Unit = Literal["byte", "row"]  # of positions
# What a record that was read from a file may have in these places, see `transforms.write_receipts.decode`.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Code = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9_]+\Z")]


class Source(NamedTuple):
    """One input file.

    Attributes:
        path: As matched; the first half of its rows' keys.
        size: Bytes.
        stem: Its name in the output: sub-folders kept, suffix gone.
        suffix: What the parts are called after it: `.jsonl`, `.tfrecord.gz`.
        updated: When it was last written, in seconds since 1970; 0 where the file system does not tell.
        version: What tells it from what stood, or will stand, under its name: here its times and inode, in Google
            Cloud Storage its generation; empty where the store tells no more than `updated`.
    """

    path: str
    size: Count
    stem: str
    suffix: str
    updated: float = 0.0
    version: str = ""

    @property
    def is_gzip(self) -> bool:
        """Whether its name says that it is gzip."""
        return is_gzip(self.suffix)

    def extent(self, unit: Unit) -> int | None:
        """The position after its last row; None where nobody knows it before the source is read.

        Args:
            unit: Of positions in it.
        """
        return self.size if unit == "byte" and not self.is_gzip else None

    @property
    def written(self) -> tuple[float, str]:
        """What is another one as soon as the file is, though it may have the same size."""
        return self.updated, self.version


class Chunk(NamedTuple):
    """A run of whole rows of one source: the unit that travels.

    Attributes:
        source: Path of the source.
        data: The file that holds the bytes: the source, or its decompressed copy. Empty in a receipt that was
            read back: by then that copy may be gone.
        start: Position of its first row, in the unit of its reader: a byte of `data`, or the number of a row.
        end: The position after its last row.
        number: 0, 1, … within the source.
        parts: Chunks of the source.
        part: Name of the output file, relative to the output folder.
        version: That of the source as it was planned, if `data` is the source; else empty. So is that of a receipt
            that was read back.
        bytes: What its rows take in `data`, where positions are not bytes; None where they are. See `nbytes`.
    """

    source: str
    data: str
    start: Count
    end: Count
    number: Count
    parts: Count
    part: str
    version: str = ""
    bytes: Count | None = None

    @property
    def nbytes(self) -> int:
        """What its rows take in `data`."""
        return self.end - self.start if self.bytes is None else self.bytes

    @property
    def key(self) -> str:
        """The key of the chunk's first row: `data/a.jsonl#0`."""
        return f"{self.source}#{self.start}"

    @property
    def lasting(self) -> "Chunk":
        """The chunk as receipts keep it: without what is another tomorrow, though the bytes are the same."""
        return self._replace(data="", version="")


class Rows(NamedTuple):
    """Where rows lie in a buffer of bytes.

    Attributes:
        starts: First byte of each row. int64, (rows,).
        ends: One past the last byte of each row's content. int64, (rows,).
        blank: Lines that are not rows.
    """

    starts: Positions
    ends: Positions
    blank: int = 0


class BadRow(NamedTuple):
    """A row that could not be scored.

    Attributes:
        row: Its number within its chunk (within the model's rows, when it comes from Predict).
        stage: `read`, `predict` or `write`.
        reason: A `Reason` value.
        message: What was found, in one line.
    """

    row: int
    stage: str
    reason: str
    message: str


def without(rows: int, bad: Sequence[BadRow]) -> Positions:
    """The numbers of a chunk's rows that are not among the bad ones, in order.

    >>> without(3, [BadRow(1, "read", "null", "field x: null")]).tolist()
    [0, 2]
    """
    kept: Positions = np.delete(np.arange(rows), np.array([one.row for one in bad], np.int64))
    return kept


def pack_bad(bad: Sequence[BadRow]) -> bytes:
    """Bad rows as they travel: pickled one by one they take ten times as long.

    >>> unpack_bad(pack_bad([BadRow(3, "read", "null", "field x: null")]))
    [BadRow(row=3, stage='read', reason='null', message='field x: null')]
    """
    return msgspec.msgpack.encode(bad)


def unpack_bad(packed: bytes) -> list[BadRow]:
    """What `pack_bad` packed."""
    return _UNPACK(packed)


_UNPACK = msgspec.msgpack.Decoder(list[BadRow]).decode


class Feature(NamedTuple):
    """What one model input is fed with.

    Attributes:
        name: The model's input.
        dtype: TensorFlow's name of its dtype, `float32`.
        shape: Without the batch dimension; `()` is a scalar a row. None is a size that each row has for itself.
        fields: Fields of the row: one; several scalars, stacked; or none, for the whole row: the bytes of an Example,
            the value of a JSON line that is no object.
        is_base64: Whether the text of its field is base64: rows that are `{"b64": …}` as a whole.
        inside: For each field the names of the fields inside of it down to the value, where it is an object; empty if
            no field is one.
        missing: For each field the text of the value that it has where it is missing or null, see
            `transforms.mapping.defaults`; None for none, and empty if no field has one.
        is_sparse: Whether a row's value is an object of indices and values, see `transforms.mapping.sparse`.
        ragged_rank: How many levels of a row's lists may have different lengths, see `transforms.saved_model.model`.
        strict: Whether numbers have to be JSON numbers of the input's own kind, see `transforms.mapping.numbers`.
        pad: The value that rows are padded with to the longest of a call, as text; None: rows are grouped by shape.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    fields: tuple[str, ...]
    is_base64: bool = False
    strict: bool = False
    pad: str | None = None
    inside: tuple[tuple[str, ...], ...] = ()
    missing: tuple[str | None, ...] = ()
    ragged_rank: int = 0
    is_sparse: bool = False

    @property
    def varied(self) -> int:
        """How many levels of a row's lists may have different lengths; 1 where only rows differ, or rows are padded."""
        return self.ragged_rank if self.ragged_rank and self.pad is None else 1

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The names that lead from the row to each value: of the field, and of the fields inside of it.

        >>> Feature("x", "float32", (2,), ("a", "r"), inside=((), ("b",))).paths
        (('a',), ('r', 'b'))
        """
        return tuple((field, *self.inside[at]) if self.inside else (field,) for at, field in enumerate(self.fields))

    @property
    def is_open(self) -> bool:
        """Whether rows may have different sizes."""
        return None in self.shape

    @property
    def is_grouped(self) -> bool:
        """Whether rows are called by their sizes: with others of the same, or in the order of their lengths."""
        return self.is_open or self.is_sparse

    @property
    def defaults(self) -> dict[str, int]:
        """The fields that have a value of `missing`, as it names them, and where in `fields` each one is."""
        return {
            ".".join(path): at for at, path in enumerate(self.paths) if self.missing and self.missing[at] is not None
        }


class Features(NamedTuple):
    """The good rows of one chunk, as the model wants them.

    Attributes:
        key: The chunk's key.
        inputs: A column a `Feature`, a record a good row, in input order; lists of lists where a feature is open.
            Then a column of bools for each field with a default: which rows have it, see `columns.default_columns`.
        payload: Travels along untouched, for `KeyedPredict`.
    """

    key: str
    inputs: pa.RecordBatch
    payload: Any = None


class Receipt(NamedTuple):
    """What ReadChunk found in a chunk.

    Attributes:
        chunk: The chunk.
        checksum: crc32c of its bytes (RFC 3720, appendix B.4).
        rows: Rows, good and bad.
        blank: Lines that are not rows.
        bad: Rows that cannot go into the model, in order, as of `pack_bad`.
        filled: Fields with a default that some of the other rows have, and which of these: a bit a row.
    """

    chunk: Chunk
    checksum: int
    rows: int
    blank: int
    bad: bytes
    filled: tuple[tuple[str, bytes], ...] = ()


class Predictions(NamedTuple):
    """What the model said of the good rows of one chunk.

    Attributes:
        columns: An Arrow IPC stream of one RecordBatch: a column an output, a record a scored row.
        rows: Rows that went in: scored and bad.
        bad: Rows that were not scored, as of `pack_bad`; `row` counts the rows that went in.
    """

    columns: bytes
    rows: int
    bad: bytes


class PartReceipt(NamedTuple):
    """What WritePart wrote for one chunk: a line of the ledger.

    As JSON it is an object of these names, see `transforms.write_receipts.encode`.

    Attributes:
        chunk: The chunk.
        input_checksum: crc32c of the chunk's bytes, as they were read.
        rows: Rows read.
        blank: Lines that are not rows.
        joined: Rows in the part.
        dead: Dead letters by reason code.
        bytes: Size of the part.
        checksum: crc32c of the part.
        dead_bytes: Size of the dead letter file, 0 where there is none.
        dead_checksum: crc32c of the dead letter file, 0 where there is none.
        shuffled: Bytes that crossed the join: receipt and predictions, as Beam pickles them.
        replayed: Rows in the part that were dead letters until they were replayed.
        filled: Joined rows that have the default of a field, by field; fields that no row lacks are absent.
    """

    chunk: Chunk
    input_checksum: Count
    rows: Count
    blank: Count
    joined: Count
    dead: dict[Code, Count]
    bytes: Count
    checksum: Count
    dead_bytes: Count
    dead_checksum: Count
    shuffled: Count
    replayed: Count = 0
    filled: dict[str, Count] = {}  # noqa: RUF012  never changed


class Layout(NamedTuple):
    """What stands in an output row, always in this order: the row's fields, predictions, error, key.

    Attributes:
        row: Whether the row's own fields are written.
        include: Only these of the row's fields; empty means all.
        exclude: All of the row's fields but these.
        key: Name of the field for keyjoin's own key, or None.
        key_field: Name of the row's own field to write as its key, or None.
        predictions: (output of the model, name of the field) pairs.
        error: Name of the field that says why a row has no predictions, if bad rows are written as well; or None.
        instance: Whether rows are JSON values: each is written as the field `instance`, and what is predicted for it
            as the field `prediction`, an object if there are several predictions.
    """

    row: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    key: str | None
    key_field: str | None
    predictions: tuple[tuple[str, str], ...]
    error: str | None = None
    instance: bool = False

    @property
    def whole_row(self) -> bool:
        """Whether each row is written as it was, byte for byte, with fields spliced in."""
        return self.row and not self.include and not self.exclude

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the fields that keyjoin adds to a row."""
        return self.predicted + tuple(name for name in (self.error, self.key) if name)

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of the fields that hold predictions."""
        return (PREDICTION,) if self.is_nested else tuple(name for _, name in self.predictions)

    @property
    def is_nested(self) -> bool:
        """Whether one field holds all predictions, as an object."""
        return self.instance and len(self.predictions) > 1

    def predictions_in(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The predictions by their names, of an output row."""
        held = row.get(PREDICTION) if self.is_nested else row
        return held if isinstance(held, Mapping) else {}
