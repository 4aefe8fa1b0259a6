"""Recognizes files of formats that keyjoin does not read, and gives the shell command that converts each.

It recognizes binary files by their first bytes. It examines text only if keyjoin can read no row of the file, because
any text may be a bad row of a good file.
"""

import codecs
import contextlib
import csv
import io
import json
import posixpath
import re
import shlex
import sys
from typing import NamedTuple

from transforms.storage.compression import CODECS, GZIP, Codec, codec_of, detect, plain_name, split_codec

NEW = ".converted"  # part of an unusual suffix, so that the converted file overwrites no file of the user
TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab")  # the first one is that of a converted file

# `isoformat` converts dates. Bytes and other types do not have it, so the command fails for them and loses nothing.
_PRINT = "print(json.dumps(r, default=lambda v: v.isoformat()))"


def _python(imports: str, rows: str) -> str:
    return f"{{python}} -c '{imports}; [{_PRINT} {rows}]' {{file}} > {{new}}"


def _dataset(name: str) -> str:
    rows = f'for b in d.dataset(sys.argv[1], format="{name}").to_batches() for r in b.to_pylist()'
    return _python("import json, sys, pyarrow.dataset as d", rows)


def _encoded(name: str) -> "Kind":
    return Kind(name, (), f"iconv -f {name} -t UTF-8 {{file}} > {{text}}")


def _compressed(name: str, suffix: str, command: str) -> "Kind":
    return Kind(name, (suffix,), f"{command} {{file}} | gzip > {{text}}{GZIP.suffix}")


class Kind(NamedTuple):
    """A kind of file that keyjoin recognizes.

    Attributes:
        title: Name of the kind, for messages.
        suffixes: The suffixes of such files.
        command: The shell command that converts such a file. `{python}` stands for this interpreter, `{file}` for
            the file, `{new}` for the converted file, which is JSON Lines, `{same}` for a converted file of the same
            format, `{text}` for one of the text format that the name shows, and `{plain}` for the name without the
            suffix of its codec.
        format: The name of the format if keyjoin reads it; otherwise empty.
    """

    title: str
    suffixes: tuple[str, ...]
    command: str
    format: str = ""


COMPRESSED = {codec: Kind(codec.name, (), f"mv {{file}} {{plain}}{codec.suffix}") for codec in CODECS}
PLAIN = Kind("not compressed", (), "mv {file} {plain}")
EXAMPLES = Kind("TFRecord", (), "", "tfrecord")
LINES = Kind("JSON Lines", (), "", "jsonl")
AVRO = Kind("Avro", (), "", "avro")
PARQUET = Kind("Parquet", (), "", "parquet")
ORC = Kind("ORC", (".orc",), _dataset("orc"))
ARROW = Kind("Arrow", (".arrow", ".feather"), _dataset("feather"))
EXCEL = Kind("Excel", (".xlsx", ".xlsm", ".xls"), "soffice --headless --convert-to csv {file}")
ZIP = _compressed("zip", ".zip", "unzip -p")
XZ = _compressed("xz", ".xz", "xz -dc")
CSV = Kind("CSV", (), "", "csv")
TSV = Kind("tab-separated text", (), "", "tsv")
SEMICOLONS = Kind("CSV with semicolons", (), "")
DELIMITED = {",": CSV, "\t": TSV, ";": SEMICOLONS}
TABLE_CHARACTERS = 1 << 16  # so many characters of a text are enough to see that it is delimited
ARRAY = Kind(
    "a JSON array",
    (),
    _python("import json, sys", 'for r in json.load(open(sys.argv[1], encoding="utf-8-sig"))'),
)
OLD_LINES = Kind("text whose line ends are CR alone", (), "tr '\\r' '\\n' < {file} > {same}")
PRETTY = Kind("JSON over several lines", (), "jq -c . {file} > {new}")

