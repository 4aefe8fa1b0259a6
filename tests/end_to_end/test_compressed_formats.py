"""A compressed file of each format gives the parts of the plain file, compressed in the same way."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Result
from tests.support import models
from transforms.storage.compression import BZIP2, GZIP, ZSTD, Codec, decompressed

ROWS = [{"a": 1.0, "b": -2.5, "c": float(number)} for number in range(50)]


def csv_file() -> bytes:
    return ("a,b,c\n" + "".join(f"{row['a']},{row['b']},{row['c']}\n" for row in ROWS)).encode()


def avro_file() -> bytes:
    schema = {"type": "record", "name": "row", "fields": [{"name": name, "type": "double"} for name in "abc"]}
    made = io.BytesIO()
    fastavro.writer(made, schema, ROWS, sync_interval=100, sync_marker=bytes(16))
    return made.getvalue()


def parquet_file() -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), made, row_group_size=20)
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "codec"), [("csv", csv_file, BZIP2), ("avro", avro_file, ZSTD), ("parquet", parquet_file, GZIP)]
)
def test_a_compressed_file_gives_the_parts_of_the_plain_one(
    keyjoin: Callable[..., Result],
    model: Any,
    tmp_path: Path,
    name: str,
    make: Callable[[], bytes],
    codec: Codec,
) -> None:
    content, built = make(), model(models.plain)
    flags = (f"--model={built}", "--features=a,b,c", "--chunk_bytes=300", "--output_fields=row,prediction")
    folder = tmp_path / "data"
    folder.mkdir()
    results = []
    for file, stored in (
        ("x", content),
        ("x", codec.compress(content)),
        (f"x.{name}{codec.suffix}", codec.compress(content)),
    ):
        path = folder / file
        path.write_bytes(stored)
        done = keyjoin("run", f"--input={path}", *flags)
        assert done.complete(), done.err
        assert ("(by content)" in done.out) == (file == "x")
        verified = keyjoin("verify", f"--run={done.output}", "--read_data=100%", "--rescore=20", f"--model={built}")
        assert verified.code == 0, verified.out
        results.append([(part.name, part.read_bytes()) for part in done.parts()])
    plain, *compressed = results
    assert len(plain) > 1
    for parts in compressed:
        assert [file for file, _ in parts] == [f"{file}{codec.suffix}" for file, _ in plain]
        assert [decompressed(*part) for part in parts] == [text for _, text in plain]
