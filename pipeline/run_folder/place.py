"""The folders of a run: the output that the user named, and the one that parts are written to."""

from typing import NamedTuple

from pipeline.run_folder.names import NEXT, READY, SUCCESS, TEMP
from transforms.reasons import OWN
from transforms.storage import files


class Place(NamedTuple):
    """Where a run writes.

    Attributes:
        output: The folder that the user named.
        work: The folder that parts are written to: the output, or its `_keyjoin/temp/next` while that is complete.
    """

    output: str
    work: str

    @property
    def is_staged(self) -> bool:
        """Whether the output stays as it is until the run is whole."""
        return self.work != self.output

    @property
    def temp(self) -> str:
        """Folder for what is gone after the run."""
        return files.join(self.work, TEMP)

    @property
    def mark(self) -> str:
        """The name of the file in `work` that says that the run is whole."""
        return READY if self.is_staged else SUCCESS


def in_place(output: str) -> Place:
    """The place of a run whose output is not complete."""
    return Place(output, output)


def staged(output: str) -> Place:
    """The place of a run that replaces a complete output, or of a replay."""
    return Place(output, files.join(output, TEMP, NEXT))


def own_names(output: str) -> set[str]:
    """Names of the files and folders right in an output's `_keyjoin`, relative to the output."""
    return {f"{OWN}/{name}" for name in files.names_in(files.join(output, OWN))}
