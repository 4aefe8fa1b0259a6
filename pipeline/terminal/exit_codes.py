"""Defines the exit codes of all commands, with their meaning and what to do.

The help and the reference page print the codes from here.
"""

import enum


class Exit(enum.IntEnum):
    """A process exit code.

    Attributes:
        title: A short name.
        sentence: When a command ends with this code.
        remedy: What the user can do.
    """

    title: str
    sentence: str
    remedy: str

    def __new__(cls, code: int, title: str, sentence: str, remedy: str) -> "Exit":
        """Makes a member whose value is the exit code of the process."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.title, member.sentence, member.remedy = title, sentence, remedy
        return member

    COMPLETE = (
        0,
        "complete",
        "The command succeeded. After a run, the ledger adds up and `_SUCCESS` is written.",
        "Nothing.",
    )
    FAILED = (
        1,
        "failed",
        "The run failed, exceeded an error limit (--max_bad_rows), or its ledger does not add up. There is no new "
        "`_SUCCESS`. `compare`: the predictions differ.",
        "Read the last line, look into `_keyjoin/dead_letters/`, fix the cause, and give the same command, which "
        "resumes the run. If you changed the input, add --overwrite.",
    )
    USAGE = (
        2,
        "wrong usage",
        "The command line, the inputs or the model are wrong. Nothing was run and nothing written.",
        "Do what the message says.",
    )
    MISSING = (
        3,
        "missing",
        "`verify`: a file that the run wrote, or with --read_data a source, is missing.",
        "Type the commands in the last lines. If several of these codes apply, the smallest is given.",
    )
    ALTERED = (
        4,
        "altered",
        "`verify`: a file is not what was written or read, or is unexpected.",
        "Type the commands in the last lines.",
    )
    DIFFERING = (
        5,
        "differing",
        "`verify --rescore`: a row that is scored alone gets another prediction than the one in its part.",
        "Look for the cause in the model or the machine: the files are what was written.",
    )
    INTERRUPTED = (
        130,
        "interrupted",
        "Ctrl-C (SIGINT) ended the command. After a run, there is no new `_SUCCESS`.",
        "Give the same command: it resumes.",
    )
    TERMINATED = (
        143,
        "terminated",
        "SIGTERM ended the command. After a run, there is no new `_SUCCESS`.",
        "Give the same command: it resumes.",
    )
