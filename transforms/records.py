"""Defines the records that pass between the steps of the pipeline.

Keys are plain `str` of the form `source#position`, such as `"data/a.jsonl#1048576"`. Values are NamedTuples, and no
step changes a record after it is made.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.storage.compression import Codec, codec_of

INSTANCE, PREDICTION = "instance", "prediction"  # fields of the output row of a row that is a JSON value
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Unit = Literal["byte", "row"]  # of positions
Packed = bytes  # in a record that has a field `bytes`
# The values that are valid in a record that was read from a file, see `transforms.write_receipts.decode`.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Code = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9_]+\Z")]


class Source(NamedTuple):
    """One input file.

    Attributes:
        path: The path as matched. The keys of its rows begin with it.
        size: Its size in bytes.
        stem: Its name in the output, with sub-folders and without the suffix.
        suffix: The suffix of its parts, such as `.jsonl` or `.tfrecord.gz`.
        updated: When it was last written, in seconds since 1970; 0 if the file system does not report it.
        version: Distinguishes the file from an earlier or later one of the same name. On local file systems it is the
            file's times and inode, in Google Cloud Storage its generation. It is empty if the storage reports only
            `updated`.
        codec_suffix: The suffix of the source's codec, if its parts have another format; None if `suffix` has it.
        end: The position after the last row to read, in the unit of its reader; None to read all rows.
    """

    path: str
    size: Count
    stem: str
    suffix: str
    updated: float = 0.0
    version: str = ""
    codec_suffix: str | None = None
    end: Count | None = None

    @property
    def codec(self) -> Codec | None:
        """How the source is compressed, by its suffix; None if it is not."""
        return codec_of(self.suffix if self.codec_suffix is None else self.codec_suffix)

    def extent(self, unit: Unit) -> int | None:
        """Returns the position after the last row to read; None if that is known only once the source is read.

        Args:
            unit: The unit of positions in the source.
        """
        if self.end is not None:
            return self.end
        return self.size if unit == "byte" and self.codec is None else None

    @property
    def written(self) -> tuple[float, str]:
        """The time and version of the file. They change whenever the file is written, even if its size stays."""
        return self.updated, self.version


class Chunk(NamedTuple):
    """A run of whole rows of one source: the unit of work that passes through the pipeline.

    Attributes:
        source: Path of the source.
        data: The file that holds the bytes: the source, or its decompressed copy. It is empty in a receipt that was
            read back, because the copy may be deleted by then.
        start: Position of its first row, in the unit of its reader: a byte offset in `data`, or the number of a row.
        end: The position after its last row.
        number: The number of the chunk within the source, from 0.
        parts: How many chunks the source has.
        part: Name of the output file, relative to the output folder.
        version: The version of the source at planning, if `data` is the source. Otherwise it is empty, as in a
            receipt that was read back.
        bytes: The size of its rows in `data`, where positions are not bytes; None where they are. See `nbytes`.
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
        """The size of its rows in `data`, in bytes."""
        return self.end - self.start if self.bytes is None else self.bytes

    @property
    def key(self) -> str:
        """The key of the chunk's first row: `data/a.jsonl#0`."""
        return f"{self.source}#{self.start}"

    @property
    def lasting(self) -> "Chunk":
        """The chunk as receipts keep it: without the fields that may change while the bytes of the source stay."""
        return self._replace(data="", version="")


class Rows(NamedTuple):
    """The places of rows in a buffer of bytes.

    Attributes:
        starts: First byte of each row. int64, (rows,).
        ends: One past the last byte of each row's content. int64, (rows,).
        blank: How many blank lines there are. They are not rows.
    """

    starts: Positions
    ends: Positions
    blank: int = 0


class BadRow(NamedTuple):
    """A row that could not be scored.

    Attributes:
        row: Its number within its chunk. From Predict, its number within the rows that went into the model.
        stage: The stage that failed: `read`, `predict` or `write`.
        reason: The value of a `Reason`.
        message: The cause, in one line.
    """

    row: int
    stage: str
    reason: str
    message: str


def without(rows: int, bad: Sequence[BadRow]) -> Positions:
    """Returns the numbers of a chunk's rows that are not bad, in order.

    >>> without(3, [BadRow(1, "read", "null", "field x: null")]).tolist()
    [0, 2]
    """
    kept: Positions = np.delete(np.arange(rows), np.array([one.row for one in bad], np.int64))
    return kept


