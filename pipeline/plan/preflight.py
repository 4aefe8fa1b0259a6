"""Checks the options, the input and the model before a run, and plans the job.

These checks start no job and write nothing to the output. To check the model, they load it and score sampled rows.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.compat.startup import collect_garbage, import_tensorflow
from pipeline.job.graph import Job
from pipeline.model import check_model, isolation, worker_copy
from pipeline.model.keras_export import KERAS
from pipeline.model.model_folder import model_folder
from pipeline.model.worker_copy import SHARED_BYTES, WorkerModel
from pipeline.options.groups import InputOptions, LocalOptions, ScoringOptions
from pipeline.options.run_options import RunOptions
from pipeline.plan import batch_dependence, batch_size, memory
from pipeline.plan.batch_dependence import Dependence, Verdict
from pipeline.plan.check_input import check_not_empty, check_readable, check_skipped
from pipeline.plan.check_output import check_output
from pipeline.plan.chunk_size import CHUNK_BYTES, ChunkSize, Expected, RowSize, choose, expect, row_bytes
from pipeline.plan.find_format import find_format
from pipeline.plan.first_rows import limited
from pipeline.plan.input_format import NO_HEADERS, Headers, check_delimiter, format_of, with_headers
from pipeline.plan.layout import MODEL, RUN, check_written, make_layout, wanted
from pipeline.plan.output_schema import with_schema
from pipeline.plan.read_sample import check_kinds
from pipeline.plan.sample import SMALL_SAMPLE, Sample, read_sample
from pipeline.plan.score_sample import FirstRows, check_first_rows, check_unreadable
from pipeline.plan.trial import Trial, measure
from pipeline.run_folder import manifest
from pipeline.run_folder.place import Place
from pipeline.run_folder.records import LoadedSettings, Settings
from pipeline.run_folder.statistics import check_baseline
from transforms import columns, formats
from transforms.columns import MAX_BATCH
from transforms.dtypes import STRING
from transforms.errors import UnfitOutputError, UsageError
from transforms.formats.base import Reader
from transforms.formats.spec import FormatSpec
from transforms.mapping import feature_mapping, partitions, row_paths
from transforms.mapping.name_lists import Path
from transforms.model_safety.model_ops import Finding
from transforms.predict import KeyedChunkHandler
from transforms.records import Feature, Layout, LogNames, Source
from transforms.saved_model import constants, loader
from transforms.saved_model import model as models
from transforms.saved_model.compiled import check_accelerator
from transforms.saved_model.constants import Constant
from transforms.saved_model.contract import find_contract
from transforms.saved_model.loader import Loading
from transforms.saved_model.output_shapes import is_open, reopened
from transforms.scoring import padding
from transforms.scoring.score import filled_up_to
from transforms.split_into_chunks import most_bytes
from transforms.storage import files, sources

PROBED_ROWS = 100  # first rows for a probe of the model; more than one, because some may be bad


class Inputs(NamedTuple):
    """The input and the settings of a run, as far as they are known without the model.

    Attributes:
        format: The format of the input and of the parts.
        matched: The input files.
        settings: The other settings that the output depends on, see `manifest.settings`.
        by_content: See `find_format.FoundFormat`.
        headers: The columns of the input files.
    """

    format: FormatSpec
    matched: sources.Matched
    settings: Settings
    by_content: bool = False
    headers: Headers = NO_HEADERS


class Plan(NamedTuple):
    """A checked run.

    Attributes:
        job: The job to run.
        sources: The input files, in their present versions.
        skipped: Files of input folders that keyjoin does not read, because their names mark them as no data.
        twins: Other names of input files, see `sources.Matched`.
        settings: The other settings that the output depends on, see `manifest.with_contract`.
        by_content: As in `Inputs`.
        findings: The ops of the model that do more than compute.
        expected: Sizes estimated from the sampled rows.
        model: The copy of the model that workers load; None if the job runs on this machine.
        memory: The estimated memory of a local run; None for a remote runner, or if the system does not report the
            memory of processes.
        constants: The inputs that no row feeds, each with whether the rows have a field of that name.
        headers: The columns of the sources.
        folders: The names of the fields that the folders of the sources hold, with `--partition_fields`.
        loaded: The model as it was loaded for the checks, with the outputs that the run needs; see `model_here`.
        trial: What the first rows took; None if they could not be measured.
        first_rows: The results of the first rows; None if there are none.
    """

    job: Job
    sources: list[Source]
    skipped: list[str]
    twins: Sequence[tuple[str, str]]
    settings: LoadedSettings
    by_content: bool
    findings: Sequence[Finding]
    expected: Expected
    model: WorkerModel | None
    memory: memory.Need | None
    constants: Sequence[tuple[Constant, bool]] = ()
    headers: Headers = NO_HEADERS
    folders: tuple[str, ...] = ()
    loaded: models.Model | None = None
    trial: Trial | None = None
    first_rows: FirstRows | None = None

    def model_here(self) -> models.Model:
        """Returns the model, loaded on this machine, to score rows before the run.

        A model with a state may have been dropped since the checks, so that the run finds it as it was saved.
        """
        if self.model is None or self.loaded is None:
            return self.job.handler.load_model()
        return self.loaded


def find_inputs(options: RunOptions) -> Inputs:
    """Finds the input files, and checks everything that needs no model.

    Args:
        options: The options of the run.

    Raises:
        UsageError: A check failed. Nothing was written.
    """
    collect_garbage()
    found = sources.find(options.input)  # Only once: to list a million files in an object store takes minutes.
    for file in found.files:
        check_readable(file)
    name, by_content, codecs = find_format(found.files, options.format)
    output = options.output_format if options.output_format not in (None, name) else ""
    matched = sources.name_sources(found, formats.default_suffix(name), codecs, output)
    check_not_empty(matched.sources)
    check_skipped(matched.skipped)
    check_output(options, matched.sources)
    check_baseline(options.baseline)
    planned = msgspec.structs.replace(format_of(options, name), output=output)
    spec, headers = with_headers(planned, matched.sources, options.schema_drift)
    spec = _with_logs(spec, prediction_logs=options.prediction_logs)
    if options.limit is not None:
        matched = matched._replace(sources=limited(matched.sources, formats.load(spec).reader, options.limit))
    return Inputs(spec, matched, manifest.settings(options, spec), by_content, headers)


def _with_logs(spec: FormatSpec, *, prediction_logs: bool) -> FormatSpec:
    """Adds to a format whether parts hold PredictionLogs.

    Raises:
        UsageError: Sources or parts are no TFRecord files.
    """
    if prediction_logs and spec.name != "tfrecord":
        raise UsageError(f"--prediction_logs is for TFRecord files, and the input is {spec.name}; leave it out")
    if prediction_logs and spec.output:
        raise UsageError(f"--prediction_logs writes TFRecord files, and the parts are {spec.output}; leave one out")
    return msgspec.structs.replace(spec, prediction_logs="write") if prediction_logs else spec


def _lineage(layout: Layout, inputs: Inputs) -> tuple[tuple[str, str], ...]:
    """Returns the fields of a row's lineage with their texts; none without `--lineage`."""
    if not layout.lineage:
        return ()  # the id is made from all sources, and there may be millions
    found = {RUN: manifest.run_id(inputs.settings, inputs.matched.sources), MODEL: inputs.settings.model.sha256}
    return tuple((name, found[name]) for name, _ in layout.lineage)


