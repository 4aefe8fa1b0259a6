"""How a command ends: every exit code, once."""

import enum


class Exit(enum.IntEnum):
    """A process exit code.

    Attributes:
        title: A few words.
        sentence: When a command ends so.
        remedy: What the reader can do.
    """

    title: str
    sentence: str
    remedy: str

    def __new__(cls, code: int, title: str, sentence: str, remedy: str) -> "Exit":
        """Makes a member whose value is the process's exit code."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.title, member.sentence, member.remedy = title, sentence, remedy
        return member

    COMPLETE = (
        0,
        "complete",
        "Everything that was asked for is done; of a run, the ledger adds up and `_SUCCESS` is written.",
        "Nothing.",
    )
    FAILED = (
        1,
        "failed",
        "The run failed, has more bad rows than --max_bad_rows, or its ledger does not add up; there is no new "
        "`_SUCCESS`.",
        "Read the last line, look into `_keyjoin/dead_letters/`, mend the cause, and give the same command, which goes "
        "on from there; where rows of the input had to be mended, with --overwrite.",
    )
    USAGE = (
        2,
        "wrong usage",
        "The command line, the inputs or the model are wrong; nothing was run and nothing written.",
        "Do what the message says.",
    )
    MISSING = (
        3,
        "missing",
        "`verify`: something that the run wrote, or with --read_data a source, is not there.",
        "Type what the last lines say. Of several of these codes, the smallest is given.",
    )
    ALTERED = (
        4,
        "altered",
        "`verify`: something is not as it was written or read, or is there and was not written.",
        "Type what the last lines say.",
    )
    DIFFERING = (
        5,
        "differing",
        "`verify --rescore`: a row that is scored alone gets another prediction than the one that stands in its part.",
        "See the last lines: files are as they were written, so look for the cause in the model or the machine.",
    )
    INTERRUPTED = (
        130,
        "interrupted",
        "Somebody pressed Ctrl-C (SIGINT); of a run, there is no new `_SUCCESS`.",
        "Give the same command: it goes on from there.",
    )
    TERMINATED = (
        143,
        "terminated",
        "The system asked the command to end (SIGTERM); of a run, there is no new `_SUCCESS`.",
        "Give the same command: it goes on from there.",
    )