def pack_bad(bad: Sequence[BadRow]) -> bytes:
    """Packs bad rows for the way between steps. Pickling them one by one takes ten times as long.

    >>> unpack_bad(pack_bad([BadRow(3, "read", "null", "field x: null")]))
    [BadRow(row=3, stage='read', reason='null', message='field x: null')]
    """
    return msgspec.msgpack.encode(bad)


def unpack_bad(packed: bytes) -> list[BadRow]:
    """Unpacks the bad rows that `pack_bad` packed."""
    return _UNPACK(packed)


_UNPACK = msgspec.msgpack.Decoder(list[BadRow]).decode


class Feature(NamedTuple):
    """Describes how fields of a row feed one model input.

    Attributes:
        name: The name of the model input.
        dtype: TensorFlow's name of the input's dtype, such as `float32`.
        shape: The shape of a row's value, without the batch dimension. `()` is a scalar. None is an open size, which
            each row has for itself.
        fields: The fields of the row: one field; several scalar fields, which are stacked; or none, for the whole row.
            The whole row is the bytes of an Example, or the value of a JSON line that is not an object.
        is_base64: Whether the text of the field is base64, in rows that are `{"b64": …}` as a whole.
        inside: For each field that is an object, the names of the fields inside it that lead to the value. It is empty
            if no field is an object.
        missing: For each field, the text of the value to use where the field is missing or null, or None; see
            `transforms.mapping.defaults`. It is empty if no field has a default.
        is_sparse: Whether a row's value is an object of indices and values, see `transforms.mapping.sparse`.
        ragged_rank: How many levels of a row's lists may have different lengths, see `transforms.saved_model.model`.
        strict: Whether numbers have to be JSON numbers of the input's own kind, see `transforms.mapping.numbers`.
        pad: The value, as text, that pads rows to the longest row of a call. With None, rows are grouped by shape.
        in_folder: For each field, whether the folders of the source hold its value and rows do not, see
            `transforms.mapping.partitions`. It is empty if rows hold all fields.
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
    in_folder: tuple[bool, ...] = ()

    @property
    def varied(self) -> int:
        """How many levels of a row's lists may have different lengths; 1 if only rows differ, or rows are padded."""
        return self.ragged_rank if self.ragged_rank and self.pad is None else 1

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The names that lead from the row to each value: the field, then the fields inside it.

        >>> Feature("x", "float32", (2,), ("a", "r"), inside=((), ("b",))).paths
        (('a',), ('r', 'b'))
        """
        return tuple((field, *self.inside[at]) if self.inside else (field,) for at, field in enumerate(self.fields))

    def has_default(self, at: int) -> bool:
        """Returns whether the field with this index has a default."""
        return bool(self.missing) and self.missing[at] is not None

    @property
    def is_open(self) -> bool:
        """Whether rows may have different sizes."""
        return None in self.shape

    @property
    def is_grouped(self) -> bool:
        """Whether rows are batched by size: with rows of the same size, or in the order of their lengths."""
        return self.is_open or self.is_sparse

    @property
    def defaults(self) -> dict[str, int]:
        """Maps each field that has a default to its index in `fields`. `a.b` is a field inside an object."""
        return {".".join(path): at for at, path in enumerate(self.paths) if self.has_default(at)}


class Features(NamedTuple):
    """The model inputs of the good rows of one chunk.

    Attributes:
        key: The chunk's key.
        inputs: One column for each `Feature` and one record for each good row, in input order. A feature with an open
            size has lists of variable size. After these, each field with a default has a bool column that marks the
            rows which take the default, see `columns.default_columns`.
        payload: A value that passes through unchanged, for `KeyedPredict`.
    """

    key: str
    inputs: pa.RecordBatch
    payload: Any = None


class Receipt(NamedTuple):
    """The account of what ReadChunk read from a chunk.

    Attributes:
        chunk: The chunk.
        checksum: crc32c of its bytes (RFC 3720, appendix B.4).
        rows: How many rows it has, good and bad.
        blank: How many blank lines it has. They are not rows.
        bad: The rows that cannot go into the model, in order, packed by `pack_bad`.
        filled: The fields whose default some good rows take, each with one bit for each good row.
    """

    chunk: Chunk
    checksum: int
    rows: int
    blank: int
    bad: bytes
    filled: tuple[tuple[str, bytes], ...] = ()


class Predictions(NamedTuple):
    """The predictions for the good rows of one chunk.

    Attributes:
        columns: An Arrow IPC stream of one RecordBatch, with a column for each output and a record for each scored row.
        rows: How many rows went into the model, scored and bad.
        bad: The rows that were not scored, packed by `pack_bad`. Their `row` counts the rows that went into the model.
        features: The counts of the inputs of the scored rows, see `transforms.statistics.pack`; empty if none.
        saved: How many rows were not scored, because another row has equal inputs.
    """

    columns: bytes
    rows: int
    bad: bytes
    features: bytes = b""
    saved: int = 0


class PartReceipt(NamedTuple):
    """The account of what WritePart wrote for one chunk: a line of the ledger.

    As JSON it is an object with these names, see `transforms.write_receipts.encode`.

    Attributes:
        chunk: The chunk.
        input_checksum: crc32c of the chunk's bytes, as they were read.
        rows: How many rows were read.
        blank: How many blank lines the chunk has. They are not rows.
        joined: How many rows have predictions in the part.
        dead: How many dead letters there are, by reason code.
        bytes: Size of the part.
        checksum: crc32c of the part.
        dead_bytes: Size of the dead letter file; 0 if there is none.
        dead_checksum: crc32c of the dead letter file; 0 if there is none.
        shuffled: Bytes that crossed the join: receipt and predictions, as Beam pickles them.
        replayed: How many rows with predictions were dead letters until a replay.
        filled: How many joined rows take the default of a field, by field. Fields that no row lacks are absent.
        statistics: Counts of the inputs of scored rows and of the predictions of joined rows, see
            `transforms.statistics.pack`. All of them add up.
        saved: How many rows took the prediction of a row with equal inputs, or its error.
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
    statistics: tuple[Packed, ...] = ()
    saved: Count = 0