def _log_names(spec: FormatSpec, handler: KeyedChunkHandler) -> LogNames | None:
    """Returns the names in PredictionLogs: the input that takes the whole record, else `examples` as TFX names it."""
    if not spec.prediction_logs:
        return None
    whole = [f.name for f in handler.features if f.fields in ((), (spec.record_field,))]
    return LogNames(whole[0] if whole else "examples", handler.contract.signature)


@contextlib.contextmanager
def prepare(
    options: RunOptions,
    inputs: Inputs,
    *,
    local: bool,
    place: Place | None = None,
    resume: bool = False,
    kept: manifest.Kept | None = None,
    check_rows: bool = True,
) -> Iterator[Plan]:
    """Checks the input and the model, and plans the job: what feeds the model, and what an output row has.

    A `.keras` model is exported to a temporary folder, which exists until the context ends.

    Args:
        options: The options of the run.
        inputs: The input files and settings, from `find_inputs`.
        local: Whether the job will run on this machine. It then calls the model in the model process.
        place: The folders that the run writes to; None if it writes to the output itself.
        resume: Whether the job resumes an unfinished run, some of whose chunks may be finished.
        kept: The sizes that the unfinished run recorded; None for a new run.
        check_rows: Whether to refuse an input whose first rows all fail. A retry of dead letters does not check this,
            because all of them may fail again.

    Yields:
        The plan.

    Raises:
        UsageError: A check failed. Nothing was written.
    """
    spec, matched = inputs.format, inputs.matched
    fmt = formats.load(spec)
    reader = fmt.reader
    if options.max_memory and not local:
        raise UsageError(f"--max_memory={options.max_memory} bounds a local run; leave it out, and choose the workers")
    beginning = _read_beginning(options, inputs, reader, check_rows=check_rows)
    check_delimiter(options, reader, beginning.rows)
    with model_folder(options.model, options.custom_objects) as folder:
        if not files.is_local(options.model):
            _check_copy(options.model, folder, inputs.settings.model.sha256)
        model = None if local else worker_copy.find(options.model, options.output, folder)
        handler, (_, chunk, _), loaded, dependence, predicted = _handler(options, folder, beginning, kept, model)
        first_rows = _check_rows(options, handler, loaded, beginning)
        outputs = [t.name for t in handler.contract.predictions]
        layout = make_layout(options, options.written_error_field, outputs, beginning.rows, fmt, handler.features)
        layout = layout._replace(log=_log_names(spec, handler), lineage=_lineage(layout, inputs))
        if reader.traits.has_header and fmt.is_spliced:
            check_written(fmt, beginning.block, layout, handler.contract.predictions)
        spec = with_schema(spec, kept, beginning.heads, inputs.headers.distinct, layout)
        if reader.traits.flat_lists and not layout.whole_row:
            import_tensorflow()  # The run writes changed Examples with it; this import hides its log messages.
        work, final = (place.work, options.output if place.is_staged else None) if place else (options.output, None)
        job = Job(spec, *chunk, handler, layout, work, final, resume, options.accelerator)
        settings = manifest.with_contract(inputs.settings, spec, handler, layout, chunk, loaded.findings, dependence)
        written = formats.load(spec)
        found = matched.sources
        trial = measure(beginning, found, handler, loaded, written, layout, chunk.bytes) if check_rows else None
        size = RowSize(beginning.row_bytes, predicted)
        most = most_bytes(matched.sources)
        likely = trial.plain_bytes(matched.sources) if trial else most
        need = _estimate(options, beginning, handler, chunk, size, most, likely) if local else None
        with memory.bounded(options.max_memory, need, _lower(options, chunk, handler)):
            if local and loaded.stateful:  # the sample calls may have changed its state
                isolation.renew()
            expected = expect(chunk, size, beginning.largest)
            fixed = [(constant, constant.name in beginning.fields) for constant in loaded.constants]
            plan = Plan(job, *matched, settings, inputs.by_content, loaded.findings, expected, model, need, fixed)
            plan = plan._replace(headers=inputs.headers, folders=beginning.folders, loaded=loaded, trial=trial)
            yield plan._replace(first_rows=first_rows)