FIRST_BYTES = 128  # so many bytes at the start of a file are enough to recognize it
_KINDS = {
    rb"PAR1": PARQUET,
    rb"Obj\x01": AVRO,
    rb"ORC.{0,60}[\x00-\x08]": ORC,
    rb"ARROW1\x00": ARROW,
    # A workbook is a zip file that begins with one of these members; before 2007 it was a compound file.
    rb"PK\x03\x04.{26}(\[Content_Types\]\.xml|_rels/|docProps/|xl/)|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": EXCEL,
    rb"PK\x03\x04": ZIP,
    rb"\xfd7zXZ\x00": XZ,
    # UTF-32 comes before UTF-16, because its byte order mark begins with the mark of UTF-16.
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": _encoded("UTF-32"),
    rb"\xff\xfe|\xfe\xff": _encoded("UTF-16"),
}
# For text without a byte order mark: the first character is ASCII, so its zero bytes (0) show the encoding.
_ZEROS = {"1000": "UTF-32LE", "0001": "UTF-32BE", "1010": "UTF-16LE", "0101": "UTF-16BE"}
_NAMED = {suffix: kind for kind in (ORC, ARROW, EXCEL, ZIP, XZ) for suffix in kind.suffixes}


def by_bytes(head: bytes) -> Kind | None:
    r"""Returns the kind of a binary file, by its first bytes; None for text and for unknown kinds.

    >>> by_bytes(b"PAR1\x15\x04").title, by_bytes('{"x": 1}'.encode("utf-16")).title, by_bytes(b'{"x": 1}')
    ('Parquet', 'UTF-16', None)
    """
    codec = detect(head)
    if codec is not None:
        return COMPRESSED[codec]
    for first, kind in _KINDS.items():
        if re.match(first, head, re.DOTALL):
            return kind
    zeros = "".join("1" if byte else "0" for byte in head[:4])
    return _encoded(_ZEROS[zeros]) if zeros in _ZEROS else None


def by_text(head: bytes) -> Kind | None:
    r"""Returns the kind of a text file in which no line is a JSON object, by its first lines; None if unknown.

    >>> by_text(b"age,city\n31,Bern\n").title, by_text(b'[{"x": 1}]').title, by_text(b"[1, 2]\n[3, 4]\n")
    ('CSV', 'a JSON array', None)
    """
    text = _text(head)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(lines[0])
        if isinstance(value, list):
            return ARRAY if value and isinstance(value[0], dict) else None
        return None
    if text.startswith("["):
        return ARRAY  # the array continues on the next line
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(json.JSONDecoder().raw_decode(text)[0], dict | list):  # a record may begin with a number
            return PRETTY
    return PRETTY if lines[0] == "{" else _delimited_by(lines[:2])


def of_rows(head: bytes, *, whole: bool) -> Kind | None:
    r"""Returns the kind of a text file whose name does not tell it; None if its first lines may be of several kinds.

    Lines are JSON Lines if the first one is an object or an array. They are delimited text if exactly one delimiter
    gives each record the same number of cells, at least two, and the first record has names: no empty text, no number,
    and none twice.

    >>> of_rows(b'{"x": 1}\n', whole=True).title, of_rows(b"age,city\n31,Bern\n", whole=True).title
    ('JSON Lines', 'CSV')
    >>> of_rows(b"31,Bern\n32,Rome\n", whole=True), of_rows(b"a word\n", whole=True)
    (None, None)

    Args:
        head: The first bytes of the file.
        whole: Whether these are all of its bytes.
    """
    if is_document(head):
        return by_text(head)
    text = _text(head)
    with contextlib.suppress(ValueError, RecursionError):
        return (by_text(head) or LINES) if isinstance(json.loads(text.split("\n", 1)[0]), dict | list) else None
    found = [kind for delimiter, kind in DELIMITED.items() if _is_table(text[:TABLE_CHARACTERS], delimiter, whole)]
    return found[0] if len(found) == 1 else None


def _is_table(text: str, delimiter: str, whole: bool) -> bool:
    """Returns whether a text is delimited by this character, and its first record has names, see `of_rows`."""
    whole = whole and len(text) < TABLE_CHARACTERS
    records, reader = list[list[str]](), csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        records += (record for record in reader if record)
    except csv.Error:
        if whole or reader.line_num < text.count("\n"):
            return False
    else:
        records = records if whole else records[:-1]  # the last one may be cut
    names = records[0] if records else []
    named = all(name.strip() and not _is_number(name) for name in names) and len(set(names)) == len(names)
    return len(records) > 1 < len(names) and named and {len(record) for record in records} == {len(names)}


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        return float(cell) is not None
    return False


def is_document(head: bytes) -> bool:
    r"""Returns whether a text is one JSON value over several lines. By chance, some of these lines may be rows.

    >>> is_document(b'[\n{"x": 1},\n{"x": 2}\n]\n'), is_document(b'{"x": 1}\n{"x": 2}\n')
    (True, False)
    """
    text = _text(head)
    with contextlib.suppress(ValueError, RecursionError):
        return text.startswith(("[", "{")) and "\n" in text and json.loads(text) is not None
    return False


