"""Lists TensorFlow's names of the dtypes that a row can hold.

This module imports nothing, because the model process uses it and does not need Arrow.
"""

STRING = "string"
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, *INTEGERS, "bool", STRING)