def _read_beginning(options: RunOptions, inputs: Inputs, reader: Reader, *, check_rows: bool) -> Sample:
    """Reads the first rows, and checks that they are rows of the format, see `prepare`."""
    found = inputs.matched.sources
    if check_rows:
        check_kinds(found, reader)
    paths = [source.path for source in found]
    folders = partitions.names(paths) if options.partition_fields else ()
    readable, heads = read_sample(inputs.headers.widest or found, reader)
    if readable is None and check_rows:
        check_delimiter(options, reader, (), inputs.headers.columns)
        check_unreadable(heads, reader, options.max_bad_rows)
    block, rows = (readable.block, readable.rows) if readable else (reader.parse([], []), [])
    partitions.check_rows(rows, folders)
    sizes = [source.size for source in found]
    first = heads if check_rows else ()
    if inputs.format.output:  # the schema of the parts is planned from all of them
        first = list(first)
    return Sample(reader, block, rows, sum(sizes), max(sizes, default=0), first, folders, paths, readable)


def _estimate(
    options: LocalOptions,
    sample: Sample,
    handler: KeyedChunkHandler,
    chunk: ChunkSize,
    row: RowSize,
    most: int,
    likely: float,
) -> memory.Need | None:
    numbers = [feature for feature in sample.typical(handler.features) if feature.dtype != STRING]
    texts = len(numbers) < len(handler.features)  # all strings of a row are no longer than its text
    features = columns.row_bytes(numbers) + texts * row.text
    return memory.estimate(chunk, memory.Row(row.text, features, row.predictions), most, likely, options.wave_bytes)


