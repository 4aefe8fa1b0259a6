"""The two ways a run goes wrong, told apart by when they are found."""


class UsageError(ValueError):
    """The command line, the inputs or the model are wrong; found before anything ran.

    The message is one line: the value, the cause and the remedy.
    """


class RunError(RuntimeError):
    """The run itself failed: a source changed, a file ended early, the ledger does not add up."""
