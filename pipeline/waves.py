"""The local run: chunks in waves, one small pipeline after another, so that memory does not grow with the input.

Beam's local runner holds all that crosses a join in memory, and finishes each stage before the next.
"""

from collections.abc import Iterable, Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job import Job, build_chunks
from pipeline.preflight import Plan
from transforms import files, formats
from transforms.chunks import chunks_of
from transforms.done import find_done
from transforms.receipts import write_list
from transforms.records import Chunk
from transforms.threads import in_threads


def run_waves(plan: Plan, beam_options: PipelineOptions, wave_bytes: int) -> None:
    """Runs the job on this machine.

    Args:
        plan: What to run.
        beam_options: For each of the pipelines.
        wave_bytes: About how much input goes into one of them.

    Raises:
        RunError: A step raised.
    """
    job, fmt = plan.job, formats.load(plan.job.format)
    chunks = (chunk for source in sorted(plan.sources) for chunk in chunks_of(source, fmt, job.chunk_bytes, job.temp))
    for number, wave in enumerate(waves(chunks, wave_bytes)):
        todo = _skip_done(wave, job, number) if job.resume else wave
        if todo:
            root = beam.Pipeline(options=beam_options)
            build_chunks(root | "CreateChunks" >> beam.Create(todo, reshuffle=False), job, number)
            root.run().wait_until_finish()
        for chunk in wave:
            if chunk.data != chunk.source and chunk.number == chunk.parts - 1:
                files.delete_tree(chunk.data)  # the decompressed copy has been read to its end


def _skip_done(wave: list[Chunk], job: Job, number: int) -> list[Chunk]:
    """The chunks of a wave that are still to do; the receipts of the others are listed."""
    found = list(in_threads(lambda chunk: find_done(chunk, job.output, job.temp), wave))
    write_list(job.temp, number, "done", [part for part in found if part is not None])
    return [chunk for chunk, part in zip(wave, found, strict=True) if part is None]


def waves(chunks: Iterable[Chunk], wave_bytes: int) -> Iterator[list[Chunk]]:
    """Groups chunks that follow each other: as many as fit into so many bytes, at least one."""
    wave: list[Chunk] = []
    size = 0
    for chunk in chunks:
        length = chunk.end - chunk.start
        if wave and size + length > wave_bytes:
            yield wave
            wave, size = [], 0
        wave.append(chunk)
        size += length
    if wave:
        yield wave