def _lower(options: LocalOptions, chunk: ChunkSize, handler: KeyedChunkHandler) -> str:
    """Returns the flags whose lower values make a run need less memory, with their present values."""
    return f"--chunk_bytes={chunk.bytes}, --wave_bytes={options.wave_bytes} or --batch_size={handler.batch_size}"


def _check_copy(model: str, folder: str, sha256: str) -> None:
    if not model.endswith(KERAS) and check_model.fingerprint(folder) != sha256:
        raise UsageError(f"the model {model} was replaced by another one just now; run again")


def _handler(
    options: RunOptions, folder: str, sample: Sample, kept: manifest.Kept | None, model: WorkerModel | None
) -> tuple[KeyedChunkHandler, manifest.Kept, models.Model, Dependence, int]:
    """Loads the model and decides how to call it.

    Returns:
        The handler that calls the model; the sizes of batches and chunks; the model; what predictions depend on;
        the bytes of a sampled row's predictions.
    """
    # On a worker, several processes share the cores. So a chunk need not have a batch for each core.
    most = MAX_BATCH if model is not None else sample.batch_most(options.chunk_bytes or CHUNK_BYTES)
    loading, loaded = _load(options, folder, sample, loader.ALL_CORES if most is None else loader.ONE_CORE)
    load = _loader(options, loading)
    check_model.warn(options.model, loaded.findings, options.model_ops)
    check_accelerator(options.model, loaded.compiled, options.accelerator)

    contract = _find_contract(options, loaded, sample)
    loaded = loaded.only([tensor.name for tensor in contract.outputs])
    features = _features(options, contract, sample)
    rows = kept.batch_size if kept else _rows_a_call(options, sample, loaded, contract, features, most or MAX_BATCH)
    sizes, dependence = _choose_sizes(options, sample, loaded, contract, features, rows)
    contract = reopened(contract, sizes) if any(f.is_open and f.pad is None for f in features) else sizes
    row = row_bytes(sizes.predictions)
    if kept is None:
        kept = manifest.Kept(rows, choose(options.chunk_bytes, row, loaded.weights, sample.reader, features))
    handler = KeyedChunkHandler(
        functools.partial(load, folder),
        contract,
        features,
        kept.batch_size,
        options.non_finite == "keep",
        loaded.weights,
        dedup=options.dedup,
    )
    if model is not None:
        if not options.isolate:  # a worker calls the model in its own process, and needs no model process
            load = functools.partial(loader.load, loading=loading._replace(cores=loader.ONE_CORE))
        handler.load = model.loader(load)
        # A model on an accelerator takes all of the accelerator's memory, so processes must share one model.
        handler.shared = options.accelerator is not None or model.bytes >= SHARED_BYTES
    return handler, kept, loaded, dependence, row


