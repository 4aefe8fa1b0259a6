"""Counts the values of model inputs and predictions, in bins that are the same for all rows, so that counts add up.

A number is counted as a float32, by its upper 16 bits: the sign, the exponent, and 7 bits of the fraction (IEEE 754,
binary32). So a bin is at most 2^-7 of its values wide, and no range has to be known before. 64-bit floats and integers
above 2^24 are rounded to float32 first, so close values share a bin. A bool counts as 0 or 1. A text is counted as
itself, or as its first characters and its hash if it is long.

Texts of many different values are counted approximately, as in Misra and Gries, "Finding repeated elements", Science of
Computer Programming 2 (1982), and Agarwal et al., "Mergeable summaries", PODS 2012.
"""

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms import columns as arrow
from transforms.errors import RunError
from transforms.records import Count, Feature, Mask

Role = Literal["feature", "prediction"]
Kind = Literal["number", "text"]
Array = npt.NDArray[Any]
MOST: Final[Mapping[Role, int]] = {"feature": 64, "prediction": 32}  # columns that are counted
BINS: Final[Mapping[Role, int]] = {"feature": 1 << 16, "prediction": 1 << 14}  # bins of all columns together
ELEMENTS = 16  # of a vector that has a column for each element
LISTED = 1_000  # different texts of an exact list
TOP = 100  # texts of an approximate list
SHOWN = 80  # characters of a text
BITS = 16  # upper bits of a float32 that make a bin
# The values that are valid in a column that was read from a file.
Bin = Annotated[int, msgspec.Meta(ge=0, lt=1 << BITS)]
Bits = Annotated[int, msgspec.Meta(ge=1, le=BITS)]
PATTERNS = 1 << BITS
INFINITE, NEGATIVE = 0x7F80, 0x8000  # bins of infinity and of -0.0
GREATEST = float(np.finfo(np.float32).max)
UNPACKED = 1 << 26  # most bytes of the counts of a part; 96 columns of 1,000 long texts have 16 MB


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counts of one model input or prediction, of one element of a short vector, or of all elements of a long one.

    Attributes:
        name: The field or the model's input, or the field of the output row. An element of a vector is `name[3]`.
        role: Whether the values went into the model or came from it.
        kind: Whether the values are numbers or texts.
        rows: How many values were counted: one a row, or all elements of a long or ragged vector.
        missing: In how many rows keyjoin filled in the value of `--missing`. These are counted like other values.
        nan: How many values are NaN.
        positive_infinity: How many values are infinity.
        negative_infinity: How many values are minus infinity.
        bins: Pairs of bin and count, by ascending value. A bin is the upper 16 bits of its float32 values. Only finite
            values; empty for texts.
        texts: Pairs of text and count, most frequent first. Empty for numbers.
        other: Values that are in no pair of `texts`; 0 if the list is exact.
        error: How many more times a text may come than its count says. A text that is not listed has the count 0.
        least: The least finite value; None if there is none.
        greatest: The greatest finite value; None if there is none.
        bits: How many upper bits make a bin. Less than 16 where there would be too many bins. The lower bits are 0.
    """

    name: str
    role: Role
    kind: Kind
    rows: Count
    missing: Count = 0
    nan: Count = 0
    positive_infinity: Count = 0
    negative_infinity: Count = 0
    bins: tuple[tuple[Bin, Count], ...] = ()
    texts: tuple[tuple[str, Count], ...] = ()
    other: Count = 0
    error: Count = 0
    least: float | None = None
    greatest: float | None = None
    bits: Bits = BITS

    @property
    def finite(self) -> int:
        """How many values are finite numbers."""
        return sum(count for _, count in self.bins)


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The counts of all rows of a run, as in `_keyjoin/statistics.json`.

    Attributes:
        columns: The columns that were counted, features first.
        left_out: How many columns of each role were not counted, because there are more than `MOST`.
    """

    columns: tuple[Column, ...] = ()
    left_out: dict[Role, int] = {}


class Tally(NamedTuple):
    """The counts of one column, with the bins as arrays: making tuples of them would take as long as counting.

    Attributes:
        column: The column, without its bins.
        patterns: The bins, by ascending value. int64, (bins,).
        counts: The count of each. int64, (bins,).
    """

    column: Column
    patterns: Array
    counts: Array

    @classmethod
    def of(cls, column: Column) -> "Tally":
        """Makes arrays of the bins of a column."""
        pairs = np.array(column.bins, np.int64).reshape(-1, 2)
        return cls(msgspec.structs.replace(column, bins=()), pairs[:, 0], pairs[:, 1])

    def whole(self) -> Column:
        """Returns the column with its bins."""
        pairs = zip(self.patterns.tolist(), self.counts.tolist(), strict=True)
        return msgspec.structs.replace(self.column, bins=tuple(pairs))


