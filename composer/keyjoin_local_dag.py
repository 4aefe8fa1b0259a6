"""keyjoin as a task of a day: no Dataflow, no template. The least that a DAG needs, and where to begin.

KEYJOIN_PYTHON is a Python in which keyjoin is installed; Airflow's own needs neither it nor TensorFlow.
"""

import os
from datetime import datetime, timedelta, timezone

from airflow.providers.apache.beam.operators.beam import BeamRunPythonPipelineOperator

try:
    from airflow.sdk import dag
    from airflow.sdk.definitions.param import Param
except ImportError:  # Airflow 2
    from airflow.decorators import dag
    from airflow.models.param import Param


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    params={name: Param(type="string", minLength=1) for name in ("input", "model", "output")},
    default_args={"retries": 1, "retry_delay": timedelta(minutes=5), "execution_timeout": timedelta(hours=6)},
    tags=["keyjoin"],
    doc_md=__doc__,
)
def keyjoin_local() -> None:
    """`python -m pipeline run --runner=DirectRunner --input=… --model=… --output=…`"""
    BeamRunPythonPipelineOperator(
        task_id="score",
        runner="DirectRunner",
        py_interpreter=os.environ.get("KEYJOIN_PYTHON", "python3"),
        py_options=["-m", "pipeline"],
        py_file="run",
        pipeline_options={name: f"{{{{ params.{name} }}}}" for name in ("input", "model", "output")},
    )


keyjoin_local()
