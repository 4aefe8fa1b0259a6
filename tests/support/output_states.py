"""Makes an output folder in any state in which a run can leave it, without a run."""

import gzip
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import pytest

from pipeline.options.run_options import RunOptions, parse_run
from pipeline.plan.batch_dependence import Verdict
from pipeline.plan.preflight import Inputs
from pipeline.run_folder import ledger, manifest, resume
from pipeline.run_folder.place import in_place
from pipeline.run_folder.records import BatchDependence, Fed, LoadedModel, LoadedSettings, Ops, Settings
from transforms.formats.spec import FormatSpec
from transforms.records import Chunk, PartReceipt, Source
from transforms.storage import files
from transforms.storage.sources import find, name_sources
from transforms.write_part import dead_letters_name
from transforms.write_receipts import write_list, write_receipt

ROWS = b"0123456789abcdefghij"


class Folder(NamedTuple):
    """An output folder, and the command that it belongs to."""

    options: RunOptions
    inputs: Inputs
    parts: list[PartReceipt]

    @property
    def output(self) -> Path:
        return Path(self.options.output)

    @property
    def temp(self) -> str:
        return f"{self.output}/_keyjoin/temp"

    def begin(self, earlier: resume.Earlier | None = None, *, overwrite: bool = False) -> None:
        there = files.list_below(str(self.output))
        sources, place = self.inputs.matched.sources, in_place(str(self.output))
        resume.begin(place, loaded(self.inputs.settings), sources, earlier, there, overwrite=overwrite)

    def write(self, *, receipts: int = 3) -> None:
        """Writes parts and dead letters, and the first receipts."""
        for part in self.parts:
            files.write_whole(f"{self.output}/{part.chunk.part}", [b"joined"])
            if part.dead:
                files.write_whole(f"{self.output}/{dead_letters_name(part.chunk.part)}", [b"dead"])
        for part in self.parts[:receipts]:
            write_receipt(self.temp, part)

    def commit(self, *, success: bool = True) -> None:
        write_list(self.temp, 0, "00", self.parts)
        sources, totals, mark = self.inputs.matched.sources, ledger.total(self.parts), "_SUCCESS" if success else None
        manifest.commit(
            str(self.output), loaded(self.inputs.settings), sources, [], totals, 1.0, success=success, mark=mark
        )

    def find_earlier(self) -> resume.Earlier:
        found = resume.find_earlier(str(self.output))
        assert found is not None
        return found

    def again(self, *flags: str) -> Inputs:
        """Reads the input again, in its present state."""
        matched = name_sources(find(self.options.input), ".jsonl")
        return self.inputs._replace(
            matched=matched, settings=manifest.settings(self.options_with(*flags), FormatSpec("jsonl"))
        )

    def options_with(self, *flags: str) -> RunOptions:
        given = [f"--input={path}" for path in self.options.input]
        given += [f"--model={self.options.model}", f"--output={self.output}", *flags]
        return parse_run(given, "keyjoin run")[0]

    def check(self, *flags: str) -> list[Source]:
        return resume.check(self.find_earlier(), self.options_with(*flags), self.again(*flags))


def loaded(settings: Settings) -> LoadedSettings:
    """Completes the settings as if a model had been loaded."""
    model = LoadedModel(
        path=settings.model.path,
        sha256=settings.model.sha256,
        ops=Ops(verdict="computes only", policy=None, findings=()),
        signature=settings.options.signature,
        key_input=None,
        key_outputs={},
        inputs={"x": Fed(dtype="float32", shape=(2,), fields=("x",))},
        predictions={"y": "p_y"},
        output_shapes={"y": (1,)},
        output_dtypes={"y": "float32"},
        batch_dependence=BatchDependence(verdict=Verdict.INDEPENDENT, output=None, expected=None, found=None, rows=()),
        batch_size=96,
        chunk_bytes=1 << 20,
        chunk_rows=None,
    )
    return LoadedSettings(options=settings.options, format=settings.format, model=model, versions=settings.versions)


def receipt(source: Path, data: bytes, number: int, parts: int, start: int, end: int, name: str) -> PartReceipt:
    chunk = Chunk(str(source), "", start, end, number, parts, name)
    dead = {"null": 1} if number else {}
    checksum, joined, dead_letters = (google_crc32c.value(text) for text in (data[start:end], b"joined", b"dead"))
    return PartReceipt(chunk, checksum, 2, 0, 2 - number, dead, 6, joined, 4 * number, dead_letters * number, 5)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    data, model = tmp_path / "data", tmp_path / "model"
    for path in (data, model):
        path.mkdir()
    (model / "saved_model.pb").write_bytes(b"never loaded")
    plain, packed = data / "a.jsonl", data / "b.jsonl.gz"
    plain.write_bytes(ROWS)
    packed.write_bytes(gzip.compress(ROWS, mtime=0))
    flags = [f"--input={data}", f"--model={model}", f"--output={tmp_path / 'out'}"]
    options = parse_run(flags, "keyjoin run")[0]
    inputs = Inputs(
        FormatSpec("jsonl"),
        name_sources(find(options.input), ".jsonl"),
        manifest.settings(options, FormatSpec("jsonl")),
    )
    parts = [
        receipt(plain, ROWS, 0, 2, 0, 10, "a-00000-of-00002.jsonl"),
        receipt(plain, ROWS, 1, 2, 10, 20, "a-00001-of-00002.jsonl"),
        receipt(packed, ROWS, 0, 1, 0, 20, "b-00000-of-00001.jsonl.gz"),
    ]
    return Folder(options, inputs, parts)


def finished(folder: Folder, *, success: bool = True) -> Folder:
    folder.begin()
    folder.write()
    folder.commit(success=success)
    return folder
