"""The SavedModel of a path, on this machine."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from pipeline import model_check
from pipeline.keras_export import KERAS, export_keras
from transforms import files


@contextlib.contextmanager
def model_folder(model: str) -> Iterator[str]:
    """The SavedModel of a path: the folder itself, or what a `.keras` file is exported to meanwhile.

    A model in an object store is copied first: TensorFlow reads few of them.
    """
    if not files.is_local(model):
        with tempfile.TemporaryDirectory(prefix="keyjoin-model-") as folder:
            here = os.path.join(folder, os.path.basename(model.rstrip("/")))
            model_check.copy(model, here)
            with model_folder(here) as found:
                yield found
        return
    if not model.endswith(KERAS):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="keyjoin-model-", ignore_cleanup_errors=True) as folder:
        exported = os.path.join(folder, "model")
        export_keras(model, exported)
        yield exported
