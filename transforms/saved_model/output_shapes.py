"""Checks the shapes of a model's outputs.

Where the signature leaves a shape open, a sample of rows settles it before the run, and all batches must have it.
"""

from transforms.errors import ModelError, RunError
from transforms.reasons import Reason
from transforms.saved_model.model import Arrays, Contract, Tensor


class RankError(ModelError):
    """An output has another number of dimensions than in the contract of the run."""

    reason = Reason.OUTPUT_SHAPE


class WidthError(RunError):
    """An output has another size than in the rest of the run: its size depends on the rows of the batch."""


def is_open(output: Tensor) -> bool:
    """Returns whether the signature leaves the rank of an output open, or a size other than the batch dimension."""
    return output.shape is None or None in output.shape


def settled(contract: Contract, shapes: dict[str, tuple[int, ...]]) -> Contract:
    """Returns the contract with the shapes that predictions have in a run.

    Args:
        contract: The contract with the shapes of the signature.
        shapes: Prediction -> its shape, without the batch dimension and without the key.
    """

    def settle(output: Tensor) -> Tensor:
        shape = shapes.get(output.name)
        if shape is None or not is_open(output):
            return output
        return output._replace(shape=(shape[0] + 1, *shape[1:]) if _has_key(contract, output) else shape)

    return contract._replace(outputs=tuple(map(settle, contract.outputs)))


def reopened(contract: Contract, sizes: Contract) -> Contract:
    """Returns a contract whose outputs may have other sizes for each row.

    If the signature leaves the rank of an output open, its number of dimensions is the one of the settled shape. The
    sizes stay open.

    Args:
        contract: The contract with the shapes of the signature.
        sizes: The same contract with the shapes of some rows, see `settled`.
    """

    def reopen(output: Tensor, settled: Tensor) -> Tensor:
        if output.shape is not None or settled.shape is None:
            return output
        return output._replace(shape=(None,) * len(settled.shape))

    outputs = tuple(map(reopen, contract.outputs, sizes.outputs))
    return contract._replace(outputs=outputs)


def check_shapes(contract: Contract, answer: Arrays) -> None:
    """Checks the shapes that a call of the model returned against the contract.

    Args:
        contract: The contract, with the shapes of the run that are settled.
        answer: Output -> (batch, …).

    Raises:
        RankError: An output has another number of dimensions. Bisecting the batch finds the rows that cause it.
        WidthError: An output has another size.
    """
    for output in contract.outputs:
        shape = (None,) if output.shape is None and _has_key(contract, output) else output.shape
        if shape is None or output.name not in answer:
            continue
        found = answer[output.name].shape
        if len(found) != 1 + len(shape):
            raise RankError(f"output {output.name} has the shape {list(found)}, not {1 + len(shape)} dimensions")
        if any(size not in (None, real) for size, real in zip(shape, found[1:], strict=True)):
            raise WidthError(
                f"output {output.name} has the shape {list(found[1:])} a row in one batch, and {list(shape)} in the "
                "sampled rows: its size depends on the rows of the batch; fix its size in the model, or leave it out "
                "with --output_fields"
            )


def check_same_sizes(known: dict[str, tuple[int, ...]], outputs: Arrays) -> None:
    """Checks that rows with inputs of the same shapes get outputs of the same shapes in every batch.

    Args:
        known: Prediction -> its shape in earlier batches with inputs of these shapes. The function adds new ones.
        outputs: Prediction -> (rows, …), at least one row.

    Raises:
        WidthError: An output has another shape.
    """
    for name, array in outputs.items():
        shape = known.setdefault(name, array.shape[1:])
        if shape != array.shape[1:]:
            raise WidthError(
                f"output {name} has the shape {list(array.shape[1:])} a row in one batch, and {list(shape)} in another "
                "one, for inputs of the same shapes: its size depends on the rows of the batch; fix its size in the "
                "model, or leave it out with --output_fields"
            )


def _has_key(contract: Contract, output: Tensor) -> bool:
    """Returns whether an output has the key in its last column."""
    return dict(contract.echoes).get(output.name, False)
