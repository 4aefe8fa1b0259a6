"""TensorFlow still has each private name that keyjoin uses, and it is the same object as the public name."""

import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT
from transforms import compat

NEVER_PUBLIC = [
    "SavedModelLoader",
    "decode_proto",
    "get_all_ops",
    "get_asset_tensors",
    "get_buffer",
    "op_definition",
    "parse_saved_model",
]


@pytest.mark.parametrize("name", sorted(compat.NAMES))
def test_a_private_name_is_the_public_one(name: str) -> None:
    """Fails if a release of TensorFlow moves a private name or changes its meaning."""
    found = compat.find_private(compat.NAMES[name])
    if name in NEVER_PUBLIC:
        assert callable(found)
        assert not compat.NAMES[name].public
    elif name == "VERSION":
        assert found == compat.find_public(compat.NAMES[name])
    else:
        assert found is compat.find_public(compat.NAMES[name])


def test_ops_are_described_by_what_they_take_and_whether_they_have_a_state() -> None:
    variable = compat.tensorflow.op_definition("AssignVariableOp")
    assert variable.is_stateful
    assert [argument.name for argument in variable.input_arg] == ["resource", "value"]
    assert compat.tensorflow.op_definition("NoSuchOp") is None


@pytest.mark.parametrize(("switch", "whole"), [("on", "False"), ("off", "True")])
def test_only_public_names_import_the_whole_of_tensorflow(switch: str, whole: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(compat.VARIABLE, switch)
    program = """
import sys
from pipeline.compat.startup import import_session
from transforms.compat import tensorflow
import_session()
tensorflow.Session, tensorflow.SavedModelLoader
print("tensorflow.data" in sys.modules or hasattr(sys.modules["tensorflow"], "function"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == f"{whole}\n"


def test_no_other_module_imports_private_modules_of_tensorflow() -> None:
    own = ("transforms/compat.py", "pipeline/compat/startup.py")
    found = [
        str(path.relative_to(ROOT))
        for package in ("keyjoin", "pipeline", "transforms")
        for path in (ROOT / package).rglob("*.py")
        if "from tensorflow.python" in path.read_text()
    ]
    assert sorted(set(found) - set(own)) == []
    assert "pipeline/compat/startup.py" in found


def test_a_name_that_is_not_in_the_table_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="keras"):
        _ = compat.tensorflow.keras
