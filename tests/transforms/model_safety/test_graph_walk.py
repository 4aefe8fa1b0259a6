"""The walk over a graph finds every op that runs, and follows paths; tested on hand-made graphs."""

import json
from typing import Any

import pytest
from google.protobuf import text_format
from tensorflow.core.protobuf import meta_graph_pb2

from tests.transforms.model_safety.test_model_ops import WRITES, kinds
from transforms.model_safety.model_ops import find

# In these graphs y is the signature's output and x its input. A string is the value of a constant.
PATH = 'string_val: "/etc/passwd"'


def graph(nodes: str, library: str = "", more: str = "") -> Any:
    text = f"""
        graph_def {{ {nodes} library {{ {library} }} }}
        signature_def {{ key: "s" value {{
            inputs {{ key: "x" value {{ name: "x:0" }} }} outputs {{ key: "y" value {{ name: "y:0" }} }} }} }} {more}"""
    return text_format.Parse(text, meta_graph_pb2.MetaGraphDef())


def node(name: str, op: str, *inputs: str, attr: str = "") -> str:
    return f'node {{ name: "{name}" op: "{op}" {" ".join(f"input: {json.dumps(i)}" for i in inputs)} {attr} }}'


def function(name: str, *nodes: str, args: tuple[str, ...] = (), attr: str = "") -> str:
    declared = " ".join(f'input_arg {{ name: "{arg}" type: DT_STRING }}' for arg in args)
    body = " ".join(n.replace("node {", "node_def {", 1) for n in nodes)
    return f'function {{ signature {{ name: "{name}" {declared} }} {body} {attr} }}'


def func(key: str, name: str, inner: str = "") -> str:
    return f'attr {{ key: "{key}" value {{ func {{ name: "{name}" {inner} }} }} }}'


def text(key: str, value: str) -> str:
    return f'attr {{ key: "{key}" value {{ s: "{value}" }} }}'


def const(name: str, value: str = PATH) -> str:
    return node(name, "Const", attr=f'attr {{ key: "value" value {{ tensor {{ dtype: DT_STRING {value} }} }} }}')