class Counts(NamedTuple):
    """The counts of some rows.

    Attributes:
        tallies: The columns that were counted.
        left_out: See `Statistics`.
    """

    tallies: tuple[Tally, ...] = ()
    left_out: Mapping[Role, int] = {}


class _Values(NamedTuple):
    """The values of a column.

    Attributes:
        name: The name of the column.
        values: Numbers as a NumPy array, (values,); texts as an Arrow array of bytes.
        missing: See `Column`.
    """

    name: str
    values: Any
    missing: int = 0


def count_features(inputs: pa.RecordBatch, features: Sequence[Feature]) -> Counts:
    """Counts the model inputs of some rows.

    Args:
        inputs: One column for each feature, see `transforms.records.Features`.
        features: The features. One that is the bytes of whole rows is not counted.

    Returns:
        The counts; none if there are no rows.
    """
    return _count("feature", _features(inputs, features)) if inputs.num_rows else Counts()


def count_predictions(made: pa.RecordBatch, names: Sequence[tuple[str, str]], kept: Mask | None = None) -> Counts:
    """Counts predictions.

    Args:
        made: One column for each output of the model, see `transforms.records.Predictions`.
        names: Pairs of output and name of the prediction.
        kept: Marks the rows that are counted. bool, (rows,). None for all.

    Returns:
        The counts; none if there are no rows.
    """
    if kept is not None:
        made = made.filter(pa.array(kept, pa.bool_()))
    if not made.num_rows:
        return Counts()
    return _count("prediction", [one for output, name in names for one in _split(name, made[output])])


def _features(inputs: pa.RecordBatch, features: Sequence[Feature]) -> list[_Values]:
    marks = arrow.default_columns(features)
    filled = {field: inputs[name].true_count for field, name in marks.items()}
    names = Counter(".".join(path) for feature in features if len(feature.fields) > 1 for path in feature.paths)
    found = []
    for feature in features:
        fields, column = [".".join(path) for path in feature.paths], inputs[feature.name]
        if feature.is_sparse:
            column = column.field(arrow.VALUES)
        if len(fields) > 1:
            own = [field if names[field] == 1 else f"{feature.name}.{field}" for field in fields]
            missing = [filled.get(field, 0) for field in fields]
            found += _elements(own, column, missing)
        elif fields or not arrow.is_bytes(column.type):
            found += _split(feature.name, column, filled.get(fields[0], 0) if fields else 0)
    return found


def _split(name: str, column: pa.Array, missing: int = 0) -> list[_Values]:
    """Returns a column for each element of a short vector, else one column."""
    shape, kind = [], column.type
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    size = math.prod(shape)
    if arrow.is_list(kind) or size > ELEMENTS:
        return [_Values(name, _flat(column), missing)]
    names = [name]
    if size > 1:
        names = [name + "".join(f"[{at}]" for at in place) for place in np.ndindex(*shape)]
    return _elements(names, column, [missing] * size)


def _elements(names: Sequence[str], column: pa.Array, missing: Sequence[int]) -> list[_Values]:
    flat, size = _flat(column), len(names)
    if isinstance(flat, np.ndarray):
        values = [flat] if size == 1 else list(_transposed(flat.reshape(-1, size)))
    else:
        values = [flat if size == 1 else flat.take(pa.array(np.arange(at, len(flat), size))) for at in range(size)]
    return [_Values(*made) for made in zip(names, values, missing, strict=True)]


def _transposed(rows: Array) -> Array:
    """Transposes in blocks that stay in the cache: strided reads of the whole take five times as long."""
    made = np.empty(rows.shape[::-1], rows.dtype)
    for start in range(0, len(rows), 8192):
        made[:, start : start + 8192] = rows[start : start + 8192].T
    return made


def _flat(column: pa.Array) -> Any:
    flat = arrow.flat_values(column)
    if arrow.is_bytes(flat.type) or arrow.is_text(flat.type):
        return flat
    return flat.to_numpy(zero_copy_only=False)


def _count(role: Role, found: Sequence[_Values]) -> Counts:
    kept, left_out = found[: MOST[role]], len(found) - MOST[role]
    most = BINS[role] // max(1, len(kept))
    made = tuple(
        _count_numbers(role, one, most) if isinstance(one.values, np.ndarray) else _count_texts(role, one)
        for one in kept
    )
    return Counts(made, {role: left_out} if left_out > 0 else {})


