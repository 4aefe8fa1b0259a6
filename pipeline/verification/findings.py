"""What `keyjoin verify` finds, how it says so, and what it tells to type."""

import enum
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipeline.run_folder.names import MANIFEST, SUCCESS
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import quoted, show, visible

SHOWN = 20


class Cure(enum.Enum):
    """What mends a finding; the value is said at the end, once."""

    REBUILD = "to rebuild what is wrong, and nothing else:{condemn}\n  {command}"
    AGAIN = "to have all parts read back and {success} written again:\n  {command}"
    ANEW = "nothing tells right from wrong any more; to score everything anew:\n  {command} --overwrite"
    GONE = "nothing tells what {run} holds: move it away, and give its keyjoin run command again"
    MOVE = "keyjoin did not write what no receipt names: move it out of {run}"
    SOURCE = (
        "a source is not what was read; the output does not change by that: put the source back, call verify where the "
        "run was called, or score what is there now:\n  {command} --overwrite"
    )
    READ = (
        "a source was not written since the run, and yet the run read something else: what was made of it is not to be "
        "trusted; to score everything anew:\n  {command} --overwrite"
    )
    MODEL = (
        "the files are what was written, so the model does not give the same each time, or what computes it has "
        "changed (see versions in {manifest}); to score everything anew:\n  {command} --overwrite"
    )


class Finding(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        kind: `Exit.MISSING`, `ALTERED` or `DIFFERING`.
        name: A file, as the run calls it, or the key of a row.
        expected: What should be there.
        found: What is there.
        cure: What mends it.
    """

    kind: Exit
    name: str
    expected: str
    found: str
    cure: Cure

    def __str__(self) -> str:
        """One line, whatever stands in the names."""
        return visible(f"{self.kind.title:<9}  {self.name}: expected {self.expected}; {self.found}")


class Findings:
    """Prints the first findings and counts all of them.

    Attributes:
        kinds: How many there are of each kind.
        cures: How many each cure mends.
        names: The files and rows of which something was found.
    """

    def __init__(self) -> None:
        """Has none yet."""
        self.kinds: Counter[Exit] = Counter()
        self.cures: Counter[Cure] = Counter()
        self.names: set[str] = set()

    def extend(self, findings: Iterable[Finding]) -> int:
        """Takes findings; returns how many they were."""
        count = 0
        for finding in findings:
            self.add(finding)
            count += 1
        return count

    def add(self, finding: Finding) -> None:
        """Takes a finding; of a name only the first one counts, the others follow from it."""
        if finding.name in self.names:
            return
        if len(self.names) < SHOWN:
            show(str(finding))
        self.names.add(finding.name)
        self.kinds[finding.kind] += 1
        self.cures[finding.cure] += 1

    @property
    def code(self) -> Exit:
        """The exit code."""
        return min(self.kinds, default=Exit.COMPLETE)

    @property
    def in_output(self) -> bool:
        """Whether files of the output itself are missing or altered."""
        return any(cure not in (Cure.SOURCE, Cure.MODEL) for cure in self.cures)

    def print_more(self) -> None:
        """Prints how many were not shown."""
        if len(self.names) > SHOWN:
            show(f"and {len(self.names) - SHOWN:,} more")

    def counted(self) -> str:
        """How many there are: `1 missing, 2 altered`."""
        return ", ".join(f"{count:,} {kind.title}" for kind, count in sorted(self.kinds.items()))

    def advice(self, run: str, command: Sequence[str] | None, condemn: str) -> list[str]:
        """What to type.

        Args:
            run: The output folder.
            command: The words of the command that made it, if that is known for certain.
            condemn: The command that comes before it where something is to be rebuilt, if one does.
        """
        words = "the same keyjoin run command" if command is None else quoted(command)
        # Of what mends the output itself the strongest mends all of it.
        stronger = (Cure.GONE, Cure.ANEW, Cure.READ, Cure.REBUILD, Cure.AGAIN)
        output = next((cure for cure in stronger if self.cures[cure]), None)
        cures = [Cure.MOVE, output, Cure.SOURCE, Cure.MODEL]
        values = {"run": visible(run), "command": words, "condemn": condemn and f"\n  {condemn}"}
        values |= {"success": SUCCESS, "manifest": MANIFEST}
        return [cure.value.format(**values) for cure in cures if cure is not None and self.cures[cure]]
