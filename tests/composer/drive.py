"""Serves one Airflow process: reads commands from standard input and writes answers, one JSON line each.

    {"argv": ["dags", "test", …], …}               Airflow's own command line
    {"call": "job_name", "arguments": […], …}      a function of keyjoin_dag.py
    {"load": true, …}                              imports the DAGs; returns them, with warnings

Each command also has "environment" (additional variables) and "log" (the file for all printed text).

The Python of Airflow's environment runs this module; it has neither keyjoin nor TensorFlow.
"""

import contextlib
import datetime
import functools
import importlib.util
import json
import os
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
NOT_FOR_DAGS = ("apache_beam", "keyjoin", "pipeline", "tensorflow", "transforms")


def run(message: dict[str, Any]) -> dict[str, Any]:
    """Runs an Airflow command; returns its exit code."""
    from airflow.cli import cli_parser

    try:
        arguments = cli_parser.get_parser().parse_args(message["argv"])
        arguments.func(arguments)
    except SystemExit as end:
        return {"code": end.code if isinstance(end.code, int) else int(end.code is not None)}
    return {"code": 0}


@functools.cache
def module() -> types.ModuleType:
    """keyjoin_dag.py, imported as a module."""
    spec = importlib.util.spec_from_file_location("keyjoin_dag", FOLDER / "keyjoin_dag.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def resolve(name: str, value: Any) -> Any:
    """Resolves a parameter of the DAG with this value."""
    return module().PARAMS[name].resolve(value)


def day_of(given: str | None, due: str) -> str:
    """The day that a run scores."""
    return module().day_of(given, datetime.datetime.fromisoformat(due))


def request(params: dict[str, Any], due: str) -> Any:
    """The result of `check_request` for a run without a logical date, which Airflow 3 has."""
    run = types.SimpleNamespace(logical_date=None, run_after=datetime.datetime.fromisoformat(due))
    return module().check_request.function(params=params, dag_run=run)


def call(message: dict[str, Any]) -> dict[str, Any]:
    """Calls a function; returns its result, or the name and text of its error."""
    own = {"resolve": resolve, "day_of": day_of, "request": request, "deferral": deferral, "waits": waits}
    try:
        name = message["call"]
        return {"result": (own[name] if name in own else getattr(module(), name))(*message["arguments"])}
    except Exception as error:  # noqa: BLE001  told to who asked
        return {"error": f"{type(error).__name__}: {error}"}


def bag() -> Any:
    """All DAGs, imported as Airflow does."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2
        from airflow.models.dagbag import DagBag
    return DagBag(FOLDER)


def load(_: dict[str, Any]) -> dict[str, Any]:
    """Imports the DAG files; returns DAGs, errors, warnings, and imported modules that are forbidden in DAGs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = bag()
    return {
        "dags": {dag.dag_id: dag.max_active_runs for dag in found.dags.values()},
        "catchup": {dag.dag_id: dag.catchup for dag in found.dags.values()},
        "errors": {Path(path).name: error for path, error in found.import_errors.items()},
        "warnings": [f"{w.category.__name__}: {w.message} ({w.filename}:{w.lineno})" for w in caught],
        "imported": [name for name in NOT_FOR_DAGS if name in sys.modules],
    }


def deferral() -> dict[str, Any]:
    """The trigger with which the task `score` waits for a job, and its limit in seconds."""
    task = bag().dags["keyjoin"].get_task("score")
    task.body = {"launchParameter": {"jobName": "name", "parameters": {}}}
    task._running = lambda _: {"id": "the-job"}
    try:
        task.execute(mock.MagicMock())
    except BaseException as deferred:  # noqa: BLE001  Airflow's own way of saying so
        trigger, given = deferred.trigger.serialize()
        expected = sorted(given["expected_statuses"])
        return {"trigger": trigger, "limit": deferred.timeout.total_seconds(), "expected": expected}
    raise AssertionError("not deferred")


def waits() -> list[float]:
    """The seconds that Airflow waits before the second, third and fourth attempt of `score`."""
    from airflow.models.taskinstance import TaskInstance

    task = bag().dags["keyjoin"].get_task("score")
    task.retry_delay, task.max_retry_delay = datetime.timedelta(minutes=5), None  # undoes the test's policy
    ended = datetime.datetime(2026, 11, 23, tzinfo=datetime.timezone.utc)
    found = []
    for number in (1, 2, 3):
        tried = mock.MagicMock(task=task, try_number=number, end_date=ended, retry_delay_override=None)
        found.append((TaskInstance.next_retry_datetime(tried) - ended).total_seconds())
    return found


def answer(message: dict[str, Any]) -> dict[str, Any]:
    """Executes one command."""
    for name, what in (("argv", run), ("call", call), ("load", load)):
        if name in message:
            return what(message)
    raise ValueError(f"none of argv, call and load: {message}")


def main() -> None:
    """Executes commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        message = json.loads(line)
        # Redirect at the level of file descriptors, to catch the text of child processes, too.
        log = os.open(message["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        before = dict(os.environ)
        os.environ.update(message["environment"])
        try:
            reply = answer(message)
        except BaseException:  # noqa: BLE001  whatever it is, the log has it and the next command follows
            traceback.print_exc()
            reply = {"code": 1}
        finally:
            os.environ.clear()
            os.environ.update(before)
        with contextlib.suppress(ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        print(json.dumps(reply), file=answers, flush=True)


if __name__ == "__main__":
    main()
