"""Makes probes: calls of a model before the run that only test it.

An error ends the probe, so a failed batch is not bisected. A probe does not change what the run itself knows of how
many rows a call may have.
"""

from typing import Any

from transforms.errors import ModelError
from transforms.saved_model.model import Model


class ProbeError(Exception):
    """The model raised an error in a probe. It is no `ModelError`, for which scoring would bisect the batch."""


def probe(model: Model, ends: type[ModelError]) -> Model:
    """Returns the model for probes: its calls raise `ProbeError` for errors of one class.

    It has a `Room` of its own, so that a failed probe does not make the calls of the run smaller.

    Args:
        model: The model.
        ends: The class of the errors that end a probe.
    """

    def call(*arrays: Any) -> Any:
        try:
            return model.call(*arrays)
        except ends as error:
            raise ProbeError from error

    return Model(model.inputs, model.outputs, call, **model.traits)