def by_line_ends(head: bytes) -> Kind | None:
    r"""Returns the kind of a text whose only line ends are carriage returns; None if it has other ones, or no line end.

    A carriage return inside of quotes is none, nor is one inside of a JSON value.

    >>> by_line_ends(b"a,b\r1,2\r").title, by_line_ends(b'a\n"1\r2"'), by_line_ends(b'"1\r2"\r')
    ('text whose line ends are CR alone', None, None)
    """
    text = head.strip()
    if b"\n" in head or not any(b"\r" in part for part in text.split(b'"')[::2]):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        return None if isinstance(json.loads(text), dict | list) else OLD_LINES
    return OLD_LINES


def _text(head: bytes) -> str:
    return head.removeprefix(codecs.BOM_UTF8).decode(errors="replace").strip()


def _delimited_by(lines: list[str]) -> Kind | None:
    for delimiter, kind in DELIMITED.items():
        counts = {line.count(delimiter) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return kind
    return None


def by_name(path: str) -> Kind | None:
    """Returns the kind of a file by the suffix of its name, without that of a codec; None if unknown."""
    return _NAMED.get(posixpath.splitext(plain_name(path))[1].lower())


def refusal(kind: Kind, path: str, codec: Codec | None = None) -> str:
    """Returns the message that keyjoin does not read this kind of file, with the command that helps.

    Args:
        kind: The kind of the file.
        path: The file.
        codec: If `kind` is the kind of its decompressed content: the codec with which it is compressed.
    """
    if kind.format:
        return f"it is {kind.title}; name that with --format {kind.format}"
    if kind is SEMICOLONS:
        return f"it is {kind.title}; name that with --format csv --delimiter ';'"
    if kind is PLAIN or kind in COMPRESSED.values():
        return f"it is {_misnamed(kind, path, codec)}; rename it: {command(kind, path, codec)}"
    return f"it is {kind.title}, which keyjoin does not read; convert it: {command(kind, path, codec)}"


def _misnamed(kind: Kind, path: str, codec: Codec | None) -> str:
    """Describes how a file is compressed, and what its name says instead."""
    named = None if codec else codec_of(path)
    if named is None:
        is_ = next(one for one in CODECS if COMPRESSED[one] is kind)
        return f"{is_.name}, and its name does not end in {is_.suffix}"
    title = f"not {named.name}" if kind is PLAIN else kind.title
    return f"{title}, and its name ends in {split_codec(path)[1]}"


def command(kind: Kind, path: str, codec: Codec | None = None) -> str:
    """Returns the shell command that converts a file.

    Args:
        kind: The kind of the file.
        path: The file. If it is in an object store, the command copies it to this machine first.
        codec: If `kind` is the kind of its decompressed content: the codec with which it is compressed.
    """
    steps, file = [], path
    if "://" in path and not codec and kind.command.startswith("mv "):
        # In place: a copy of an object with Content-Encoding may be decompressed on its way.
        return f"gcloud storage {kind.command.format(file=shlex.quote(path), plain=shlex.quote(plain_name(path)))}"
    if "://" in path:
        file = posixpath.basename(path)
        steps.append(f"gcloud storage cp {shlex.quote(path)} {_quoted(file)}")
    if codec:
        plain = f"{plain_name(file)}.unpacked"
        steps.append(f"{codec.program} {_quoted(file)} > {_quoted(plain)}")
        file = plain
    stem, suffix = posixpath.splitext(file.removesuffix(".unpacked"))
    inner = posixpath.splitext(stem)[1] if suffix.lower() in kind.suffixes else suffix  # of the archive's content
    names = {
        "file": file,
        "new": stem + NEW + TEXTS[0],
        "same": f"{stem}{NEW}{posixpath.splitext(plain_name(file).removesuffix('.unpacked'))[1]}",
        "text": stem.removesuffix(inner) + NEW + (inner if inner.lower() in TEXTS else TEXTS[0]),
        "plain": plain_name(file),
    }
    quoted = {name: _quoted(path) for name, path in names.items()}
    return " && ".join([*steps, kind.command.format(python=shlex.quote(sys.executable), **quoted)])


def _quoted(file: str) -> str:
    return shlex.quote(f"./{file}" if file.startswith("-") else file)
