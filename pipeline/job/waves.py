"""The local run: chunks in waves, one small pipeline after another, so that memory does not grow with the input.

Beam's local runner holds all that crosses a join in memory, and finishes each stage before the next.
"""

import functools
import gc
import itertools
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job.graph import Job, build_chunks
from pipeline.job.stop_early import Watch
from pipeline.options.error_limits import ExceededLimit
from pipeline.plan.memory import wave_size
from pipeline.plan.preflight import Plan
from transforms import formats
from transforms.records import Chunk, PartReceipt
from transforms.skip_finished import find_finished
from transforms.split_into_chunks import chunks_of, most_bytes
from transforms.storage import files
from transforms.threads import in_threads
from transforms.write_receipts import write_list


def run_waves(plan: Plan, beam_options: PipelineOptions, wave_bytes: int, watch: Watch) -> ExceededLimit | None:
    """Runs the job on this machine, to its end or until more rows are bad than may be.

    Args:
        plan: What to run.
        beam_options: For each of the pipelines.
        wave_bytes: About how much input goes into one of them; an input of less than two of them is one.
        watch: Counts what comes of it.

    Returns:
        Why the run stopped early; None if all was run. The chunks that were begun are written, with their receipts.

    Raises:
        RunError: A step raised.
    """
    job, reader = plan.job, formats.load(plan.job.format).reader
    cut = functools.partial(
        chunks_of, reader=reader, chunk_bytes=job.chunk_bytes, chunk_rows=job.chunk_rows, temp=job.temp
    )
    chunks = itertools.chain.from_iterable(map(cut, sorted(plan.sources)))
    lists = itertools.count()
    for wave in waves(chunks, wave_size(most_bytes(plan.sources), wave_bytes, plan.expected.predictions)):
        watch.cut(wave)
        if not watch.may_continue():
            break
        finished = {part.chunk.part for part in map(watch.wrote, _find_finished(wave, job))}
        unfinished = [chunk for chunk in wave if chunk.part not in finished]
        while True:
            if unfinished:
                _run_wave(unfinished, job, watch, beam_options)
            written = watch.end_wave()
            write_list(job.temp, next(lists), "00", written)
            finished.update(part.chunk.part for part in written)
            unfinished = [chunk for chunk in unfinished if chunk.part not in finished]  # no time was left
            if not unfinished or not watch.may_continue():
                break
        for chunk in wave:
            if chunk.data != chunk.source and chunk.number == chunk.parts - 1:
                files.delete_tree(chunk.data)  # the decompressed copy has been read to its end
    return watch.stopped()


def _run_wave(chunks: Sequence[Chunk], job: Job, watch: Watch, beam_options: PipelineOptions) -> None:
    root = beam.Pipeline(options=beam_options)
    build_chunks(root | "CreateChunks" >> beam.Create(chunks, reshuffle=False), job, watch)
    watch.begin_wave()
    root.run().wait_until_finish()
    # Beam's steps hold the last chunk that they had, and each other: seven waves may pass before that is found.
    gc.collect()


def _find_finished(wave: Sequence[Chunk], job: Job) -> Iterator[PartReceipt]:
    """The receipts of a wave's chunks that an earlier attempt has written."""
    if job.resume:
        found = in_threads(lambda chunk: find_finished(chunk, job.output, job.temp, job.former), wave)
        yield from (part for part in found if part is not None)


def waves(chunks: Iterable[Chunk], wave_bytes: int) -> Iterator[list[Chunk]]:
    """Groups chunks that follow each other: as many as come nearest to so many bytes, at least one."""
    wave: list[Chunk] = []
    size = 0
    for chunk in chunks:
        length = chunk.nbytes
        # Chunks end with a row, so four of 64 MiB are a little more than 256.
        if wave and size + length / 2 > wave_bytes:
            yield wave
            wave, size = [], 0
        wave.append(chunk)
        size += length
    if wave:
        yield wave
