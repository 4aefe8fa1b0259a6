"""Calls of a model that only find something out: what they fail of ends them, and teaches the run nothing."""

from typing import Any

from transforms.errors import ModelError
from transforms.saved_model.model import Model


class ProbeError(Exception):
    """The model raised. It is no `ModelError`: for a probe no batch is halved."""


def probe(model: Model, ends: type[ModelError]) -> Model:
    """A model with room of its own, whose calls raise `ProbeError` for errors of a kind.

    Args:
        model: The model.
        ends: The kind of errors.
    """

    def call(*arrays: Any) -> Any:
        try:
            return model.call(*arrays)
        except ends as error:
            raise ProbeError from error

    return Model(model.inputs, model.outputs, call, **model.traits)
