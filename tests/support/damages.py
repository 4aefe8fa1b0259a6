"""Ways to damage a file of each format, and what becomes of a run on it. The table in docs/formats.md shows them."""

import bz2
import gzip
import io
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from backports import zstd

from tests.conftest import ROOT
from tests.support.examples import example, floats, texts
from transforms.formats.tfrecord.split import framed

COUNT = 12  # rows of a file
LONG_BYTES = 20_000
DAMAGED = 5  # the row that a damage hits, if it hits one
PAGE = ROOT / "docs" / "formats.md"
HEAD = "| file | damage | result |"
REFUSED, FAILS = "refused before the run", "the run fails"
SYNC = bytes(range(16))  # the marker after each block of Avro
Change = Callable[[bytes], bytes]
Table = Sequence[dict[str, Any]]


class Damage(NamedTuple):
    """A damage and its effect.

    Attributes:
        suffix: Suffix of the file.
        what: The damage.
        change: Damages a file: its bytes before, its bytes after.
        reasons: Reasons of the dead letters of a run that ends well; empty if the run does not.
        ends: How the run ends otherwise: `REFUSED` or `FAILS`.
        names: A part of the message, which also has the file's path.
        kept: Rows of the file that are joined, if the run ends well.
    """

    suffix: str
    what: str
    change: Change
    reasons: tuple[str, ...] = ()
    ends: str = ""
    names: str = ""
    kept: int = COUNT - 1

    @property
    def result(self) -> str:
        """The effect, for the table."""
        if self.ends:
            return f"{self.ends}: “{self.names}”"
        if not self.reasons:
            return "all rows are joined, and the part has the same bytes"
        one = ", ".join(f"`{reason}`" for reason in dict.fromkeys(self.reasons))
        return f"{len(self.reasons)} dead letter{'s' * (len(self.reasons) > 1)}, {one}; the other rows are joined"


ROWS: Table = [{"id": f"r{number:02d}", "a": number / 2, "b": 1.0, "c": -2.0} for number in range(COUNT)]


def lines() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def long_lines() -> bytes:
    """Returns rows with text that hardly compresses, so that a damage is beyond the bytes that are read at first."""
    text = random.Random(1)
    made = [row | {"text": text.randbytes(LONG_BYTES).hex()} for row in ROWS]
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


def delimited() -> bytes:
    made = [",".join(map(str, row.values())) for row in ROWS]
    return "".join(f"{line}\n" for line in ["id,a,b,c", *made]).encode()


def records() -> bytes:
    made = [example(id=texts(row["id"].encode()), **{name: floats(row[name]) for name in "abc"}) for row in ROWS]
    return framed([pa.array(made, pa.large_binary())]).to_pybytes()


def avro(table: Table = ROWS) -> bytes:
    names = [{"name": name, "type": ["null", "double"]} for name in "abc"]
    schema = {"type": "record", "name": "row", "fields": [{"name": "id", "type": "string"}, *names]}
    file = io.BytesIO()
    fastavro.writer(file, schema, table, "deflate", sync_interval=60, sync_marker=SYNC)
    return file.getvalue()


def parquet(table: Table = ROWS) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(table)), file, row_group_size=4, write_page_checksum=True)
    return file.getvalue()


def null_in(write: Callable[[Table], bytes]) -> Change:
    """Writes the file again with a null in one of the used fields."""
    null = ROWS[DAMAGED] | {"a": None}
    return lambda _: write([*ROWS[:DAMAGED], null, *ROWS[DAMAGED + 1 :]])


WRITERS: dict[str, Callable[[], bytes]] = {
    "jsonl": lines,
    "tfrecord": records,
    "csv": delimited,
    "avro": avro,
    "parquet": parquet,
    "jsonl.gz": lambda: gzip.compress(long_lines(), mtime=0),
    "jsonl.zst": lambda: zstd.compress(long_lines(), options={zstd.CompressionParameter.checksum_flag: 1}),
    "jsonl.bz2": lambda: bz2.compress(long_lines(), 1),
}