def _count_numbers(role: Role, column: _Values, most: int) -> Tally:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(column.values, "<f4")
    counts = np.bincount(values.view("<u2")[1::2], minlength=PATTERNS)
    infinite = counts[[INFINITE, INFINITE | NEGATIVE]]
    if infinite.any():  # a NaN with a small payload has the same upper bits, and a 64-bit float may be out of range
        beyond = np.isinf(values) & np.isfinite(column.values)
        if beyond.any():
            values = np.where(beyond, np.copysign(np.float32(GREATEST), values), values)
            counts = np.bincount(values.view("<u2")[1::2], minlength=PATTERNS)
        infinite = np.array([np.isposinf(values).sum(), np.isneginf(values).sum()])
    finite = values
    if counts[INFINITE:NEGATIVE].any() or counts[INFINITE | NEGATIVE :].any():
        finite = values[np.isfinite(values)]
        counts[INFINITE:NEGATIVE] = counts[INFINITE | NEGATIVE :] = 0
    positive, negative = infinite.tolist()
    bits, patterns, counts = _bins(counts, most, BITS)
    total = Column(
        column.name,
        role,
        "number",
        len(values),
        column.missing,
        nan=len(values) - len(finite) - positive - negative,
        positive_infinity=positive,
        negative_infinity=negative,
        least=float(finite.min()) + 0.0 if len(finite) else None,  # + 0.0: -0.0 becomes 0.0
        greatest=float(finite.max()) + 0.0 if len(finite) else None,
        bits=bits,
    )
    return Tally(total, patterns, counts)


def _bins(counts: Array, most: int, bits: int) -> tuple[int, Array, Array]:
    """Returns the bins that hold values. Neighbours become one bin while there are too many bins.

    The result depends only on all counts: it is the same whether counts are folded before or after they are added.

    Args:
        counts: The count of each pattern of 16 bits. int64, (65536,).
        most: The most bins.
        bits: How many of these bits differ at most.

    Returns:
        How many bits differ, the bins by ascending value, and their counts.
    """
    while np.count_nonzero(counts) > most:
        bits -= 1
        counts = _fold(counts, bits)
    found = np.flatnonzero(counts > 0)  # of bools: of integers it takes several times as long
    middle = np.searchsorted(found, NEGATIVE)  # where the negative values begin
    found = np.concatenate([found[middle:][::-1], found[:middle]])
    return bits, found, counts[found]


def _fold(counts: Array, bits: int) -> Array:
    if bits == BITS:
        return counts
    step = 1 << (BITS - bits)
    folded = np.zeros_like(counts)
    folded[::step] = counts.reshape(-1, step).sum(axis=1)
    return folded


def _count_texts(role: Role, column: _Values) -> Tally:
    counted = pc.value_counts(column.values)
    counts = counted.field("counts").to_numpy()
    order = np.argsort(-counts, kind="stable")  # texts of equal counts in the order of the rows
    error = 0
    if len(order) > LISTED:
        error, order = int(counts[order[TOP]]), order[:TOP]
    texts: Counter[str] = Counter()
    for text, count in zip(counted.field("values").take(pa.array(order)).to_pylist(), counts[order], strict=True):
        texts[_shown(text)] += int(count)
    total = Column(column.name, role, "text", len(column.values), column.missing, error=error)
    return Tally.of(_with_texts(total, texts))


def _shown(text: str | bytes) -> str:
    r"""Returns a text as it is counted. A long one, or bytes that are no text, end in their hash and stay different.

    >>> _shown(b"Bern"), _shown(b"\xff")
    ('Bern', '\\xff… sha256:a8100ae6aa1940d0b663bb31cd466142')
    """
    data = text.encode() if isinstance(text, str) else text
    start = data[: 4 * SHOWN]  # UTF-8 has at most 4 bytes a character; an image is not decoded as a whole
    try:
        shown = start.decode()
    except UnicodeDecodeError:
        shown = start.decode(errors="backslashreplace")
    else:
        if len(data) == len(start) and len(shown) <= SHOWN:
            return shown
    return f"{shown[:SHOWN]}… sha256:{hashlib.sha256(data).hexdigest()[:32]}"


def _with_texts(column: Column, texts: Mapping[str, int]) -> Column:
    ordered = sorted(texts.items(), key=lambda pair: (-pair[1], pair[0]))
    other = column.rows - sum(texts.values())
    return msgspec.structs.replace(column, texts=tuple(ordered), other=other)


