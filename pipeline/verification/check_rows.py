"""Scores some rows of an output again, each alone, and compares the predictions with those in the parts."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pipeline.compat.startup import import_session
from pipeline.job.progress import Phase, Progress
from pipeline.model import check_model
from pipeline.model.model_folder import model_folder
from pipeline.options.groups import ModelOptions
from pipeline.plan.layout import make_layout
from pipeline.run_folder import manifest
from pipeline.run_folder.names import MANIFEST, PARTS, SOURCES
from pipeline.run_folder.records import Manifest
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import at_line
from pipeline.verification.check_files import check_source, compare
from pipeline.verification.findings import Finding, Findings, Repair
from transforms import formats
from transforms.errors import UsageError
from transforms.records import PartReceipt, Source
from transforms.replay_part import load_scored, part_bytes, read_dead_letters
from transforms.saved_model import constants, loader
from transforms.saved_model import model as models
from transforms.scoring.rescore import Agreement, Rescored, Scoring, rescore
from transforms.split_into_chunks import open_plain
from transforms.storage import files
from transforms.write_part import written_of
from transforms.write_receipts import read_list


class Picked(NamedTuple):
    """A part, and the rows of it to score again.

    Attributes:
        part: The receipt of the part.
        rows: Numbers of the picked rows among the joined rows of the part, from 0.
        lines: Number of lines before the part's chunk in its source, if the format's rows are lines.
    """

    part: PartReceipt
    rows: list[int]
    lines: int


def spread(joined: int, count: int) -> Iterator[int]:
    """Yields the numbers of rows that are evenly spread; always the same ones.

    Args:
        joined: How many rows there are.
        count: How many to pick. If there are fewer rows, all are picked.
    """
    count = min(count, joined)
    yield from ((2 * n + 1) * joined // (2 * count) for n in range(count))


def pick(parts: Iterable[PartReceipt], numbers: Iterator[int]) -> Iterator[Picked]:
    """Picks rows to score again.

    A part with replayed rows is skipped: some of its rows may come from repaired rows instead of the source, or from
    another model than the run's.

    Args:
        parts: Receipts of all parts; the parts of a source are in order.
        numbers: The numbers of the rows among the joined rows of the parts without replayed rows, ascending, from 0.
    """
    number, first, lines = next(numbers, None), 0, 0
    for part in parts:
        before = lines if part.chunk.number else 0
        lines = before + part.rows + part.blank
        if part.replayed:
            continue
        rows = []
        while number is not None and number < first + part.joined:
            rows.append(number - first)
            number = next(numbers, None)
        first += part.joined
        if rows:
            yield Picked(part, rows, before)


def rescore_rows(
    run: str, options: ModelOptions, count: int, document: Manifest, findings: Findings, progress: Progress
) -> Counter[Agreement]:
    """Scores rows again, and adds a finding for each row with another prediction.

    Args:
        run: The output folder.
        options: The options of the run, but with the model and Python modules that the user gives now. Paths of code
            are never read from the output folder, which is not trusted.
        count: How many rows to score.
        document: The manifest.
        findings: The findings so far. A part is skipped if it, its dead letters or its source has a finding.
        progress: Counts the rows.

    Returns:
        The number of rows of each agreement.

    Raises:
        UsageError: The model is not the run's model, cannot be loaded, or does not fit the manifest.
    """
    progress.enter(Phase.LOADING)
    _check_model(options.model, document)
    counted: Counter[Agreement] = Counter()
    sources = {source.path: source for source in manifest.read_sources(files.join(run, SOURCES))}
    with model_folder(options.model, options.custom_objects) as folder:
        # The model is loaded in this process. A model process saves time only if rows are parsed while it computes.
        import_session(options.model_libraries)
        loading = check_model.loading(options)
        called = loader.load(folder, loading)
        fed = {*document.model.inputs, document.model.key_input}
        if left := constants.defaults(called.inputs, fed):
            called = loader.load(folder, loading.with_constants(left))
        try:
            how = _scoring(called, document)
        except (KeyError, UsageError) as error:
            raise UsageError(f"{run}: the model in {MANIFEST} does not fit {options.model}: {error!r}") from error
        called = called.only([tensor.name for tensor in how.contract.outputs])
        joined = sum(part.joined for part in _parts(run) if not part.replayed)
        progress.expect(Phase.AGAIN, min(count, joined))
        for picked in pick(_parts(run), spread(joined, count)):
            for found in _rescore_part(run, picked, sources, how, called, findings):
                counted[found.agreement] += 1
                progress.add(1)
                if found.agreement is Agreement.OTHER:
                    said = f"its part has {found.found}"
                    line = None if found.line is None else picked.lines + found.line + 1
                    place = at_line(found.key, line)
                    findings.add(Finding(Exit.DIFFERING, place, found.expected, said, Repair.MODEL))
    return counted


def _parts(run: str) -> Iterator[PartReceipt]:
    return read_list(files.join(run, PARTS))


def _check_model(model: str, document: Manifest) -> None:
    said = document.model
    if not os.path.exists(model):
        raise UsageError(f"no model at {model}; give the one of the run, {said.path}")
    found, expected = check_model.fingerprint(model), said.sha256
    if found != expected:
        raise UsageError(
            f"{model} is not the model of the run, {said.path}: its files have sha256 {found}, and had "
            f"{expected}; give that one"
        )


def _scoring(called: models.Model, document: Manifest) -> Scoring:
    """Reads from the manifest how the run scored its rows. Nothing is detected or guessed again.

    Raises:
        KeyError: The model has no input or output of a name in the manifest.
        UsageError: An input has another dtype than in the manifest.
    """
    said, options = document.model, document.options
    key = None if said.key_input is None else called.inputs[said.key_input]
    echoes = tuple(models.Echo(called.outputs[name].name, last) for name, last in said.key_outputs.items())
    other = next((name for name, fed in said.inputs.items() if fed.dtype != called.inputs[name].dtype), None)
    if other is not None:
        raise UsageError(f"its input {other} is {called.inputs[other].dtype}, not {said.inputs[other].dtype}")
    data = tuple(called.inputs[name] for name in said.inputs)
    needed = {*said.predictions, *said.key_outputs}
    outputs = tuple(t for t in called.outputs.values() if t.name in needed or not said.predictions)
    contract = models.Contract(options.signature, data, outputs, key, echoes)
    features = tuple(fed.feature(name) for name, fed in said.inputs.items())
    fmt = formats.load(document.format)
    names = [t.name for t in contract.predictions]
    layout = make_layout(options, options.written_error_field, names, [], fmt, features)
    keep = options.non_finite == "keep"
    return Scoring(fmt, features, contract, said.batch_size, keep, layout)


def _rescore_part(
    run: str, picked: Picked, sources: Mapping[str, Source], how: Scoring, called: models.Model, findings: Findings
) -> Iterator[Rescored]:
    """Scores rows of a part again, but only if the part, its dead letters and its chunk of the source are unchanged."""
    part, chunk = picked.part, picked.part.chunk
    written, source = list(written_of(part)), sources[chunk.source]
    names = {chunk.source, *(name for name, _ in written)}
    if not names & findings.names:
        findings.extend(finding for pair in written for finding in compare(run, *pair))
        findings.extend(check_source(source, [part], how.format.reader))
    if not names & findings.names:
        yield from rescore_picked(run, picked, source, how, called)


def rescore_picked(
    folder: str, picked: Picked, source: Source, how: Scoring, called: models.Model
) -> Iterator[Rescored]:
    """Scores rows of a part again, see `rescore`.

    Args:
        folder: The folder of the part and its dead letters.
        picked: The part and the rows.
        source: Its source.
        how: How the run scored its rows.
        called: The model.

    Raises:
        RunError: The receipt does not match the part, its dead letters, or the rows of the source.
    """
    part = picked.part
    with open_plain(source) as file:
        block = load_scored(file, part, how.format.reader)
    dead = [letter.position for letter in read_dead_letters(part, folder)]
    joined = how.format.writer.read_back(part_bytes(part, folder))
    yield from rescore(block, joined, dead, picked.rows, how, called)