def _check_rows(
    options: RunOptions, handler: KeyedChunkHandler, loaded: models.Model, sample: Sample
) -> FirstRows | None:
    """Scores the first rows, and checks the shapes of the outputs. Returns the results of the rows, if any."""
    first_rows = None
    if sample.rows:
        with _hinting(handler.contract):
            first_rows = check_first_rows(sample.heads, sample.reader, options.max_bad_rows, loaded, handler)
    _check_shapes(handler.contract, handler.features, sample)
    return first_rows


def _rows_a_call(
    options: RunOptions,
    sample: Sample,
    loaded: models.Model,
    contract: models.Contract,
    features: Sequence[Feature],
    most: int,
) -> int:
    """Chooses the batch size, and lowers it if the model fails for that many copies of a sampled row."""
    rows = batch_size.choose(options, options.accelerator, sample, contract, features, most)
    few = sample.arrays(features, batch_size.ROWS_ALONE) if sample.rows else None
    return batch_size.fit(loaded, contract, few, rows) if few else rows


def _find_contract(options: RunOptions, loaded: models.Model, sample: Sample) -> models.Contract:
    renamed = _renamed(options, list(loaded.inputs), sample)
    pads = padding.resolve(options.pad, list(loaded.inputs))

    def rows(contract: models.Contract, features: Sequence[str | Path] = ()) -> models.Arrays | None:
        own: dict[str, str | Path] = {t.name: renamed[t.name] for t in contract.inputs if t.name in renamed}
        return sample.arrays(_map(options, contract, sample, features, own, pads), PROBED_ROWS)

    def example(contract: models.Contract) -> models.Arrays | None:
        return rows(contract, options.features) if sample.rows else None

    def own_keys(key: models.Tensor) -> Any:
        if row_paths.find(key.name, renamed.get(key.name, key.name), sample.rows)[0] not in sample.fields:
            return None
        with contextlib.suppress(UsageError):  # the field's values do not fit the key input
            found = rows(models.Contract(options.signature, (key,), ()))
            return found and found[key.name]

    try:
        return find_contract(
            loaded,
            options.signature,
            options.key_input,
            example,
            own_keys,
            wanted=wanted(options, [*loaded.outputs, *loaded.unfit]),
            alone=options.batch_size == 1,
        )
    except UnfitOutputError as error:
        leave_out = f", or leave it out with --output_fields row,{','.join(error.others)}" if error.others else ""
        one_by_one = ", or have the model called with one row at a time by --batch_size 1" if error.is_single else ""
        raise UsageError(f"{error}{one_by_one}{leave_out}") from error


def _features(options: InputOptions, contract: models.Contract, sample: Sample) -> tuple[Feature, ...]:
    renamed = _renamed(options, [t.name for t in contract.inputs], sample)
    pads = padding.resolve(options.pad, [t.name for t in contract.inputs])
    features = _map(options, contract, sample, options.features, renamed, pads)
    feature_mapping.check_missing(features, options.missing)
    return features


def _renamed(options: InputOptions, inputs: Sequence[str], sample: Sample) -> dict[str, str | Path]:
    """Resolves `--input_map`.

    Returns:
        Input -> the field that feeds it.
    """
    return feature_mapping.resolve(options.input_map, inputs, sample.fields)