WRITER = function("g", node("w", "WriteFile"))
CALLS_F = node("y", "PartitionedCall", attr=func("f", "f"))
SAME = text("api_implements", "same")
TYPED = 'attr { key: "dtype" value { type: DT_STRING } }'
LISTED = function("f", node("r", "ReadFile", "b"), args=("b",)).replace(
    "input_arg {", 'input_arg { name: "a" type: DT_STRING number_attr: "N" } input_arg {', 1
)
HIDDEN = {
    "op that is the name of a function": (graph(node("y", "g"), WRITER), WRITES),
    "a list of functions": (graph(node("y", "Case", attr='attr { key: "branches" value { list { func { name: "f" } func { name: "g" } } } }'), function("f") + WRITER), WRITES),
    "handed on to a function": (graph(node("y", "PartitionedCall", attr=func("f", "f", func("F", "g"))), function("f", node("c", "PartitionedCall", attr='attr { key: "f" value { placeholder: "F" } }')) + WRITER), WRITES),
    "of another implementation": (graph(CALLS_F, function("f", attr=SAME) + function("g", node("w", "WriteFile"), attr=SAME)), WRITES),
    "gradient": (graph(CALLS_F, function("f") + WRITER + 'gradient { function_name: "f" gradient_func: "g" }'), WRITES),
    "functions that call each other": (graph(CALLS_F, function("f", node("c", "PartitionedCall", attr=func("f", "g"))) + function("g", node("w", "WriteFile"), node("c", "PartitionedCall", attr=func("f", "f")))), WRITES),
    "control input": (graph(node("y", "Identity", "x", "^w") + node("w", "WriteFile")), WRITES),
    "function called like the op": (graph(node("y", "WriteFile"), function("WriteFile")), WRITES),
    "initialization": (graph(node("y", "Identity", "x") + node("i", "NoOp", "^w") + node("w", "WriteFile"), more='collection_def { key: "saved_model_main_op" value { node_list { value: "i" } } }'), WRITES),
    "initialization by signature": (graph(node("y", "Identity", "x") + node("w", "WriteFile"), more='signature_def { key: "__saved_model_init_op" value { outputs { key: "__saved_model_init_op" value { name: "w" } } } }'), WRITES),
    "restore": (graph(node("y", "Identity", "x") + node("w", "WriteFile"), more='saver_def { restore_op_name: "w" filename_tensor_name: "f:0" }'), WRITES),
    "other variables than its own": (graph(node("y", "Identity", "x") + const("p") + node("r", "RestoreV2", "p"), more='saver_def { restore_op_name: "r" filename_tensor_name: "f:0" }'), [("reads", "RestoreV2")]),
    "sparse output": (graph(node("y", "Identity", "x") + node("w", "WriteFile"), more='signature_def { key: "s" value { outputs { key: "y" value { coo_sparse { values_tensor_name: "w:0" } } } } }'), WRITES),
    "before the input": (graph(node("y", "Identity", "x") + node("x", "Identity", "w") + node("w", "WriteFile")), []),
    "only saving": (graph(node("y", "Identity", "x") + node("w", "SaveV2"), more='saver_def { save_tensor_name: "w:0" }'), []),
    "unknown op": (graph(node("y", "SentencepieceOp")), [("unknown", "SentencepieceOp")]),
    "graph in a string": (graph(node("y", "DatasetFromGraph")), [("graph", "DatasetFromGraph")]),
    "stateful op without an entry": (graph(node("y", "TPUExecute")), [("opaque", "TPUExecute")]),
    "remote": (graph(node("y", "RpcCall")), [("network", "RpcCall")]),
    "debugger": (graph(node("y", "DebugIdentityV2", attr='attr { key: "debug_urls" value { list { s: "grpc://a:1" } } }')), [("network", "DebugIdentityV2")]),
    "debugger of nobody": (graph(node("y", "DebugIdentityV2", attr='attr { key: "debug_urls" value { list { } } }')), []),
    "file of an attribute": (graph(node("y", "DecodeProtoV2", attr=text("descriptor_source", "/etc/passwd"))), [("reads", "DecodeProtoV2")]),
    "no file of an attribute": (graph(node("y", "DecodeProtoV2", attr=text("descriptor_source", "local://"))), []),
    "attribute of the caller": (graph(CALLS_F, function("f", node("d", "DecodeProtoV2", attr='attr { key: "descriptor_source" value { placeholder: "P" } }'))), [("reads", "DecodeProtoV2")]),
    "path of the caller": (graph(CALLS_F, function("f", node("c", "Const", attr='attr { key: "value" value { placeholder: "P" } }'), node("r", "ReadFile", "c:output:0"))), [("reads", "ReadFile")]),
    "packed path": (graph(node("y", "ReadFile", "p") + const("p", 'tensor_content: "\\x0b/etc/passwd"')), [("reads", "ReadFile")]),
    "path with a NUL": (graph(node("y", "ReadFile", "p") + const("p", 'string_val: "/etc/\\000x"')), [("reads", "ReadFile")]),
    "path without an end": (graph(node("y", "ReadFile", "p") + node("p", "Identity", "q") + node("q", "Identity", "p")), [("reads", "ReadFile")]),
    "remote path": (graph(node("y", "ReadFile", "p") + const("p", 'string_val: "gs://bucket/x"')), [("reads", "ReadFile")]),
    "file in memory": (graph(node("y", "CacheDataset", "x", "p") + const("p", 'string_val: ""')), []),
    "file in the folder is written": (graph(node("y", "CacheDataset", "x", "p") + const("p", 'string_val: "/m/cache"')), [("writes", "CacheDataset")]),
    "file in the folder is read": (graph(node("y", "ReadFile", "p") + const("p", 'string_val: "/m/assets/words.txt"')), []),
    "file beside the folder": (graph(node("y", "ReadFile", "p") + const("p", 'string_val: "/mm/words.txt"')), [("reads", "ReadFile")]),
    "second of a list": (graph(node("y", "PartitionedCall", "p", "q", "p", attr=func("f", "f")) + const("p") + const("q", 'string_val: "/m/a"'), LISTED), [("reads", "ReadFile")]),
    "function called like an op that hands on": (graph(node("y", "ReadFile", "i") + node("i", "Identity", "p") + const("p", 'string_val: "/m/a"'), function("Identity", args=("a",))), [("reads", "ReadFile")]),
    "control input for a name": (graph(node("y", "ReadFile", "^p") + const("p", 'string_val: "/m/a"')), [("reads", "ReadFile")]),
    "variable that is given what its caller types": (graph(node("y", "ReadFile", "v") + node("v", "ReadVariableOp", "h", "^u", "^w") + const("p", 'string_val: "/m/a"') + node("u", "AssignVariableOp", "h", "p", attr=TYPED) + node("w", "PartitionedCall", "h", attr=func("f", "f")), function("f", node("u", "AssignVariableOp", "h", "c:output:0", attr='attr { key: "dtype" value { placeholder: "T" } }'), const("c"), args=("h",))), [("reads", "ReadFile")]),
    "missing input": (graph(node("y", "ReadFile")), [("reads", "ReadFile")]),
    "missing node": (graph(node("y", "ReadFile", "nowhere")), [("reads", "ReadFile")]),
}  # fmt: skip


@pytest.mark.parametrize("name", HIDDEN)
def test_what_a_model_does_is_found_wherever_it_hides(name: str) -> None:
    described, expected = HIDDEN[name]
    before = described.SerializeToString(deterministic=True)
    assert kinds(find(described, "/m", "s")) == expected
    # Must be unchanged, because this graph is loaded next.
    assert described.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(("path", "files"), [("/m/a", ()), ("/etc/passwd", ("/etc/passwd",))])
def test_a_path_is_followed_through_calls_and_variables(path: str, files: tuple[str, ...]) -> None:
    read = function(
        "f",
        node("i", "Identity", "a"),
        node("c", "If", "i", "i:output:0", attr=func("then_branch", "g")),
        args=("b", "a"),
    )
    inner = function("g", node("v", "ReadVariableOp", "h"), node("r", "ReadFile", "n"), args=("n",))
    again = function("k", node("r", "ReadFile", "v:value:0"), node("v", "ReadVariableOp", "h"))
    nodes = node("y", "PartitionedCall", "x", "p:0", "^z", attr=func("f", "f")) + const("p", f'string_val: "{path}"')
    nodes += (
        node("z", "k", "^as")
        + node("as", "AssignVariableOp", "h", "p", attr='attr { key: "dtype" value { type: DT_STRING } }')
        + node("h", "VarHandleOp")
    )
    found = find(graph(nodes, read + inner + again), "/m", "s")
    assert [(f.op, f.function, f.files) for f in found] == [("ReadFile", name, files) for name in ("k", "g") if files]
    # Another caller of the function may pass another path.
    other = (
        node("y", "PartitionedCall", "x", "p:0", "^z", attr=func("f", "f")).replace('"y"', '"u"').replace("p:0", "x")
    )
    unknown = find(graph(nodes.replace("^z", "^u") + other, read + inner + again), "/m", "s")
    assert ("ReadFile", "g") in [(f.op, f.function) for f in unknown]
