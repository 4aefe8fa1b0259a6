"""Another process changes a source while it is read: the run fails, and names the file."""

import re
from pathlib import Path

from tests.faults.counts import Counts
from tests.faults.disk import ONCE, Fault
from tests.faults.forks import side_by_side
from tests.faults.jobs import ROWS, Job, make

SOURCE = "in/a.jsonl"
# Command -> the message about the file.
CHANGES = {
    f"printf 9 | dd of={SOURCE} bs=1 seek=20 conv=notrunc 2>/dev/null": "in/a.jsonl changed during the run",
    # The size and the time stay as before.
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


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, count: Counts) -> None:
    """Such a folder fails the run, both when it is listed before the run and when it is listed after it.

    If the run treated the folder as empty, its rows would be lost.
    """
    data = "\n".join(ROWS).encode()
    made = make(
        tmp_path / "job", {"a.jsonl": data, "sub/b.jsonl": data, "sub/deep/c.jsonl": data}, "--max_bad_rows=0.5"
    )
    tries = 0
    for number, (pattern, folders) in enumerate({"in/": 3, "in/**": 3, "in/*/*.jsonl": 2}.items()):
        job = made.copy(tmp_path / str(number))._replace(input=pattern)
        clean = job.copy(tmp_path / f"{number}-clean").run(at_once=1)
        assert clean.code == 0, clean.said
        listed = [
            Fault(place, ONCE)
            for place, (name, path) in enumerate(clean.disk, 1)
            if name == "scandir" and path.startswith(f"{tmp_path}/{number}-clean/in")
        ]

        def one(fault: Fault, job: Job = job) -> int:
            failing = job.copy(tmp_path / f"{job.folder.name}-{fault.number}")
            done = failing.fail(fault)
            assert not failing.is_complete()
            assert re.search(r"keyjoin: error: .*in\S* cannot be listed: .*Input/output error", done.said), done.said
            return done.code

        assert side_by_side(one, listed) == [2] * folders + [1] * folders
        tries += len(listed)
    count("folders of the input that could not be listed", tries)