class _Sum:
    """Adds up the counts of one column."""

    def __init__(self, column: Column) -> None:
        self.total = Column(column.name, column.role, column.kind, 0)
        self.counts = np.zeros(0, np.int64)
        self.texts: Counter[str] = Counter()

    def add(self, tally: Tally) -> None:
        one = tally.column
        self.total = _added(self.total, one)
        if len(tally.patterns):
            if not len(self.counts):
                self.counts = np.zeros(PATTERNS, np.int64)
            self.counts[tally.patterns] += tally.counts
        self.texts.update(dict(one.texts))
        if len(self.texts) > 8 * LISTED:
            self._reduce()

    def _reduce(self) -> None:
        """Subtracts the count of the most frequent text that does not fit from all counts (Agarwal et al., 3.1)."""
        cut = sorted(self.texts.values(), reverse=True)[LISTED]
        self.texts = Counter({text: count - cut for text, count in self.texts.items() if count > cut})
        self.total = msgspec.structs.replace(self.total, error=self.total.error + cut)

    def result(self, columns: int) -> Column:
        total = self.total
        if total.kind == "number":
            if not len(self.counts):
                return total
            bits, *bins = _bins(_fold(self.counts, total.bits), BINS[total.role] // columns, total.bits)
            return Tally(msgspec.structs.replace(total, bits=bits), *bins).whole()
        is_exact = not total.error and len(self.texts) <= LISTED
        if is_exact or len(self.texts) <= TOP:
            return _with_texts(total, self.texts)
        ordered = sorted(self.texts.items(), key=lambda pair: (-pair[1], pair[0]))
        total = msgspec.structs.replace(total, error=total.error + ordered[TOP][1])
        return _with_texts(total, dict(ordered[:TOP]))


def _added(one: Column, other: Column) -> Column:
    return msgspec.structs.replace(
        one,
        rows=one.rows + other.rows,
        missing=one.missing + other.missing,
        nan=one.nan + other.nan,
        positive_infinity=one.positive_infinity + other.positive_infinity,
        negative_infinity=one.negative_infinity + other.negative_infinity,
        error=one.error + other.error,
        least=min((value for value in (one.least, other.least) if value is not None), default=None),
        greatest=max((value for value in (one.greatest, other.greatest) if value is not None), default=None),
        bits=min(one.bits, other.bits),
    )


class Merging:
    """Adds up the counts of parts, one after the other. It holds the counts of 96 columns at most, about 60 MB.

    The result does not depend on the order for numbers, and for texts while their lists are exact. An approximate list
    keeps what `Column.error` promises in any order. Columns of one role, name and kind are added.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[Role, str, Kind], _Sum] = {}
        self._left_out: Counter[Role] = Counter()

    def add(self, some: Counts) -> None:
        """Adds the counts of some rows."""
        for tally in some.tallies:
            column = tally.column
            self._sums.setdefault((column.role, column.name, column.kind), _Sum(column)).add(tally)
        self._left_out |= Counter(some.left_out)  # all parts leave out the same columns

    def result(self) -> Statistics:
        """Returns the counts of all rows."""
        columns = Counter(role for role, _, _ in self._sums)
        features_first = sorted(self._sums.items(), key=lambda item: item[0][0] != "feature")
        return Statistics(
            tuple(made.result(columns[key[0]]) for key, made in features_first), dict(sorted(self._left_out.items()))
        )


def pack(some: Counts) -> bytes:
    """Packs counts for receipts, as zlib over msgpack. Bins are packed as the steps between them, byte by byte.

    Returns:
        The bytes; none if nothing was counted.
    """
    if not some.tallies:
        return b""
    squeezed = [
        (_planes(np.diff(ranks(tally.patterns), prepend=0).astype("<u2")), _planes(tally.counts.astype("<u8")))
        for tally in some.tallies
    ]
    return zlib.compress(_PACK(([tally.column for tally in some.tallies], squeezed, some.left_out)), 1)


def unpack(packed: bytes) -> Counts:
    """Unpacks the counts that `pack` packed.

    Raises:
        RunError: The bytes are damaged.
    """
    try:
        unzip = zlib.decompressobj()
        plain = unzip.decompress(packed, UNPACKED)
        if not unzip.eof or unzip.unused_data:
            raise ValueError(f"they do not end after {len(packed)} bytes")
        bare, squeezed, left_out = _UNPACK(plain)
        made = [_tally(*pair) for pair in zip(bare, squeezed, strict=True)]
    except (zlib.error, ValueError, IndexError) as error:
        raise RunError(f"the statistics of a part are damaged ({error}); run again with --overwrite") from error
    return Counts(tuple(made), left_out)


_PACK = msgspec.msgpack.Encoder().encode
_UNPACK = msgspec.msgpack.Decoder(tuple[list[Column], list[tuple[bytes, bytes]], dict[Role, Count]]).decode


def ranks(patterns: Array) -> Array:
    """Numbers patterns of 16 bits by the order of their values: -0.0 is just below 0.0.

    >>> ranks(np.array([0x8001, 0x8000, 0, 1])).tolist()
    [32766, 32767, 32768, 32769]
    """
    return np.where(patterns >= NEGATIVE, PATTERNS - 1 - patterns, patterns + NEGATIVE)


def _planes(numbers: Array) -> bytes:
    """Returns the first bytes of all numbers, then the second ones, and so on. Most are 0 and take no room."""
    return numbers.view(np.uint8).reshape(len(numbers), numbers.itemsize).T.tobytes()


def _numbers(planes: bytes, size: int) -> Array:
    """Returns the numbers of the given size in bytes that `_planes` was given. int64, (numbers,)."""
    made = np.frombuffer(planes, np.uint8).reshape(size, -1).T.copy()
    return made.view(f"<u{size}").reshape(-1).astype(np.int64)


def _tally(column: Column, squeezed: tuple[bytes, bytes]) -> Tally:
    steps, counts = _numbers(squeezed[0], 2), _numbers(squeezed[1], 8)
    places = np.cumsum(steps)
    if len(places) != len(counts) or (len(places) and places[-1] >= PATTERNS) or (counts < 0).any():
        raise ValueError(f"{column.name} has no such bins")
    return Tally(column, np.where(places < NEGATIVE, PATTERNS - 1 - places, places - NEGATIVE), counts)


def edges_and_counts(column: Column) -> tuple[Array, Array, Array]:
    """Returns the bins of a column of numbers, for drawing and for distribution functions.

    Returns:
        Lower edges, upper edges and counts, by ascending value. float64, float64 and int64, each (bins,). Positive
        values of a bin include the lower edge and not the upper one, negative values the upper one and not the lower.
    """
    pairs = np.array(column.bins, np.int64).reshape(-1, 2)
    magnitudes = pairs[:, 0] & (NEGATIVE - 1)
    near, far = _value(magnitudes), _value(magnitudes + (1 << (BITS - column.bits)))
    is_negative = pairs[:, 0] >= NEGATIVE
    return np.where(is_negative, -far, near), np.where(is_negative, -near, far), pairs[:, 1]


def _value(magnitudes: Array) -> Array:
    """Returns the least value of each bin of positive values. float64, so that there is one for infinity: 2^128."""
    values = (magnitudes.astype(np.uint32) << BITS).view(np.float32).astype(np.float64)
    return np.where(magnitudes == INFINITE, 2.0**128, values)


def quantiles(column: Column, qs: Sequence[float]) -> npt.NDArray[np.float64]:
    """Returns quantiles of a column of numbers, as `numpy.quantile` does, each wrong by a bin's width at most.

    They are exact where values are integers of up to 8 bits. NaN is not counted.

    Args:
        column: The column.
        qs: Shares from 0 to 1.

    Returns:
        float64, (qs,); NaN if the column has no numbers.
    """
    lower, upper, counts = edges_and_counts(column)
    near = np.where(upper <= 0, upper, lower)  # the end of the bin that is closer to 0
    values = np.clip(near, column.least, column.greatest) if len(near) else near
    values = np.concatenate([[-np.inf], values, [np.inf]])
    ends = np.cumsum([column.negative_infinity, *counts.tolist(), column.positive_infinity])
    if not ends[-1]:
        return np.full(len(qs), np.nan)
    at = np.asarray(qs, np.float64) * (ends[-1] - 1)
    low = values[np.searchsorted(ends, np.floor(at), side="right")]
    high = values[np.searchsorted(ends, np.ceil(at), side="right")]
    with np.errstate(invalid="ignore"):
        between = low + (high - low) * (at - np.floor(at))
    made: npt.NDArray[np.float64] = np.where(low == high, low, between)
    return made


def minimum(column: Column) -> float | None:
    """Returns the least number, infinities included; None if there is none."""
    if column.negative_infinity:
        return -math.inf
    return math.inf if column.least is None and column.positive_infinity else column.least


def maximum(column: Column) -> float | None:
    """Returns the greatest number, infinities included; None if there is none."""
    if column.positive_infinity:
        return math.inf
    return -math.inf if column.greatest is None and column.negative_infinity else column.greatest


def is_constant(column: Column) -> bool:
    """Returns whether all values of a column are the same, as float32; False if there are none."""
    if column.kind == "text":
        return len(column.texts) == 1 and not column.other
    kinds = [column.finite, column.nan, column.positive_infinity, column.negative_infinity]
    return sum(map(bool, kinds)) == 1 and column.least == column.greatest
