"""For any bytes, each row read is joined or a dead letter, and the ledger adds up.

The test runs all steps of a run one after the other, without a runner.
"""

import base64
import json
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.run_folder import ledger
from tests.support.blocks import block_of, raws
from tests.transforms.formats.jsonl.test_jsonl import BOM, WHOLE, split_lines, texts
from transforms import formats
from transforms import line_numbers as line_numbers
from transforms.formats.jsonl import FORMAT
from transforms.join_predictions import join_chunk
from transforms.line_numbers import Lines
from transforms.predict import KeyedChunkHandler
from transforms.read_chunk import read_chunk
from transforms.records import Feature, PartReceipt, Source
from transforms.saved_model.model import Contract, Model, Tensor
from transforms.split_into_chunks import split_source
from transforms.write_part import dead_letters_name, write_part

X = Tensor("x", "float32", (2,), "x:0")
Y = Tensor("y", "float32", (), "y:0")


def infinite_for_three(x: np.ndarray) -> tuple[np.ndarray]:
    return (np.where(x[:, 0] == 3, np.inf, x.sum(axis=1)).astype(np.float32),)


MODEL = Model({"x": X}, {"y": Y}, infinite_for_three)
FED = (Feature("x", "float32", (2,), ("x",)),)
HANDLER = KeyedChunkHandler(lambda: MODEL, Contract("s", (X,), (Y,)), FED, 96)


def run(source: Source, output: Path, chunk_bytes: int) -> list[PartReceipt]:
    parts, lines = [], Lines(FORMAT.reader.traits.line_end)
    for chunk in split_source(source, source.path, source.size, FORMAT.reader, chunk_bytes):
        features, receipt = read_chunk(chunk, FORMAT.reader, HANDLER.features)
        (scored,) = HANDLER.run_inference([features], HANDLER.load_model())
        parts.append(
            write_part(
                *join_chunk(chunk.key, [receipt], [scored.inference]),
                FORMAT,
                WHOLE,
                str(output),
                f"{output.parent}/temp",
                lines,
            )
        )
    return parts


@given(data=texts, chunk_bytes=st.integers(1, 64))
@example(data=b"", chunk_bytes=1)
@example(data=BOM + b"\n\n", chunk_bytes=1)
@example(data=b'{"x": [3, 4]}\n' * 3 + b"\xff\n" + b'{"x": [1, 2]}', chunk_bytes=14)
def test_any_bytes_are_joined_or_dead_and_the_ledger_adds_up(data: bytes, chunk_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(line_numbers, "BLOCK_BYTES", 5):
        path, output = Path(folder, "in.jsonl"), Path(folder, "out")
        path.write_bytes(data)
        assume(formats.binary_kind(data) is None)  # keyjoin refuses binary sources
        source = Source(str(path), len(data), "in", ".jsonl")
        parts = run(source, output, chunk_bytes)
        written = {str(p.relative_to(output)): p.stat().st_size for p in output.rglob("*.jsonl")}
        assert not list(ledger.problems([source], {source.path: source}, parts, written, "byte"))
        assert len(written) == len(parts) + sum(bool(p.dead) for p in parts)
        found = []
        for part in parts:
            dead = output / dead_letters_name(part.chunk.part)
            for line in dead.read_text().splitlines() if part.dead else []:
                letter = json.loads(line)
                row = letter["row"]
                raw = row.encode() if letter["row_encoding"] == "utf-8" else base64.b64decode(row)
                assert data[letter["position"] :].startswith(raw)
                assert letter["line"] == 1 + data[: letter["position"]].count(b"\n")
                found.append((letter["position"], raw))
            rest = iter((output / part.chunk.part).read_bytes().splitlines(keepends=True))
            lost = {position for position, _ in found}
            block = block_of(FORMAT, data[part.chunk.start : part.chunk.end], part.chunk.start)
            for start, before in zip(block.positions.tolist(), raws(block), strict=True):
                if start not in lost:
                    line = next(rest)
                    brace = before.rindex(b"}")
                    assert line.startswith(before[:brace] + b', "y": ')
                    assert line.endswith(before[brace:] + b"\n")
                    found.append((start, before))
            assert next(rest, None) is None
        assert [raw for _, raw in sorted(found)] == split_lines(data)
        assert ledger.total(parts).rows == len(split_lines(data))
