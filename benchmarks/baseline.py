"""The baseline: keyjoin's own functions in a plain loop, without Beam.

It takes the flags of `keyjoin run` and writes the same parts, byte for byte. It reads each chunk once, and has no
checksums, no ledger, no manifest and no flush to the disk. The time that keyjoin takes beyond it is their cost.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.compat import startup
from pipeline.model import check_model
from pipeline.options.run_options import RunOptions, parse_run
from pipeline.plan.chunk_size import CHUNK_BYTES
from pipeline.plan.layout import make_layout
from transforms import columns, formats
from transforms.formats.base import Format
from transforms.mapping import feature_mapping
from transforms.records import Chunk
from transforms.saved_model import loader
from transforms.saved_model.contract import find_contract
from transforms.scoring.score import score

SAMPLE_BYTES = 1 << 20


def main(argv: Sequence[str]) -> None:
    """Scores one file."""
    startup.begin()
    startup.import_session()
    startup.import_arrow()
    options, _ = parse_run(argv, "baseline")
    (source,) = options.input
    fmt = formats.load(formats.by_name(source) or "jsonl")
    write = writer(options, fmt, source)
    Path(options.output).mkdir(parents=True)
    for chunk in chunks(fmt, source, options.chunk_bytes or CHUNK_BYTES):
        with open(os.path.join(options.output, chunk.part), "wb") as file:
            file.writelines(write(chunk))


def writer(options: RunOptions, fmt: Format, source: str) -> Callable[[Chunk], list[Any]]:
    """Makes the same decisions as keyjoin's preflight: features, outputs, layout, batch size.

    Returns:
        A function from a chunk to the blocks of its part.
    """
    with open(source, "rb") as file:
        sample = fmt.reader.sample(file, SAMPLE_BYTES).values()
    model = loader.load(options.model, check_model.loading(options))
    contract = find_contract(model, options.signature, options.key_input)
    features = feature_mapping.map_inputs(contract, sample, options.features, options.input_map)
    outputs = [tensor.name for tensor in contract.predictions]
    layout = make_layout(options, options.written_error_field, outputs, sample, fmt, features)
    batch_size = options.batch_size or columns.batch_rows(features)

    def write(chunk: Chunk) -> list[Any]:
        with open(chunk.data, "rb") as file:
            block = fmt.reader.load(file, chunk)
        inputs, unread = block.inputs(features)
        arrays = {f.name: columns.to_array(inputs[f.name], f) for f in features}
        scored = score(model, contract, arrays, inputs.num_rows, batch_size, keep_non_finite=False)
        if unread or scored.bad:
            raise ValueError(f"{chunk.part}: the rows of the benchmark are all good")
        predictions = {name: columns.from_array(array) for name, array in scored.outputs.items()}
        batch = pa.RecordBatch.from_arrays(list(predictions.values()), list(predictions))
        return fmt.writer.write(block, [], batch, layout).blocks

    return write


def chunks(fmt: Format, source: str, chunk_bytes: int) -> Iterator[Chunk]:
    """The chunks of a file, named as keyjoin names them."""
    with open(source, "rb") as file:
        ends = [cut.end for cut in fmt.reader.split(file, os.path.getsize(source), chunk_bytes)]
    stem, suffix = formats.split_suffix(os.path.basename(source))
    for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        part = f"{stem}-{number:05d}-of-{len(ends):05d}{suffix}"
        yield Chunk(source, source, start, end, number, len(ends), part)


if __name__ == "__main__":
    main(sys.argv[1:])
