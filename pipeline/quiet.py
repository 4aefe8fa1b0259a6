"""Keeps what libraries say to nobody off the user's terminal."""

import logging
import os
import sys
import tempfile

# RunInference misses a module of another framework, and then says this, which is not so, for each model.
NOT_FOR_USERS = "Resource module is not available"


def import_tensorflow() -> None:
    """Imports TensorFlow without the lines that its C++ part prints before its log level is read.

    Raises:
        ImportError: It cannot be imported; what it printed is printed then.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def quiet_beam() -> None:
    """Drops the notices of Beam that no user can act on; warnings about data stay."""
    logging.getLogger().addFilter(lambda record: NOT_FOR_USERS not in record.getMessage())
