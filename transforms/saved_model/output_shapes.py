"""Shapes of a model's outputs: what its signature leaves open is settled before a run, and is the same in all of it."""

from transforms.errors import ModelError, RunError
from transforms.reasons import Reason
from transforms.saved_model.model import Arrays, Contract, Tensor


class RankError(ModelError):
    """An output has another number of dimensions than in the rest of the run."""

    reason = Reason.OUTPUT_SHAPE


class WidthError(RunError):
    """An output has another size than in the rest of the run: which one a row gets depends on the rows beside it."""


def is_open(output: Tensor) -> bool:
    """Whether a signature leaves some size of an output open, besides the batch."""
    return output.shape is None or None in output.shape


def settled(contract: Contract, shapes: dict[str, tuple[int, ...]]) -> Contract:
    """A contract with the shapes that predictions have in a run.

    Args:
        contract: What the signature says.
        shapes: Prediction -> its shape, without the batch dimension and without the key.
    """

    def settle(output: Tensor) -> Tensor:
        shape = shapes.get(output.name)
        if shape is None or not is_open(output):
            return output
        return output._replace(shape=(shape[0] + 1, *shape[1:]) if _has_key(contract, output) else shape)

    return contract._replace(outputs=tuple(map(settle, contract.outputs)))


def reopened(contract: Contract, sizes: Contract) -> Contract:
    """A contract whose outputs follow the sizes of each row: of settled shapes only the number of dimensions is kept.

    Args:
        contract: What the signature says.
        sizes: The same with the shapes of some rows, see `settled`.
    """

    def reopen(output: Tensor, settled: Tensor) -> Tensor:
        if output.shape is not None or settled.shape is None:
            return output
        return output._replace(shape=(None,) * len(settled.shape))

    outputs = tuple(map(reopen, contract.outputs, sizes.outputs))
    return contract._replace(outputs=outputs)


def check_shapes(contract: Contract, answer: Arrays) -> None:
    """Checks what a call of the model gave against the contract.

    Args:
        contract: With the shapes of the run, as far as they are settled.
        answer: Output -> (batch, …).

    Raises:
        RankError: An output has another number of dimensions; the rows that it does so for can be bisected.
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
    """Checks that rows with inputs of the same shapes get outputs of the same shapes, whatever rows are beside them.

    Args:
        known: Prediction -> its shape so far, for inputs of these shapes; new ones are added.
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
    """Whether an output has the key in its last column."""
    return dict(contract.echoes).get(output.name, False)