class LogNames(NamedTuple):
    """The names in a PredictionLog that come from the model.

    Attributes:
        input: The model's input that takes the whole record.
        signature: The signature.
    """

    input: str
    signature: str


class Layout(NamedTuple):
    """The fields of an output row, in this order: the row's own fields, predictions, error, key, lineage.

    Attributes:
        row: Whether the row's own fields are written.
        include: The row's own fields to write; empty means all.
        exclude: The row's own fields not to write.
        key: Name of the field for keyjoin's own key, or None.
        key_field: Name of the row's own field to write as its key, or None.
        predictions: Pairs of (output of the model, name of the field).
        error: Name of the field that says why a row has no predictions, if bad rows are written as well; or None.
        instance: Whether rows are JSON values. Each is then written as the field `instance`, and its prediction as
            the field `prediction`, which is an object if there are several predictions.
        scalars: Whether a prediction of one value a row, of the shape (rows, 1), is written as a scalar.
        order: The names of all fields of an output row, in their order: the row's own fields (`include`), predictions,
            the error, the key. Empty for the order above.
        log: The names in the PredictionLog of an output row; None if output rows are no PredictionLogs.
        lineage: Pairs of (name of a field, text), which are the same in all rows: what the rows were made by.
    """

    row: bool
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    key: str | None
    key_field: str | None
    predictions: tuple[tuple[str, str], ...]
    error: str | None = None
    instance: bool = False
    scalars: bool = False
    order: tuple[str, ...] = ()
    log: LogNames | None = None
    lineage: tuple[tuple[str, str], ...] = ()

    @property
    def whole_row(self) -> bool:
        """Whether each row is written unchanged, byte for byte, with the new fields spliced in."""
        return self.row and not self.include and not self.exclude and not self.order

    def keeps(self, name: str) -> bool:
        """Returns whether a row's own field is written, if own fields are written at all (`row`)."""
        return name in self.include if self.include else name not in self.exclude

    def written(self, own: Collection[str]) -> tuple[str, ...]:
        """Returns the names of the fields of an output row, in order.

        Args:
            own: The fields that the rows of a file have. The result has no fields that only other files have.
        """
        kept = [name for name in own if self.keeps(name)] if self.row else []
        names = self.order or (*kept, *self.added, *((self.key_field,) if self.key_field else ()))
        return tuple(name for name in names if name in self.added or name in own)

    @property
    def added(self) -> tuple[str, ...]:
        """The names of the fields that keyjoin adds to a row."""
        return (*self.predicted, *(name for name in (self.error, self.key) if name), *dict(self.lineage))

    @property
    def predicted(self) -> tuple[str, ...]:
        """The names of the fields that hold predictions."""
        return (PREDICTION,) if self.is_nested else tuple(name for _, name in self.predictions)

    @property
    def is_nested(self) -> bool:
        """Whether one field holds all predictions, as an object."""
        return self.instance and len(self.predictions) > 1

    def predictions_in(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the predictions in an output row, by their names."""
        held = row.get(PREDICTION) if self.is_nested else row
        return held if isinstance(held, Mapping) else {}