def put(old: bytes, new: bytes) -> Change:
    """Replaces bytes that the file has once."""

    def change(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return change


def put_first(old: bytes, new: bytes) -> Change:
    """Replaces the first of equal bytes."""
    return lambda data: data.replace(old, new, 1)


def flip(at: float) -> Change:
    """Changes one bit at a share of the file's length."""

    def change(data: bytes) -> bytes:
        place = int(len(data) * at)
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


def cut(count: int) -> Change:
    """Removes bytes at the end."""
    return lambda data: data[:-count]


def frame(data: bytes) -> int:
    """Returns where the damaged record of a TFRecord file begins."""
    return data.index(b"r05") // (len(data) // COUNT) * (len(data) // COUNT)


def flip_in_record(offset: int) -> Change:
    """Changes a bit of the damaged record of a TFRecord file."""

    def change(data: bytes) -> bytes:
        place = frame(data) + offset
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    return change


def flip_page(data: bytes) -> bytes:
    """Changes a bit of a data page in the second row group of a Parquet file. The page has a checksum."""
    column = pq.read_metadata(io.BytesIO(data)).row_group(1).column(1)
    place = column.dictionary_page_offset + column.total_compressed_size - 1
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def flip_footer(data: bytes) -> bytes:
    """Changes a bit of the first byte of a Parquet file's footer."""
    place = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def damage_block(data: bytes, offset: int) -> bytes:
    """Changes a bit of an Avro file, some bytes after the sync marker that ends its second block."""
    place = data.index(SYNC, data.index(SYNC, data.index(SYNC) + 1) + 1) + offset
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


BAD_VALUE = put(b'"r05", "a": 2.5', b'"r05", "a": "x"')
DAMAGES = [
    Damage("jsonl", "a value of another type", BAD_VALUE, ("wrong_type",)),
    Damage("jsonl", "a line that is not JSON", put(b'{"id": "r05"', b'{"id" "r05"'), ("not_json",)),
    Damage("jsonl", "bytes that are not UTF-8", put(b"r05", b"\xff05"), ("not_utf8",)),
    Damage("jsonl", "two rows on a line", put(b'}\n{"id": "r05"', b'}{"id": "r05"'), ("not_json",), kept=COUNT - 2),
    Damage("jsonl", "cut off in the last line", cut(9), ("not_json",)),
    Damage("csv", "a cell that is no number", put(b"r05,2.5", b"r05,x"), ("wrong_type",)),
    Damage("csv", "an empty cell in a used column", put(b"r05,2.5", b"r05,"), ("null",)),
    Damage("csv", "a record with fewer cells", put(b"r05,2.5", b"r05"), ("wrong_cells",)),
    Damage("csv", "a record with more cells", put(b"r05,2.5", b"r05,2.5,7"), ("wrong_cells",)),
    Damage("csv", "bytes that are not UTF-8", put(b"r05", b"\xff05"), ("not_utf8",)),
    Damage("csv", "a stray quote inside a cell", put(b"r05", b'r"05'), kept=COUNT),
    Damage(
        "csv",
        "a quote that is never closed",
        put(b"r05", b'"r05'),
        ends=REFUSED,
        names="begins a cell that does not end",
    ),
    Damage("csv", "cut off in the last record", cut(9), ("wrong_cells",)),
    Damage("csv", "a column that is missing", put(b"id,a,b,c", b"id,a,b"), ends=REFUSED, names="has no column c"),
    Damage("tfrecord", "a changed byte in a record", flip_in_record(20), ("corrupt",)),
    Damage(
        "tfrecord",
        "a changed byte in a record's length",
        flip_in_record(0),
        ends=FAILS,
        names="not a TFRecord header at byte",
    ),
    Damage("tfrecord", "cut off in the last record", cut(9), ends=FAILS, names="inside the record that starts at byte"),
    Damage("parquet", "a null in a used column", null_in(parquet), ("null",)),
    Damage(
        "parquet",
        "a changed byte in a page that has a checksum",
        flip_page,
        ends=FAILS,
        names="CRC checksum verification failed",
    ),
    Damage("parquet", "a changed byte in the footer", flip_footer, ends=REFUSED, names="the Parquet footer is damaged"),
    Damage("parquet", "cut off", cut(9), ends=REFUSED, names="not a whole Parquet file"),
    Damage("avro", "a null in a used field", null_in(avro), ("null",)),
    Damage(
        "avro",
        "a changed byte, so that a block does not decompress",
        lambda data: damage_block(data, 28),
        ends=FAILS,
        names="the block at byte 355 is damaged",
    ),
    Damage(
        "avro",
        "a changed byte in a sync marker",
        lambda data: damage_block(data, 0),
        ends=FAILS,
        names="the block at byte 310 is damaged",
    ),
    Damage(
        "avro",
        "a changed byte in the schema",
        put_first(b'"double"', b'"dquble"'),
        ends=REFUSED,
        names="the schema in the header is no Avro schema",
    ),
    Damage("avro", "cut off", cut(9), ends=FAILS, names="the block at byte 500 is damaged"),
    *(
        Damage(f"jsonl.{codec}", what, change, ends=FAILS, names=names)
        for codec in ("gz", "zst", "bz2")
        for what, change, names in (
            ("a changed byte", flip(0.6), "its first member is damaged"),
            ("cut off", cut(9), "it ends inside of member 1"),
            (
                "other bytes after the end",
                lambda data: data + b"other bytes " * 9,
                "what follows member 1 is not another one",
            ),
        )
    ),
]


def page() -> str:
    """Returns docs/formats.md with the table of this module at its end."""
    before, _, _ = PAGE.read_text().partition(HEAD)
    made = [f"| `.{damage.suffix}` | {damage.what} | {damage.result} |" for damage in DAMAGES]
    return "\n".join([before + HEAD, "|---|---|---|", *made]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
