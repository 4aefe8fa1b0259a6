"""Describes how to serve a SavedModel whose graph has other tags than `serve`, such as a TensorFlow Hub module."""

import os
import shlex
from collections.abc import Sequence
from typing import Any

from transforms.saved_model import model_files

SERVE = "serve"  # https://www.tensorflow.org/api_docs/python/tf/saved_model#SERVING
RETAG = (
    "import shutil; from tensorflow.core.protobuf.saved_model_pb2 import SavedModel; "
    'shutil.copytree({file}, {new}); path = {new} + "/saved_model.pb"; '
    'saved = SavedModel.FromString(open(path, "rb").read()); '
    'saved.meta_graphs[{index}].meta_info_def.tags[:] = ["serve"]; open(path, "wb").write(saved.SerializeToString())'
)


def of(saved: Any) -> list[list[str]]:
    """Returns the tags of each graph of a SavedModel proto, sorted."""
    return [sorted(graph.meta_info_def.tags) for graph in saved.meta_graphs]


def refusal(folder: str, tags: Sequence[Sequence[str]]) -> str:
    """Makes the message that refuses a SavedModel in which no graph has the only tag `serve`.

    Args:
        folder: The folder of the SavedModel.
        tags: The tags of each of its graphs.

    Returns:
        The message. Its command makes a copy in which one of the graphs has the tag. It takes a graph for serving if
        there is one, such as one with the tags `serve` and `gpu`, and no graph for training if there is another.
    """
    if not tags:
        return (
            f"{folder}: cannot be loaded: its saved_model.pb has no graph, as if the file had been cut off; copy the "
            "whole folder of the model again, or save it again"
        )
    shown = "; ".join(f"one with the tags {', '.join(one)}" if one else "one without tags" for one in tags)
    message = f"{folder} has no graph whose only tag is {SERVE}, which TensorFlow Serving loads; its graphs: {shown}; "
    if not os.path.isfile(os.path.join(folder, "saved_model.pb")):
        return f"{message}export it again"
    index = min(range(len(tags)), key=lambda number: (SERVE not in tags[number], "train" in tags[number]))
    new = model_files.beside(folder, "-serve")
    command = model_files.python(RETAG, folder, new, index=str(index))
    return f"{message}give one of them the tag: {command} and give --model {shlex.quote(new)}"
