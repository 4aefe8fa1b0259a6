"""Which paths the DAG for Dataflow finds in storage; the module is loaded without a real Airflow."""

import runpy
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from google.cloud import storage

from tests.conftest import ROOT
from tests.support.store import Store, running

ENVIRONMENT = {"KEYJOIN_PROJECT": "p", "KEYJOIN_REGION": "r", "KEYJOIN_BUCKET": "b"}
MODULES = [
    "airflow", "airflow.providers", "airflow.providers.google", "airflow.providers.google.cloud",
    "airflow.providers.google.cloud.hooks", "airflow.providers.google.cloud.hooks.gcs",
    "airflow.providers.google.cloud.links", "airflow.providers.google.cloud.links.dataflow",
    "airflow.providers.google.cloud.operators", "airflow.providers.google.cloud.operators.dataflow",
    "airflow.providers.google.cloud.triggers", "airflow.providers.google.cloud.triggers.dataflow",
    "airflow.sdk", "airflow.sdk.definitions", "airflow.sdk.definitions.param", "airflow.sdk.exceptions",
]  # fmt: skip


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, dict[str, Any]]]:
    """The storage that the DAG searches, and the module's names."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    operators = sys.modules["airflow.providers.google.cloud.operators.dataflow"]
    monkeypatch.setattr(operators, "DataflowStartFlexTemplateOperator", object)
    with running(monkeypatch) as store:
        client = storage.Client.create_anonymous_client()
        hooks = sys.modules["airflow.providers.google.cloud.hooks.gcs"]
        monkeypatch.setattr(hooks, "GCSHook", lambda: SimpleNamespace(get_conn=lambda: client))
        yield store, runpy.run_path(str(ROOT / "composer" / "keyjoin_dag.py"))


@pytest.mark.parametrize(
    ("there", "searched", "is_there"),
    [
        ("model/saved_model.pb", "model", True),
        ("model/saved_model.pb", "model/", True),
        ("model-old/saved_model.pb", "model", False),
        ("model-old/saved_model.pb", "model/", False),
        ("model.keras", "model.keras", True),
        ("model.keras.bak", "model.keras", False),
        ("model/", "model", False),
        ("in/2026-01-01/a.jsonl", "in/2026-01-01", True),
        ("in/2026-01-01/a.jsonl", "in/2026-01-0", False),
        ("in/2026-01-01/a.jsonl", "in/2026-01-01/*.jsonl", True),
        ("in/2026-01-01/a.csv", "in/2026-01-01/*.jsonl", False),
        ("in/2026-01-01-old/a.jsonl", "in/2026-01-01/*.jsonl", False),
        ("in/2026-01-01-old/a.jsonl", "in/2026-01-01*/a.json?", True),
        ("in/2026-01-01/deep/a.jsonl", "in/2026-01-01/**", True),
    ],
)
def test_what_is_there(there: str, searched: str, is_there: bool, dag: tuple[Store, dict[str, Any]]) -> None:
    store, names = dag
    store.put(there, b"1")
    assert names["has_any"](f"gs://bucket/{searched}") is is_there
