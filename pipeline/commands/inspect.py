"""Implements `keyjoin inspect`, which prints the inputs, predictions and key of a model, as a table or as JSON."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from pipeline.compat.startup import import_session
from pipeline.model import check_model
from pipeline.model.model_folder import model_folder, newest_version
from pipeline.options.command_options import InspectOptions
from pipeline.terminal.exit_codes import Exit
from pipeline.terminal.messages import show, show_json, visible
from pipeline.terminal.report import rows_a_call, table
from transforms.mapping.feature_mapping import describe
from transforms.saved_model import loader
from transforms.saved_model import model as models
from transforms.saved_model.constants import Constant
from transforms.saved_model.contract import find_contract, unfit


def main(options: InspectOptions) -> Exit:
    """Runs the command.

    Args:
        options: The options of the command.

    Returns:
        `Exit.COMPLETE`.

    Raises:
        UsageError: A flag or the model is wrong.
    """
    options = dataclasses.replace(options, model=newest_version(options.model))
    sha256 = check_model.identify(options.model, options.model_sha256)
    with model_folder(options.model, options.custom_objects) as folder:
        import_session(options.model_libraries)
        loaded = loader.load(folder, check_model.loading(options))
    check_model.warn(options.model, loaded.findings, options.model_ops)
    bad = unfit(loaded)
    good = [name for name in loaded.outputs if name not in bad] if bad else ()
    contract = find_contract(loaded, options.signature, options.key_input, wanted=good)
    ops = check_model.document(loaded.findings, options.model_ops)
    constants = [_constant(one) for one in loaded.constants]
    document = {"model": options.model, "sha256": sha256, "ops": ops, **describe_contract(contract), "not_per_row": bad}
    document["compiled"] = str(loaded.compiled) if loaded.compiled else None
    document |= {"constants": constants, "rows_per_call": loaded.rows}
    if options.json:
        show_json(json.dumps(document, indent=1))
    else:
        show(f"model      {visible(options.model)}\nsha256     {document['sha256']}")
        if loaded.compiled:
            show(f"compiled   {document['compiled']}")
        show(f"ops        {ops['verdict']}\nsignature  {visible(contract.signature)}")
        if loaded.rows:
            show(f"batch      {rows_a_call(loaded.rows)}")
        lines = [*_lines(contract), *map(_constant_line, loaded.constants), *_unfit(bad)]
        show("")
        show(table([("", "NAME", "TYPE", "ROWS' FIELD"), *lines]))
    return Exit.COMPLETE


def describe_contract(contract: models.Contract) -> dict[str, Any]:
    """Returns a contract as a document for JSON.

    Args:
        contract: The inputs and outputs of a signature.
    """
    return {
        "signature": contract.signature,
        "inputs": [_document(tensor) for tensor in contract.inputs],
        "predictions": [_document(tensor) for tensor in contract.predictions],
        "key": None
        if contract.key is None
        else {**_document(contract.key), "outputs": {echo.output: echo.last_column for echo in contract.echoes}},
        "no_key": contract.why_data or None,
        "row": {tensor.name: describe(tensor) for tensor in contract.inputs},
    }


def _constant(constant: Constant) -> dict[str, Any]:
    sizes = None if constant.sizes is None else list(constant.sizes)
    said = {"value": constant.value, "has_default": constant.has_default}
    return {"name": constant.name, "dtype": constant.dtype, "shape": sizes, **said}


def _constant_line(constant: Constant) -> tuple[str, str, str, str]:
    lacking = f"none: give it with --constant {constant.name}=VALUE"
    return "constant", constant.name, str(constant), lacking if constant.is_lacking else constant.source


def _unfit(bad: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    return [("no prediction", name, why, "leave it out with --output_fields") for name, why in bad.items()]


def _document(tensor: models.Tensor) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": None if tensor.shape is None else [None, *tensor.shape],
        **({"kind": tensor.kind} if tensor.kind else {}),
    }


def _lines(contract: models.Contract) -> list[tuple[str, str, str, str]]:
    lines = [("input", t.name, describe(t), t.name) for t in contract.inputs]
    if contract.key is not None:
        lines.append(("key", contract.key.name, describe(contract.key), "none: keyjoin numbers the rows of a batch"))
    lines += [("prediction", t.name, describe(t), "") for t in contract.predictions]
    kinds = {True: "last column", False: "whole output"}
    return lines + [("key echo", echo.output, kinds[echo.last_column], "") for echo in contract.echoes]
