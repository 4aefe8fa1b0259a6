"""Defines the record of what the plan decided about the format of a run's files."""

from typing import Literal

import msgspec


class FormatSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the plan decided about the format of the sources and of the parts. The manifest records it.

    `transforms.formats.load` makes the reader and the writer from it.

    Attributes:
        name: Name of the sources' format.
        output: Name of the parts' format; empty if it is that of the sources.
        delimiter: The character between the cells of delimited text; empty for the format's own.
        quote: The character around cells of delimited text; empty for the format's own.
        has_header: Whether the first record of a source of delimited text has the names of the columns. Otherwise
            `header` has them.
        null_values: The cells of delimited text that hold no value, besides empty cells.
        max_row_bytes: The most bytes of a record of delimited text; 0 for the format's own limit.
        header: What the rows of all planned sources need to be understood, see `Reader.header`. A source with another
            header has it in `Block.header`.
        record_field: The name of the field that holds a whole record of TFRecord, as bytes. Empty if records are
            tf.Examples, whose features are the fields. In the parts this field is a feature.
        any_header: Whether sources may have columns other than those of `header`.
        prediction_logs: In TFRecord: `write` if the parts hold PredictionLogs, `read` if the sources do. Otherwise
            empty.
        schema: If the parts have another format than the sources: the types of a row's own fields in the parts, as
            base64 of an Arrow schema message. Otherwise empty.
    """

    name: str
    output: str = ""
    delimiter: str = ""
    quote: str = ""
    has_header: bool = True
    null_values: tuple[str, ...] = ()
    max_row_bytes: int = 0
    header: str = ""
    record_field: str = ""
    any_header: bool = False
    prediction_logs: Literal["", "write", "read"] = ""
    schema: str = ""

    @property
    def needed_header(self) -> str:
        """The header whose columns each source has; empty if sources may have other columns."""
        return "" if self.any_header or not self.has_header else self.header

    @property
    def of_parts(self) -> "FormatSpec":
        """The format with which parts are read."""
        if self.output:
            return FormatSpec(self.output)
        if self.prediction_logs:
            return msgspec.structs.replace(self, prediction_logs="read")
        return msgspec.structs.replace(self, record_field="", has_header=True)
