"""The findings of `keyjoin verify`, how it prints them, and the commands that repair them."""

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.run_folder.names import MANIFEST, SUCCESS
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import quoted, show, visible

SHOWN = 20


class Repair(enum.Enum):
    """What repairs a finding; `verify` prints the value once, at its end."""

    REBUILD = "to rebuild what is wrong, and nothing else:{condemn}\n  {command}"
    AGAIN = "to read all parts back and write {success} again:\n  {command}"
    ANEW = "keyjoin cannot tell which files are right; to score everything again:\n  {command} --overwrite"
    GONE = "keyjoin cannot tell what {run} holds: move it away, and give its keyjoin run command again"
    MOVE = "keyjoin did not write the unexpected files: move them out of {run}"
    SOURCE = (
        "a source is not what the run read; the output is unchanged: put the source back, give verify in the folder "
        "where the run was started, or score the new source:\n  {command} --overwrite"
    )
    READ = (
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
        name: A file, as the run calls it, or the key of a row.
        expected: What should be there.
        found: What is there.
        repair: What repairs it.
    """

    kind: Exit
    name: str
    expected: str
    found: str
    repair: Repair

    def __str__(self) -> str:
        """One line, whatever stands in the names."""
        return visible(f"{self.kind.title:<9}  {self.name}: expected {self.expected}; {self.found}")


class Findings:
    """Prints the first findings and counts all of them.

    Attributes:
        kinds: How many there are of each kind.
        repairs: How many findings each of them repairs.
        names: The files and rows of which something was found.
    """

    def __init__(self) -> None:
        """Has none yet."""
        self.kinds: Counter[Exit] = Counter()
        self.repairs: Counter[Repair] = Counter()
        self.names: set[str] = set()

    def extend(self, findings: Iterable[Finding]) -> int:
        """Takes findings; returns how many they were."""
        count = 0
        for finding in findings:
            self.add(finding)
            count += 1
        return count

    def add(self, finding: Finding) -> None:
        """Takes a finding; only the first one of a name counts, since the others follow from it."""
        if finding.name in self.names:
            return
        if len(self.names) < SHOWN:
            show(str(finding))
        self.names.add(finding.name)
        self.kinds[finding.kind] += 1
        self.repairs[finding.repair] += 1

    @property
    def code(self) -> Exit:
        """The exit code."""
        return min(self.kinds, default=Exit.COMPLETE)

    @property
    def in_output(self) -> bool:
        """Whether files of the output itself are missing or altered."""
        return any(repair not in (Repair.SOURCE, Repair.MODEL) for repair in self.repairs)

    def print_more(self) -> None:
        """Prints how many were not shown."""
        if len(self.names) > SHOWN:
            show(f"and {len(self.names) - SHOWN:,} more")

    def counted(self) -> str:
        """How many there are: `1 missing, 2 altered`."""
        return ", ".join(f"{count:,} {kind.title}" for kind, count in sorted(self.kinds.items()))

    def advice(self, run: str, command: Sequence[str] | None, condemn: str) -> list[str]:
        """The commands to type.

        Args:
            run: The output folder.
            command: The words of the command that made it, if they are known for certain.
            condemn: The command to type before it if something has to be rebuilt; empty if there is none.
        """
        words = "the same keyjoin run command" if command is None else quoted(command)
        # The strongest repair of the output includes the others.
        stronger = (Repair.GONE, Repair.ANEW, Repair.READ, Repair.REBUILD, Repair.AGAIN)
        output = next((repair for repair in stronger if self.repairs[repair]), None)
        repairs = [Repair.MOVE, output, Repair.SOURCE, Repair.MODEL]
        values = {"run": visible(run), "command": words, "condemn": condemn and f"\n  {condemn}"}
        values |= {"success": SUCCESS, "manifest": MANIFEST}
        return [one.value.format(**values) for one in repairs if one is not None and self.repairs[one]]
