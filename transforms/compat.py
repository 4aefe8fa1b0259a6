"""Uses names that TensorFlow and Beam keep private, each beside the public name that replaces it.

`KEYJOIN_COMPAT=off` in the environment makes keyjoin use public names only. A run then gives the same result and
starts more slowly. `pipeline.compat` follows the same switch; it is a package of its own because `transforms` imports
nothing of `pipeline`.

`import tensorflow` takes three times as long as the modules that score a SavedModel, so the names below come from
those modules. Protocol buffers (`tensorflow.core`) are TensorFlow's published formats: they are imported where they
are used.
"""

import functools
import importlib
import os
from typing import Any, NamedTuple

VARIABLE, OFF = "KEYJOIN_COMPAT", "off"


def is_on() -> bool:
    """Returns whether private names may be used. All processes of a run have the same environment and decide alike."""
    return os.environ.get(VARIABLE) != OFF


class Name(NamedTuple):
    """A name of TensorFlow.

    Attributes:
        private: Its module below `tensorflow.python` and its name in that module, as `module:name`.
        public: Its name below `tensorflow`. It is empty if there is no public name; keyjoin then always uses the
            private one.
    """

    private: str
    public: str = ""


NAMES = {
    "Graph": Name("framework.ops:Graph", "Graph"),
    "NewCheckpointReader": Name(
        "training.py_checkpoint_reader:NewCheckpointReader", "compat.v1.train.NewCheckpointReader"
    ),
    "OpError": Name("framework.errors_impl:OpError", "errors.OpError"),
    "ResourceExhaustedError": Name("framework.errors_impl:ResourceExhaustedError", "errors.ResourceExhaustedError"),
    "Session": Name("client.session:Session", "compat.v1.Session"),
    "TensorSpec": Name("framework.tensor:TensorSpec", "TensorSpec"),
    "VERSION": Name("framework.versions:VERSION", "__version__"),
    "as_dtype": Name("framework.dtypes:as_dtype", "as_dtype"),
    "enable_tf32": Name(
        "framework.config:enable_tensor_float_32_execution", "config.experimental.enable_tensor_float_32_execution"
    ),
    # keyjoin examines the graph before it loads it. TensorFlow's public functions do both at once.
    "SavedModelLoader": Name("saved_model.loader_impl:SavedModelLoader"),
    # Reads the tags of a SavedModel in which no graph is for serving.
    "parse_saved_model": Name("saved_model.loader_impl:parse_saved_model"),
    "get_asset_tensors": Name("saved_model.loader_impl:get_asset_tensors"),
    # Reads the arguments of a saved function, for the call that an error message prints.
    "decode_proto": Name("saved_model.nested_structure_coder:decode_proto"),
    # Read the arguments of the ops of this process, and whether the ops have state.
    "op_definition": Name("framework.op_def_registry:get"),
    "get_all_ops": Name("client.pywrap_tf_session:TF_GetAllOpList"),
    "get_buffer": Name("client.pywrap_tf_session:TF_GetBuffer"),
}


class _TensorFlow:
    """Offers `NAMES` as attributes and imports each at its first use."""

    def __getattr__(self, name: str) -> Any:
        if name not in NAMES:
            raise AttributeError(name)
        value = find_public(NAMES[name]) if NAMES[name].public and not is_on() else find_private(NAMES[name])
        setattr(self, name, value)  # later look-ups find the attribute and do not call this function
        return value


tensorflow = _TensorFlow()


def find_private(name: Name) -> Any:
    """Imports a name from the module that defines it."""
    module, _, attribute = name.private.partition(":")
    return getattr(importlib.import_module(f"tensorflow.python.{module}"), attribute)


def find_public(name: Name) -> Any:
    """Imports the whole of TensorFlow and takes the documented public name from it."""
    return functools.reduce(getattr, name.public.split("."), importlib.import_module("tensorflow"))


def google_store(system: Any) -> Any:
    """Returns Beam's client for Google Cloud Storage.

    Args:
        system: A `GCSFileSystem` of Beam. Its private client has the credentials that the pipeline's options name.
            The public client uses the options of the command line, or the credentials of the environment.
    """
    if is_on():
        return system._gcsIO()
    from apache_beam.io.gcp import gcsio

    return gcsio.GcsIO()


def google_retry(store: Any) -> Any:
    """Returns the retry policy of Beam's client for Google Cloud Storage; without private names, Google's default."""
    if is_on():
        return store._storage_client_retry
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY
