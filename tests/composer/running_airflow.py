"""Runs a real Airflow in its own environment, as a process that executes commands."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import environments
from tests.conftest import ROOT
from tests.support.store import BUCKET

PROJECT, REGION = "demo", "europe-west1"
HERE = Path(__file__).parent
VERSIONS = ("airflow2", "airflow3")
# Both locks are for these versions of Python.
PYTHON = sys.executable if (3, 11) <= sys.version_info < (3, 13) else ">=3.11,<3.13"
ANONYMOUS = {
    "conn_type": "google_cloud_platform",
    "extra": {"is_anonymous": True, "project": PROJECT, "num_retries": 0},
}
# Short delays: a test must not wait for minutes.
POLICY = """
from datetime import timedelta

def task_policy(task):
    task.retries = int(task.dag_id == "keyjoin")
    task.retry_delay = task.max_retry_delay = timedelta(seconds=1)
    if hasattr(task, "poll_sleep"):
        task.poll_sleep = 1
"""


class Done(NamedTuple):
    """The result of an Airflow command.

    Attributes:
        code: Its exit code.
        log: All that it printed.
    """

    code: int
    log: str


class Airflow:
    """A running Airflow.

    Attributes:
        home: Its folder: configuration, database, logs.
    """

    def __init__(self, home: Path, process: "subprocess.Popen[str]") -> None:
        self.home, self._process, self._count = home, process, 0

    def ask(self, environment: Mapping[str, str] | None = None, **message: Any) -> dict[str, Any]:
        """Sends a command to `drive.py`; returns the answer and the log."""
        self._count += 1
        log = self.home / f"said-{self._count}.txt"
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({**message, "environment": environment or {}, "log": str(log)}) + "\n")
        stdin.flush()
        line = stdout.readline()
        said = log.read_text(errors="replace") if log.exists() else ""
        assert line, said or "Airflow ended: see its log"
        return {**json.loads(line), "log": said}

    def run(self, *argv: str, **environment: str) -> Done:
        """Runs an Airflow command."""
        reply = self.ask(environment, argv=argv)
        return Done(reply["code"], reply["log"])

    def test(self, dag: str, conf: Mapping[str, Any], due: str = "2026-11-23", **environment: str) -> Done:
        """Runs a DAG once, as `airflow dags test` does."""
        return self.run("dags", "test", dag, due, "--conf", json.dumps(conf), **environment)

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of keyjoin_dag.py; returns what it returns, or raises what it raises as a RuntimeError."""
        reply = self.ask(call=function, arguments=arguments)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["result"]

    def xcoms(self, dag: str, task: str) -> dict[str, Any]:
        """The XComs that a task of the last run has published, by key."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            found = database.execute(
                "select key, value from xcom where dag_id = ? and task_id = ? order by timestamp", (dag, task)
            )
            # The column is untyped: SQLite returns a number as a number, not as JSON text.
            return {key: json.loads(value) if isinstance(value, str | bytes) else value for key, value in found}

    def scheduled(self, dag: str) -> tuple[str, int]:
        """The schedule of a DAG, in words, and how many of its runs may be active at a time."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            wanted = "select timetable_description, max_active_runs from dag where dag_id = ?"
            return tuple(database.execute(wanted, (dag,)).fetchone())

    def states(self, dag: str) -> dict[str, str]:
        """Task -> state, for the last run."""
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            return dict(database.execute("select task_id, state from task_instance where dag_id = ?", (dag,)))


@contextlib.contextmanager
def running(version: str, home: Path, **environment: str) -> Iterator[Airflow]:
    """Starts an Airflow with the project's DAGs and an empty database; ends it with the context.

    Args:
        version: One of VERSIONS.
        home: An empty folder, for all that Airflow writes.
        environment: Additional variables.
    """
    venv = HERE / version / ".venv"
    environments.make(version, venv, HERE / version / "requirements.txt", python=PYTHON)
    binaries = venv / "bin"
    (home / "config").mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(POLICY)
    given = {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "TMPDIR": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "composer"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "KEYJOIN_PROJECT": PROJECT,
        "KEYJOIN_REGION": REGION,
        "KEYJOIN_BUCKET": BUCKET,
        "KEYJOIN_PYTHON": sys.executable,
        "AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT": json.dumps(ANONYMOUS),
        **environment,
    }
    process = subprocess.Popen(
        [binaries / "python", HERE / "drive.py"],
        cwd=ROOT,
        env=given,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(home / "stderr.txt").open("w"),
        text=True,
        start_new_session=True,
    )
    try:
        airflow = Airflow(home, process)
        migrated = airflow.run("db", "migrate")
        assert migrated.code == 0, migrated.log
        yield airflow
    finally:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, 9)
        process.communicate()
