"""Counts and prints the findings of `keyjoin verify`, and the commands that repair them."""

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.run_folder.names import MANIFEST, SUCCESS
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show, typed, visible

SHOWN = 20


class Repair(enum.Enum):
    """The ways to repair findings. At its end `verify` prints the text of each way that it needs, once."""

    REBUILD = "to rebuild what is wrong, and nothing else:{discard}\n  {command}"
    READ_BACK = "to read all parts back and write {success} again:\n  {command}"
    SCORE_AGAIN = "keyjoin cannot tell which files are right; to score everything again:\n  {command} --overwrite"
    MOVE_AWAY = "keyjoin cannot tell what {run} holds: move it away, and give its keyjoin run command again"
    MOVE = "keyjoin did not write the unexpected files: move them out of {run}"
    SOURCE = (
        "a source is not what the run read; the output is unchanged: put the source back, give verify in the folder "
        "where the run was started, or score the new source:\n  {command} --overwrite"
    )
    MISREAD = (
        "a source was not written since the run, and yet the run read other bytes: do not trust its parts; to score "
        "everything again:\n  {command} --overwrite"
    )
    MODEL = (
        "the files are what was written, so the model gives different predictions for the same row, or the libraries "
        "or the machine have changed (see versions in {manifest}); to score everything again:\n  {command} --overwrite"
    )


class Finding(NamedTuple):
    """A difference between an output and what its run wrote.

    Attributes:
        kind: `Exit.MISSING`, `ALTERED` or `DIFFERING`.
        name: The name of a file, as the run records it, or the key of a row.
        expected: What the run wrote, such as a size or checksum.
        found: What `verify` found instead.
        repair: How to repair the difference.
    """

    kind: Exit
    name: str
    expected: str
    found: str
    repair: Repair

    def __str__(self) -> str:
        """Returns one line, with control characters in names escaped."""
        return visible(f"{self.kind.title:<9}  {self.name}: expected {self.expected}; {self.found}")


class Findings:
    """Prints the first findings and counts all of them.

    Attributes:
        kinds: The number of findings of each kind.
        repairs: The number of findings that each way repairs.
        names: The files and rows that have a finding.
    """

    def __init__(self) -> None:
        """Starts without findings."""
        self.kinds: Counter[Exit] = Counter()
        self.repairs: Counter[Repair] = Counter()
        self.names: set[str] = set()

    def extend(self, findings: Iterable[Finding]) -> int:
        """Adds findings, and returns their number, including those that `add` skips."""
        count = 0
        for finding in findings:
            self.add(finding)
            count += 1
        return count

    def add(self, finding: Finding) -> None:
        """Adds a finding. Only the first finding of a name counts, since later ones are consequences of it."""
        if finding.name in self.names:
            return
        if len(self.names) < SHOWN:
            show(str(finding))
        self.names.add(finding.name)
        self.kinds[finding.kind] += 1
        self.repairs[finding.repair] += 1

    @property
    def code(self) -> Exit:
        """The exit code: the smallest of the kinds, or `Exit.COMPLETE` without findings."""
        return min(self.kinds, default=Exit.COMPLETE)

    @property
    def in_output(self) -> bool:
        """Whether the output itself has a missing, altered or unexpected file.

        Altered sources and differing predictions do not count.
        """
        return any(repair not in (Repair.SOURCE, Repair.MODEL) for repair in self.repairs)

    def print_more(self) -> None:
        """Prints how many findings were not printed."""
        if len(self.names) > SHOWN:
            show(f"and {len(self.names) - SHOWN:,} more")

    def counted(self) -> str:
        """Returns the number of findings by kind, such as `1 missing, 2 altered`."""
        return ", ".join(f"{count:,} {kind.title}" for kind, count in sorted(self.kinds.items()))

    def advice(self, run: str, command: Sequence[str] | None, discard: str) -> list[str]:
        """Returns the texts that tell the user how to repair the findings, with the commands to type.

        Args:
            run: The output folder.
            command: The words of the `keyjoin run` command that wrote the output; None if they are not proven.
            discard: The command to type before that one to rebuild files; empty if it is not needed.
        """
        words = "the same keyjoin run command" if command is None else typed(command)
        # From the strongest repair to the weakest: the first one that is needed also does what later ones do.
        stronger = (Repair.MOVE_AWAY, Repair.SCORE_AGAIN, Repair.MISREAD, Repair.REBUILD, Repair.READ_BACK)
        output = next((repair for repair in stronger if self.repairs[repair]), None)
        repairs = [Repair.MOVE, output, Repair.SOURCE, Repair.MODEL]
        values = {"run": visible(run), "command": words, "discard": discard and f"\n  {discard}"}
        values |= {"success": SUCCESS, "manifest": MANIFEST}
        return [one.value.format(**values) for one in repairs if one is not None and self.repairs[one]]