def _map(
    options: InputOptions,
    contract: models.Contract,
    sample: Sample,
    stacked: Sequence[str | Path],
    renamed: Mapping[str, str | Path],
    pads: Mapping[str, str],
) -> tuple[Feature, ...]:
    features = feature_mapping.map_inputs(
        contract,
        sample.rows,
        stacked,
        renamed,
        traits=sample.reader.traits,
        strict=options.strict_types,
        missing=options.missing,
        pads=pads,
        elsewhere=sample.folders,
    )
    return partitions.marked(features, sample.folders, sample.paths)


def _load(options: RunOptions, folder: str, sample: Sample, cores: int) -> tuple[Loading, models.Model]:
    """Loads the model. An input that no field feeds keeps its default, if it has one.

    Returns:
        How the model is loaded, and the model.

    Raises:
        UsageError: An input with one value for all rows has no value.
    """
    isolation.forget()
    loading = check_model.loading(options, cores)
    loaded = _loader(options, loading)(folder)
    every = [*loaded.inputs, *(constant.name for constant in loaded.constants)]
    fields = sample.fields | _renamed(options, every, sample).keys()
    constants.check(loaded.constants, fields, sample.rows[0] if sample.rows else None)
    if left := constants.defaults(loaded.inputs, fields) if sample.rows else ():
        loading = loading.with_constants(left)
        loaded = _loader(options, loading)(folder)
    return loading, loaded


@contextlib.contextmanager
def _hinting(contract: models.Contract) -> Iterator[None]:
    """Adds to a `UsageError` the hint that an input of any shape may need one value for all rows."""
    try:
        yield
    except UsageError as error:
        name = next((tensor.name for tensor in contract.inputs if tensor.shape is None), None)
        if name is None:
            raise
        raise UsageError(
            f"{error}; the model's input {name} is of any shape: if it is one value for all rows, give it with "
            f"--constant {name}=VALUE"
        ) from error


def _loader(options: ScoringOptions, loading: Loading) -> Callable[[str], models.Model]:
    if options.isolate:
        return functools.partial(isolation.isolated, loading=loading, timeout=options.batch_timeout)
    return functools.partial(isolation.shared, loading=loading)


def _choose_sizes(
    options: ScoringOptions,
    sample: Sample,
    loaded: models.Model,
    contract: models.Contract,
    features: Sequence[Feature],
    batch_size: int,
) -> tuple[models.Contract, Dependence]:
    """Measures what predictions depend on, with sampled rows of one shape.

    Returns:
        The contract, with the shapes of the predictions of these rows, and what predictions depend on.
    """
    dependence = Dependence(Verdict.UNKNOWN)
    if group := sample.group(features, SMALL_SAMPLE) if sample.rows else None:
        rows = group.arrays
        multiple = filled_up_to(contract, rows, batch_size, loaded.weights)
        size = sample.call_rows(batch_size, options.chunk_bytes or CHUNK_BYTES, multiple)
        contract, dependence = batch_dependence.measure(loaded, contract, batch_dependence.pick(rows), size)
        batch_dependence.judge(dependence, options.batch_dependence)
        if options.dedup and dependence.verdict not in (Verdict.UNKNOWN, Verdict.INDEPENDENT):
            raise UsageError(
                f"--dedup gives rows of equal inputs one prediction, and the model {dependence.verdict.value}: leave "
                "--dedup out"
            )
    return contract, dependence


def _check_shapes(contract: models.Contract, features: Sequence[Feature], sample: Sample) -> None:
    """Refuses outputs of unknown shape. An output may have open sizes only if an input has some that are not padded.

    Raises:
        UsageError: The shape of an output is unknown.
    """
    follows = any(feature.is_open and feature.pad is None for feature in features)
    unknown = (t for t in contract.predictions if (t.shape is None if follows else is_open(t)))
    open_output = next(unknown, None)
    if open_output is not None and sample.size:
        raise UsageError(
            f"output {open_output.name} has no fixed size, and none of the first rows can be scored to see it; fix its "
            "size in the model, leave it out with --output_fields, or begin with a file that has good rows"
        )
