"""Defines the two folders of a run: the output that the user named, and the folder that parts are written to."""

from typing import NamedTuple

from pipeline.run_folder.names import NEXT, READY, SUCCESS, TEMP
from transforms.reasons import OWN
from transforms.storage import files


class Place(NamedTuple):
    """The folders that a run writes to.

    Attributes:
        output: The folder that the user named.
        work: The folder that parts are written to. It is `_keyjoin/temp/next` in the output if the output is complete,
            else the output itself.
    """

    output: str
    work: str

    @property
    def is_staged(self) -> bool:
        """Whether the output stays unchanged until the new result is whole."""
        return self.work != self.output

    @property
    def temp(self) -> str:
        """The temporary folder, which is removed after the run."""
        return files.join(self.work, TEMP)

    @property
    def mark(self) -> str:
        """The name of the file in `work` that marks the result as whole."""
        return READY if self.is_staged else SUCCESS


def in_place(output: str) -> Place:
    """Returns the folders of a run whose output is not complete."""
    return Place(output, output)


def staged(output: str) -> Place:
    """Returns the folders of a replay, or of a run that replaces a complete output."""
    return Place(output, files.join(output, TEMP, NEXT))


def own_names(output: str) -> set[str]:
    """Lists the files and folders directly in an output's `_keyjoin`, by their names relative to the output."""
    return {f"{OWN}/{name}" for name in files.names_in(files.join(output, OWN))}
