"""Lists the reason codes of dead letters, each with its meaning and its remedy."""

import enum

OWN = "_keyjoin"  # the folder in the output for all files that do not hold joined rows
DEAD_LETTERS = f"{OWN}/dead_letters"  # the folder of rows that could not be scored


class Reason(enum.Enum):
    """A dead letter's reason code; the dead letter file holds the value.

    Attributes:
        title: A few words for tables.
        sentence: What is wrong with the row.
        remedy: What the user can do.
    """

    title: str
    sentence: str
    remedy: str

    def __new__(cls, code: str, title: str, sentence: str, remedy: str) -> "Reason":
        """Makes a member whose value is its code."""
        member = object.__new__(cls)
        member._value_ = code
        member.title, member.sentence, member.remedy = title, sentence, remedy
        return member

    NOT_UTF8 = (
        "not_utf8",
        "not UTF-8",
        "The row, or a predicted string that is written as text, has bytes that are not UTF-8.",
        "Re-encode the source as UTF-8; the dead letter holds the row in base64.",
    )
    NOT_JSON = (
        "not_json",
        "not JSON",
        "The line is not one JSON value (RFC 8259); NaN and Infinity are not JSON either.",
        "Write one complete object a line.",
    )
    NOT_OBJECT = (
        "not_object",
        "not an object",
        "The line is JSON, but not an object.",
        "Wrap the value in an object whose fields are named.",
    )
    NOT_CSV = (
        "not_csv",
        "not CSV",
        "Bytes follow the closing quote of a cell, so the record does not say where its cells end.",
        "Write each quote inside a quoted cell twice (RFC 4180), or name the file's own quote with --quote.",
    )
    WRONG_CELLS = (
        "wrong_cells",
        "wrong number of cells",
        "The record does not have one cell for each column.",
        "Write a cell for each column; quote cells that hold the delimiter, or name the file's own with --delimiter.",
    )
    NOT_EXAMPLE = (
        "not_example",
        "not a tf.Example",
        "The record's bytes do not parse as a tf.train.Example.",
        "Write the records with tf.train.Example.SerializeToString, or feed them as bytes with --record_field=record.",
    )
    CORRUPT = (
        "corrupt",
        "checksum differs",
        "The record's data does not match its own checksum.",
        "Copy the file again from where it was written.",
    )
    DUPLICATE_NAME = (
        "duplicate_name",
        "name given twice",
        "A field that the run reads or writes occurs twice in the row, so its value would be a guess.",
        "Keep one of the two fields.",
    )
    MISSING = (
        "missing",
        "field missing",
        "The row lacks a field that the model needs.",
        "Add the field, map the input to another one with --input_map, or give a value with --missing.",
    )
    NULL = (
        "null",
        "null value",
        "A field that the model needs is null, or holds a null.",
        "Add the value, or give one with --missing.",
    )
    WRONG_TYPE = (
        "wrong_type",
        "wrong type",
        "A field's value has another type than the model's input.",
        "Write the value in the type that `keyjoin inspect` shows.",
    )
    WRONG_SHAPE = (
        "wrong_shape",
        "wrong shape",
        "A field's list does not have the shape of the model's input: other lengths, ragged, or nested differently.",
        "Write the value in the shape that `keyjoin inspect` shows.",
    )
    FRACTION = (
        "fraction",
        "not a whole number",
        "An integer input was given a number with a fraction (with --strict_types, with a point or an exponent).",
        "Write a whole number.",
    )
    OUT_OF_RANGE = (
        "out_of_range",
        "out of range",
        "A number does not fit into the dtype of the model's input.",
        "Scale or clip the value at its source.",
    )
    COLLISION = (
        "collision",
        "field name taken",
        "The row already has a field of the name that a prediction or the key would get, or of an input that keyjoin "
        "leaves to its default.",
        "Choose another name with --prediction_prefix, or exclude the field with --exclude_fields.",
    )
    SCHEMA = (
        "schema",
        "does not fit the schema",
        "With --output_format: a field has another type than in the sampled rows, none of these has the field, or the "
        "other format cannot hold the value. With --quote=none: a prediction would need quotes.",
        "Write the value as the sampled rows do, or exclude the field with --exclude_fields.",
    )
    MODEL_ERROR = (
        "model_error",
        "model raised",
        "The model raised an error for this row alone.",
        "Read the message; try the row with `keyjoin predict`.",
    )
    MODEL_MEMORY = (
        "model_memory",
        "model ran out of memory",
        "The model ran out of memory for this row alone, while it was called with nothing else.",
        "Look for values in the row that make the model allocate much memory; or raise --max_memory.",
    )
    MODEL_CRASH = (
        "model_crash",
        "model crashed",
        "The model's process ended when it was called with this row alone (--isolate).",
        "Read the message; fix the model's op that crashes, or the value that crashes it.",
    )
    MODEL_TIMEOUT = (
        "model_timeout",
        "model took too long",
        "The model did not answer within --batch_timeout when it was called with this row alone (--isolate).",
        "Look for a loop in the model's graph that this row does not end, or raise --batch_timeout.",
    )
    KEY_MISSING = (
        "key_missing",
        "no prediction came back",
        "The model returned no prediction for this row's key.",
        "Look for filtering or deduplication in the model's graph.",
    )
    KEY_REPEATED = (
        "key_repeated",
        "several predictions came back",
        "The model returned this row's key more than once, so none of its predictions can be trusted.",
        "Look for repetition or a wrong gather in the model's graph.",
    )
    OUTPUT_SHAPE = (
        "output_shape",
        "prediction of another shape",
        "The model gave an output with another number of dimensions for this row alone.",
        "Look for a branch in the model's graph that depends on the row's values.",
    )
    NON_FINITE = (
        "non_finite",
        "prediction not finite",
        "The prediction is NaN or infinite, which JSON cannot write.",
        "Look at the row's values, or accept null with --non_finite=keep.",
    )


def title_of(code: str) -> str:
    """Returns the title of a reason code; empty for a code that is unknown, as a damaged list may have it.

    >>> title_of("not_json"), title_of("x")
    ('not JSON', '')
    """
    return _BY_CODE[code].title if code in _BY_CODE else ""


def remedy_of(code: str) -> str:
    """Returns the remedy of a reason code; empty for a code that is unknown."""
    return _BY_CODE[code].remedy if code in _BY_CODE else ""


_BY_CODE = {reason.value: reason for reason in Reason}
