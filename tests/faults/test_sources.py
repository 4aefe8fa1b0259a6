"""Another process changes a source while it is read: the run fails, and names the file."""

from pathlib import Path

from tests.faults.counts import Counts
from tests.faults.forks import side_by_side
from tests.faults.jobs import ROWS, make

SOURCE = "in/a.jsonl"
# Commands, and what is said of the file.
CHANGES = {
    f"printf 9 | dd of={SOURCE} bs=1 seek=20 conv=notrunc 2>/dev/null": "in/a.jsonl changed during the run",
    # The same size and the same time as before.
    f"sed s/3/4/ {SOURCE} > b && touch -r {SOURCE} b && mv b {SOURCE}": "in/a.jsonl changed during the run",
    f"truncate -s 100 {SOURCE}": "the file was truncated during the run",
    f": > {SOURCE}": "the file was truncated during the run",
    f"echo {{}} >> {SOURCE}": "in/a.jsonl changed during the run",
    f"rm {SOURCE}": "in/a.jsonl cannot be read",
    f"mv {SOURCE} in/c.jsonl": "in/a.jsonl cannot be read",
    f"rm {SOURCE} && mkdir {SOURCE}": "in/a.jsonl cannot be read",
}


def test_a_source_that_another_process_changes(tmp_path: Path, count: Counts) -> None:
    def one(number: int) -> int:
        command, said = list(CHANGES.items())[number]
        job = make(tmp_path / str(number), {"a.jsonl": "\n".join(ROWS).encode() + b"\n"}, "--max_bad_rows=0.5")
        done = job.run(hook=("between", (command,)))
        assert (done.code, job.is_complete()) == (1, False), (command, done.said)
        (line,) = (line for line in done.said.splitlines() if line.startswith("keyjoin: error: "))
        assert SOURCE in line, command
        assert said in line, command
        return 1

    count("sources changed during a run", sum(side_by_side(one, range(len(CHANGES)))))


def test_a_source_that_comes_meanwhile_is_no_part_of_it(tmp_path: Path) -> None:
    job = make(tmp_path / "job", {"a.jsonl": "\n".join(ROWS).encode()}, "--max_bad_rows=0.5")
    done = job.run(hook=("between", ("cp in/a.jsonl in/c.jsonl",)))
    assert done.code == 0, done.said
    assert {name for name in job.files() if "-of-" in name and name[0] != "_"} == {"a-00000-of-00001.jsonl"}
    again = job.run()
    assert (again.code, "c.jsonl is new since; --incremental takes it along" in again.said) == (2, True)
