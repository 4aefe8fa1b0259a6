"""Runs the job on this machine in waves: groups of chunks, with one small pipeline for each wave.

Beam's local runner finishes each stage before the next, and holds all elements that pass a join in memory. With waves,
the memory does not grow with the input.
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
    """Runs the job on this machine, until its end or until an error limit must be exceeded.

    Args:
        plan: The plan of the run.
        beam_options: Beam's options, for each pipeline.
        wave_bytes: The approximate size of a wave's input in bytes. Predictions make waves smaller, see
            `pipeline.plan.memory.wave_size`. An input smaller than two waves is one wave.
        watch: Counts rows and bad rows, and decides whether the run continues.

    Returns:
        The error limit that stopped the run early; None if the run finished. All chunks that started are written, with
        their receipts, except chunks whose scoring was stopped.

    Raises:
        RunError: A step raised.
    """
    job, reader = plan.job, formats.load(plan.job.format).reader
    cut = functools.partial(
        chunks_of,
        reader=reader,
        chunk_bytes=job.chunk_bytes,
        chunk_rows=job.chunk_rows,
        temp=job.temp,
        header=job.format.needed_header,
    )
    chunks = itertools.chain.from_iterable(map(cut, sorted(plan.sources)))
    size = wave_size(most_bytes(plan.sources), wave_bytes, plan.expected.predictions)
    for number, wave in enumerate(waves(chunks, size)):
        watch.progress.cut(wave)
        if not watch.may_continue():
            break
        finished = {part.chunk.part for part in map(watch.found, _find_finished(wave, job))}
        unfinished = [chunk for chunk in wave if chunk.part not in finished]
        for attempt in itertools.count():
            if unfinished:
                _run_wave(unfinished, job, watch, beam_options)
            written = watch.end_wave()
            write_list(job.temp, number, f"{attempt:06d}", written)
            finished.update(part.chunk.part for part in written)
            # The rest did not start, because this pipeline had used up `WAVE_SECONDS`. The next pipeline continues.
            unfinished = [chunk for chunk in unfinished if chunk.part not in finished]
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
    # Beam's steps keep references to their last chunk and to each other. Without this call, Python may free such cycles
    # only after seven waves.
    gc.collect()


def _find_finished(wave: Sequence[Chunk], job: Job) -> Iterator[PartReceipt]:
    """Yields the receipts of those chunks of a wave that an earlier attempt finished."""
    if job.resume:
        found = in_threads(lambda chunk: find_finished(chunk, job.output, job.temp, job.former), wave)
        yield from (part for part in found if part is not None)


def waves(chunks: Iterable[Chunk], wave_bytes: int) -> Iterator[list[Chunk]]:
    """Groups consecutive chunks into waves whose size is as near as possible to a target.

    Args:
        chunks: The chunks, in order.
        wave_bytes: The target size of a wave in bytes. A wave has at least one chunk.
    """
    wave: list[Chunk] = []
    size = 0
    for chunk in chunks:
        length = chunk.nbytes
        # Chunks end at the end of a row, so four chunks of 64 MiB have slightly more than 256 MiB. Half a chunk of
        # tolerance lets them still fit a wave of 256 MiB.
        if wave and size + length / 2 > wave_bytes:
            yield wave
            wave, size = [], 0
        wave.append(chunk)
        size += length
    if wave:
        yield wave
