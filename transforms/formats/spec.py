"""Defines the record of what the plan decided about the format of a run's files."""

import msgspec


class FormatSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the plan decided about the format of the sources and of the parts. The manifest records it.

    `transforms.formats.load` makes the reader and the writer from it.

    Attributes:
        name: Name of the sources' format.
        output: Name of the parts' format; empty if it is that of the sources.
        delimiter: The character between the cells of delimited text; empty for the format's own.
        quote: The character around cells of delimited text; empty for the format's own.
        header: What the rows of all planned sources need to be understood, see `Reader.header`. A source with another
            header has it in `Block.header`.
        record_field: The name of the field that holds a whole record of TFRecord, as bytes. Empty if records are
            tf.Examples, whose features are the fields. In the parts this field is a feature.
        schema: If the parts have another format than the sources: the types of a row's own fields in the parts, as
            base64 of an Arrow schema message. Otherwise empty.
    """

    name: str
    output: str = ""
    delimiter: str = ""
    quote: str = ""
    header: str = ""
    record_field: str = ""
    schema: str = ""

    @property
    def of_parts(self) -> "FormatSpec":
        """The format with which parts are read."""
        return msgspec.structs.replace(self, name=self.output or self.name, output="", record_field="")
